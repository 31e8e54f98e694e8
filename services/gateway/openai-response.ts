/**
 * Answers in OpenAI's form, whole and streamed, to the letter that strict SDKs rely on.
 * https://platform.openai.com/docs/api-reference/chat/object and …/chat/streaming
 */
import {
  type Completion,
  type ContentPart,
  type EmbeddingResult,
  FinishReason,
  type Model,
  type Part,
  type Served,
  type TokenLogprob,
  type Usage,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";

const FINISH_REASONS: Record<FinishReason, string | null> = {
  [FinishReason.UNSPECIFIED]: null,
  [FinishReason.STOP]: "stop",
  [FinishReason.LENGTH]: "length",
  [FinishReason.TOOL_CALLS]: "tool_calls",
  [FinishReason.CONTENT_FILTER]: "content_filter",
};

/** The end of a stream, to the byte. */
export const DONE = "data: [DONE]\n\n";

/** The body of a whole answer. `cached`: it comes from the cache. */
export function writeCompletion(completion: Completion, cached = false): string {
  const served = completion.served;
  return JSON.stringify({
    id: served?.id ?? "",
    object: "chat.completion",
    created: served?.createdAtS ?? 0,
    model: served?.model ?? "",
    choices: completion.choices.map((choice) => ({
      index: choice.index,
      message: toAssistantMessage(choice.message?.content ?? []),
      logprobs: choice.logprobs.length === 0 ? null : { content: choice.logprobs.map(toLogprob), refusal: null },
      finish_reason: FINISH_REASONS[choice.finishReason],
    })),
    ...(completion.usage === undefined ? {} : { usage: toUsage(completion.usage, cached) }),
    system_fingerprint: served?.systemFingerprint || null,
  });
}

function toAssistantMessage(content: readonly ContentPart[]): object {
  let text = "";
  let refusal = "";
  let reasoning = "";
  const signatures: string[] = [];
  const toolCalls: object[] = [];
  for (const { part } of content) {
    if (part?.$case === "text") text += part.value;
    else if (part?.$case === "refusal") refusal += part.value;
    else if (part?.$case === "reasoning") {
      reasoning += part.value.text;
      signatures.push(part.value.signature);
    } else if (part?.$case === "toolCall") {
      const { id, name, argumentsJson, signature } = part.value;
      toolCalls.push({ id, type: "function", function: { name, arguments: argumentsJson }, ...signed(signature) });
    }
  }
  return {
    role: "assistant",
    content: text === "" && (toolCalls.length > 0 || refusal !== "") ? null : text,
    refusal: refusal === "" ? null : refusal,
    ...(reasoning === "" ? {} : { reasoning_content: reasoning }),
    // Several thoughts are told as one text, for which none of their signatures holds.
    ...(signatures.length === 1 && signatures[0] !== "" ? { reasoning_signature: signatures[0] } : {}),
    ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls }),
  };
}

/**
 * The token by which a provider recognises what it wrote, for clients that send messages back as they got them: without it
 * Gemini and Claude lose what they thought before a tool call.
 */
function signed(signature: string): object {
  return signature === "" ? {} : { signature };
}

function toLogprob(token: TokenLogprob): object {
  return {
    token: token.token,
    logprob: token.logprob,
    bytes: token.bytes.length === 0 ? null : [...token.bytes],
    top_logprobs: token.top.map((other) => ({
      token: other.token,
      logprob: other.logprob,
      bytes: other.bytes.length === 0 ? null : [...other.bytes],
    })),
  };
}

/**
 * Usage in OpenAI's words. Numbers that the provider did not report are left out of the details, and 0 in the sums. Of an
 * answer from the cache, the details say how many tokens were not used this time; beside OpenAI's `cached_tokens`, which are
 * the provider's. They are numbers because programs add up whatever is in the details.
 */
