/** What Cohere's failures mean: https://docs.cohere.com/reference/errors. All it gives is a status and a sentence. */
import {
  boundedWaitMs,
  failureMessage,
  type Headers,
  header,
  oneLine,
  pageText,
  READ_CHARS_MAX,
  retryAfterMs,
  shortened,
  untilMs,
} from "../../libs/adapter/index.ts";
import { type Reason, RpcError } from "../../libs/rpc/index.ts";

/** The error of an answer that is not 2xx. */
export function fromError(status: number, headers: Headers, body: string): RpcError {
  const message = fromErrorText(body);
  const { reason, field } = toFailure(status, message);
  const said = failureMessage(status, withoutSecrets(oneLine(message)), reason);
  return new RpcError(reason, said, { field, retryAfterMs: toWaitMs(status, headers) });
}

/** The error in a 200 or in an event: `{"message":"…"}`, where an answer has an object. Undefined when `value` is none. */
export function fromDisguisedError(value: unknown): RpcError | undefined {
  const message = messageOf(value);
  return message === undefined ? undefined : fromErrorMessage(message);
}

/** An error that came without a status. */
export function fromErrorMessage(message: string): RpcError {
  const text = message.slice(0, READ_CHARS_MAX);
  const { reason, field } = toFailure(statusOf(text), text);
  return new RpcError(reason, shortened(withoutSecrets(oneLine(text))), { field });
}

interface Failure {
  readonly reason: Reason;
  readonly field?: string | undefined;
}

/** Keys have 40 letters and digits. Cohere does not repeat them, but what stands between may. */
function withoutSecrets(message: string): string {
  return message.replace(/\b[A-Za-z0-9]{32,}\b/g, "[redacted]").replace(/\bBearer\s+\S+/gi, "Bearer [redacted]");
}

function fromErrorText(body: string): string {
  try {
    const value: unknown = JSON.parse(body);
    return (messageOf(value) ?? "").slice(0, READ_CHARS_MAX);
  } catch {
    return pageText(body).trim();
  }
}

function messageOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value !== "object" || value === null) return undefined;
  const { message, error } = value as { readonly message?: unknown; readonly error?: unknown };
  if (typeof message === "string") return message === "" && typeof error === "string" ? error : message;
  if (typeof error === "string" && error !== "" && message === undefined) return error;
  return undefined;
}

/** The HTTP status that an error inside a 200 would have had. */
function statusOf(message: string): number {
  if (/^invalid request|too many tokens/i.test(message)) return 400;
  if (/rate limit|trial key|api calls \//i.test(message)) return 429;
  return /overloaded|unavailable/i.test(message) ? 503 : 500;
}

/** What a model lacks or another provider may take, in Cohere's words, and what it is called in OpenAI's. */
const UNSUPPORTED: readonly (readonly [RegExp, string])[] = [
  // "only one of 'presence_penalty' and 'frequency_penalty' can be specified for this model", "cannot specify both …"
  [/(only one of|cannot specify both).*penalty/i, "presence_penalty"],
  [/frequency_penalty (must|is not|should)/i, "frequency_penalty"],
  [/presence_penalty (must|is not|should)/i, "presence_penalty"],
  // "temperature must be between 0 and 1.0 inclusive"
  [/temperature (must|is not|should)/i, "temperature"],
  [/\bp (must|should) be/i, "top_p"],
  [/\bk (must|should) be/i, "top_k"],
  [/response_format.*not supported|json.*not supported/i, "response_format"],
  [
    /(thinking|reasoning|token_budget).*not (supported|available)|does not support (thinking|reasoning)/i,
    "reasoning_effort",
  ],
  [/tool names can only contain/i, "tools"],
  [/tool_choice.*not supported/i, "tool_choice"],
  [/(tools?|tool use).*not supported|does not support tools?/i, "tools"],
  [/logprobs.*not supported/i, "logprobs"],
  [/images?.*not supported|does not support images?/i, "messages"],
];

const CONTEXT = /^too many tokens|context (length|window)/i;
/** "You are using a Trial key, which is limited to 1000 API calls / month." */
const MONTHLY = /(\/|per) ?month|monthly|billing|payment method|quota/i;

function toFailure(status: number, message: string): Failure {
  const request = status === 400 || status === 422;
  if (request && CONTEXT.test(message)) return { reason: "CONTEXT_LENGTH_EXCEEDED" };
  const unsupported = request ? UNSUPPORTED.find(([pattern]) => pattern.test(message)) : undefined;
  if (unsupported !== undefined) return { reason: "UNSUPPORTED_PARAMETER", field: unsupported[1] };
  return { reason: toReason(status, message) };
}

function toReason(status: number, message: string): Reason {
  switch (status) {
    case 400:
      return /api (key|token)/i.test(message) ? "PROVIDER_REFUSED_KEY" : "INVALID_REQUEST";
    case 422:
      // The model wrote what Cohere could not use: another try may go well.
      return /invalid generation/i.test(message) ? "MODEL_OUTPUT_INVALID" : "INVALID_REQUEST";
    case 401:
    case 403:
    // "invalid token": blocked.
    case 498:
      return "PROVIDER_REFUSED_KEY";
    case 402:
      return "PROVIDER_QUOTA_EXHAUSTED";
    case 404:
      // Not about a model: the path leads nowhere, so the base URL is not Cohere's.
      return /model/i.test(message) ? "PROVIDER_MODEL_NOT_FOUND" : "PROVIDER_INVALID_ANSWER";
    case 405:
      return "PROVIDER_INVALID_ANSWER";
    case 413:
      return "PROVIDER_REQUEST_TOO_LARGE";
    case 429:
      return MONTHLY.test(message) ? "PROVIDER_QUOTA_EXHAUSTED" : "PROVIDER_RATE_LIMITED";
    case 408:
    case 409:
    case 499:
      return "PROVIDER_ERROR";
    case 501:
      return "UNIMPLEMENTED";
    case 503:
    case 529:
      return "PROVIDER_OVERLOADED";
    default:
      if (status >= 500) return /overloaded/i.test(message) ? "PROVIDER_OVERLOADED" : "PROVIDER_ERROR";
      return status >= 400 ? "INVALID_REQUEST" : "PROVIDER_INVALID_ANSWER";
  }
}

/** Cohere was not seen to send a wait; its own SDK looks for these headers. */
function toWaitMs(status: number, headers: Headers): number | undefined {
  if (status !== 408 && status !== 409 && status !== 429 && status < 500) return undefined;
  const reset = header(headers, "x-ratelimit-reset");
  const resetMs = /^\s*\d+\s*$/.test(reset) ? untilMs(headers, Number(reset) * 1000) : undefined;
  return boundedWaitMs(retryAfterMs(headers) ?? resetMs);
}
