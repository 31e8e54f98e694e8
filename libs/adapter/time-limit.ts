/** The time limits of one attempt on one timer. */

/** What is being waited for. */
export type Phase =
  /** A connection of the pool. */
  | "pool"
  /** The TCP and TLS handshakes. */
  | "connect"
  /** The first content. */
  | "firstToken"
  /** The next piece of an answer that has begun. */
  | "stall"
  /** The body of an answer that is an error. */
  | "errorBody"
  /** The end of a body whose message is complete. */
  | "linger";

/** What has passed: the limit of a phase, or of the whole. */
export type Limit = Phase | "total";

/** setTimeout takes no more. */
const TIMER_MS_MAX = 2_147_483_647;

/**
 * Counts one phase at a time, and the whole. Signs of life cost no timer: they move the time that the phase is counted from,
 * and the timer, when it fires too early, is set again for the rest.
 */
export class TimeLimit {
  readonly #onPassed: (limit: Limit, limitMs: number) => void;
  readonly #totalMs: number;
  readonly #startedAtMs = performance.now();
  #phase: Phase = "pool";
  #phaseMs = 0;
  #sinceMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #verdict: NodeJS.Immediate | undefined;
  #firesAtMs = Number.POSITIVE_INFINITY;
  #held = false;

  /** Counts the whole from now. `enter` the first phase at once; `clear` it in the end. */
  constructor(totalMs: number, onPassed: (limit: Limit, limitMs: number) => void) {
    this.#totalMs = totalMs;
    this.#onPassed = onPassed;
  }

  /** Begins another phase. */
  enter(phase: Phase, limitMs: number): void {
    this.#phase = phase;
    this.#phaseMs = limitMs;
    this.#sinceMs = performance.now();
    this.#arm(this.#sinceMs);
  }

  /** A sign of life. It puts off the stall, and nothing else: comments alone are no first token. */
  touch(): void {
    if (this.#phase === "stall") this.#sinceMs = performance.now();
  }

  /** The provider is not what is waited for: only the whole counts until `release`. */
  hold(): void {
    this.#held = true;
  }

  release(): void {
    this.#held = false;
    this.enter(this.#phase, this.#phaseMs);
  }

  clear(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#verdict);
    // No phase is entered after the end.
    this.#firesAtMs = Number.NEGATIVE_INFINITY;
  }

  #arm(nowMs: number): void {
    const phaseEndsAtMs = this.#held ? Number.POSITIVE_INFINITY : this.#sinceMs + this.#phaseMs;
    const endsAtMs = Math.min(phaseEndsAtMs, this.#startedAtMs + this.#totalMs);
    // A timer that fires too early is set again then; only one that would fire too late is replaced.
    if (endsAtMs >= this.#firesAtMs) return;
    clearTimeout(this.#timer);
    this.#firesAtMs = endsAtMs;
    // Rounded up, as it must not fire before the limit has passed.
    this.#timer = setTimeout(this.#fire, Math.min(Math.ceil(endsAtMs - nowMs), TIMER_MS_MAX));
  }

  readonly #fire = (): void => {
    this.#firesAtMs = Number.POSITIVE_INFINITY;
    // After a pause of the whole process the timers run first; what has arrived meanwhile is read before it is judged.
    if (this.#passed() === undefined) this.#arm(performance.now());
    else this.#verdict = setImmediate(this.#judge);
  };

  readonly #judge = (): void => {
    const passed = this.#passed();
    if (passed === undefined) this.#arm(performance.now());
    else this.#onPassed(passed, passed === "total" ? this.#totalMs : this.#phaseMs);
  };

  #passed(): Limit | undefined {
    const nowMs = performance.now();
    if (nowMs >= this.#startedAtMs + this.#totalMs) return "total";
    return !this.#held && nowMs >= this.#sinceMs + this.#phaseMs ? this.#phase : undefined;
  }
}
