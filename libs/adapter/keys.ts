/** The keys of a worker, in turn. This is the place for what a key has coming: its rests, its removal, its share. */
export class Keys {
  readonly #keys: readonly string[];
  #next = 0;

  constructor(keys: readonly string[]) {
    this.#keys = keys;
  }

  /** Undefined for a provider that needs none. */
  take(): string | undefined {
    if (this.#keys.length === 0) return undefined;
    const key = this.#keys[this.#next];
    this.#next = (this.#next + 1) % this.#keys.length;
    return key;
  }
}
