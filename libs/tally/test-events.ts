/** Events for tests. */
import { AttemptFinished, AttemptOutcome, RequestFinished, RequestOutcome } from "../gen/cortex/events/v1/events.ts";

/** A request that was served, but for what is said otherwise. */
export function request(more: Partial<RequestFinished> = {}): RequestFinished {
  return {
    ...RequestFinished.decode(new Uint8Array()),
    requestId: "r",
    tenant: "team",
    requestedModel: "gpt-4o",
    worker: "main",
    provider: "openai",
    strategy: "local_first",
    outcome: RequestOutcome.SERVED,
    attempts: 1,
    durationMs: 100,
    usage: { inputTokens: 10, outputTokens: 20 },
    ...more,
  };
}

/** An attempt that was served, but for what is said otherwise. */
export function attempt(more: Partial<AttemptFinished> = {}): AttemptFinished {
  return {
    ...AttemptFinished.decode(new Uint8Array()),
    requestId: "r",
    tenant: "team",
    worker: "main",
    provider: "openai",
    attempt: 1,
    outcome: AttemptOutcome.SERVED,
    durationMs: 100,
    usage: { inputTokens: 10, outputTokens: 20 },
    ...more,
  };
}
