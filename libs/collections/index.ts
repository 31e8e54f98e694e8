/**
 * A Map and a Set for what comes and goes with each request.
 *
 * V8 gives a Map or a Set another table whenever entries have come and gone, and the old table goes on pointing to the new one
 * (https://github.com/v8/v8/blob/main/src/objects/ordered-hash-table.cc, `SetNextTable`). Once a table has become old, by a major
 * collection for example, minor collections take it for alive, and with it all later tables and everything that stood in any of
 * them: each request's objects are then copied twice instead of dying young. These start over with a new table now and then, which
 * nothing old points to. Seen here: a call that costs 200 µs was spared 30.
 */

/** Seldom enough to cost nothing, and the garbage of so many requests is little. */
const RENEW_AFTER_DELETES = 32;

/** A Map whose entries live for about as long as a request. Deleting while iterating is fine; adding then may be missed. */
export class TransientMap<K, V> {
  #entries = new Map<K, V>();
  #deletes = 0;

  get size(): number {
    return this.#entries.size;
  }

  get(key: K): V | undefined {
    return this.#entries.get(key);
  }

  set(key: K, value: V): void {
    this.#entries.set(key, value);
  }

  /** Whether it was there. */
  delete(key: K): boolean {
    const deleted = this.#entries.delete(key);
    if (deleted && ++this.#deletes > Math.max(RENEW_AFTER_DELETES, this.#entries.size)) {
      this.#entries = new Map(this.#entries);
      this.#deletes = 0;
    }
    return deleted;
  }

  clear(): void {
    this.#entries = new Map();
    this.#deletes = 0;
  }

  values(): Iterable<V> {
    return this.#entries.values();
  }

  [Symbol.iterator](): Iterator<[K, V]> {
    return this.#entries[Symbol.iterator]();
  }
}

/** A Set whose members live for about as long as a request. Deleting while iterating is fine; adding then may be missed. */
export class TransientSet<T> {
  readonly #members = new TransientMap<T, true>();

  get size(): number {
    return this.#members.size;
  }

  add(member: T): void {
    this.#members.set(member, true);
  }

  /** Whether it was there. */
  delete(member: T): boolean {
    return this.#members.delete(member);
  }

  clear(): void {
    this.#members.clear();
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const [member] of this.#members) yield member;
  }
}
