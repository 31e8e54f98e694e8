/**
 * The third level of the cache: a store outside of the mesh that outlives it. It is asked within a bound and written behind; when
 * it is away, slow or failing, everything goes on without it, and it is used again when it is back.
 */
import { Keyv, type KeyvSerializationAdapter, type KeyvValue } from "keyv";
import type { LevelStatistics } from "../../libs/gen/cortex/cache/v1/cache.ts";
import type { CacheInvalidated } from "../../libs/gen/cortex/events/v1/events.ts";
import { RpcError } from "../../libs/rpc/index.ts";

/** A store as the level needs it: what Keyv asks of one, and what Keyv has no word for. */
export interface OuterStore {
  /** Whether it can be asked now. */
  readonly ready: boolean;
  getMany(keys: string[]): Promise<(string | undefined)[]>;
  set(key: string, value: string, ttlMs: number): Promise<void>;
  delete(key: string): Promise<boolean>;
  /** Takes out what is no longer to be taken; returns how many entries that were. */
  drop(invalidated: CacheInvalidated, signal: AbortSignal): Promise<number>;
  close(): void;
}

/** How a store tells how it is. */
export interface StoreListener {
  /** It can be asked, for the first time or again. */
  ready(): void;
  /** It can't be asked, and why, without a secret. */
  away(why: string): void;
}

export interface OuterLevelOptions {
  /** Opens the store; it does not wait for it to be there. */
  readonly open: (listener: StoreListener) => Promise<OuterStore>;
  readonly timeoutMs: () => number;
  readonly nowMs: () => number;
  /** Told what people should know, in a sentence; undefined when it is mended. */
  readonly problem: (sentence: string | undefined) => void;
}

/** An answer, and until when it may be taken. */
export interface OuterEntry {
  readonly entry: Buffer;
  readonly expiresAtMs: number;
}

/** After so many failures in a row the store is left alone for a while. */
const FAILURES_MAX = 3;
const REST_MS = 2_000;
/** What is on its way to the store at most; more is not written. */
const WRITES_MAX = 1_000;
const WRITING_BYTES_MAX = 64 * 1024 * 1024;

/** The third level. */
export class OuterLevel {
  readonly #options: OuterLevelOptions;
  readonly #keyv: Keyv<Buffer>;
  readonly #opening: Promise<void>;
  #store: OuterStore | undefined;
  #closed = false;
  #failuresInARow = 0;
  #restsUntilMs = Number.NEGATIVE_INFINITY;
  #writes = 0;
  #writingBytes = 0;
  #hits = 0;
  #misses = 0;
  #failures = 0;

  constructor(options: OuterLevelOptions) {
    this.#options = options;
    this.#keyv = new Keyv<Buffer>({ store: this.#adapter(), serialization: LINES });
    // Keyv throws what nobody listens for; the adapter has counted it.
    this.#keyv.on("error", () => {});
    this.#opening = this.#open();
  }

  /** Whether it makes sense to ask. */
  get usable(): boolean {
    return this.#store?.ready === true && this.#options.nowMs() >= this.#restsUntilMs;
  }

