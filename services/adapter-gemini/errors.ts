/** What Gemini's failures mean: https://ai.google.dev/gemini-api/docs/troubleshooting, https://cloud.google.com/apis/design/errors */
import {
  boundedWaitMs,
  durationMs,
  failureMessage,
  type Headers,
  isJson,
  pageText,
  READ_CHARS_MAX,
  retryAfterMs,
  textOf,
} from "../../libs/adapter/index.ts";
import { type Reason, RpcError } from "../../libs/rpc/index.ts";

const FIELD_CHARS_MAX = 200;
const DETAILS_MAX = 100;

/** A google.rpc.Status, as far as it matters here. */
interface Status {
  readonly message: string;
  /** The name of its gRPC code. */
  readonly status: string;
  /** Of a google.rpc.ErrorInfo. */
  readonly reason: string;
  /** Of a google.rpc.RetryInfo. */
  readonly retryDelay: string;
  /** Of a google.rpc.BadRequest: the first field. */
  readonly field: string;
  /** Of a google.rpc.QuotaFailure: which limits were hit. */
  readonly quotas: readonly { readonly id: string; readonly value: string }[];
}

/** The error of an answer that is not 2xx. */
export function fromError(status: number, headers: Headers, body: string): RpcError {
  return toRpcError(status, headers, fromText(body));
}

/** The error in what looked like an answer: `{"error":{…}}`, or that in an array. Undefined when `value` is none. */
export function fromDisguisedError(value: unknown): RpcError | undefined {
  const outer = Array.isArray(value) ? value[0] : value;
  if (!isJson(outer) || !outer["error"]) return undefined;
  const error = fromValue(outer);
  return toRpcError(codeOf(outer["error"], error.status), {}, error);
}

function fromText(body: string): Status {
  try {
    return fromValue(JSON.parse(body));
  } catch {
    return { ...EMPTY, message: pageText(body) };
  }
}

const EMPTY: Status = { message: "", status: "", reason: "", retryDelay: "", field: "", quotas: [] };

function fromValue(value: unknown): Status {
  const outer = Array.isArray(value) ? value[0] : value;
  const error = isJson(outer) ? outer["error"] : undefined;
  if (typeof error === "string") return { ...EMPTY, message: error.slice(0, READ_CHARS_MAX) };
  if (!isJson(error)) return EMPTY;
  const listed = Array.isArray(error["details"]) ? error["details"].slice(0, DETAILS_MAX) : [];
  const details = listed.filter(isJson);
  const textIn = (name: string) => details.map((detail) => textOf(detail[name])).find((text) => text !== "") ?? "";
  const lists = (name: string) =>
    details.flatMap((detail) => (Array.isArray(detail[name]) ? detail[name].filter(isJson) : []));
  return {
    message: textOf(error["message"]).slice(0, READ_CHARS_MAX),
    status: textOf(error["status"]),
    reason: textIn("reason"),
    retryDelay: textIn("retryDelay"),
    field: textOf(lists("fieldViolations")[0]?.["field"]) || fieldIn(textOf(error["message"])),
    quotas: lists("violations").map((quota) => ({ id: textOf(quota["quotaId"]), value: textOf(quota["quotaValue"]) })),
  };
}

