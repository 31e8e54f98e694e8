/** The HTTP face of errors: status and OpenAI's error object for every reason of the catalogue. */
import type { Reason, RpcError } from "../../libs/rpc/index.ts";

/** How a reason looks over HTTP. */
export interface HttpFace {
  readonly status: number;
  /** `error.type` in OpenAI's vocabulary. */
  readonly type: string;
  /** `error.code` where OpenAI has a word for it that clients match on; the reason itself otherwise. */
  readonly code?: string;
}

/** Status 499 is nginx's word for "the client went away"; nobody is left to read it, but it is in logs and spans. */
export const HTTP_FACES: Record<Reason, HttpFace> = {
  INVALID_REQUEST: { status: 400, type: "invalid_request_error" },
  REQUEST_TOO_LARGE: { status: 413, type: "invalid_request_error" },
  UNAUTHENTICATED: { status: 401, type: "invalid_request_error", code: "invalid_api_key" },
  PERMISSION_DENIED: { status: 403, type: "invalid_request_error" },
  MODEL_NOT_FOUND: { status: 404, type: "invalid_request_error", code: "model_not_found" },
  WORKER_NOT_FOUND: { status: 404, type: "invalid_request_error" },
  WORKER_ALREADY_REGISTERED: { status: 409, type: "invalid_request_error" },
  ENDPOINT_NOT_FOUND: { status: 404, type: "invalid_request_error" },
  METHOD_NOT_ALLOWED: { status: 405, type: "invalid_request_error" },
  CONTEXT_LENGTH_EXCEEDED: { status: 400, type: "invalid_request_error", code: "context_length_exceeded" },
  CONTENT_FILTERED: { status: 400, type: "invalid_request_error", code: "content_filter" },
  UNSUPPORTED_PARAMETER: { status: 400, type: "invalid_request_error", code: "unsupported_parameter" },
  NO_WORKERS_AVAILABLE: { status: 503, type: "server_error" },
  CACHE_STORE_UNREACHABLE: { status: 503, type: "server_error" },
  CACHE_MISS: { status: 504, type: "invalid_request_error" },
  OVERLOADED: { status: 503, type: "server_error", code: "server_is_overloaded" },
  STREAM_INTERRUPTED: { status: 502, type: "server_error" },
  PROVIDER_REFUSED_KEY: { status: 502, type: "server_error" },
  PROVIDER_QUOTA_EXHAUSTED: { status: 429, type: "insufficient_quota", code: "insufficient_quota" },
  PROVIDER_RATE_LIMITED: { status: 429, type: "rate_limit_error", code: "rate_limit_exceeded" },
  PROVIDER_REQUEST_TOO_LARGE: { status: 429, type: "rate_limit_error", code: "rate_limit_exceeded" },
  PROVIDER_MODEL_NOT_FOUND: { status: 404, type: "invalid_request_error", code: "model_not_found" },
  PROVIDER_OVERLOADED: { status: 503, type: "server_error", code: "server_is_overloaded" },
  PROVIDER_ERROR: { status: 502, type: "server_error" },
  MODEL_OUTPUT_INVALID: { status: 502, type: "server_error" },
  PROVIDER_INVALID_ANSWER: { status: 502, type: "server_error" },
  PROVIDER_STREAM_CUT: { status: 502, type: "server_error" },
  PROVIDER_TOO_SLOW: { status: 504, type: "server_error" },
  CONTINUATION_MISMATCH: { status: 502, type: "server_error" },
  PROVIDER_TIMEOUT: { status: 504, type: "server_error" },
  PROVIDER_UNREACHABLE: { status: 502, type: "server_error" },
  BREAKER_OPEN: { status: 503, type: "server_error" },
  WORKER_BUSY: { status: 503, type: "server_error", code: "server_is_overloaded" },
  NODE_UNREACHABLE: { status: 503, type: "server_error" },
  NODE_DRAINING: { status: 503, type: "server_error" },
  DEADLINE_EXCEEDED: { status: 504, type: "server_error" },
  CANCELLED: { status: 499, type: "server_error" },
  UNIMPLEMENTED: { status: 501, type: "invalid_request_error" },
  INTERNAL: { status: 500, type: "server_error" },
};

/** The body of an error, in the form that OpenAI's SDKs read: all four keys are always there. */
export function errorBody(error: RpcError, traceId: string): string {
  const face = HTTP_FACES[error.reason];
  return JSON.stringify({
    error: {
      message:
        error.field === undefined || error.message.includes(error.field)
          ? error.message
          : `${error.field}: ${error.message}`,
      type: face.type,
      param: error.field ?? null,
      code: face.code ?? error.reason,
      cortex: {
        reason: error.reason,
        trace_id: traceId,
        ...(error.attempts.length === 0 ? {} : { attempts: error.attempts }),
      },
    },
  });
}

/** The headers that tell a client whether and when to try again. */
export function errorHeaders(error: RpcError): Record<string, string> {
  const headers: Record<string, string> = {};
  if (error.retryAfterMs !== undefined) {
    headers["retry-after"] = String(Math.max(1, Math.ceil(error.retryAfterMs / 1_000)));
    headers["retry-after-ms"] = String(Math.ceil(error.retryAfterMs));
  } else if (HTTP_FACES[error.reason].status >= 500 && error.reason !== "NODE_UNREACHABLE") {
    // Every worker has been tried: the SDK's own immediate retries would only multiply the load. Where no router was
    // reached nothing has been tried, and the SDK may do so.
    headers["x-should-retry"] = "false";
  }
  return headers;
}
