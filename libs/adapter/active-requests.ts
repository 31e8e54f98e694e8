/** The requests that a worker serves: how many there are, whether one more may come, and who wants to know. */
import { failure } from "./failures.ts";

type Listener = (count: number) => void;

export class ActiveRequests {
  readonly #max: number;
  /** Replaced when it changes: every request walks through it twice. */
  #listeners: readonly Listener[] = [];
  #count = 0;

  /** `max` at once; 0 for no limit. */
  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#count;
  }

  /** The most at once; 0 for no limit. */
  get max(): number {
    return this.#max;
  }

  get full(): boolean {
    return this.#max > 0 && this.#count >= this.#max;
  }

  /** Throws WORKER_BUSY when there are as many as there may be. */
  check(): void {
    if (this.full) throw failure("WORKER_BUSY", this.whyFull());
  }

  /** Why there is no room, when there is none. */
  whyFull(): string {
    return `it serves ${this.#max} ${this.#max === 1 ? "request" : "requests"}, as many as it may (limits.concurrent)`;
  }

  /** One more. Give it back with `end` exactly once. */
  begin(): void {
    this.#count += 1;
    this.#tell();
  }

  end(): void {
    this.#count -= 1;
    this.#tell();
  }

  /**
   * Calls `listener` with the new count at every beginning and end, from within the request: it has to be quick and must not
   * throw. Until the returned function is called.
   */
  onChange(listener: Listener): () => void {
    this.#listeners = [...this.#listeners, listener];
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== listener);
    };
  }

  #tell(): void {
    const listeners = this.#listeners;
    for (let index = 0; index < listeners.length; index += 1) listeners[index]!(this.#count);
  }
}
