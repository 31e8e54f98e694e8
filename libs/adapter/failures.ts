/**
 * The errors that the shell itself finds, and how an error may be told to logs and spans. A provider's own words may quote
 * the prompt, so only what was written here is quoted there; of all other errors the catalogue's meaning is given.
 */
import { errors as undiciErrors } from "undici";
import { CATALOGUE, type Reason, RpcError, type RpcErrorDetails } from "../rpc/index.ts";

const quotable = new WeakSet<RpcError>();

/** An error whose message holds nothing that came from the client or the provider. */
export function failure(reason: Reason, message: string, details?: RpcErrorDetails): RpcError {
  const error = new RpcError(reason, message, details);
  quotable.add(error);
  return error;
}

/** What logs and spans may say about `error`. */
export function describe(error: RpcError): string {
  return quotable.has(error) ? error.message : CATALOGUE[error.reason].meaning;
}

/** The same error without any of `secrets`: providers have been seen to echo the key that they refuse. */
export function redact(error: RpcError, secrets: readonly string[]): RpcError {
  let { message } = error;
  for (const secret of secrets) message = message.replaceAll(secret, "…");
  if (message === error.message) return error;
  const { field, retryAfterMs, attempts, key } = error;
  return new RpcError(error.reason, message, { field, retryAfterMs, attempts, key });
}

/** The same error with another wait, or another key, that the request was sent with. */
export function withDetails(error: RpcError, changed: Pick<RpcErrorDetails, "retryAfterMs" | "key">): RpcError {
  const { reason, message, field, retryAfterMs, attempts, key, cause } = error;
  const copy = new RpcError(reason, message, { field, retryAfterMs, attempts, key, cause, ...changed });
  if (quotable.has(error)) quotable.add(copy);
  return copy;
}

/** The system's code of a connection error: ECONNREFUSED, UND_ERR_SOCKET, … */
function systemCode(error: unknown): string {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string") return cause.code;
  }
  return "unknown error";
}

/** Translates what undici says. `begun` tells whether the answer's head had come. */
export function fromConnectionError(
  cause: unknown,
  { worker, authority, begun }: { readonly worker: string; readonly authority: string; readonly begun: boolean },
): RpcError {
  const subject = `worker "${worker}"`;
  // Its cause is left out: it carries a piece of the body.
  if (cause instanceof undiciErrors.HTTPParserError) {
    return failure("PROVIDER_INVALID_ANSWER", `${subject}: ${authority} does not speak HTTP/1.1 as it should`);
  }
  const code = systemCode(cause);
  if (code === "UND_ERR_CONNECT_TIMEOUT") {
    return failure("PROVIDER_TIMEOUT", `${subject}: no connection to ${authority} in time (${code})`, { cause });
  }
  if (code === "UND_ERR_HEADERS_OVERFLOW") {
    return failure("PROVIDER_INVALID_ANSWER", `${subject}: the answer of ${authority} has too large a head`, { cause });
  }
  if (begun)
    return failure("PROVIDER_STREAM_CUT", `${subject}: ${authority} broke off its answer (${code})`, { cause });
  return failure("PROVIDER_UNREACHABLE", `${subject}: no answer from ${authority} (${code})`, { cause });
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
