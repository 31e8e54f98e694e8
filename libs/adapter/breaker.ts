/**
 * A worker's circuit breaker: opossum's state machine, told about whole attempts.
 *
 * opossum would run the attempt itself and judge it by a rolling window. Neither fits streams: it counts an attempt when
 * it begins and its failure when it ends, so a stream that outlives the window is a failure of nothing; it takes an error
 * that does not count for a success, which closes a half-open breaker when the client of the trial hangs up; and attempts
 * from before the breaker opened decide over the trial. So admission is asked for here, and opossum is fired with the
 * verdict once there is one. It keeps the states and the timer between them.
 *
 * The rule is failures in a row, as a window either never sees enough requests of a quiet worker or takes too many failures
 * to turn the balance of a busy one. Outcomes that say nothing about the provider's health (the client left, a bad request, a
 * rate limit) are neither a failure nor the success that ends a row.
 *
 * A provider that has just come back is not met by everything at once: after the trial the closed breaker admits two
 * requests at a time, one more with each that goes well, and everything after RAMP_SUCCESSES of them or the time that it
 * had rested. A failure before that opens it again.
 *
 * What no other worker can serve is a last resort: it is refused in no state, and its outcome counts like every other one. In
 * an open breaker it is one more trial: it closes the breaker, or begins the rest anew.
 */
import CircuitBreaker from "opossum";
import { BreakerState, type BreakerStatistics } from "../gen/cortex/provider/v1/provider.ts";
import { type Reason, RpcError } from "../rpc/index.ts";
import { failure } from "./failures.ts";

/** What an attempt says about the provider. */
export type Verdict = "success" | "failure" | "neutral";

/** Leave to try. Give it back with `settle` exactly once. */
export interface Ticket {
  /** How often the breaker had opened. What began before it opened says nothing about the provider as it is now. */
  readonly opened: number;
  /** The provider has begun to answer. */
  begun: boolean;
}

/** What a caller is told to wait while others try whether the provider is back: about as long as a first token takes. */
const TRIAL_RETRY_AFTER_MS = 1_000;

/** After so many successes, the trial's among them, the provider takes everything again. */
const RAMP_SUCCESSES = 16;

const UNBOUNDED = Number.POSITIVE_INFINITY;

export class Breaker {
  readonly #failuresMax: number;
  readonly #resetMs: number;
  readonly #clock: () => number;
  readonly #opossum: CircuitBreaker<[RpcError | undefined], void>;
  readonly #counts = { successes: 0, failures: 0, rejected: 0 };
  #failuresInRow = 0;
  /** Why the last one failed. */
  #lastFailure: Reason = "PROVIDER_ERROR";
  #opened = 0;
  #openedAtMs = 0;
  #trial: Ticket | undefined;
  /** Attempts that run and were admitted since it opened last. */
  #running = 0;
  /** So many may run at once. */
  #concurrentMax = UNBOUNDED;
  #rampEndsAtMs = 0;
  /** Its rest begins anew, which is no change of its state. */
  #restsAnew = false;

