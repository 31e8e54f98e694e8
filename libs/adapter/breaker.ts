/**
 * A worker's circuit breaker: opossum's state machine, told about whole attempts.
 *
 * opossum would run the attempt itself and judge it by a rolling window. Neither fits streams: it counts an attempt when
 * it begins and its failure when it ends, so a stream that outlives the window is a failure of nothing; it takes an error
 * that does not count for a success, which closes a half-open breaker when the client of the trial hangs up; and attempts
 * from before the breaker opened decide over the trial. So admission is asked for here, and opossum is fired with the
 * verdict once there is one. It keeps the states, the timer between them, and the counts.
 *
 * The rule is failures in a row, as a window either never sees enough requests of a quiet worker or takes too many failures
 * to turn the balance of a busy one. Outcomes that say nothing about the provider's health (the client left, a bad request, a
 * rate limit) are neither a failure nor the success that ends a row.
 */
import CircuitBreaker from "opossum";
import { BreakerState } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";

/** What an attempt says about the provider. */
export type Verdict = "success" | "failure" | "neutral";

/** Leave to try. Give it back with `settle` exactly once. */
export interface Ticket {
  /** It was let through by a half-open breaker, which waits for its outcome. */
  readonly trial: boolean;
}

/** What a caller is told to wait while another request is the trial: about as long as a first token takes. */
const TRIAL_RETRY_AFTER_MS = 1_000;

const ORDINARY: Ticket = { trial: false };

export class Breaker {
  readonly #worker: string;
  readonly #failuresMax: number;
  readonly #resetMs: number;
  readonly #clock: () => number;
  readonly #opossum: CircuitBreaker<[RpcError | undefined], void>;
  #failuresInRow = 0;
  #openedAtMs = 0;
  #trial: Ticket | undefined;

  /** Opens after `failures` in a row; `resetMs` later it lets one request at a time try. `onChange` is called after each change. */
  constructor(options: {
    readonly worker: string;
    readonly failures: number;
    readonly resetMs: number;
    readonly clock: () => number;
    readonly onChange: (state: BreakerState) => void;
  }) {
    this.#worker = options.worker;
    this.#failuresMax = options.failures;
    this.#resetMs = options.resetMs;
    this.#clock = options.clock;
    this.#opossum = new CircuitBreaker(
      async (failure) => {
        if (failure !== undefined) throw failure;
      },
      {
        name: options.worker,
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
      this.#trial = undefined;
      options.onChange(BreakerState.OPEN);
    });
    this.#opossum.on("halfOpen", () => options.onChange(BreakerState.HALF_OPEN));
    this.#opossum.on("close", () => {
      this.#trial = undefined;
      options.onChange(BreakerState.CLOSED);
    });
  }

  get state(): BreakerState {
    if (this.#opossum.opened) return BreakerState.OPEN;
    return this.#opossum.halfOpen ? BreakerState.HALF_OPEN : BreakerState.CLOSED;
  }

  /** Throws BREAKER_OPEN, saying how long to wait. */
  admit(): Ticket {
    if (this.#opossum.opened) throw this.#refusal(Math.max(this.#openedAtMs + this.#resetMs - this.#clock(), 0));
    if (!this.#opossum.halfOpen) return ORDINARY;
    if (this.#trial !== undefined) throw this.#refusal(TRIAL_RETRY_AFTER_MS);
    this.#trial = { trial: true };
    return this.#trial;
  }

  /**
   * The provider has begun to answer. That decides a trial, whose stream may go on for many minutes; but until an attempt has
   * succeeded to its end, the next failure opens the breaker again.
   */
  contentBegan(ticket: Ticket): void {
    if (!ticket.trial || ticket !== this.#trial) return;
    this.#failuresInRow = this.#failuresMax - 1;
    this.#fire(undefined);
  }

  /** The attempt has ended. */
  settle(ticket: Ticket, verdict: Verdict, error?: RpcError): void {
    const deciding = ticket === this.#trial;
    // Begun before it opened, or by a trial that has been decided: says nothing about the provider as it is now.
    if (!deciding && !this.#opossum.closed) return;
    if (verdict === "neutral") {
      if (deciding) this.#trial = undefined;
      return;
    }
    if (verdict === "success") {
      this.#failuresInRow = 0;
      this.#fire(undefined);
      return;
    }
    this.#failuresInRow += 1;
    this.#fire(error ?? new RpcError("PROVIDER_ERROR", "failed"));
    if (this.#failuresInRow >= this.#failuresMax || deciding) this.#opossum.open();
  }

  /** Ends its timers. It admits everything from then on. */
  shutdown(): void {
    this.#opossum.shutdown();
  }

  #refusal(retryAfterMs: number): RpcError {
    const message = `worker "${this.#worker}" rests after ${this.#failuresMax} failures in a row`;
    return new RpcError("BREAKER_OPEN", message, { retryAfterMs });
  }

  #fire(failure: RpcError | undefined): void {
    // The rejection is our own error coming back.
    this.#opossum.fire(failure).catch(() => {});
  }
}
