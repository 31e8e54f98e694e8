/**
 * The errors that the shell itself finds, and how an error may be told to logs and spans. A provider's own words may quote
 * the prompt, so only what was written here is quoted there; of all other errors the catalogue's meaning is given.
 */
import { errors as undiciErrors } from "undici";
import { CATALOGUE, type Reason, RpcError, type RpcErrorDetails } from "../rpc/index.ts";

/**
 * An error whose message holds nothing that came from the client or the provider. It names no address, as clients read it;
 * where one helps, `details.forLog` has it.
 */
export function failure(reason: Reason, message: string, details: RpcErrorDetails = {}): RpcError {
  return new RpcError(reason, message, { ...details, forLog: details.forLog ?? message });
}

/** What logs and spans may say about `error`. */
export function describe(error: RpcError): string {
  return error.forLog ?? CATALOGUE[error.reason].meaning;
}

/** A key that is shorter may be a part of any word. */
const KEY_CHARACTERS_MIN = 8;

/** The same error without any of `secrets`: providers have been seen to echo the key that they refuse. */
export function redact(error: RpcError, secrets: readonly string[]): RpcError {
  // Written here, so it can't have one.
  if (error.forLog !== undefined) return error;
  let { message } = error;
  for (const secret of secrets) message = without(message, secret);
  if (message === error.message) return error;
  const { field, retryAfterMs, attempts, key } = error;
  return new RpcError(error.reason, message, { field, retryAfterMs, attempts, key });
}

/** Short keys are hidden where they stand alone: "a" is a key in `wrong key: a`, and none in `an answer`. */
function without(message: string, secret: string): string {
  if (secret.length >= KEY_CHARACTERS_MIN) return message.replaceAll(secret, "…");
  const pattern = secret.replaceAll(/[^A-Za-z0-9]/g, "\\$&");
  return message.replaceAll(new RegExp(`(?<![A-Za-z0-9])${pattern}(?![A-Za-z0-9])`, "g"), "…");
}

/** The same error with another wait, or another key, that the request was sent with. */
export function withDetails(error: RpcError, changed: Pick<RpcErrorDetails, "retryAfterMs" | "key">): RpcError {
  const { reason, message, field, retryAfterMs, attempts, key, forLog, cause } = error;
  return new RpcError(reason, message, { field, retryAfterMs, attempts, key, forLog, cause, ...changed });
}

/** The system's code of a connection error: ECONNREFUSED, UND_ERR_SOCKET, … */
function systemCode(error: unknown): string {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string") return cause.code;
  }
  return "unknown error";
}

/** Translates what undici says. `begun` tells whether the answer's head had come; `authority` is for the log. */
export function fromConnectionError(
  cause: unknown,
  { authority, begun }: { readonly authority: string; readonly begun: boolean },
): RpcError {
  const told = (reason: Reason, message: (who: string) => string, from?: unknown) =>
    failure(reason, message("the provider"), { cause: from, forLog: message(authority) });
  // Its cause is left out: it carries a piece of the body.
  if (cause instanceof undiciErrors.HTTPParserError) {
    return told("PROVIDER_INVALID_ANSWER", (who) => `${who} does not speak HTTP/1.1 as it should`);
  }
  const code = systemCode(cause);
  if (code === "UND_ERR_CONNECT_TIMEOUT") {
    return told("PROVIDER_TIMEOUT", (who) => `no connection to ${who} in time (${code})`, cause);
  }
  if (code === "UND_ERR_HEADERS_OVERFLOW") {
    return told("PROVIDER_INVALID_ANSWER", (who) => `the answer of ${who} has too large a head`, cause);
  }
  if (begun) return told("PROVIDER_STREAM_CUT", (who) => `${who} broke off its answer (${code})`, cause);
  return told("PROVIDER_UNREACHABLE", (who) => `no answer from ${who} (${code})`, cause);
}

/**
 * What a log line may say about the error behind an error: its kind, its code and where it happened. Never its message, which
 * may quote what was being read.
 */
export function causeFields(cause: unknown): { cause?: string; cause_stack?: string } {
  if (!(cause instanceof Error)) return {};
  const code = "code" in cause && typeof cause.code === "string" ? ` (${cause.code})` : "";
  const frames = (cause.stack ?? "").split("\n").filter((line) => line.startsWith("    at "));
  return { cause: `${cause.name}${code}`, cause_stack: frames.slice(0, 5).join("\n") };
}