  /** Opens after `failures` in a row; `resetMs` later it lets one request at a time try. `onChange` is called after each change. */
  constructor(options: {
    readonly failures: number;
    readonly resetMs: number;
    readonly clock: () => number;
    readonly onChange: (state: BreakerState) => void;
  }) {
    this.#failuresMax = options.failures;
    this.#resetMs = options.resetMs;
    this.#clock = options.clock;
    this.#opossum = new CircuitBreaker(
      async (failure) => {
        if (failure !== undefined) throw failure;
      },
      {
        timeout: false,
        resetTimeout: options.resetMs,
        // opossum's own rule never opens it; open() is called below.
        volumeThreshold: Number.MAX_SAFE_INTEGER,
        rollingPercentilesEnabled: false,
        enableSnapshots: false,
      },
    );
    this.#opossum.on("open", () => {
      this.#openedAtMs = this.#clock();
      if (this.#restsAnew) return;
      this.#opened += 1;
      this.#trial = undefined;
      this.#running = 0;
      this.#concurrentMax = 1;
      options.onChange(BreakerState.OPEN);
    });
    this.#opossum.on("halfOpen", () => options.onChange(BreakerState.HALF_OPEN));
    this.#opossum.on("close", () => {
      if (this.#restsAnew) return;
      this.#trial = undefined;
      options.onChange(BreakerState.CLOSED);
    });
  }

  get state(): BreakerState {
    if (this.#opossum.opened) return BreakerState.OPEN;
    return this.#opossum.halfOpen ? BreakerState.HALF_OPEN : BreakerState.CLOSED;
  }

  statistics(): BreakerStatistics {
    this.#endRampInTime();
    return {
      failuresInRow: this.#failuresInRow,
      ...this.#counts,
      opened: this.#opened,
      openedAtMs: this.#openedAtMs,
      concurrentRequestsMax: this.#concurrentMax === UNBOUNDED ? 0 : this.#concurrentMax,
    };
  }

  /** Why it is open; undefined unless it is. */
  whyOpen(): string | undefined {
    if (!this.#opossum.opened) return undefined;
    if (this.#failuresInRow === 1) return `it rests after a failure (${this.#lastFailure})`;
    return `it rests after ${this.#failuresInRow} failures in a row, the last one ${this.#lastFailure}`;
  }

  /** Throws BREAKER_OPEN, saying how long to wait; never for a last resort. */
  admit(lastResort = false): Ticket {
    if (this.#opossum.halfOpen && this.#trial === undefined) {
      this.#trial = this.#begin();
      return this.#trial;
    }
    if (!lastResort) this.#check();
    return this.#begin();
  }

  #check(): void {
    const open = this.whyOpen();
    if (open !== undefined) {
      throw this.#refusal(open, Math.max(this.#openedAtMs + this.#resetMs - this.#clock(), 0));
    }
    if (this.#opossum.halfOpen) throw this.#refusal("it is being tried after a rest", TRIAL_RETRY_AFTER_MS);
    if (this.#concurrentMax !== UNBOUNDED) this.#endRampInTime();
    if (this.#running >= this.#concurrentMax) {
      throw this.#refusal(`it recovers and serves ${this.#concurrentMax} requests at a time`, TRIAL_RETRY_AFTER_MS);
    }
  }

  /**
   * The provider has begun to answer. That decides a trial, and lets one more in after it, as a stream may go on for many
   * minutes; but until an attempt has succeeded to its end, the next failure opens the breaker again.
   */
  contentBegan(ticket: Ticket): void {
    if (this.#concurrentMax === UNBOUNDED || ticket.begun || ticket.opened !== this.#opened) return;
    ticket.begun = true;
    this.#grow();
    if (!this.#opossum.closed) this.#succeed();
  }

  /** The attempt has ended. */
  settle(ticket: Ticket, verdict: Verdict, error?: RpcError): void {
    if (verdict === "success") this.#counts.successes += 1;
    if (verdict === "failure") this.#counts.failures += 1;
    if (ticket.opened !== this.#opened) return;
    this.#running -= 1;
    const deciding = ticket === this.#trial;
    if (verdict === "neutral") {
      if (deciding) this.#trial = undefined;
      return;
    }
    if (verdict === "success") {
      this.#failuresInRow = 0;
      if (this.#concurrentMax !== UNBOUNDED && !ticket.begun) this.#grow();
      this.#succeed();
      return;
    }
    this.#endRampInTime();
    this.#failuresInRow += 1;
    if (error !== undefined) this.#lastFailure = error.reason;
    if (this.#opossum.opened) {
      this.#restAnew();
      return;
    }
    this.#fire(error ?? new RpcError("PROVIDER_ERROR", "failed"));
    if (this.#failuresInRow >= this.#failuresMax || this.#concurrentMax !== UNBOUNDED) this.#opossum.open();
  }

  /** Ends its timers. It admits everything from then on. */
  shutdown(): void {
    this.#opossum.shutdown();
  }

  #begin(): Ticket {
    this.#running += 1;
    return { opened: this.#opened, begun: false };
  }

  /** One more has gone well since it opened. */
  #grow(): void {
    if (this.#concurrentMax === 1) this.#rampEndsAtMs = this.#clock() + this.#resetMs;
    this.#concurrentMax = this.#concurrentMax >= RAMP_SUCCESSES ? UNBOUNDED : this.#concurrentMax + 1;
  }

  #endRampInTime(): void {
    const ramping = this.#concurrentMax > 1 && this.#concurrentMax !== UNBOUNDED;
    if (ramping && this.#clock() >= this.#rampEndsAtMs) this.#concurrentMax = UNBOUNDED;
  }

  #refusal(why: string, retryAfterMs: number): RpcError {
    this.#counts.rejected += 1;
    return failure("BREAKER_OPEN", why, { retryAfterMs });
  }

  /** opossum takes no verdict while it is open. */
  #succeed(): void {
    if (this.#opossum.opened) this.#opossum.close();
    else this.#fire(undefined);
  }

  /** opossum has no other way to begin its timer again. */
  #restAnew(): void {
    this.#restsAnew = true;
    this.#opossum.close();
    this.#opossum.open();
    this.#restsAnew = false;
  }

  #fire(failure: RpcError | undefined): void {
    // The rejection is our own error coming back.
    this.#opossum.fire(failure).catch(() => {});
  }
}
