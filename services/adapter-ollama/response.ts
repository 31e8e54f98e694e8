/** What Ollama answers: https://docs.ollama.com/api/chat, https://docs.ollama.com/api/streaming */
import {
  type AttemptContext,
  countOf,
  type EventReader,
  isJson,
  type Json,
  type ListedModel,
  momentSOf,
  notUnderstood,
  objectOf,
  type ProviderEvent,
  parseJson,
  readTokenLogprobs,
  textOf,
  vectorOf,
} from "../../libs/adapter/index.ts";
import {
  type Completion,
  type ContentPart,
  type EmbeddingResult,
  FinishReason,
  Message,
  type Part,
  Role,
  type Served,
  type TokenLogprob,
  type ToolCall,
  Usage,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { fromDisguisedError } from "./errors.ts";
import { listedProperties } from "./models.ts";

/** The provider's name in configuration and in what the adapter says. */
export const PROVIDER = "ollama";

/** More of them is no answer but a fault. */
const TOOL_CALLS_MAX = 128;

/** The whole answer of `POST /api/chat`. */
export function fromChatAnswer(body: unknown, context: AttemptContext): Completion {
  const answer = fromLine(body);
  if (answer["done"] !== true) throw notUnderstood("an answer that is not done");
  const message = answer["message"];
  if (!isJson(message)) throw notUnderstood("no message");
  const content: ContentPart[] = [];
  const add = (part: NonNullable<ContentPart["part"]>) => content.push({ part });
  const thinking = textOf(message["thinking"]);
  if (thinking !== "") add({ $case: "reasoning", value: { text: thinking, signature: "" } });
  const text = textOf(message["content"]);
  if (text !== "") add({ $case: "text", value: text });
  const calls = fromToolCalls(message, context);
  for (const call of calls) add({ $case: "toolCall", value: call });
  const choice = {
    index: 0,
    message: Message.fromPartial({ role: Role.ASSISTANT, content }),
    finishReason: fromDoneReason(answer["done_reason"], calls.length > 0),
    logprobs: fromLogprobs(answer["logprobs"]),
  };
  return { served: fromServed(answer, context), choices: [choice], usage: fromUsage(answer), warnings: [] };
}

/** Reads one stream: a line for each token, the last one with `done`. */
export class OllamaEventReader implements EventReader {
  readonly #context: AttemptContext;
  #served = false;
  #calls = 0;
  #done = false;

  constructor(context: AttemptContext) {
    this.#context = context;
  }

  read(event: ProviderEvent, parts: Part[]): void {
    const data = event.data.trim();
    if (data === "" || this.#done) return;
    const line = fromLine(parseJson(data, "a line"));
    if (!isJson(line["message"]) && line["done"] !== true) throw notUnderstood("a line without a message");
    if (!this.#served) {
      this.#served = true;
      parts.push({ part: { $case: "served", value: fromServed(line, this.#context) } });
    }
    const message = isJson(line["message"]) ? line["message"] : {};
    const thinking = textOf(message["thinking"]);
    if (thinking !== "")
      parts.push({ part: { $case: "reasoning", value: { text: thinking, choice: 0, logprobs: [] } } });
    const text = textOf(message["content"]);
    const logprobs = fromLogprobs(line["logprobs"]);
    if (text !== "" || logprobs.length > 0)
      parts.push({ part: { $case: "text", value: { text, choice: 0, logprobs } } });
    this.#readCalls(message, parts);
    if (line["done"] === true) this.#readDone(line, parts);
  }

  complete(): boolean {
    return this.#done;
  }

  #readCalls(message: Json, parts: Part[]): void {
    for (const call of fromToolCalls(message, this.#context)) {
      if (this.#calls >= TOOL_CALLS_MAX) throw notUnderstood("too many tool calls");
      // Counted here: older versions say index 0 for each, or nothing.
      parts.push({ part: { $case: "toolCall", value: { choice: 0, index: this.#calls, ...call } } });
      this.#calls += 1;
    }
  }

  #readDone(line: Json, parts: Part[]): void {
    this.#done = true;
    const reason = fromDoneReason(line["done_reason"], this.#calls > 0);
    parts.push({ part: { $case: "finish", value: { choice: 0, reason } } });
    const usage = fromUsage(line);
    if (usage !== undefined) parts.push({ part: { $case: "usage", value: usage } });
  }
}

/** A line of a stream or a whole answer. An error can stand in its place, with the status 200. */
function fromLine(value: unknown): Json {
  return objectOf(value, fromDisguisedError(value));
}

/** Ollama gives no id. */
function fromServed(answer: Json, context: AttemptContext, idPrefix = "chatcmpl-"): Served {
  return {
    id: context.mintId(idPrefix),
    model: textOf(answer["model"]) || context.model,
    worker: context.worker,
    provider: PROVIDER,
    createdAtS: momentSOf(answer["created_at"]) ?? context.nowS,
    systemFingerprint: "",
  };
}

function fromToolCalls(message: Json, context: AttemptContext): ToolCall[] {
  const calls = message["tool_calls"] ?? [];
  if (!Array.isArray(calls)) throw notUnderstood("tool_calls is not an array");
  return calls.map((call) => {
    const called = isJson(call) ? call["function"] : undefined;
    if (!isJson(call) || !isJson(called) || textOf(called["name"]) === "")
      throw notUnderstood("a tool call without a name");
    return {
      // Versions before 0.13 give none.
      id: textOf(call["id"]) || context.mintId("call_"),
      name: textOf(called["name"]),
      argumentsJson: JSON.stringify(called["arguments"] ?? {}),
      signature: "",
    };
  });
}

/** Ollama says `stop` after tool calls too. `length` stays: a call that was cut must not look whole. */
function fromDoneReason(reason: unknown, toolCalls: boolean): FinishReason {
  switch (reason) {
    // `done` is the end that counts; versions of early 2024 give no reason with it.
    case undefined:
    case "":
    case "stop":
    // A request without messages only loads or unloads the model.
    case "load":
    case "unload":
      return toolCalls ? FinishReason.TOOL_CALLS : FinishReason.STOP;
    case "length":
      return FinishReason.LENGTH;
    default:
      throw notUnderstood(`unknown done_reason ${JSON.stringify(reason)?.slice(0, 60)}`);
  }
}

/** Counts that are 0 are left out: prompt_eval_count is, when the whole prompt was still in the model's cache. */
function fromUsage(answer: Json): Usage | undefined {
  const inputTokens = countOf(answer["prompt_eval_count"]);
  const outputTokens = countOf(answer["eval_count"]);
  if (inputTokens === undefined && outputTokens === undefined) return undefined;
  return Usage.fromPartial({ inputTokens: inputTokens ?? 0, outputTokens: outputTokens ?? 0 });
}

function fromLogprobs(logprobs: unknown): TokenLogprob[] {
  return Array.isArray(logprobs) ? readTokenLogprobs(logprobs) : [];
}

/** The answer of `POST /api/embed`: https://docs.ollama.com/api/embed */
export function fromEmbeddingAnswer(body: unknown, context: AttemptContext): EmbeddingResult {
  const answer = fromLine(body);
  const vectors = answer["embeddings"];
  if (!Array.isArray(vectors) || vectors.length === 0) throw notUnderstood("no embeddings");
  const embeddings = vectors.map((values) => ({ values: vectorOf(values) }));
  const inputTokens = countOf(answer["prompt_eval_count"]);
  const usage = inputTokens === undefined ? undefined : Usage.fromPartial({ inputTokens });
  return { served: fromServed(answer, context, "embd-"), embeddings, usage, warnings: [] };
}

/** The answer of `GET /api/tags`: https://docs.ollama.com/api/tags */
export function fromModelsAnswer(body: unknown): ListedModel[] {
  const { models } = fromLine(body);
  if (!Array.isArray(models)) throw notUnderstood("no list of models");
  return models.filter(isJson).flatMap((model) => {
    const id = textOf(model["model"]) || textOf(model["name"]);
    if (id === "") return [];
    // "library" is the namespace of the names that have none.
    const ownedBy = id.includes("/") ? id.slice(0, id.indexOf("/")) : "library";
    const properties = listedProperties(model["capabilities"]);
    const listed = { id, workers: [], createdAtS: momentSOf(model["modified_at"]) ?? 0, ownedBy };
    return [properties === undefined ? listed : { ...listed, properties }];
  });
}
