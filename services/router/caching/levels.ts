/**
 * The levels of the cache as a router sees them: its own memory, and behind it the owner of the key, which also knows who is
 * getting an answer just now. A level that is slow, away or failing is a miss within a bound, and never an error.
 */
import { LRUCache } from "lru-cache";
import { isInvalidated } from "../../../libs/caching/index.ts";
import {
  CacheStoreServiceDefinition,
  Entry,
  type LevelStatistics,
  type PutManyRequest_Item,
} from "../../../libs/gen/cortex/cache/v1/cache.ts";
import type { CacheInvalidated } from "../../../libs/gen/cortex/events/v1/events.ts";
import type { Configuration } from "../../../libs/host/index.ts";
import type { Clients } from "../../../libs/mesh/index.ts";
import { type Call, RpcError, startCall } from "../../../libs/rpc/index.ts";
import { type Logger, NO_TRACE, traceFields } from "../../../libs/telemetry/index.ts";

/** What the levels need of their node. */
export interface LevelsDependencies {
  readonly nodeId: string;
  readonly clients: Clients;
  readonly log: Logger;
  settings(): Configuration["cache"];
}

/** What has become of a look-up at the owner. */
export type Acquired =
  | { readonly kind: "entry"; readonly entry: Entry; readonly level: string }
  /** This router gets the answer, and stores or releases it. */
  | { readonly kind: "lead" }
  /** That router is getting it. */
  | { readonly kind: "follow"; readonly node: string }
  /** Nobody could be asked: this router gets the answer for itself. */
  | { readonly kind: "alone" };

const ALONE: Acquired = { kind: "alone" };
/** What an entry takes in memory besides its bytes, about. */
const OVERHEAD_BYTES = 1_024;
/** An owner that has failed is not asked for so long; twice as long each time that it fails again, up to the second. */
const OWNER_REST_MS = 1_000;
const OWNER_REST_MS_MAX = 30_000;
/** An owner is told so many times what it has: nobody gives up an answer that is here but has not been read yet. */
const TOLD_FACTOR = 1.5;
/** Storing is behind the answer, and may take longer than looking up. */
const STORE_TIMEOUT_MS = 5_000;
/** Answers on their way to their owners; more are not stored there. */
const STORING_MAX = 1_000;
/** So many go to their owner in one message, which is a few megabytes for the longest vectors. */
const BATCH_ENTRIES_MAX = 64;

interface Kept {
  readonly entry: Entry;
  readonly bytes: number;
}

export class CacheLevels {
  readonly #dependencies: LevelsDependencies;
  #local: LRUCache<string, Kept> | undefined;
  #bounds = "";
  #hits = 0;
  #misses = 0;
  #evictions = 0;
  #drops = 0;
  readonly #resting = new Map<string, { readonly untilMs: number; readonly forMs: number }>();
  #storing = 0;

  constructor(dependencies: LevelsDependencies) {
    this.#dependencies = dependencies;
  }

  /** How often something was taken out: what was asked for before may be among it. */
  get drops(): number {
    return this.#drops;
  }

  /** What this router's memory has; undefined when it is not there, or older than it may be. */
  look(key: string, maxAgeMs = Number.POSITIVE_INFINITY): Entry | undefined {
    const kept = this.#memory()?.get(key);
    const nowMs = Date.now();
    if (kept === undefined || kept.entry.expiresAtMs <= nowMs || nowMs - kept.entry.createdAtMs >= maxAgeMs) {
      this.#misses++;
      return undefined;
    }
    this.#hits++;
    return kept.entry;
  }

