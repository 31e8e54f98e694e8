/** Errors on the wire: RpcError to a gRPC status with rich details, and back. */
import { Metadata, type ServiceError, type StatusObject, status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, FailedAttempts, RetryInfo, Status } from "../gen/cortex/errors/v1/errors.ts";
import { isReason, RpcError, type RpcErrorDetails } from "./errors.ts";
import type { MessageType } from "./service.ts";

/** Where gRPC libraries look for rich error details. */
const DETAILS_KEY = "grpc-status-details-bin";
const DOMAIN = "cortex";
/** Under which names ErrorInfo's metadata has the fingerprint of the key, and what logs may say. */
const METADATA_KEY = "key";
const METADATA_FOR_LOG = "log";
/** Trailers share an 8 KiB limit in many HTTP/2 stacks, so what can grow is cut to these. */
const ATTEMPTS_MAX = 16;
const MESSAGE_CHARACTERS_MAX = 1_000;
const ATTEMPT_MESSAGE_CHARACTERS_MAX = 160;
const FOR_LOG_CHARACTERS_MAX = 300;

const TYPE_URL = {
  errorInfo: "type.googleapis.com/google.rpc.ErrorInfo",
  retryInfo: "type.googleapis.com/google.rpc.RetryInfo",
  badRequest: "type.googleapis.com/google.rpc.BadRequest",
  failedAttempts: "type.googleapis.com/cortex.errors.v1.FailedAttempts",
} as const;

/** What to end a gRPC call with. What logs may say goes to nodes of the mesh alone, which have the caller's log. */
export function toStatus(error: RpcError, toMesh: boolean): StatusObject {
  const message = error.message.slice(0, MESSAGE_CHARACTERS_MAX);
  const about: Record<string, string> = error.key === undefined ? {} : { [METADATA_KEY]: error.key };
  if (toMesh && error.forLog !== undefined) about[METADATA_FOR_LOG] = error.forLog.slice(0, FOR_LOG_CHARACTERS_MAX);
  const info = { reason: error.reason, domain: DOMAIN, metadata: about };
  const details = [any(TYPE_URL.errorInfo, ErrorInfo, info)];
  if (error.retryAfterMs !== undefined) {
    const seconds = Math.floor(error.retryAfterMs / 1_000);
    const nanos = Math.round((error.retryAfterMs - seconds * 1_000) * 1e6);
    details.push(any(TYPE_URL.retryInfo, RetryInfo, { retryDelay: { seconds, nanos } }));
  }
  if (error.field !== undefined) {
    const fieldViolations = [{ field: error.field, description: message }];
    details.push(any(TYPE_URL.badRequest, BadRequest, { fieldViolations }));
  }
  if (error.attempts.length > 0) {
    const attempts = error.attempts.slice(0, ATTEMPTS_MAX).map((attempt) => ({
      ...attempt,
      message: attempt.message.slice(0, ATTEMPT_MESSAGE_CHARACTERS_MAX),
      field: attempt.field ?? "",
    }));
    details.push(any(TYPE_URL.failedAttempts, FailedAttempts, { attempts }));
  }
  const metadata = new Metadata();
  metadata.set(DETAILS_KEY, Buffer.from(Status.encode({ code: error.code, message, details }).finish()));
  return { code: error.code, details: message, metadata };
}

/** What a failed gRPC call means. `target` names the other end, for the message. */
export function fromServiceError(error: ServiceError, target: string): RpcError {
  const [encoded] = error.metadata?.get(DETAILS_KEY) ?? [];
  const rich = encoded instanceof Buffer ? fromDetails(encoded, error) : undefined;
  return rich ?? fromBareStatus(error, target);
}

function any<T>(typeUrl: string, type: MessageType<T>, message: T) {
  return { typeUrl, value: Buffer.from(type.encode(message).finish()) };
}

function fromDetails(encoded: Buffer, cause: ServiceError): RpcError | undefined {
  let reason: string | undefined;
  const details: { -readonly [K in keyof RpcErrorDetails]: RpcErrorDetails[K] } = { cause };
  try {
    const decoded = Status.decode(encoded);
    for (const { typeUrl, value } of decoded.details) {
      if (typeUrl === TYPE_URL.errorInfo) {
        const info = ErrorInfo.decode(value);
        reason = info.reason;
        details.key = info.metadata[METADATA_KEY];
        details.forLog = info.metadata[METADATA_FOR_LOG];
      }
      if (typeUrl === TYPE_URL.badRequest) details.field = BadRequest.decode(value).fieldViolations[0]?.field;
      if (typeUrl === TYPE_URL.retryInfo) {
        const delay = RetryInfo.decode(value).retryDelay;
        if (delay !== undefined) details.retryAfterMs = delay.seconds * 1_000 + delay.nanos / 1e6;
      }
      if (typeUrl === TYPE_URL.failedAttempts) {
        details.attempts = FailedAttempts.decode(value).attempts.map((attempt) => ({
          worker: attempt.worker,
          message: attempt.message,
          ...(attempt.field === "" ? {} : { field: attempt.field }),
          reason: isReason(attempt.reason) ? attempt.reason : "INTERNAL",
        }));
      }
    }
    if (reason === undefined || !isReason(reason)) return undefined;
    return new RpcError(reason, decoded.message, details);
  } catch {
    // Details that can't be read are worth less than the bare status, which is always there.
    return undefined;
  }
}

/** A status without our details was made by the transport, or by a server that is not Cortex. */
function fromBareStatus(error: ServiceError, target: string): RpcError {
  switch (error.code) {
    case status.DEADLINE_EXCEEDED:
      return new RpcError("DEADLINE_EXCEEDED", "the deadline of the call has passed", { cause: error });
    case status.CANCELLED:
      return new RpcError("CANCELLED", "the call was cancelled", { cause: error });
    case status.UNIMPLEMENTED:
      return new RpcError("ENDPOINT_NOT_FOUND", `${target} has no such method`, { cause: error });
    case status.RESOURCE_EXHAUSTED:
      return new RpcError("REQUEST_TOO_LARGE", `the message is larger than ${target} takes`, { cause: error });
    case status.UNAVAILABLE:
    case status.INTERNAL:
    case status.UNKNOWN:
      // grpc-js reports a connection that breaks under a call with any of these three.
      return new RpcError("NODE_UNREACHABLE", `${target} could not be reached, or was lost during the call`, {
        cause: error,
      });
    default:
      return new RpcError("INTERNAL", "internal error", { cause: error });
  }
}
