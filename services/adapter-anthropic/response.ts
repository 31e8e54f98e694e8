/** What Anthropic answers: https://platform.claude.com/docs/en/api/messages */
import {
  type AttemptContext,
  countOf,
  isJson,
  type Json,
  momentSOf,
  notUnderstood,
  textOf,
} from "../../libs/adapter/index.ts";
import {
  type Completion,
  type ContentPart,
  FinishReason,
  Message,
  type Model,
  Role,
  type Served,
  Usage,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { fromDisguisedError } from "./errors.ts";
import { fromOwnSignature, fromRedacted } from "./signature.ts";

/** The provider's name in configuration and in what the adapter says. */
export const PROVIDER = "anthropic";

/** The whole answer of `POST /v1/messages`. */
export function fromChatAnswer(body: unknown, context: AttemptContext): Completion {
  const error = fromDisguisedError(body);
  if (error !== undefined) throw error;
  if (!isJson(body) || !Array.isArray(body["content"])) throw notUnderstood("no content");
  const content: ContentPart[] = [];
  for (const block of body["content"]) addBlock(content, block, context);
  const refusal = refusalOf(body);
  if (refusal !== "") content.push({ part: { $case: "refusal", value: refusal } });
  const toolCalls = content.some(({ part }) => part?.$case === "toolCall");
  const finishReason = fromStopReason(body["stop_reason"], toolCalls);
  if (finishReason === FinishReason.UNSPECIFIED) throw notUnderstood("a message without a stop reason");
  const message = Message.fromPartial({ role: Role.ASSISTANT, content });
  return {
    served: fromServed(body, context),
    choices: [{ index: 0, message, finishReason, logprobs: [] }],
    usage: fromUsage(body["usage"]),
    warnings: [],
  };
}

/**
 * Blocks of other kinds belong to tools of Anthropic's, which are never asked for, or are newer than this; clients are to
 * pass over what they do not know: https://platform.claude.com/docs/en/api/versioning
 */
function addBlock(content: ContentPart[], block: unknown, context: AttemptContext): void {
  if (!isJson(block)) throw notUnderstood("a block is not an object");
  const add = (part: NonNullable<ContentPart["part"]>) => content.push({ part });
  switch (block["type"]) {
    case "text": {
      const text = textOf(block["text"]);
      const last = content.at(-1)?.part;
      if (last?.$case === "text") content.pop();
      if (text !== "" || last?.$case === "text") {
        add({ $case: "text", value: (last?.$case === "text" ? last.value : "") + text });
      }
      break;
    }
    case "thinking": {
      const value = { text: textOf(block["thinking"]), signature: fromOwnSignature(textOf(block["signature"])) };
      if (value.text !== "" || value.signature !== "") add({ $case: "reasoning", value });
      break;
    }
    case "redacted_thinking": {
      const signature = fromRedacted(textOf(block["data"]));
      if (signature !== "") add({ $case: "reasoning", value: { text: "", signature } });
      break;
    }
    case "tool_use":
      add({ $case: "toolCall", value: { ...fromToolUse(block, context), signature: "" } });
      break;
  }
}

/** What a tool is called by, and its arguments so far: a stream begins with an empty object. */
export function fromToolUse(block: Json, context: AttemptContext) {
  const name = textOf(block["name"]);
  if (name === "") throw notUnderstood("a tool call without a name");
  const input = block["input"] ?? {};
  if (!isJson(input)) throw notUnderstood("a tool call whose input is not an object");
  return { id: textOf(block["id"]) || context.mintId("call_"), name, argumentsJson: JSON.stringify(input) };
}

export function fromServed(message: Json, context: AttemptContext): Served {
  return {
    id: textOf(message["id"]) || context.mintId("msg_"),
    model: textOf(message["model"]) || context.model,
    worker: context.worker,
    provider: PROVIDER,
    createdAtS: context.nowS,
    systemFingerprint: "",
  };
}

/** In whose words a request was refused; with the stop reason, in an answer or at the end of a stream. */
export function refusalOf(ended: Json): string {
  const details = ended["stop_details"];
  if (ended["stop_reason"] !== "refusal" || !isJson(details)) return "";
  return textOf(details["explanation"]);
}

/**
 * Why the answer ended; UNSPECIFIED while it goes on. https://platform.claude.com/docs/en/api/handling-stop-reasons
 * max_tokens stays: a call that was cut must not look whole.
 */
export function fromStopReason(reason: unknown, toolCalls: boolean): FinishReason {
  switch (reason) {
    case undefined:
    case null:
    case "":
      return FinishReason.UNSPECIFIED;
    case "end_turn":
    case "stop_sequence":
    // A tool of Anthropic's takes long; what was said so far is what there is.
    case "pause_turn":
      return toolCalls ? FinishReason.TOOL_CALLS : FinishReason.STOP;
    case "tool_use":
      return FinishReason.TOOL_CALLS;
    case "max_tokens":
    case "model_context_window_exceeded":
      return FinishReason.LENGTH;
    case "refusal":
      return FinishReason.CONTENT_FILTER;
    default:
      throw notUnderstood(`unknown stop reason ${JSON.stringify(reason)?.slice(0, 60)}`);
  }
}

/** What was used. `input_tokens` leaves out what was read from the cache or written to it. */
export function fromUsage(usage: unknown): Usage | undefined {
  if (!isJson(usage)) return undefined;
  const input = countOf(usage["input_tokens"]);
  const outputTokens = countOf(usage["output_tokens"]);
  if (input === undefined && outputTokens === undefined) return undefined;
  const read = countOf(usage["cache_read_input_tokens"]);
  const written = countOf(usage["cache_creation_input_tokens"]);
  const details = usage["output_tokens_details"];
  return Usage.fromPartial({
    inputTokens: input === undefined ? undefined : countOf(input + (read ?? 0) + (written ?? 0)),
    outputTokens,
    cachedInputTokens: read,
    reasoningTokens: isJson(details) ? countOf(details["thinking_tokens"]) : undefined,
    cacheWriteInputTokens: written,
  });
}

/** The answer of `GET /v1/models`. */
export function fromModelsAnswer(body: unknown): Model[] {
  const error = fromDisguisedError(body);
  if (error !== undefined) throw error;
  if (!isJson(body) || !Array.isArray(body["data"])) throw notUnderstood("no list of models");
  return body["data"].filter(isJson).flatMap((model) => {
    const id = textOf(model["id"]);
    const createdAtS = momentSOf(model["created_at"]) ?? 0;
    return id === "" ? [] : [{ id, workers: [], createdAtS, ownedBy: PROVIDER }];
  });
}
