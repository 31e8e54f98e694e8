/**
 * The second level of the cache: what this node owns, in its memory, bounded by entries and by bytes. It is a Keyv store over an
 * LRU; what gives way is what was asked for longest ago.
 */
import { Keyv, type KeyvValue } from "keyv";
import { LRUCache } from "lru-cache";
import { isInvalidated } from "../../libs/caching/index.ts";
import type { LevelStatistics } from "../../libs/gen/cortex/cache/v1/cache.ts";
import type { CacheInvalidated } from "../../libs/gen/cortex/events/v1/events.ts";

/** What the level may take; 0 of either for no level. */
export interface Bounds {
  readonly entries: number;
  /** Of memory: an entry counts with its key and with what keeping it takes. */
  readonly bytes: number;
}

type Stored = KeyvValue<Buffer>;

/**
 * What an entry takes besides the characters of its key and its own bytes: its buffer, its place in the LRU and in Keyv's
 * envelope. Measured, so that resident memory follows the count.
 */
const OVERHEAD_BYTES = 900;

/** The second level. */
export class MemoryLevel {
  readonly #store: BoundedStore;
  readonly #keyv: Keyv<Buffer>;
  #hits = 0;
  #misses = 0;

  constructor(bounds: Bounds) {
    this.#store = new BoundedStore(bounds);
    this.#keyv = new Keyv<Buffer>({ store: this.#store, serialization: false });
  }

  async find(key: string): Promise<Buffer | undefined> {
    const found = await this.#keyv.get(key);
    if (found === undefined) this.#misses++;
    else this.#hits++;
    return found;
  }

  /** What is there of these, by place. */
  async findMany(keys: readonly string[]): Promise<(Buffer | undefined)[]> {
    const found = await this.#keyv.getMany([...keys]);
    const hits = found.filter((entry) => entry !== undefined).length;
    this.#hits += hits;
    this.#misses += keys.length - hits;
    return found;
  }

  /** Whether `find` would find it now; counts nothing. */
  has(key: string): boolean {
    const expires = this.#store.peek(key)?.expires;
    return expires !== undefined && expires > Date.now();
  }

  /** Keeps an entry in place of the one before, unless it has expired or is bigger than the level: then there is none. */
  async keep(key: string, entry: Uint8Array, expiresAtMs: number): Promise<void> {
    const ttlMs = expiresAtMs - Date.now();
    if (ttlMs <= 0 || !this.#store.fits(key, entry.length)) {
      await this.#keyv.delete(key);
      return;
    }
    // Memory of its own: what comes with a message, or from the pool of small buffers, holds on to far more than itself.
    const own = Buffer.allocUnsafeSlow(entry.length);
    own.set(entry);
    await this.#keyv.set(key, own, ttlMs);
  }

  drop(invalidated: CacheInvalidated): number {
    return this.#store.drop(invalidated);
  }

  /** Takes other bounds; what has room in them stays. */
  resize(bounds: Bounds): void {
    this.#store.resize(bounds);
  }

  statistics(): LevelStatistics {
    const { size, bytes, evictions, bounds } = this.#store;
    return {
      level: "l2",
      hits: this.#hits,
      misses: this.#misses,
      entries: size,
      bytes,
      evictions,
      failures: 0,
      entriesMax: bounds.entries,
      bytesMax: bounds.bytes,
    };
  }
}

/** A bounded storage adapter for Keyv. Keyv's own adapter for maps can't hand a time to live to an LRU. */
class BoundedStore {
  /** Says to Keyv that `set` takes the moment of expiry. */
  readonly capabilities = { expires: true };
  #bounds: Bounds;
  #entries: LRUCache<string, Stored> | undefined;
  #evictions = 0;

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
    this.#entries = this.#create(bounds);
  }

  get bounds(): Bounds {
    return this.#bounds;
  }

  get size(): number {
    return this.#entries?.size ?? 0;
  }

  get bytes(): number {
    return this.#entries?.calculatedSize ?? 0;
  }

  get evictions(): number {
    return this.#evictions;
  }

  fits(key: string, bytes: number): boolean {
    return this.#entries !== undefined && sizeOf(key, bytes) <= this.#bounds.bytes;
  }

  /** Without making it the entry that was asked for last. */
  peek(key: string): Stored | undefined {
    return this.#entries?.peek(key);
  }

  drop(invalidated: CacheInvalidated): number {
    const entries = this.#entries;
    if (entries === undefined) return 0;
    if (invalidated.key !== "") {
      return isInvalidated(invalidated.key, invalidated) && entries.delete(invalidated.key) ? 1 : 0;
    }
    let dropped = 0;
    for (const key of entries.keys()) if (isInvalidated(key, invalidated) && entries.delete(key)) dropped++;
    return dropped;
  }

  resize(bounds: Bounds): void {
    const { entries, bytes } = this.#bounds;
    if (bounds.entries === entries && bounds.bytes === bytes) return;
    this.#bounds = bounds;
    const before = this.#entries?.dump() ?? [];
    this.#entries = this.#create(bounds);
    this.#entries?.load(before);
  }

  // What Keyv asks for.

  async get(key: string): Promise<Stored | undefined> {
    return this.#entries?.get(key);
  }

  async getMany(keys: readonly string[]): Promise<(Stored | undefined)[]> {
    return keys.map((key) => this.#entries?.get(key));
  }

  async has(key: string): Promise<boolean> {
    return this.#entries?.has(key) ?? false;
  }

  async set(key: string, stored: Stored): Promise<boolean> {
    this.#entries?.set(key, stored);
    return true;
  }

  async delete(key: string): Promise<boolean> {
    return this.#entries?.delete(key) ?? false;
  }

  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return keys.map((key) => this.#entries?.delete(key) ?? false);
  }

  async clear(): Promise<void> {
    this.#entries?.clear();
  }

  #create({ entries, bytes }: Bounds): LRUCache<string, Stored> | undefined {
    if (entries === 0 || bytes === 0) return undefined;
    return new LRUCache<string, Stored>({
      max: entries,
      maxSize: bytes,
      sizeCalculation: ({ value }, key) => sizeOf(key, value?.length ?? 0),
      dispose: (_stored, _key, reason) => {
        if (reason === "evict") this.#evictions++;
      },
    });
  }
}

function sizeOf(key: string, bytes: number): number {
  return key.length + bytes + OVERHEAD_BYTES;
}
