/**
 * The one error class that crosses a boundary in Cortex, and the catalogue of its reasons.
 *
 * Whatever goes wrong becomes an {@link RpcError} with a reason of this catalogue; `docs/errors.md` is the same table for
 * people, and a test holds the two together. The HTTP status of each reason is known to the gateway alone.
 */
import { status } from "@grpc/grpc-js";

/**
 * Whose fault an error is, and so what may be done about it:
 * - `request`: the caller's; trying again or elsewhere gives the same.
 * - `worker`: this worker can't serve this request, another one may; says nothing about the provider's health.
 * - `provider`: temporary at the provider: overloaded, rate-limited, failing, silent.
 * - `infrastructure`: temporary between us and the provider, or between nodes.
 * - `internal`: a defect of Cortex.
 */
export type ErrorClass = "request" | "worker" | "provider" | "infrastructure" | "internal";

interface CatalogueEntry {
  /** The gRPC code that the error travels under. */
  readonly code: status;
  readonly class: ErrorClass;
  /** Counts as a failure for the worker's circuit breaker. */
  readonly breaker: boolean;
  /** What has happened. */
  readonly meaning: string;
  /** What the person who reads it can do. */
  readonly remedy: string;
}

/** Every reason an error can have. Names are stable: clients and alerts match on them. */
export const CATALOGUE = {
  INVALID_REQUEST: {
    code: status.INVALID_ARGUMENT,
    class: "request",
    breaker: false,
    meaning: "The request is malformed, or the provider refused it as invalid.",
    remedy: "Correct the field that the message names.",
  },
  REQUEST_TOO_LARGE: {
    code: status.RESOURCE_EXHAUSTED,
    class: "request",
    breaker: false,
    meaning: "The body is larger than the gateway takes.",
    remedy: "Send less, or raise gateway.bodyBytesMax.",
  },
  UNAUTHENTICATED: {
    code: status.UNAUTHENTICATED,
    class: "request",
    breaker: false,
    meaning: "The client key is missing or unknown.",
    remedy: "Send a key that the operator gave out as Authorization: Bearer KEY.",
  },
  PERMISSION_DENIED: {
    code: status.PERMISSION_DENIED,
    class: "request",
    breaker: false,
    meaning: "The client key may not do this.",
    remedy: "Use a key of an administrator: clients[].admin in the configuration.",
  },
  MODEL_NOT_FOUND: {
    code: status.NOT_FOUND,
    class: "request",
    breaker: false,
    meaning: "No worker and no route has this model.",
    remedy: "Ask GET /v1/models for the names, or use auto.",
  },
  WORKER_NOT_FOUND: {
    code: status.NOT_FOUND,
    class: "request",
    breaker: false,
    meaning: "There is no worker of this name.",
    remedy: "Ask cortex workers list for the names.",
  },
  WORKER_ALREADY_REGISTERED: {
    code: status.ALREADY_EXISTS,
    class: "request",
    breaker: false,
    meaning: "A worker of this name is already registered.",
    remedy: "Choose another name, or remove that worker first.",
  },
  ENDPOINT_NOT_FOUND: {
    code: status.UNIMPLEMENTED,
    class: "request",
    breaker: false,
    meaning: "The gateway has no such path, or the node no such method.",
    remedy: "Compare the path with docs/api.md.",
  },
  METHOD_NOT_ALLOWED: {
    code: status.UNIMPLEMENTED,
    class: "request",
    breaker: false,
    meaning: "The path exists, but not with this HTTP method.",
    remedy: "Use the method that the Allow header names.",
  },
  CONTEXT_LENGTH_EXCEEDED: {
    code: status.INVALID_ARGUMENT,
    class: "request",
    breaker: false,
    meaning: "The prompt is longer than the model's context.",
    remedy: "Shorten the messages or choose a model with a larger context.",
  },
  CONTENT_FILTERED: {
    code: status.INVALID_ARGUMENT,
    class: "request",
    breaker: false,
    meaning: "The provider refused the prompt for its content.",
    remedy: "Change the prompt.",
  },
  UNSUPPORTED_PARAMETER: {
    code: status.INVALID_ARGUMENT,
    class: "worker",
    breaker: false,
    meaning: "The worker can't do what the request asks and must not leave it out.",
    remedy: "Leave out the parameter that the message names, or ask for a model that has it.",
  },
  NO_WORKERS_AVAILABLE: {
    code: status.UNAVAILABLE,
    class: "infrastructure",
    breaker: false,
    meaning: "Every worker that could serve the request failed or is down; the message gives each one's reason.",
    remedy: "Try again; operators: cortex workers list, cortex doctor.",
  },
  CACHE_MISS: {
    code: status.NOT_FOUND,
    class: "request",
    breaker: false,
    meaning: "The answer is not in the cache, and only an answer from there was wanted.",
    remedy: "Ask without only-if-cached.",
  },
  CACHE_STORE_UNREACHABLE: {
    code: status.UNAVAILABLE,
    class: "infrastructure",
    breaker: false,
    meaning: "The store behind the cache can't be reached, so it may keep what was to be taken out.",
    remedy: "Ask again when it is back; operators: cache.l3.",
  },
  OVERLOADED: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: false,
    meaning:
      "Every worker that could serve the request is at its limit, and the queue for them is full or took too long.",
    remedy: "Wait as long as Retry-After says; operators: raise limits.concurrent, add workers, or see routing.queue.",
  },
  STREAM_INTERRUPTED: {
    code: status.UNAVAILABLE,
    class: "infrastructure",
    breaker: false,
    meaning: "The worker failed after the answer had begun; what came so far is incomplete.",
    remedy: "Ask again; discard what came or show it as incomplete.",
  },
  PROVIDER_REFUSED_KEY: {
    code: status.FAILED_PRECONDITION,
    class: "worker",
    breaker: false,
    meaning: "The provider refused the worker's key.",
    remedy: "Operators: replace the key of the worker that the message names.",
  },
  PROVIDER_QUOTA_EXHAUSTED: {
    code: status.RESOURCE_EXHAUSTED,
    class: "worker",
    breaker: false,
    meaning: "The account at the provider has used up its quota or its credit.",
    remedy: "Operators: raise the limit or the balance at the provider.",
  },
  PROVIDER_RATE_LIMITED: {
    code: status.RESOURCE_EXHAUSTED,
    class: "provider",
    breaker: false,
    meaning: "The provider limits the rate of requests or tokens.",
    remedy: "Wait as long as Retry-After says.",
  },
  PROVIDER_REQUEST_TOO_LARGE: {
    code: status.RESOURCE_EXHAUSTED,
    class: "worker",
    breaker: false,
    meaning: "The request alone is larger than the provider's token limit for a minute.",
    remedy: "Send less, or use a worker with a higher limit.",
  },
  PROVIDER_MODEL_NOT_FOUND: {
    code: status.NOT_FOUND,
    class: "worker",
    breaker: false,
    meaning: "The provider does not have the model, or not for this account.",
    remedy: "Operators: correct the worker's models.",
  },
  PROVIDER_OVERLOADED: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: true,
    meaning: "The provider has no capacity now.",
    remedy: "Try again later.",
  },
  PROVIDER_ERROR: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: true,
    meaning: "The provider failed.",
    remedy: "Try again; if it stays, look at the provider's status page.",
  },
  MODEL_OUTPUT_INVALID: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: false,
    meaning: "The model wrote a tool call or JSON that its own provider would not accept.",
    remedy: "Try again; if it stays, simplify the schema or choose another model.",
  },
  PROVIDER_INVALID_ANSWER: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: true,
    meaning: "The provider's answer could not be understood.",
    remedy: "Operators: check that the worker's baseUrl leads to a server of that provider.",
  },
  PROVIDER_STREAM_CUT: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: true,
    meaning: "The provider's answer ended before it was finished.",
    remedy: "Try again.",
  },
  PROVIDER_TOO_SLOW: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: false,
    meaning: "The answer began slower than the worker's limits.tokensPerSecondMin.",
    remedy: "Try again; operators: lower limits.tokensPerSecondMin if the model is never faster.",
  },
  CONTINUATION_MISMATCH: {
    code: status.UNAVAILABLE,
    class: "worker",
    breaker: false,
    meaning: "The worker that took an interrupted answer over did not go on where it had stopped.",
    remedy: "Ask again; operators: give models that continue a text the capability prefill.",
  },
  PROVIDER_TIMEOUT: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: true,
    meaning: "The provider did not answer, or stopped sending, within the worker's time-out.",
    remedy: "Try again; operators: raise the worker's timeouts if the model needs longer.",
  },
  PROVIDER_UNREACHABLE: {
    code: status.UNAVAILABLE,
    class: "infrastructure",
    breaker: true,
    meaning: "No connection to the provider could be made or kept.",
    remedy: "Operators: check the worker's baseUrl and the network with cortex doctor.",
  },
  BREAKER_OPEN: {
    code: status.UNAVAILABLE,
    class: "provider",
    breaker: false,
    meaning: "The worker failed several times in a row and rests until its breaker lets a trial through.",
    remedy: "Wait; operators: see why it failed in the log and with cortex workers list.",
  },
  WORKER_BUSY: {
    code: status.RESOURCE_EXHAUSTED,
    class: "provider",
    breaker: false,
    meaning: "The worker serves as many requests as it may, or has no free connection.",
    remedy: "Try again; operators: raise limits.concurrent or pool.connections.",
  },
  NODE_UNREACHABLE: {
    code: status.UNAVAILABLE,
    class: "infrastructure",
    breaker: false,
    meaning: "The node that was called could not be reached, or was lost during the call.",
    remedy: "Try again; operators: look whether that node is running.",
  },
  NODE_DRAINING: {
    code: status.UNAVAILABLE,
    class: "infrastructure",
    breaker: false,
    meaning: "The node is about to stop and takes no new calls.",
    remedy: "Try again.",
  },
  DEADLINE_EXCEEDED: {
    code: status.DEADLINE_EXCEEDED,
    class: "request",
    breaker: false,
    meaning: "The time that the caller gave for the call has passed.",
    remedy: "Give it more time.",
  },
  CANCELLED: {
    code: status.CANCELLED,
    class: "request",
    breaker: false,
    meaning: "The caller went away.",
    remedy: "None needed.",
  },
  UNIMPLEMENTED: {
    code: status.UNIMPLEMENTED,
    class: "worker",
    breaker: false,
    meaning: "The worker's provider has no such operation.",
    remedy: "Ask another worker.",
  },
  INTERNAL: {
    code: status.INTERNAL,
    class: "internal",
    breaker: false,
    meaning: "A defect of Cortex; its details are in the log under the trace id.",
    remedy: "Report it with the trace id.",
  },
} as const satisfies Record<string, CatalogueEntry>;