export function toUsage(usage: Usage, cached = false): object {
  const input = usage.inputTokens ?? 0;
  const output = usage.outputTokens ?? 0;
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: usage.cachedInputTokens ?? 0, ...saved(input, cached) },
    completion_tokens_details: { reasoning_tokens: usage.reasoningTokens ?? 0, ...saved(output, cached) },
  };
}

function saved(tokens: number, cached: boolean): object {
  return cached ? { cortex_cached_tokens: tokens } : {};
}

/** Writes one stream as server-sent events. Text is the hot path: it is joined, not built from objects. */
export class ChunkWriter {
  /** The answer comes from the cache. */
  cached = false;
  readonly #includeUsage: boolean;
  #prefix = "";
  #suffix = "";
  #choices = new Set<number>();
  #toolCalls = new Set<string>();
  #usage: Usage | undefined;

  constructor(includeUsage: boolean) {
    this.#includeUsage = includeUsage;
  }

  /** The events that say what `parts` say. Empty when there is nothing to show yet. */
  write(parts: readonly Part[]): string {
    let events = "";
    for (const { part } of parts) {
      switch (part?.$case) {
        case "text":
          events += this.#delta(part.value.choice, `"content":${JSON.stringify(part.value.text)}`, part.value.logprobs);
          break;
        case "reasoning":
          events += this.#delta(part.value.choice, `"reasoning_content":${JSON.stringify(part.value.text)}`);
          break;
        case "reasoningSignature":
          events += this.#delta(part.value.choice, `"reasoning_signature":${JSON.stringify(part.value.text)}`);
          break;
        case "refusal":
          events += this.#delta(part.value.choice, `"refusal":${JSON.stringify(part.value.text)}`);
          break;
        case "toolCall": {
          const { choice, index, id, name, argumentsJson, signature } = part.value;
          const call = `${choice}.${index}`;
          // Strict clients fail when a call's id, type or name comes twice.
          const opening = this.#toolCalls.has(call)
            ? { index, function: { arguments: argumentsJson }, ...signed(signature) }
            : { index, id, type: "function", function: { name, arguments: argumentsJson }, ...signed(signature) };
          this.#toolCalls.add(call);
          events += this.#delta(choice, `"tool_calls":[${JSON.stringify(opening)}]`);
          break;
        }
        case "finish":
          events += this.#opening(part.value.choice);
          events += this.#event(part.value.choice, "", "null", JSON.stringify(FINISH_REASONS[part.value.reason]));
          break;
        case "served":
          // One answer has one id and one model, whoever goes on with it.
          if (this.#prefix === "") this.#serve(part.value);
          break;
        case "continued":
          events += `: continued by worker ${printable(part.value.worker)} (${printable(part.value.reason)})\n\n`;
          break;
        case "usage":
          this.#usage = part.value;
          break;
        default:
      }
    }
    return events;
  }

  /** The last events of a stream that has ended well. */
  end(): string {
    if (!this.#includeUsage || this.#usage === undefined) return DONE;
    return `${this.#prefix}"choices":[],"usage":${JSON.stringify(toUsage(this.#usage, this.cached))}}\n\n${DONE}`;
  }

  #serve(served: Served): void {
    const { id, createdAtS, model, systemFingerprint } = served;
    const head = { id, object: "chat.completion.chunk", created: createdAtS, model };
    const fingerprint = JSON.stringify(systemFingerprint || null);
    this.#prefix = `data: ${JSON.stringify(head).slice(0, -1)},"system_fingerprint":${fingerprint},`;
    this.#suffix = this.#includeUsage ? ',"usage":null}\n\n' : "}\n\n";
  }

  /** The first event of a choice gives its role: the SDK's helper fails without one. */
  #opening(choice: number): string {
    if (this.#choices.has(choice)) return "";
    this.#choices.add(choice);
    return this.#event(choice, '"role":"assistant","content":"","refusal":null', "null", "null");
  }

  #delta(choice: number, delta: string, logprobs: readonly TokenLogprob[] = []): string {
    const tokens = logprobs.length === 0 ? "null" : JSON.stringify({ content: logprobs.map(toLogprob), refusal: null });
    return this.#opening(choice) + this.#event(choice, delta, tokens, "null");
  }

