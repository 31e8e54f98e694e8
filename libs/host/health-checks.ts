/**
 * How an adapter looks after a worker of its own (W8): it asks once at the start, soon and again while the worker is down, and
 * regularly when nobody else does. Where a health service runs, that one does.
 */
import type { Worker } from "../adapter/index.ts";
import { Health } from "../gen/cortex/provider/v1/provider.ts";
import { type OwnedCall, startCall } from "../rpc/index.ts";
import { type Logger, NO_TRACE } from "../telemetry/index.ts";

/** How long a worker may take to answer. */
const TIMEOUT_MS = 5_000;
/** A worker that is down is asked again after this time, doubled each time up to the usual interval. */
const RECOVERY_MIN_MS = 500;
/** A health service that is there is trusted to ask for so many intervals: it too leaves one out when the worker has served. */
const TRUSTED_INTERVALS = 2.5;
/** What was found out within this part of the time between two questions need not be found out again. */
const YOUNG = 0.9;

/** When to ask. */
export interface HealthCheckPace {
  /** Between two regular checks. */
  intervalMs(): number;
  /** A health service is there to make them. */
  isWatched(): boolean;
}

/** The checks of one worker, from `run` to `stop`. */
export class HealthChecks {
  /** Resolves when the worker has been asked once, or is to be asked no more. */
  readonly first: Promise<void>;
  readonly #worker: Worker;
  readonly #pace: HealthCheckPace;
  readonly #log: Logger;
  readonly #checked: () => void;
  #firstDone!: () => void;
  #call: OwnedCall | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wake: (() => void) | undefined;
  #recoveryMs = RECOVERY_MIN_MS;
  #down = false;
  #stopped = false;
  /** What the next check takes for known; the first one asks in any case. */
  #ageMaxMs: number | undefined;
  /** How old the last answer was when it came. */
  #ageMs = 0;

  /** `checked` is called after each check: the worker may have found out something. */
  constructor(worker: Worker, pace: HealthCheckPace, log: Logger, checked: () => void) {
    this.#worker = worker;
    this.#pace = pace;
    this.#log = log;
    this.#checked = checked;
    this.first = new Promise((resolve) => {
      this.#firstDone = resolve;
    });
  }

  /** Asks now, and from then on, until `signal` is aborted or `stop` is called. */
  async run(signal: AbortSignal): Promise<void> {
    const stop = () => this.stop();
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    while (!this.#stopped) {
      await this.#check();
      this.#firstDone();
      if (!this.#stopped) await this.#pause();
    }
    signal.removeEventListener("abort", stop);
  }

  /** Something else has shown how the worker is: one that has just gone down is asked soon. */
  changed(): void {
    const wasDown = this.#down;
    this.#down = this.#worker.info().health === Health.UNAVAILABLE;
    if (!this.#down) this.#recoveryMs = RECOVERY_MIN_MS;
    else if (!wasDown && this.#wake !== undefined) this.#schedule(this.#wake);
  }

  stop(): void {
    this.#stopped = true;
    this.#firstDone();
    this.#call?.cancel();
    clearTimeout(this.#timer);
    this.#wake?.();
  }

  async #check(): Promise<void> {
    const deadlineAtMs = Date.now() + TIMEOUT_MS;
    this.#call = startCall({ tenant: "", requestId: "health", trace: NO_TRACE, deadlineAtMs });
    try {
      const { ageMs } = await this.#worker.checkHealth(this.#call, { ageMaxMs: this.#ageMaxMs });
      this.#ageMs = ageMs;
    } catch (error) {
      if (!this.#stopped) {
        this.#log.debug({ err: error, worker: this.#worker.name }, "a health check did not end in time");
      }
      this.#ageMs = 0;
    } finally {
      this.#call.finish();
      this.#call = undefined;
    }
    if (this.#stopped) return;
    this.#checked();
    this.#down = this.#worker.info().health === Health.UNAVAILABLE;
    if (!this.#down) this.#recoveryMs = RECOVERY_MIN_MS;
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
      this.#schedule(this.#wake);
    });
  }

  #schedule(wake: () => void): void {
    clearTimeout(this.#timer);
    const intervalMs = this.#pace.intervalMs();
    let paceMs = this.#pace.isWatched() ? intervalMs * TRUSTED_INTERVALS : intervalMs;
    let delayMs = Math.min(Math.max(paceMs - this.#ageMs, paceMs * (1 - YOUNG)), intervalMs);
    if (this.#down) {
      paceMs = Math.min(this.#recoveryMs, intervalMs);
      delayMs = paceMs;
      this.#recoveryMs *= 2;
    }
    this.#ageMaxMs = paceMs * YOUNG;
    // Spread, so that many workers, and many nodes, do not ask at the same moment.
    this.#timer = setTimeout(wake, delayMs * (0.9 + 0.2 * Math.random())).unref();
  }
}
