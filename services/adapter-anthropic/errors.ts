/** What Anthropic's failures mean: https://platform.claude.com/docs/en/api/errors */
import {
  boundedWaitMs,
  failureMessage,
  type Headers,
  header,
  isJson,
  pageText,
  READ_CHARS_MAX,
  retryAfterMs,
  textOf,
  untilMs,
} from "../../libs/adapter/index.ts";
import { type Reason, RpcError } from "../../libs/rpc/index.ts";

const FIELD_CHARS_MAX = 200;

/** What an error body says. */
interface ProviderError {
  readonly type: string;
  readonly message: string;
}

/** The error of an answer that is not 2xx. */
export function fromError(status: number, headers: Headers, body: string): RpcError {
  return toRpcError(status, headers, fromText(body));
}

/** The error in a stream, or in a 200: `{"type":"error","error":{…}}`. Undefined when `value` is none. */
export function fromDisguisedError(value: unknown): RpcError | undefined {
  if (!isJson(value) || !value["error"] || (value["type"] !== "error" && value["type"] !== undefined)) return undefined;
  const error = fromValue(value);
  return toRpcError(STATUSES[error.type] ?? 500, {}, error);
}

/** The status that an error inside a 200 would have had. */
const STATUSES: Readonly<Record<string, number>> = {
  invalid_request_error: 400,
  authentication_error: 401,
  billing_error: 402,
  permission_error: 403,
  not_found_error: 404,
  conflict_error: 409,
  request_too_large: 413,
  rate_limit_error: 429,
  api_error: 500,
  timeout_error: 504,
  overloaded_error: 529,
};

function fromText(body: string): ProviderError {
  try {
    return fromValue(JSON.parse(body));
  } catch {
    return { type: "", message: pageText(body) };
  }
}

function fromValue(value: unknown): ProviderError {
  const error = isJson(value) ? value["error"] : undefined;
  if (typeof error === "string") return { type: "", message: error.slice(0, READ_CHARS_MAX) };
  if (!isJson(error)) return { type: "", message: "" };
  return { type: textOf(error["type"]), message: textOf(error["message"]).slice(0, READ_CHARS_MAX) };
}

function toRpcError(status: number, headers: Headers, error: ProviderError): RpcError {
  const reason = toReason(status, error);
  const named = reason === "INVALID_REQUEST" || reason === "UNSUPPORTED_PARAMETER";
  const field = named ? toField(error.message) : undefined;
  const said = withoutSecrets(error.message);
  return new RpcError(reason, failureMessage(status, said, reason, error.type.slice(0, 60)), {
    field,
    retryAfterMs: toWaitMs(status, headers, reason),
  });
}

// "Your credit balance is too low to access the Anthropic API.", "You have reached your specified API usage limits."
const QUOTA_MESSAGE = /credit balance|api usage limits|spend(ing)? limit|daily rate limit|extra usage is required/i;
// "prompt is too long: 210000 tokens > 200000 maximum", "input length and `max_tokens` exceed context limit: …"
const CONTEXT_MESSAGE = /prompt is too long|exceeds? (the )?context (limit|window)|too many tokens in (the )?prompt/i;
const CONTENT_MESSAGE = /content filtering policy|usage policy/i;
/** Of the organization or of its key. */
const ACCOUNT_MESSAGE = /organization has been disabled|invalid x-api-key|api key/i;
const UNSUPPORTED_MESSAGE =
  /(does|do|is|are) not (currently )?support|not supported (for|by|on|with)|cannot both be specified|only available (for|on)|is deprecated for this model|extra inputs are not permitted|additionalProperties' must be explicitly/i;
/** "Unable to download the file. Please verify the URL and try again." Another provider may get at it. */
const FETCH_MESSAGE =
  /unable to download|could not (download|fetch)|failed to (download|fetch)|url is not (supported|accessible)/i;

