/**
 * The errors that the shell itself finds, and how an error may be told to logs and spans. A provider's own words may quote
 * the prompt, so only what was written here is quoted there; of all other errors the catalogue's meaning is given.
 */
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
  const { field, retryAfterMs, attempts } = error;
  return new RpcError(error.reason, message, { field, retryAfterMs, attempts });
}

/** Why a call was given up. */
export function abortReason(signal: AbortSignal): RpcError {
  return signal.reason instanceof RpcError ? signal.reason : failure("CANCELLED", "the caller went away");
}

/** The system's code of a connection error: ECONNREFUSED, UND_ERR_SOCKET, … */
function systemCode(error: unknown): string {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string") return cause.code;
  }
  return "unknown error";
}

/**
 * Translates what undici says. `begun` tells whether the answer's head had come. The original is kept as the cause, but for
 * errors of the HTTP parser: they carry a piece of the body.
 */
export function fromConnectionError(
  error: unknown,
  where: { worker: string; authority: string; begun: boolean },
): RpcError {
  const code = systemCode(error);
  const subject = `worker "${where.worker}"`;
  if (code === "UND_ERR_CONNECT_TIMEOUT") {
    return failure("PROVIDER_TIMEOUT", `${subject}: no connection to ${where.authority} in time (${code})`, {
      cause: error,
    });
  }
  // The connection ended inside a chunked body.
  const cut = code === "HPE_INVALID_EOF_STATE";
  if (code.startsWith("HPE_") && !cut) {
    return failure("PROVIDER_INVALID_ANSWER", `${subject}: ${where.authority} does not speak HTTP (${code})`);
  }
  if (code === "UND_ERR_HEADERS_OVERFLOW") {
    return failure("PROVIDER_INVALID_ANSWER", `${subject}: ${where.authority} sent too large a head (${code})`);
  }
  if (where.begun) {
    return failure("PROVIDER_STREAM_CUT", `${subject}: ${where.authority} broke off its answer (${code})`, {
      cause: cut ? undefined : error,
    });
  }
  return failure("PROVIDER_UNREACHABLE", `${subject}: no answer from ${where.authority} (${code})`, {
    cause: cut ? undefined : error,
  });
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