  /** Asks the owner of the key for the answer, or who gets it. Never rejects but for the call's own end. */
  async acquire(
    key: string,
    options: { readonly whole: boolean; readonly lookOnly: boolean; readonly maxAgeMs: number },
    call: Call,
  ): Promise<Acquired> {
    const { nodeId } = this.#dependencies;
    const { whole, lookOnly, maxAgeMs } = options;
    const request = { key, node: nodeId, lookOnly, whole };
    const drops = this.#drops;
    const answer = await this.#askOwner(key, call, (store, asked) => store.acquire(request, asked));
    // It may have noted the lead before it was given up; whoever leads ends it, and it is harmless where it was not noted.
    if (answer === null && !lookOnly) return { kind: "lead" };
    const { outcome, level } = answer ?? {};
    switch (outcome?.$case) {
      case "lead":
        return { kind: "lead" };
      case "follow":
        return { kind: "follow", node: outcome.value };
      case "entry": {
        const kept = decode(outcome.value);
        if (kept === undefined || drops !== this.#drops) return ALONE;
        const nowMs = Date.now();
        if (kept.entry.expiresAtMs <= nowMs || nowMs - kept.entry.createdAtMs >= maxAgeMs) return ALONE;
        this.#memory()?.set(key, kept);
        return { kind: "entry", entry: kept.entry, level: level ?? "l2" };
      }
      default:
        return ALONE;
    }
  }

  /** Keeps an answer in all levels. `led`: this router has led, and does so no more. */
  store(key: string, entry: Entry, led: boolean): void {
    const bytes = encode(entry);
    this.#memory()?.set(key, { entry, bytes: sizeOf(entry, bytes.length) });
    const { nodeId } = this.#dependencies;
    const message = { key, entry: bytes, expiresAtMs: entry.expiresAtMs, node: led ? nodeId : "" };
    this.#behind(key, (store, call) => store.put(message, call));
  }

  /** Keeps several in all levels, for which nobody led. All expire at the same time. */
  storeMany(entries: readonly (readonly [key: string, entry: Entry])[]): void {
    const { clients } = this.#dependencies;
    const byOwner = new Map<string, PutManyRequest_Item[][]>();
    for (const [key, entry] of entries) {
      const bytes = encode(entry);
      this.#memory()?.set(key, { entry, bytes: sizeOf(entry, bytes.length) });
      const owner = clients.ownerOf(CacheStoreServiceDefinition, key);
      if (owner === undefined) continue;
      const batches = byOwner.get(owner) ?? [[]];
      byOwner.set(owner, batches);
      let batch = batches.at(-1)!;
      if (batch.length === BATCH_ENTRIES_MAX) {
        batch = [];
        batches.push(batch);
      }
      batch.push({ key, entry: bytes });
    }
    const expiresAtMs = entries[0]?.[1].expiresAtMs ?? 0;
    for (const items of [...byOwner.values()].flat()) {
      if (items[0] !== undefined)
        this.#behind(items[0].key, (store, call) => store.putMany({ items, expiresAtMs }, call));
    }
  }

  /** Ends this router's lead without an answer. */
  release(key: string): void {
    const { nodeId } = this.#dependencies;
    this.#behind(key, (store, call) => store.release({ key, node: nodeId }, call));
  }

  /** This router is still getting the answer that it leads. */
  renew(key: string, whole: boolean): void {
    const { nodeId } = this.#dependencies;
    this.#behind(key, (store, call) => store.acquire({ key, node: nodeId, lookOnly: false, whole }, call));
  }

  /** What all levels have of these keys, and the last level that had one. */
  async lookMany(
    keys: readonly string[],
    maxAgeMs: number,
    call: Call,
  ): Promise<{ readonly entries: ReadonlyMap<string, Entry>; readonly level: string }> {
    const found = new Map<string, Entry>();
    let level = "l1";
    const byOwner = new Map<string, string[]>();
    const drops = this.#drops;
    for (const key of keys) {
      const entry = this.look(key, maxAgeMs);
      if (entry !== undefined) found.set(key, entry);
      else {
        const owner = this.#dependencies.clients.ownerOf(CacheStoreServiceDefinition, key);
        if (owner === undefined) continue;
        const owned = byOwner.get(owner);
        if (owned === undefined) byOwner.set(owner, [key]);
        else owned.push(key);
      }
    }
    await Promise.all(
      [...byOwner.values()].map(async (owned) => {
        const answer = await this.#askOwner(owned[0]!, call, (store, asked) => store.getMany({ keys: owned }, asked));
        if (drops !== this.#drops) return;
        const nowMs = Date.now();
        for (const [key, bytes] of Object.entries(answer?.entries ?? {})) {
          const kept = decode(bytes);
          if (kept === undefined || kept.entry.expiresAtMs <= nowMs || nowMs - kept.entry.createdAtMs >= maxAgeMs)
            continue;
          this.#memory()?.set(key, kept);
          found.set(key, kept.entry);
          level = "l2";
        }
      }),
    );
    return { entries: found, level };
  }

  statistics(): LevelStatistics {
    const { l1 } = this.#dependencies.settings();
    return {
      level: "l1",
      hits: this.#hits,
      misses: this.#misses,
      entries: this.#local?.size ?? 0,
      bytes: this.#local?.calculatedSize ?? 0,
      evictions: this.#evictions,
      failures: 0,
      entriesMax: l1.entries,
      bytesMax: l1.bytes,
    };
  }

  /** Made when it is first needed, and anew when its bounds have changed. */
  #memory(): LRUCache<string, Kept> | undefined {
    const { l1 } = this.#dependencies.settings();
    const bounds = `${l1.entries} ${l1.bytes}`;
    if (bounds === this.#bounds) return this.#local;
    this.#bounds = bounds;
    this.#local =
      l1.entries === 0 || l1.bytes === 0
        ? undefined
        : new LRUCache({
            max: l1.entries,
            maxSize: l1.bytes,
            sizeCalculation: ({ bytes }, key) => bytes + key.length + OVERHEAD_BYTES,
            dispose: (_value, _key, reason) => {
              if (reason === "evict") this.#evictions++;
            },
          });
    return this.#local;
  }

  /** Forgets what is no longer to be taken; says how many answers that were. */
  drop(invalidated: CacheInvalidated): number {
    this.#drops++;
    const local = this.#local;
    if (local === undefined) return 0;
    let dropped = 0;
    for (const known of [...local.keys()]) if (isInvalidated(known, invalidated) && local.delete(known)) dropped++;
    return dropped;
  }

  /** Undefined when there is nobody to ask, null when the owner did not answer. */
  async #askOwner<T>(
    key: string,
    call: Call,
    ask: (store: ReturnType<typeof this.storeAt>, call: Call) => Promise<T>,
  ): Promise<T | undefined | null> {
    const { clients, log, settings } = this.#dependencies;
    const owner = clients.ownerOf(CacheStoreServiceDefinition, key);
    if (owner === undefined || (this.#resting.get(owner)?.untilMs ?? 0) > Date.now()) return undefined;
    const bounded = boundedCall(call, settings().l2.timeoutMs);
    try {
      const answer = await ask(this.storeAt(owner), bounded);
      this.#resting.delete(owner);
      return answer;
    } catch (thrown) {
      const { reason } = RpcError.from(thrown);
      if (!call.signal.aborted) {
        this.#rest(owner);
        const fields = { peer: owner, reason, ...traceFields(call.trace) };
        log.debug(fields, "the owner of a cached answer did not answer; taken for a miss");
      }
      return null;
    } finally {
      bounded.finish();
    }
  }

  #rest(owner: string): void {
    const nowMs = Date.now();
    const before = this.#resting.get(owner);
    // Many ask at once, and all of them fail together.
    if (before !== undefined && before.untilMs > nowMs) return;
    const forMs = before === undefined ? OWNER_REST_MS : Math.min(2 * before.forMs, OWNER_REST_MS_MAX);
    if (this.#resting.size > 1_000) this.#resting.clear();
    this.#resting.set(owner, { untilMs: nowMs + forMs, forMs });
  }

  /** Tells the owner something that nobody waits for. */
  #behind(key: string, tell: (store: ReturnType<typeof this.storeAt>, call: Call) => Promise<unknown>): void {
    const { clients, log } = this.#dependencies;
    const owner = clients.ownerOf(CacheStoreServiceDefinition, key);
    if (owner === undefined || this.#storing >= STORING_MAX) return;
    this.#storing++;
    const deadlineAtMs = Date.now() + STORE_TIMEOUT_MS;
    const call = startCall({ tenant: "", requestId: "cache", trace: NO_TRACE, deadlineAtMs });
    const done = (): void => {
      this.#storing--;
      call.finish();
    };
    let told: Promise<unknown>;
    try {
      told = tell(this.storeAt(owner), call);
    } catch (thrown) {
      told = Promise.reject(thrown);
    }
    told.then(done, (thrown: unknown) => {
      done();
      log.debug({ peer: owner, reason: RpcError.from(thrown).reason }, "an answer could not be stored at its owner");
    });
  }

  storeAt(owner: string) {
    return this.#dependencies.clients.at(CacheStoreServiceDefinition, owner);
  }
}

/** Numbers take twice the bytes in memory that they take on their way. */
function sizeOf({ content }: Entry, encodedBytes: number): number {
  return content?.$case === "vector" ? encodedBytes * 2 : encodedBytes;
}

function encode(entry: Entry): Buffer {
  const encoded = Entry.encode(entry).finish();
  return Buffer.from(encoded.buffer, encoded.byteOffset, encoded.length);
}

function decode(bytes: Uint8Array): Kept | undefined {
  try {
    const entry = Entry.decode(bytes);
    return { entry, bytes: sizeOf(entry, bytes.length) };
  } catch {
    // Of another version, or damaged: as good as not there.
    return undefined;
  }
}

/** The call, but for so long at most; it ends with the call too. */
function boundedCall(call: Call, timeoutMs: number): Call & { finish(): void } {
  const { tenant, requestId, trace } = call;
  const bounded = startCall({ tenant, requestId, trace });
  const nowMs = Date.now();
  const forMs = Math.max(0, Math.min(timeoutMs, call.deadlineAtMs - nowMs));
  const expire = (): void => bounded.cancel(new RpcError("DEADLINE_EXCEEDED", "the look-up took too long"));
  // When this process has been busy for so long, the answer may be here already: it is read before time is up.
  let grace: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    grace = setImmediate(expire);
  }, forMs);
  const onAbort = (): void => bounded.cancel();
  call.signal.addEventListener("abort", onAbort, { once: true });
  return {
    ...bounded,
    deadlineAtMs: nowMs + forMs * TOLD_FACTOR,
    finish() {
      clearTimeout(timer);
      if (grace !== undefined) clearImmediate(grace);
      call.signal.removeEventListener("abort", onAbort);
      bounded.finish();
    },
  };
}
