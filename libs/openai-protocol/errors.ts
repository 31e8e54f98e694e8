/**
 * What the failures of OpenAI, and of the servers that speak like it, mean. Read from
 * https://platform.openai.com/docs/guides/error-codes and from what the compatible servers were seen to send.
 */
import {
  boundedWaitMs,
  durationMs,
  failureMessage,
  type Headers,
  header,
  isJson,
  oneLine,
  pageText,
  READ_CHARS_MAX,
  retryAfterMs,
  secondsMs,
  untilMs,
} from "../adapter/index.ts";
import { type Reason, RpcError } from "../rpc/index.ts";
import type { ErrorRule, Server } from "./server.ts";

/** What all the shapes of error bodies have in common. */
interface ProviderError {
  readonly message: string;
  readonly type: string;
  readonly code: string;
  readonly param: string;
}

const FIELD_CHARS_MAX = 200;

/** The error of an answer that is not 2xx. */
export function fromError(status: number, headers: Headers, body: string, server: Server): RpcError {
  return toRpcError(status, headers, fromErrorText(body), server);
}

/**
 * The error in an answer that looked like success: a 200 whose body is an error, or an event of a stream. Undefined when
 * `value` is no error.
 */
export function fromDisguisedError(value: unknown, server: Server): RpcError | undefined {
  const candidate = Array.isArray(value) ? value[0] : value;
  if (!isJson(candidate)) return undefined;
  const nested = Boolean(candidate["error"]);
  const flat = candidate["object"] === "error" || (candidate["choices"] === undefined && isFlatError(candidate));
  if (!nested && !flat) return undefined;
  const error = fromErrorValue(candidate);
  return toRpcError(statusOf(candidate, error), {}, error, server);
}

/** Flat errors of vLLM before 0.10 and of Mistral: `{"object":"error","message":…}`, `{"detail":…}`. */
function isFlatError(value: Readonly<Record<string, unknown>>): boolean {
  if (value["detail"] !== undefined && value["data"] === undefined) return true;
  return typeof value["message"] === "string" && (value["type"] !== undefined || value["code"] !== undefined);
}

function toRpcError(status: number, headers: Headers, found: ProviderError, server: Server): RpcError {
  const error = { ...found, message: found.message.slice(0, READ_CHARS_MAX) };
  const own = findRule(status, error, server);
  const reason = own?.reason ?? toReason(status, error);
  const said = withoutSecrets(oneLine(error.message), reason === "PROVIDER_REFUSED_KEY");
  const field = error.param || (own?.message?.exec(error.message)?.groups?.["field"] ?? own?.field);
  return new RpcError(reason, failureMessage(status, said, reason, error.code), {
    field: field && toField(field),
    retryAfterMs: toWaitMs(status, headers, error, reason, server),
  });
}