  /** Looks answers up; they are told by place. Not being told within the bound, or within `withinMs`, is a miss. */
  async findMany(keys: readonly string[], withinMs: number): Promise<(OuterEntry | undefined)[]> {
    let found: (OuterEntry | undefined)[] = [];
    if (this.usable) {
      const timeoutMs = this.#options.timeoutMs();
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<undefined>((resolve) => {
        timer = setTimeout(resolve, Math.min(withinMs, timeoutMs), undefined);
      });
      const answer = await Promise.race([this.#keyv.getManyRaw([...keys]), late]);
      clearTimeout(timer);
      found = answer?.map(toEntry) ?? [];
      if (answer === undefined) {
        this.#failures++;
        // Whoever had much less time than the store is given can't say that it is slow.
        if (withinMs >= timeoutMs / 2) this.#failed("it is too slow");
      }
    } else this.#failures++;
    const hits = found.filter((entry) => entry !== undefined).length;
    this.#hits += hits;
    this.#misses += keys.length - hits;
    return found;
  }

  /** Writes an answer behind; nobody waits for it. */
  keep(key: string, entry: Uint8Array, expiresAtMs: number): void {
    const ttlMs = expiresAtMs - Date.now();
    if (ttlMs <= 0 || !this.usable) return;
    if (this.#writes >= WRITES_MAX || this.#writingBytes + entry.length > WRITING_BYTES_MAX) return;
    this.#writes++;
    this.#writingBytes += entry.length;
    const bytes = Buffer.from(entry.buffer, entry.byteOffset, entry.byteLength);
    void this.#keyv.set(key, bytes, ttlMs).finally(() => {
      this.#writes--;
      this.#writingBytes -= entry.length;
    });
  }

  /** Takes out what is no longer to be taken. Rejects when it may have been left there. */
  async drop(invalidated: CacheInvalidated, signal: AbortSignal): Promise<number> {
    try {
      if (this.#store?.ready !== true) throw new Error("it can't be reached");
      return await this.#store.drop(invalidated, signal);
    } catch (thrown) {
      const why = (thrown as Error).message;
      const message = `the cache's third level keeps what it has, and gives it out when it is back: ${why}; ask again then`;
      throw new RpcError("CACHE_STORE_UNREACHABLE", message, { cause: thrown });
    }
  }

  statistics(): LevelStatistics {
    return {
      level: "l3",
      hits: this.#hits,
      misses: this.#misses,
      // The store is shared, and has bounds of its own: it tells itself what it holds.
      entries: 0,
      bytes: 0,
      evictions: 0,
      failures: this.#failures,
      entriesMax: 0,
      bytesMax: 0,
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#opening;
    this.#store?.close();
    this.#options.problem(undefined);
  }

  async #open(): Promise<void> {
    try {
      this.#store = await this.#options.open({
        ready: () => this.#answered(),
        away: (why) => this.#tell(why),
      });
    } catch (thrown) {
      this.#tell((thrown as Error).message);
    }
  }

  /** What Keyv asks. Keyv takes failures for misses, so they are counted here. */
  #adapter() {
    const { nowMs, timeoutMs } = this.#options;
    const watched = async <T>(asked: Promise<T>, isLookUp: boolean): Promise<T> => {
      const deadlineMs = nowMs() + timeoutMs();
      try {
        const answer = await asked;
        if (nowMs() <= deadlineMs) this.#answered();
        return answer;
      } catch (thrown) {
        // What comes later than that nobody has waited for, and it is counted already.
        if (isLookUp && nowMs() <= deadlineMs) this.#failures++;
        this.#failed((thrown as Error).message);
        throw thrown;
      }
    };
    return {
      // Says to Keyv that `set` takes the moment of expiry.
      capabilities: { expires: true },
      getMany: (keys: string[]) => watched(this.#store!.getMany(keys), true),
      set: async (key: string, value: string, expiresAtMs: number) => {
        await watched(this.#store!.set(key, value, Math.max(1, Math.ceil(expiresAtMs - Date.now()))), false);
        return true;
      },
      delete: (key: string) => watched(this.#store!.delete(key), false),
      deleteMany: (keys: string[]) => Promise.all(keys.map((key) => watched(this.#store!.delete(key), false))),
    };
  }

  #answered(): void {
    this.#failuresInARow = 0;
    this.#restsUntilMs = Number.NEGATIVE_INFINITY;
    if (!this.#closed) this.#options.problem(undefined);
  }

  #failed(why: string): void {
    if (++this.#failuresInARow < FAILURES_MAX) return;
    this.#restsUntilMs = this.#options.nowMs() + REST_MS;
    this.#tell(why);
  }

  #tell(why: string): void {
    if (this.#closed) return;
    this.#options.problem(`the cache's third level can't be used, and everything goes on without it: ${why}`);
  }
}

function toEntry(found: KeyvValue<Buffer> | string | undefined): OuterEntry | undefined {
  if (typeof found !== "object" || found.value === undefined || found.expires === undefined) return undefined;
  return { entry: found.value, expiresAtMs: found.expires };
}

/** How an answer lies in the store: until when it may be taken, and its bytes. */
const LINES: KeyvSerializationAdapter = {
  stringify(kept) {
    const { value, expires } = kept as { value: Buffer; expires: number };
    return `${expires} ${value.toString("base64")}`;
  },
  parse<T>(text: string): T {
    const divide = text.indexOf(" ");
    const expires = divide > 0 ? Number(text.slice(0, divide)) : Number.NaN;
    if (!Number.isFinite(expires)) throw new Error("somebody else has written here");
    const kept = { value: Buffer.from(text.slice(divide + 1), "base64"), expires };
    return kept as T;
  },
};