function toReason(status: number, { type, message }: ProviderError): Reason {
  if (type === "overloaded_error" || status === 529 || status === 503) return "PROVIDER_OVERLOADED";
  switch (status) {
    case 400:
    case 422:
      return toRequestReason(message);
    case 401:
      return "PROVIDER_REFUSED_KEY";
    case 402:
      return "PROVIDER_QUOTA_EXHAUSTED";
    case 403:
      return /\bmodel\b/i.test(message) ? "PROVIDER_MODEL_NOT_FOUND" : "PROVIDER_REFUSED_KEY";
    case 404:
      // About anything but a model, the path leads nowhere: the base URL is wrong.
      return /\bmodel\b/i.test(message) ? "PROVIDER_MODEL_NOT_FOUND" : "PROVIDER_INVALID_ANSWER";
    case 405:
      return "PROVIDER_INVALID_ANSWER";
    case 413:
      return "PROVIDER_REQUEST_TOO_LARGE";
    case 429:
      return QUOTA_MESSAGE.test(message) ? "PROVIDER_QUOTA_EXHAUSTED" : "PROVIDER_RATE_LIMITED";
    case 408:
    case 409:
    case 499:
      return "PROVIDER_ERROR";
    case 501:
      return "UNIMPLEMENTED";
    default:
      if (status >= 500) return "PROVIDER_ERROR";
      return status >= 400 ? "INVALID_REQUEST" : "PROVIDER_INVALID_ANSWER";
  }
}

function toRequestReason(message: string): Reason {
  if (QUOTA_MESSAGE.test(message)) return "PROVIDER_QUOTA_EXHAUSTED";
  if (CONTEXT_MESSAGE.test(message)) return "CONTEXT_LENGTH_EXCEEDED";
  if (CONTENT_MESSAGE.test(message)) return "CONTENT_FILTERED";
  if (ACCOUNT_MESSAGE.test(message)) return "PROVIDER_REFUSED_KEY";
  // Prefill, an effort, a schema: what this model can't do another one may.
  return UNSUPPORTED_MESSAGE.test(message) || FETCH_MESSAGE.test(message) ? "UNSUPPORTED_PARAMETER" : "INVALID_REQUEST";
}

/** Fields of the Messages API by what OpenAI calls them. */
const FIELDS: readonly (readonly [RegExp, string])[] = [
  [/^system\b/, "messages"],
  [/^stop_sequences\b/, "stop"],
  [/^(thinking|output_config\.effort)\b/, "reasoning_effort"],
  [/^(output_config\.format|output_config|output_format)\b/, "response_format"],
  [/^metadata\.user_id\b/, "user"],
];
const WORDS: readonly (readonly [RegExp, string])[] = [
  [/\beffort\b|thinking/i, "reasoning_effort"],
  [/prefill|conversation must end|download|fetch|\burl\b/i, "messages"],
  [/output_config|output format|structured output/i, "response_format"],
  [/`?top_p`?/, "top_p"],
  [/`?temperature`?/, "temperature"],
];

/** "messages.0.content.1.image.source: …", "max_tokens: 100000 > 64000, which is the maximum …" */
function toField(message: string): string | undefined {
  const path = /^([a-z_]+(?:\.[\w-]+)*): /.exec(message.slice(0, FIELD_CHARS_MAX))?.[1];
  if (path === undefined) return WORDS.find(([pattern]) => pattern.test(message))?.[1];
  const known = FIELDS.find(([pattern]) => pattern.test(path))?.[1];
  return known ?? path.replace(/\.(\d+)/g, "[$1]");
}

/** Keys, and the names of the operator's organization: "… rate limit of 50 requests per minute (org: 0f1e2d3c-…)". */
function withoutSecrets(message: string): string {
  return message
    .replace(/\bsk-ant-[\w-]+/g, "[redacted]")
    .replace(/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/gi, "[redacted]");
}

// ---------------------------------------------------------------------------------------------------------------------
// How long to wait

function toWaitMs(status: number, headers: Headers, reason: Reason): number | undefined {
  // A retry-after was recorded with a 200 too, and is not meant for us there.
  const counts = status === 408 || status === 409 || status === 429 || status >= 500;
  if (!counts || reason === "PROVIDER_REQUEST_TOO_LARGE") return undefined;
  const waitMs = headerMs(headers) ?? (reason === "PROVIDER_RATE_LIMITED" ? resetMs(headers) : undefined);
  return boundedWaitMs(waitMs);
}

function headerMs(headers: Headers): number | undefined {
  const ms = header(headers, "retry-after-ms");
  return /^\s*\d+(\.\d+)?\s*$/.test(ms) ? Number(ms) : retryAfterMs(headers);
}

/** The limits of which nothing remains: https://platform.claude.com/docs/en/api/rate-limits#response-headers */
function resetMs(headers: Headers): number | undefined {
  const waits = ["requests", "tokens", "input-tokens", "output-tokens"]
    .filter((limit) => header(headers, `anthropic-ratelimit-${limit}-remaining`) === "0")
    .map((limit) => untilMs(headers, Date.parse(header(headers, `anthropic-ratelimit-${limit}-reset`))))
    .filter((wait) => wait !== undefined);
  return waits.length === 0 ? undefined : Math.max(...waits);
}
