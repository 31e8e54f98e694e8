/** What Ollama's failures mean: https://docs.ollama.com/api/errors. All it gives is a status and a sentence. */
import {
  boundedWaitMs,
  failureMessage,
  type Headers,
  oneLine,
  retryAfterMs,
  shortened,
} from "../../libs/adapter/index.ts";
import { type Reason, RpcError } from "../../libs/rpc/index.ts";

/** As much of a message as is looked at. */
const READ_CHARS_MAX = 500;

/** The error of an answer that is not 2xx. */
export function fromError(status: number, headers: Headers, body: string): RpcError {
  const message = fromErrorText(body);
  const { reason, field } = toFailure(status, message);
  const said = failureMessage(status, message, reason);
  return new RpcError(reason, said, { field, retryAfterMs: toWaitMs(status, headers) });
}

/** The error in a line of a stream, or in a 200: `{"error":"…"}`. Undefined when `value` is none. */
export function fromDisguisedError(value: unknown): RpcError | undefined {
  const message = errorOf(value);
  if (message === undefined) return undefined;
  const { reason, field } = toFailure(500, message);
  return new RpcError(reason, shortened(oneLine(message)), { field });
}

interface Failure {
  readonly reason: Reason;
  readonly field?: string | undefined;
}

function fromErrorText(body: string): string {
  try {
    return errorOf(JSON.parse(body)) ?? "";
  } catch {
    // A proxy's page, or plain text: "404 page not found" from Ollama's own router.
    return /<[a-z!]/i.test(body) ? "" : body.slice(0, READ_CHARS_MAX + 1).trim();
  }
}

function errorOf(value: unknown): string | undefined {
  if (typeof value !== "object" || value === null || !("error" in value) || !value.error) return undefined;
  const { error } = value;
  if (typeof error === "string") return error;
  // Ollama's cloud, and what stands in front of it, speak like OpenAI at times.
  const nested = typeof error === "object" && "message" in error ? error.message : undefined;
  return typeof nested === "string" ? nested : "the provider gave no reason";
}

/** `"llama3.2" does not support thinking`, by what OpenAI calls it. */
const CAPABILITY_FIELDS: Readonly<Record<string, string>> = {
  thinking: "reasoning_effort",
  tools: "tools",
  chat: "model",
  vision: "messages",
};

function toFailure(status: number, message: string): Failure {
  const text = message.slice(0, READ_CHARS_MAX);
  const capability = /does not support (\w+)/i.exec(text)?.[1];
  // A model that can't do it: another worker's may.
  if (capability !== undefined) {
    const field = CAPABILITY_FIELDS[capability];
    return field === undefined ? { reason: "UNSUPPORTED_PARAMETER" } : { reason: "UNSUPPORTED_PARAMETER", field };
  }
  // "the input length exceeds the context length"; the cloud: "prompt too long; exceeded max context length by … tokens".
  if (/exceed\w* (the )?(max |available )?context/i.test(text)) return { reason: "CONTEXT_LENGTH_EXCEEDED" };
  if (/model ['"].*['"] not found|invalid model name/i.test(text)) return { reason: "PROVIDER_MODEL_NOT_FOUND" };
  if (/server busy|requires more system memory|overloaded/i.test(text)) return { reason: "PROVIDER_OVERLOADED" };
  return { reason: toReason(status, text) };
}

function toReason(status: number, text: string): Reason {
  switch (status) {
    case 401:
      return "PROVIDER_REFUSED_KEY";
    case 402:
      return "PROVIDER_QUOTA_EXHAUSTED";
    case 403:
      // A model of Ollama's cloud on a server where the cloud is switched off, or without the subscription for it.
      return /cloud|subscription/i.test(text) ? "PROVIDER_MODEL_NOT_FOUND" : "PROVIDER_REFUSED_KEY";
    case 404:
    case 405:
      // Not about a model: the path leads nowhere, so the base URL is not Ollama's.
      return "PROVIDER_INVALID_ANSWER";
    case 413:
      return "PROVIDER_REQUEST_TOO_LARGE";
    case 429:
      return /usage limit/i.test(text) ? "PROVIDER_QUOTA_EXHAUSTED" : "PROVIDER_RATE_LIMITED";
    case 408:
    case 499:
      return "PROVIDER_ERROR";
    case 503:
      return "PROVIDER_OVERLOADED";
    default:
      if (status >= 500) return "PROVIDER_ERROR";
      return status >= 400 ? "INVALID_REQUEST" : "PROVIDER_INVALID_ANSWER";
  }
}

/** Ollama itself sends no wait; its cloud and proxies may. */
function toWaitMs(status: number, headers: Headers): number | undefined {
  if (status !== 408 && status !== 409 && status !== 429 && status < 500) return undefined;
  return boundedWaitMs(retryAfterMs(headers));
}
