/** How a worker, its breaker and its keys are, each in a word: the same over HTTP and on the command line. */
import { BreakerState, Health, KeyState } from "../gen/cortex/provider/v1/provider.ts";

/** How a worker is. */
export const HEALTH_NAMES: Readonly<Record<Health, string>> = {
  [Health.UNSPECIFIED]: "unknown",
  [Health.AVAILABLE]: "available",
  [Health.BUSY]: "busy",
  [Health.UNAVAILABLE]: "unavailable",
};

/** A breaker's state; as the live state has it too (`WatchedWorker` in cortex.metrics.v1). */
export const BREAKER_NAMES: Readonly<Record<BreakerState, string>> = {
  [BreakerState.UNSPECIFIED]: "unknown",
  [BreakerState.CLOSED]: "closed",
  [BreakerState.OPEN]: "open",
  [BreakerState.HALF_OPEN]: "half_open",
};

/** A key's state. */
export const KEY_NAMES: Readonly<Record<KeyState, string>> = {
  [KeyState.UNSPECIFIED]: "unknown",
  [KeyState.AVAILABLE]: "available",
  [KeyState.RESTING]: "resting",
  [KeyState.OUT]: "out",
};