/** A reason of the catalogue. */
export type Reason = keyof typeof CATALOGUE;

/**
 * What requests are refused for before anybody is asked: a missing key or right, a limit. Many of them may be an attack, so they
 * are counted apart.
 */
export const REFUSALS: ReadonlySet<Reason> = new Set<Reason>([
  "UNAUTHENTICATED",
  "PERMISSION_DENIED",
  "REQUEST_TOO_LARGE",
  "OVERLOADED",
]);

/** A worker that was tried and failed. */
export interface FailedAttempt {
  readonly worker: string;
  readonly reason: Reason;
  readonly message: string;
  /** The field of the request that it is about, if one is. */
  readonly field?: string | undefined;
}

/** What an error may say besides its reason and message. */
export interface RpcErrorDetails {
  /** The field that is wrong, as a path: `messages[3].role`. */
  readonly field?: string | undefined;
  /** How long to wait before the next try. */
  readonly retryAfterMs?: number | undefined;
  /** Who was tried and why each failed. */
  readonly attempts?: readonly FailedAttempt[] | undefined;
  /** The fingerprint of the provider's key that the request was sent with: for the accounts, not for the client. */
  readonly key?: string | undefined;
  /**
   * What a log or a span may say of it, for operators: addresses may stand in it, nothing that came from the client or the
   * provider. Absent: they give the meaning of its reason.
   */
  readonly forLog?: string | undefined;
  /** The underlying error: for the log, never for the caller. */
  readonly cause?: unknown;
}