/** "* GenerateContentRequest.contents: contents is not specified", "Invalid value at 'generation_config.top_k' (TYPE_INT32)" */
function fieldIn(message: string): string {
  return /(?:\w+Request\.|at ')([a-z][\w.[\]]*)/i.exec(message.slice(0, READ_CHARS_MAX))?.[1] ?? "";
}

/** https://cloud.google.com/apis/design/errors#handling_errors */
const CODES: Readonly<Record<string, number>> = {
  INVALID_ARGUMENT: 400,
  FAILED_PRECONDITION: 400,
  OUT_OF_RANGE: 400,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  NOT_FOUND: 404,
  ABORTED: 409,
  RESOURCE_EXHAUSTED: 429,
  CANCELLED: 499,
  UNAVAILABLE: 503,
  DEADLINE_EXCEEDED: 504,
};

/** The HTTP status that an error inside a 200 would have had. */
function codeOf(error: unknown, status: string): number {
  const code = isJson(error) ? error["code"] : undefined;
  if (typeof code === "number" && code >= 400 && code <= 599) return code;
  return CODES[status] ?? 500;
}

function toRpcError(status: number, headers: Headers, error: Status): RpcError {
  const unsupported = status === 400 ? UNSUPPORTED.find(([pattern]) => pattern.test(error.message)) : undefined;
  const reason = toReason(status, error, unsupported !== undefined);
  const field = reason === "UNSUPPORTED_PARAMETER" ? unsupported?.[1] : toField(error.field);
  const counts = reason === "PROVIDER_RATE_LIMITED" || status >= 500;
  const retryAfterMs = counts ? toWaitMs(headers, error) : undefined;
  return new RpcError(reason, failureMessage(status, withoutSecrets(error.message), reason, error.status), {
    field,
    retryAfterMs,
  });
}

/** What a model lacks, in the words of Gemini, and what it is called in OpenAI's. Another worker's model may have it. */
const UNSUPPORTED: readonly (readonly [RegExp, string])[] = [
  [/logprobs/i, "logprobs"],
  [/(multiple candidates|candidate ?count).*(not (enabled|supported)|only|must be)/i, "n"],
  [/penalty is not (enabled|supported)/i, "frequency_penalty"],
  [/(thinking|budget).*(not (enabled|supported)|only works|can'?t be disabled)/i, "reasoning_effort"],
  [/response mime type|(json mode|structured output).*not (enabled|supported)/i, "response_format"],
  [/(developer|system) instruction.*not (enabled|supported)/i, "messages"],
  [/(function calling|tool use).*(not (enabled|supported)|unsupported)/i, "tools"],
  [/(cannot fetch|unable to (fetch|process)|failed to fetch|unsupported file uri|url.*(robots|blocked))/i, "messages"],
  [/(image|audio|video|document|pdf) input.*not (enabled|supported)|unsupported mime ?type/i, "messages"],
];

const KEY_REASONS = /^(API_KEY_|CREDENTIALS_|ACCOUNT_|SERVICE_DISABLED|CONSUMER_|ACCESS_TOKEN_|BILLING_)/;
const KEY_MESSAGE = /api[ _]key (not valid|expired|not found|is invalid)|pass a valid api key/i;
/** The account's country, or its lack of billing. */
const ACCOUNT_MESSAGE = /location is not supported|free tier is not available|enable billing|billing (account|is)/i;
// "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576)."
const CONTEXT_MESSAGE = /token count.*exceeds|exceeds the maximum number of (input )?tokens|context (length|window)/i;
const QUOTA_MESSAGE = /prepay|credits? (are|is|balance)|spend(ing)? (cap|limit)|limit: 0\b|per day|daily/i;
const MODEL_MESSAGE = /\bmodels?\/|\bmodel\b/i;

function toReason(status: number, error: Status, unsupported: boolean): Reason {
  const { message } = error;
  if (status === 401 || status === 403 || KEY_REASONS.test(error.reason) || KEY_MESSAGE.test(message)) {
    return "PROVIDER_REFUSED_KEY";
  }
  switch (status) {
    case 400:
      if (CONTEXT_MESSAGE.test(message)) return "CONTEXT_LENGTH_EXCEEDED";
      if (error.status === "FAILED_PRECONDITION" || ACCOUNT_MESSAGE.test(message)) return "PROVIDER_REFUSED_KEY";
      if (/payload size exceeds/i.test(message)) return "PROVIDER_REQUEST_TOO_LARGE";
      if (/unexpected model name|is not found for api version/i.test(message)) return "PROVIDER_MODEL_NOT_FOUND";
      return unsupported ? "UNSUPPORTED_PARAMETER" : "INVALID_REQUEST";
    case 402:
      return "PROVIDER_QUOTA_EXHAUSTED";
    case 404:
      // About anything but a model, the path leads nowhere: the base URL is wrong.
      return MODEL_MESSAGE.test(message) ? "PROVIDER_MODEL_NOT_FOUND" : "PROVIDER_INVALID_ANSWER";
    case 405:
      return "PROVIDER_INVALID_ANSWER";
    case 413:
      return "PROVIDER_REQUEST_TOO_LARGE";
    case 429:
      return isExhausted(error) ? "PROVIDER_QUOTA_EXHAUSTED" : "PROVIDER_RATE_LIMITED";
    case 408:
    case 409:
    case 499:
      return "PROVIDER_ERROR";
    case 501:
      return "UNIMPLEMENTED";
    case 503:
      return "PROVIDER_OVERLOADED";
    default:
      if (status >= 500) return /overloaded|high demand/i.test(message) ? "PROVIDER_OVERLOADED" : "PROVIDER_ERROR";
      return status >= 400 ? "INVALID_REQUEST" : "PROVIDER_INVALID_ANSWER";
  }
}

/**
 * Used up for the day, or never to be had. The message always says "You exceeded your current quota"; which one is in the
 * details: GenerateRequestsPerDayPerProjectPerModel-FreeTier.
 */
function isExhausted({ quotas, message }: Status): boolean {
  if (quotas.length === 0) return QUOTA_MESSAGE.test(message);
  return quotas.some(({ id, value }) => /PerDay/i.test(id) || value === "0");
}

/** Fields of the Gemini API by what OpenAI calls them. */
const FIELDS: Readonly<Record<string, string>> = {
  contents: "messages",
  system_instruction: "messages",
  tools: "tools",
  tool_config: "tool_choice",
  temperature: "temperature",
  top_p: "top_p",
  top_k: "top_k",
  max_output_tokens: "max_tokens",
  stop_sequences: "stop",
  candidate_count: "n",
  seed: "seed",
  presence_penalty: "presence_penalty",
  frequency_penalty: "frequency_penalty",
  response_mime_type: "response_format",
  response_schema: "response_format",
  response_json_schema: "response_format",
  thinking_config: "reasoning_effort",
};

/** `generation_config.top_k`, `tools[0].function_declarations[1].name`, `GenerateContentRequest.contents` */
function toField(field: string): string | undefined {
  if (field === "") return undefined;
  for (const step of field.slice(0, FIELD_CHARS_MAX).split(/[.[\]]+/)) {
    const known = FIELDS[step.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)];
    if (known !== undefined) return known;
  }
  return field.slice(0, FIELD_CHARS_MAX);
}

/** "Permission denied: Consumer 'api_key:AIza…' has been suspended.", "… has not been used in project 123456789 before" */
function withoutSecrets(message: string): string {
  return message
    .replace(/\bAIza[\w-]{6,}/g, "[redacted]")
    .replace(/(api_key:)[^\s'"]+/gi, "$1[redacted]")
    .replace(/(projects?[ /:=]+(?:number:)?)\d{6,}/gi, "$1[redacted]");
}

/** There is no retry-after header, though a proxy may add one. Details and message both tell; one of them is rounded down. */
function toWaitMs(headers: Headers, error: Status): number | undefined {
  const said = /retry in ((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)/i.exec(error.message)?.[1] ?? "";
  const waits = [durationMs(error.retryDelay), durationMs(said), retryAfterMs(headers)].filter(
    (wait) => wait !== undefined,
  );
  return waits.length === 0 ? undefined : boundedWaitMs(Math.max(...waits));
}
