/** Asks a worker for its health every so often, and soon again while it is down (W8). */
import type { Worker } from "../adapter/index.ts";
import { Health } from "../gen/cortex/provider/v1/provider.ts";
import { type OwnedCall, startCall } from "../rpc/index.ts";
import { type Logger, NO_TRACE } from "../telemetry/index.ts";

/** How often a worker is asked, and how long it may take to answer. */
const INTERVAL_MS = 30_000;
const TIMEOUT_MS = 5_000;
/** A worker that is down is asked again after this time, doubled each time up to the usual interval. */
const RECOVERY_MIN_MS = 500;

/** The checks of one worker, from `run` to `stop`. */
export class HealthChecks {
  /** Resolves when the worker has been asked once, or is to be asked no more. */
  readonly first: Promise<void>;
  readonly #worker: Worker;
  readonly #log: Logger;
  readonly #checked: () => void;
  #firstDone!: () => void;
  #call: OwnedCall | undefined;
  #timer: NodeJS.Timeout | undefined;
  #wake: (() => void) | undefined;
  #recoveryMs = RECOVERY_MIN_MS;
  #down = false;
  #stopped = false;

  /** `checked` is called after each check: the worker may have found out something. */
  constructor(worker: Worker, log: Logger, checked: () => void) {
    this.#worker = worker;
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
    if (this.#down && !wasDown && this.#wake !== undefined) this.#schedule(this.#wake);
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
      await this.#worker.checkHealth(this.#call);
    } catch (error) {
      if (!this.#stopped) {
        this.#log.debug({ err: error, worker: this.#worker.name }, "a health check did not end in time");
      }
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
    let delayMs = INTERVAL_MS;
    if (this.#down) {
      delayMs = Math.min(this.#recoveryMs, INTERVAL_MS);
      this.#recoveryMs *= 2;
    }
    // Spread, so that many workers, and many nodes, do not ask at the same moment.
    this.#timer = setTimeout(wake, delayMs * (0.9 + 0.2 * Math.random())).unref();
  }
}