/** `messages.[0].role` and `messages.0.role` are `messages[0].role`. */
function toField(said: string): string {
  return said
    .replaceAll(".[", "[")
    .replace(/\.(\d+)(?=\.|$)/g, "[$1]")
    .slice(0, FIELD_CHARS_MAX);
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading: one shape out of many

function fromErrorText(body: string): ProviderError {
  try {
    return fromErrorValue(JSON.parse(body));
  } catch {
    return { message: pageText(body), type: "", code: "", param: "" };
  }
}

function fromErrorValue(value: unknown): ProviderError {
  // Google's compatible endpoint sends its errors in an array of one.
  const outer = Array.isArray(value) ? value[0] : value;
  if (typeof outer === "string") return { message: outer, type: "", code: "", param: "" };
  if (!isJson(outer)) return { message: "", type: "", code: "", param: "" };
  const inner = outer["error"];
  // xAI: {"code":"invalid-argument","error":"Incorrect API key provided…"}
  if (typeof inner === "string") return { ...fromFields(outer), message: inner };
  return fromFields(isJson(inner) ? inner : outer);
}

function fromFields(fields: Readonly<Record<string, unknown>>): ProviderError {
  const found = { type: word(fields["type"]), code: word(fields["code"]), param: word(fields["param"]) };
  const message = fields["message"];
  // Mistral and FastAPI: {"detail":"…"}, {"detail":[{"loc":["body","messages",0,"role"],"msg":"…"}]}, also in `message`.
  const detail = isJson(message) ? message["detail"] : fields["detail"];
  if (Array.isArray(detail)) return { ...found, ...fromDetails(detail) };
  if (typeof detail === "string") return { ...found, message: detail };
  // OpenRouter: "Provider returned error", and what the provider behind it said in metadata.raw.
  const metadata = fields["metadata"];
  const raw = isJson(metadata) ? metadata["raw"] : undefined;
  const first = typeof message === "string" ? message : "";
  return { ...found, message: typeof raw === "string" && raw !== "" ? `${first}: ${rawMessage(raw)}` : first };
}

/** What was said behind OpenRouter, itself often an error body. */
function rawMessage(raw: string): string {
  const said = fromErrorText(raw).message;
  return said === "" ? raw : said;
}

/** Names the fields and what is wrong with them. Never `input`, which is what the client has sent. */
function fromDetails(details: readonly unknown[]): Pick<ProviderError, "message" | "param"> {
  const found = details.filter(isJson).map((detail) => {
    const path = Array.isArray(detail["loc"]) ? detail["loc"].filter((step) => step !== "body") : [];
    const field = path.reduce(
      (text: string, step: unknown) => (typeof step === "number" ? `${text}[${step}]` : `${text}.${step}`),
      "",
    );
    return { field: field.replace(/^\./, ""), message: word(detail["msg"]) };
  });
  return {
    message: found.map(({ field, message }) => (field === "" ? message : `${field}: ${message}`)).join("; "),
    param: found[0]?.field ?? "",
  };
}

/** Codes are strings with some servers and numbers with others. */
function word(value: unknown): string {
  if (typeof value === "number") return String(value);
  return typeof value === "string" ? value : "";
}

// ---------------------------------------------------------------------------------------------------------------------
// Judging

/** The HTTP status that an error inside a 200 would have had. */
function statusOf(outer: Readonly<Record<string, unknown>>, error: ProviderError): number {
  const inner = outer["error"];
  // OpenRouter and vLLM give the status as the code, Groq as status_code.
  for (const given of [isJson(inner) ? inner["status_code"] : undefined, error.code]) {
    const status = typeof given === "string" || typeof given === "number" ? Number(given) : Number.NaN;
    if (Number.isInteger(status) && status >= 400 && status <= 599) return status;
  }
  const kind = `${error.type} ${error.code}`.toLowerCase();
  if (/quota|rate_?limit|too_many_requests|slow_down/.test(kind)) return 429;
  if (/overload|unavailable|capacity/.test(kind)) return 503;
  if (/authentication|api_key|unauthorized/.test(kind)) return 401;
  if (/permission|forbidden/.test(kind)) return 403;
  if (/not_?found/.test(kind)) return 404;
  if (/server_?error|internal|api_error|timeout/.test(kind)) return 500;
  if (/invalid|bad_?request|context|unsupported|content_filter|content_policy/.test(kind)) return 400;
  return 500;
}

const QUOTA =
  /insufficient_quota|credit_balance_exhausted|_spend_limit_exceeded|_usage_limit_exceeded|billing_(hard_limit|not_active)/;
const QUOTA_MESSAGE = /exceeded your current quota|credit balance|insufficient balance|insufficient credits/i;
const KEY_MESSAGE = /(incorrect|invalid|missing|expired|no) api[ -_]?key|api key (is )?(invalid|expired|missing)/i;
const CONTEXT_KIND = /context_length_exceeded|exceed_context_size_error|too_many_prompt_tokens/;
// OpenAI, vLLM, DeepSeek, OpenRouter: "maximum context length"; Ollama's cloud: "exceeded max context length"; OpenAI's
// Responses: "exceeds the context window"; llama.cpp: "exceeds the available context size"; Anthropic: "prompt is too long".
const CONTEXT_MESSAGE =
  /max(imum)? context length|exceeds? the (available )?context|prompt is too long|input token count.*exceeds/i;
const CONTENT = /content_filter|content_policy_violation|misalignment_policy_violation|responsibleaipolicyviolation/;
const MODEL_KIND = /model_not_found|invalid_model|model_decommissioned/;
const MODEL_MESSAGE = /model.*(not exist|not found|does not exist)|invalid model|not a valid model|no such model/i;
const OVERLOADED = /overloaded|capacity_exceeded|over capacity|server_is_overloaded/i;
const UNSUPPORTED = /^unsupported_(parameter|value)$/;
/** The model wrote what the server could not use: another try may go well. */
const MODEL_OUTPUT = /tool_use_failed|json_validate_failed/;

/** What is known of the error at this server alone. */
function findRule(status: number, error: ProviderError, server: Server): ErrorRule | undefined {
  const kind = `${error.type} ${error.code}`.toLowerCase();
  return server.errors.find(
    (rule) =>
      (rule.status ?? status) === status &&
      (rule.kind?.test(kind) ?? true) &&
      (rule.message?.test(error.message) ?? true),
  );
}

function toReason(status: number, error: ProviderError): Reason {
  const kind = `${error.type} ${error.code}`.toLowerCase();
  const request = status >= 400 && status < 500;
  if (request && CONTENT.test(kind)) return "CONTENT_FILTERED";
  if (status === 402 || QUOTA.test(kind) || (request && QUOTA_MESSAGE.test(error.message))) {
    return "PROVIDER_QUOTA_EXHAUSTED";
  }
  if (CONTEXT_KIND.test(kind) || (status !== 429 && CONTEXT_MESSAGE.test(error.message))) {
    return "CONTEXT_LENGTH_EXCEEDED";
  }
  // xAI answers a wrong key with 400.
  if (status === 401 || kind.includes("invalid_api_key") || (request && KEY_MESSAGE.test(error.message))) {
    return "PROVIDER_REFUSED_KEY";
  }
  if (status === 413 || status === 429) return toLimitReason(status, kind, error.message);
  if (request) return toRequestReason(status, kind, error);
  if (status === 501) return "UNIMPLEMENTED";
  // A redirect, or a 1xx that never became an answer.
  if (status < 500) return "PROVIDER_INVALID_ANSWER";
  // 529: Anthropic's and OpenRouter's word for overloaded.
  if (status === 503 || status === 529 || OVERLOADED.test(`${kind} ${error.message}`)) return "PROVIDER_OVERLOADED";
  return "PROVIDER_ERROR";
}

function toLimitReason(status: number, kind: string, message: string): Reason {
  // Mistral says so with 429: {"type":"service_tier_capacity_exceeded","code":"3505"}
  if (OVERLOADED.test(kind) || /\b3505\b/.test(kind)) return "PROVIDER_OVERLOADED";
  const [, limit, requested] = /limit:? (\d+),.*requested:? (\d+)/i.exec(message) ?? [];
  // "Limit 30000, Requested 250011": no wait makes it fit. Groq sends the same with 413.
  const neverFits = limit !== undefined && Number(requested) > Number(limit);
  if (status === 413 || neverFits || /^request too large/i.test(message)) return "PROVIDER_REQUEST_TOO_LARGE";
  return "PROVIDER_RATE_LIMITED";
}

function toRequestReason(status: number, kind: string, error: ProviderError): Reason {
  if (MODEL_KIND.test(kind) || MODEL_MESSAGE.test(error.message)) return "PROVIDER_MODEL_NOT_FOUND";
  if (MODEL_OUTPUT.test(kind)) return "MODEL_OUTPUT_INVALID";
  if (UNSUPPORTED.test(error.code)) return "UNSUPPORTED_PARAMETER";
  switch (status) {
    case 403:
      // OpenRouter's moderation: "… requires moderation on …. Your input was flagged for …".
      return /moderation|flagged/i.test(error.message) ? "CONTENT_FILTERED" : "PROVIDER_REFUSED_KEY";
    case 404:
      // A 404 about anything but a model means that the path leads nowhere: the base URL is wrong.
      return /model/i.test(`${error.message} ${error.param}`) ? "PROVIDER_MODEL_NOT_FOUND" : "PROVIDER_INVALID_ANSWER";
    case 405:
      return "PROVIDER_INVALID_ANSWER";
    case 498:
      // Groq's flex tier: https://console.groq.com/docs/errors
      return "PROVIDER_OVERLOADED";
    case 408:
    case 409:
    case 425:
    case 499:
      return "PROVIDER_ERROR";
    default:
      return "INVALID_REQUEST";
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// What may be said

/**
 * Takes out what looks like a key or names the operator's account. About a key, every word that could be one goes: some
 * providers repeat what they were sent.
 */
function withoutSecrets(message: string, aboutKey: boolean): string {
  const clean = message
    // "Incorrect API key provided: sk-…", "Your api key: ****-key is invalid"
    .replace(
      /((?:api|access|secret)[ _-]?(?:key|token)(?: provided| is)?\s*[:=]\s*)["'`]?[^\s"'`]*[^\s"'`.,;]/gi,
      "$1[redacted]",
    )
    .replace(/\bBearer\s+\S+/gi, "Bearer [redacted]")
    .replace(/\b(?:sk|gsk|xai|pplx|nvapi|hf|csk|fw|tgp|AIza)[-_]?[\w*.-]{12,}/g, (found) =>
      /[\d*_-]/.test(found) ? "[redacted]" : found,
    )
    .replace(/\b(org|proj|user)([-_])(?=\w*\d)\w{6,}/g, "$1$2[redacted]");
  if (!aboutKey) return clean;
  return clean
    .split(" ")
    .map((text) => (/^https?:/.test(text) || !/(?=.*[\d*])[\w*-]{8,}/.test(text) ? text : "[redacted]"))
    .join(" ");
}

// ---------------------------------------------------------------------------------------------------------------------
// How long to wait

function toWaitMs(
  status: number,
  headers: Headers,
  error: ProviderError,
  reason: Reason,
  server: Server,
): number | undefined {
  // Some send retry-after with a 200, and it is not meant for us there: Hugging Face's router, Anthropic.
  const counts = status === 408 || status === 409 || status === 413 || status === 429 || status >= 500;
  if (!counts || reason === "PROVIDER_REQUEST_TOO_LARGE" || reason === "CONTEXT_LENGTH_EXCEEDED") return undefined;
  const said = () => (reason === "PROVIDER_RATE_LIMITED" ? messageWaitMs(error.message) : undefined);
  const reset = () =>
    reason === "PROVIDER_RATE_LIMITED"
      ? (resetWaitMs(headers, error) ?? momentWaitMs(headers, server.resetAtMsHeader))
      : undefined;
  const waitMs = headerWaitMs(headers) ?? said() ?? reset();
  return boundedWaitMs(waitMs);
}

function headerWaitMs(headers: Headers): number | undefined {
  const ms = Number.parseFloat(header(headers, "retry-after-ms"));
  return Number.isFinite(ms) ? ms : retryAfterMs(headers);
}

/** "Please try again in 8.764s", "… in 350ms", "… in 1m30s". */
function messageWaitMs(message: string): number | undefined {
  const duration = /(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+)/i.exec(message)?.[1];
  if (duration !== undefined) return durationMs(duration);
  const seconds = /(?:try again|retry) (?:in|after) (\d+(?:\.\d+)?) seconds?/i.exec(message)?.[1];
  return seconds === undefined ? undefined : Number(seconds) * 1000;
}

/** The limit that was hit is the one that the error names, else the one of which nothing remains. */
function resetWaitMs(headers: Headers, error: ProviderError): number | undefined {
  const hit = ["requests", "tokens"].filter(
    (limit) => error.type === limit || header(headers, `x-ratelimit-remaining-${limit}`) === "0",
  );
  const waits = hit.map((limit) => {
    const reset = header(headers, `x-ratelimit-reset-${limit}`);
    return secondsMs(reset) ?? durationMs(reset) ?? 0;
  });
  const waitMs = Math.max(0, ...waits);
  return waitMs > 0 ? waitMs : undefined;
}

/** How far off the moment in a header is, in milliseconds since the Unix epoch. */
function momentWaitMs(headers: Headers, name: string | undefined): number | undefined {
  return name === undefined ? undefined : untilMs(headers, Number.parseInt(header(headers, name), 10));
}
