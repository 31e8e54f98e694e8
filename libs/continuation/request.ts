/** The request that makes another worker go on with an answer. */
import { type CompletionRequest, type ContentPart, type Message, Role } from "../gen/cortex/llm/v1/llm.ts";
import { anchorStart } from "./anchor.ts";

/**
 * How a worker is made to go on. `prefill`: the text is the beginning of the assistant's message, which the model completes;
 * only some models take it. `instruction`: the text is a message of its own, and the user asks to go on with it; any model
 * takes it.
 */
export type ContinuationMode = "prefill" | "instruction";

/**
 * What the worker writes before it goes on. It proves that the instruction was understood: only after it is a repetition
 * taken for one, so that a text which repeats itself loses nothing.
 */
export const MARKER = "[[CONTINUE]]";

/** Rough, and the same for all models. */
const CHARACTERS_PER_TOKEN = 4;

/**
 * `request`, changed so that a worker goes on after `text`. The system prompt and all other messages stay as they are. The
 * upper bound of tokens is lowered by what has been said, as estimated. A text of blanks alone is not worth going on with:
 * the question is asked anew.
 */
export function continuationRequest(
  request: CompletionRequest,
  text: string,
  mode: ContinuationMode,
): CompletionRequest {
  // Providers refuse a last message that ends in a blank; the seam knows what was left out.
  const said = text.trimEnd();
  if (said === "") return request;
  const messages = withAnswer(request.messages, said);
  const anchor = said.slice(anchorStart(said).start);
  if (mode === "instruction") messages.push(userMessage(instruction(anchor)));
  const repeated = mode === "instruction" ? MARKER.length + anchor.length : 0;
  if (request.maxOutputTokens === undefined) return { ...request, messages };
  const left = Math.max(1, request.maxOutputTokens - estimateTokens(text.length));
  return { ...request, messages, maxOutputTokens: left + estimateTokens(repeated) };
}

/** The messages with the answer so far at their end; an assistant's message that the client had begun itself grows. */
function withAnswer(messages: readonly Message[], text: string): Message[] {
  const part: ContentPart = { part: { $case: "text", value: text } };
  const last = messages.at(-1);
  if (last?.role === Role.ASSISTANT) return [...messages.slice(0, -1), { ...last, content: [...last.content, part] }];
  return [...messages, { role: Role.ASSISTANT, content: [part], name: "" }];
}

function userMessage(text: string): Message {
  return { role: Role.USER, content: [{ part: { $case: "text", value: text } }], name: "" };
}

/** Its words matter to real models; the seam only needs the marker and the anchor after it. */
function instruction(anchor: string): string {
  return [
    "Your last message was cut off by a technical fault. Go on with it exactly where it stopped.",
    `Write ${MARKER} first. Then, on the same line, repeat the last words of your message, character for character.`,
    "Then go straight on with the rest of it, as if it had never been interrupted: in the same language, tone and format,",
    "even in the middle of a word or of a code block. Do not begin again, do not comment, do not apologise, and repeat",
    "nothing else. The last words are:",
    "",
    anchor,
  ].join("\n");
}

function estimateTokens(characters: number): number {
  return Math.ceil(characters / CHARACTERS_PER_TOKEN);
}
