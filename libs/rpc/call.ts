/** Making and deriving calls: the signal, the deadline and what else accompanies a request through all services. */
import type { TraceContext } from "../telemetry/index.ts";
import { RpcError } from "./errors.ts";
import type { Call } from "./service.ts";

/** setTimeout takes no more (2^31 - 1 ms, 24.8 days); a deadline beyond it is enforced by the next hop or not at all. */
const TIMER_MS_MAX = 2_147_483_647;

/** A call that its maker can end. */
export interface OwnedCall extends Call {
  /** The caller has gone away: everything done for the call stops. */
  cancel(error?: RpcError): void;
  /** The call has ended, well or not: its deadline needs no watching any more. Always call it. */
  finish(): void;
}

/** Starts a call: at the edge of Cortex, or for work that a service begins by itself. */
export function startCall(options: {
  readonly tenant: string;
  /** False when absent. */
  readonly admin?: boolean;
  readonly requestId: string;
  readonly trace: TraceContext;
  readonly deadlineAtMs?: number;
}): OwnedCall {
  const controller = new AbortController();
  const deadlineAtMs = options.deadlineAtMs ?? Number.POSITIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  if (deadlineAtMs !== Number.POSITIVE_INFINITY) {
    const expire = () => controller.abort(new RpcError("DEADLINE_EXCEEDED", "the deadline of the call has passed"));
    timer = setTimeout(expire, Math.min(Math.max(deadlineAtMs - Date.now(), 0), TIMER_MS_MAX));
  }
  return {
    signal: controller.signal,
    deadlineAtMs,
    tenant: options.tenant,
    admin: options.admin ?? false,
    requestId: options.requestId,
    trace: options.trace,
    cancel: (error) => controller.abort(error ?? new RpcError("CANCELLED", "the caller went away")),
    finish: () => clearTimeout(timer),
  };
}

/** The same call as part of another span. */
export function withTrace(call: Call, trace: TraceContext): Call {
  if (call.trace === trace) return call;
  const { signal, deadlineAtMs, tenant, admin, requestId } = call;
  return { signal, deadlineAtMs, tenant, admin, requestId, trace };
}

/** Why a call was given up, as an RpcError. */
export function abortReason(signal: AbortSignal): RpcError {
  return signal.reason instanceof RpcError ? signal.reason : new RpcError("CANCELLED", "the caller went away");
}
