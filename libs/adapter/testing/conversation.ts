/** Conversations for tests, a word for each part. */
import { CompletionRequest, type DeepPartial, type Message, Role, type ToolCall } from "../../gen/cortex/llm/v1/llm.ts";

export type PartialMessage = DeepPartial<Message>;
export type PartialContent = NonNullable<PartialMessage["content"]>;

/** A part that says `value`. */
export const text = (value: string) => ({ part: { $case: "text" as const, value } });

/** A part that thinks. */
export const reasoning = (thought: string, signature: string) => ({
  part: { $case: "reasoning" as const, value: { text: thought, signature } },
});

/** A part that calls the tool `look`. */
export const look = (id: string, signature = "") => ({
  part: { $case: "toolCall" as const, value: { id, name: "look", argumentsJson: "{}", signature } },
});

/** A message of the user's. */
export const user = (...content: PartialContent): PartialMessage => ({ role: Role.USER, content });

/** An answer of the model's. */
export const assistant = (...content: PartialContent): PartialMessage => ({ role: Role.ASSISTANT, content });

/** What an answer calls. */
export function callsIn(content: Message["content"]): ToolCall[] {
  return content.flatMap(({ part }) => (part?.$case === "toolCall" ? [part.value] : []));
}

/** The message that says of each call that it went fine. */
export function fine(calls: readonly ToolCall[]): PartialMessage[] {
  return calls.map(({ id, name }) => ({
    role: Role.TOOL,
    content: [{ part: { $case: "toolResult", value: { toolCallId: id, name, content: [text("fine")] } } }],
  }));
}

/** A request to `model`, with a greeting unless it has messages of its own. */
export function ask(model: string, request: DeepPartial<CompletionRequest> = {}): CompletionRequest {
  return CompletionRequest.fromPartial({ model, messages: [user(text("hello there"))], ...request });
}

/** Two tools, of which one has parameters. */
export const TOOLS = [
  { name: "weather", parametersJsonSchema: '{"type":"object","properties":{"city":{"type":"string"}}}' },
  { name: "time" },
];