/** An error with a reason of the catalogue. Its message is for the caller's eyes: no key, no prompt, no stack. */
export class RpcError extends Error {
  readonly reason: Reason;
  readonly field: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly attempts: readonly FailedAttempt[];
  readonly key: string | undefined;
  readonly forLog: string | undefined;

  constructor(reason: Reason, message: string, details: RpcErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "RpcError";
    this.reason = reason;
    this.field = details.field;
    this.retryAfterMs = details.retryAfterMs;
    this.attempts = details.attempts ?? [];
    this.key = details.key;
    this.forLog = details.forLog;
  }

  get code(): status {
    return CATALOGUE[this.reason].code;
  }

  get class(): ErrorClass {
    return CATALOGUE[this.reason].class;
  }

  /**
   * Turns anything thrown into an RpcError: the only place that does. An unknown error becomes INTERNAL with a constant
   * message, the original kept as its cause for the log.
   */
  static from(thrown: unknown): RpcError {
    if (thrown instanceof RpcError) return thrown;
    return new RpcError("INTERNAL", "internal error", { cause: thrown });
  }
}

/** Whether `reason` is one of the catalogue, as when it came from another version of Cortex. */
export function isReason(reason: string): reason is Reason {
  return Object.hasOwn(CATALOGUE, reason);
}