  #event(choice: number, delta: string, logprobs: string, finishReason: string): string {
    return `${this.#prefix}"choices":[{"index":${choice},"delta":{${delta}},"logprobs":${logprobs},"finish_reason":${finishReason}}]${this.#suffix}`;
  }
}

/** The text of a whole answer, for those who want nothing else. */
export function textOf(completion: Completion): string {
  let text = "";
  for (const { part } of completion.choices[0]?.message?.content ?? []) {
    if (part?.$case === "text" || part?.$case === "refusal") text += part.value;
  }
  return text;
}

/** What a short answer says of itself beside its text. `cached`: it comes from the cache. */
export function writeShortAnswer(completion: Completion, cached = false): string {
  const choice = completion.choices[0];
  return JSON.stringify({
    text: textOf(completion),
    model: completion.served?.model ?? "",
    worker: completion.served?.worker ?? "",
    finish_reason: FINISH_REASONS[choice?.finishReason ?? FinishReason.UNSPECIFIED],
    ...(completion.usage === undefined ? {} : { usage: toUsage(completion.usage, cached) }),
  });
}

/** Who served, how many were tried and what was left out, as headers. */
export function servedHeaders(
  served: Served | undefined,
  attempts: number,
  warnings: readonly Warning[],
): Record<string, string> {
  const headers: Record<string, string> = { "x-cortex-attempts": String(attempts) };
  if (served !== undefined) {
    headers["x-cortex-worker"] = printable(served.worker);
    headers["x-cortex-provider"] = printable(served.provider);
  }
  if (warnings.length > 0) {
    const told = warnings.map(({ code, parameter }) => (parameter === "" ? code : `${code} ${parameter}`));
    headers["x-cortex-warnings"] = printable(told.join(", "));
  }
  return headers;
}

const HEADER_CHARACTERS_MAX = 1_000;

/** Node refuses a header with anything else in it, and with it the answer; in a comment a line end would begin an event. */
function printable(value: string): string {
  return value.slice(0, HEADER_CHARACTERS_MAX).replaceAll(/[^\x20-\x7e]/g, "?");
}

/** The body of `GET /v1/models`. */
export function writeModels(models: readonly Model[]): string {
  return JSON.stringify({ object: "list", data: models.map(toModel) });
}

/** The body of `GET /v1/models/{id}`. Throws MODEL_NOT_FOUND. */
export function writeModel(models: readonly Model[], id: string): string {
  const found = models.find((model) => model.id === id);
  if (found !== undefined) return JSON.stringify(toModel(found));
  throw new RpcError("MODEL_NOT_FOUND", `the model "${id.slice(0, 200)}" does not exist`, { field: "model" });
}

function toModel({ id, createdAtS, ownedBy }: Model): object {
  return { id, object: "model", created: createdAtS, owned_by: ownedBy };
}

/** The body of `POST /v1/embeddings`; base64 is little-endian float32, which is what OpenAI's SDKs ask for by default. */
export function writeEmbeddings(result: EmbeddingResult, base64: boolean): string {
  const input = result.usage?.inputTokens ?? 0;
  return JSON.stringify({
    object: "list",
    data: result.embeddings.map(({ values }, index) => ({
      object: "embedding",
      index,
      embedding: base64 ? toBase64(values) : values,
    })),
    model: result.served?.model ?? "",
    usage: { prompt_tokens: input, total_tokens: input },
  });
}

function toBase64(values: readonly number[]): string {
  const bytes = Buffer.alloc(values.length * 4);
  values.forEach((value, index) => {
    bytes.writeFloatLE(value, index * 4);
  });
  return bytes.toString("base64");
}
