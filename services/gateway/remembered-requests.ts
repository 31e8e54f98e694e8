/**
 * What was read of bodies that come again and again: where answers are kept, reading a question costs as much as finding its
 * answer. Reading depends on nothing but the text, so what is remembered is never out of date.
 */
import { LRUCache } from "lru-cache";

const ENTRIES_MAX = 2_000;
/** Of all bodies together, and of one. */
const CHARACTERS_MAX = 2_000_000;
const BODY_CHARACTERS_MAX = 16_000;

/** A body that came once, and has not been remembered yet. */
const ONCE = Symbol("once");

/** Requests by their bodies. A request that is remembered is frozen, with all that is in it. */
export class RememberedRequests<T extends object> {
  readonly #read: (text: string) => T;
  readonly #known = new LRUCache<string, T | typeof ONCE>({
    max: ENTRIES_MAX,
    maxSize: CHARACTERS_MAX,
    sizeCalculation: (_request, text) => text.length,
  });

  constructor(read: (text: string) => T) {
    this.#read = read;
  }

  /** The request that a body is. One that comes for the second time is remembered, if it is worth it. Throws what reading does. */
  read(text: string, worth: boolean): T {
    if (!worth || text.length > BODY_CHARACTERS_MAX || text === "") return this.#read(text);
    const known = this.#known.get(text);
    if (known !== undefined && known !== ONCE) return known;
    const request = this.#read(text);
    this.#known.set(text, known === undefined ? ONCE : frozen(request));
    return request;
  }
}

function frozen<T extends object>(value: T): T {
  // Bytes can't be frozen; nobody writes into them.
  if (ArrayBuffer.isView(value)) return value;
  for (const inner of Object.values(value) as unknown[]) {
    if (typeof inner === "object" && inner !== null) frozen(inner);
  }
  return Object.freeze(value);
}
