/**
 * The cache service: what a node of it answers for the keys that it owns. Routers ask by ownership, so that two of them that want
 * the same answer meet here, and one of them gets it for both.
 */
import { TransientMap } from "../../libs/collections/index.ts";
import type {
  AcquireResponse,
  CacheStoreServiceDefinition,
  GetManyResponse,
} from "../../libs/gen/cortex/cache/v1/cache.ts";
import type { CacheInvalidated } from "../../libs/gen/cortex/events/v1/events.ts";
import { type Call, RpcError, type Service } from "../../libs/rpc/index.ts";
import type { Leads, Role } from "./leads.ts";
import type { MemoryLevel } from "./memory-level.ts";
import type { OuterEntry, OuterLevel } from "./outer-level.ts";

/** Longer than any key of a router. */
const KEY_CHARACTERS_MAX = 1_000;
const KEYS_MAX = 10_000;
/** What one answer carries at most; what is left out is a miss. */
const ENTRIES_BYTES_MAX = 32 * 1024 * 1024;
/**
 * The share of a call's time that the third level may take, so that what it doesn't know is told in time. Routers give up
 * before the time that they tell is over.
 */
const OUTER_SHARE = 0.4;

interface Found {
  readonly entry: Buffer;
  readonly level: "l2" | "l3";
}

/** The CacheStoreService over its levels. */
export class CacheStore implements Service<typeof CacheStoreServiceDefinition> {
  readonly #memory: MemoryLevel;
  readonly #leads: Leads;
  readonly #outer: () => OuterLevel | undefined;
  /** Look-ups in the third level that have not ended: who asks for the same waits for the same. */
  readonly #lookingUp = new TransientMap<string, Promise<OuterEntry | undefined>>();
  /** How often something was invalidated: what was looked up before must not be kept. */
  #invalidations = 0;

  constructor(memory: MemoryLevel, leads: Leads, outer: () => OuterLevel | undefined) {
    this.#memory = memory;
    this.#leads = leads;
    this.#outer = outer;
  }

  acquire: Service<typeof CacheStoreServiceDefinition>["acquire"] = async ({ key, node, lookOnly, whole }, call) => {
    checkKey(key);
    if (!lookOnly && node === "")
      throw new RpcError("INVALID_REQUEST", "a router has to say its node", { field: "node" });
    for (;;) {
      const found = await this.#find(key, call, () => !lookOnly && this.#leads.roleOf(key, node, whole) !== undefined);
      if (found !== undefined) return { outcome: { $case: "entry", value: found.entry }, level: found.level };
      if (lookOnly) return { outcome: undefined };
      // Stored while the third level was asked: nobody needs to get it.
      if (!this.#memory.has(key)) return toResponse(this.#leads.take(key, node, whole));
    }
  };

  put: Service<typeof CacheStoreServiceDefinition>["put"] = async ({ key, entry, expiresAtMs, node }) => {
    checkKey(key);
    this.#outer()?.keep(key, entry, expiresAtMs);
    // The lead ends when the answer is there: whoever asks in between is told one or the other.
    await this.#memory.keep(key, entry, expiresAtMs);
    this.#leads.end(key, node);
    return {};
  };

  putMany: Service<typeof CacheStoreServiceDefinition>["putMany"] = async ({ items, expiresAtMs }) => {
    if (items.length > KEYS_MAX) {
      throw new RpcError("INVALID_REQUEST", `at most ${KEYS_MAX} answers can be kept at once`, { field: "items" });
    }
    for (const { key } of items) checkKey(key);
    for (const { key, entry } of items) {
      this.#outer()?.keep(key, entry, expiresAtMs);
      await this.#memory.keep(key, entry, expiresAtMs);
    }
    return {};
  };

  release: Service<typeof CacheStoreServiceDefinition>["release"] = async ({ key, node }) => {
    this.#leads.end(key, node);
    return {};
  };

  getMany: Service<typeof CacheStoreServiceDefinition>["getMany"] = async ({ keys }, call) => {
    if (keys.length > KEYS_MAX) {
      throw new RpcError("INVALID_REQUEST", `at most ${KEYS_MAX} keys can be asked for at once`, { field: "keys" });
    }
    for (const key of keys) checkKey(key);
    const found = new Map<string, Buffer>();
    for (const [place, entry] of (await this.#memory.findMany(keys)).entries()) {
      if (entry !== undefined) found.set(keys[place]!, entry);
    }
    const missing = keys.filter((key) => !found.has(key));
    if (missing.length > 0) {
      for (const [place, outerEntry] of (await this.#findOuter(missing, call)).entries()) {
        if (outerEntry !== undefined) found.set(missing[place]!, outerEntry.entry);
      }
    }
    const entries: [string, Buffer][] = [];
    let bytes = 0;
    for (const [key, entry] of found) {
      bytes += entry.length;
      if (bytes > ENTRIES_BYTES_MAX) break;
      entries.push([key, entry]);
    }
    return { entries: Object.fromEntries(entries) } satisfies GetManyResponse;
  };

  /** Takes out of this node what is no longer to be taken. */
  drop(invalidated: CacheInvalidated): number {
    this.#invalidations++;
    this.#leads.drop(invalidated);
    return this.#memory.drop(invalidated);
  }

  async #find(key: string, call: Call, someoneLeads: () => boolean): Promise<Found | undefined> {
    const entry = await this.#memory.find(key);
    if (entry !== undefined) return { entry, level: "l2" };
    // Whoever leads has been told that the third level does not have it.
    if (someoneLeads()) return undefined;
    const outer = this.#outer();
    if (outer === undefined) return undefined;
    let lookingUp = this.#lookingUp.get(key);
    if (lookingUp === undefined) {
      lookingUp = this.#findOuter([key], call).then(([found]) => found);
      this.#lookingUp.set(key, lookingUp);
      void lookingUp.finally(() => this.#lookingUp.delete(key));
    }
    const found = await lookingUp;
    return found && { entry: found.entry, level: "l3" };
  }

  /** What the third level has of these; it is kept in the second too. */
  async #findOuter(keys: readonly string[], call: Call): Promise<(OuterEntry | undefined)[]> {
    const outer = this.#outer();
    if (outer === undefined) return [];
    const invalidations = this.#invalidations;
    const withinMs = OUTER_SHARE * (call.deadlineAtMs - Date.now());
    const found = await outer.findMany(keys, withinMs);
    if (invalidations !== this.#invalidations) return [];
    for (const [place, outerEntry] of found.entries()) {
      if (outerEntry !== undefined) await this.#memory.keep(keys[place]!, outerEntry.entry, outerEntry.expiresAtMs);
    }
    return found;
  }
}

function toResponse(role: Role): AcquireResponse {
  if (role.kind === "lead") return { outcome: { $case: "lead", value: true } };
  return { outcome: { $case: "follow", value: role.node } };
}

function checkKey(key: string): void {
  if (key !== "" && key.length <= KEY_CHARACTERS_MAX) return;
  throw new RpcError("INVALID_REQUEST", "that is no key of the cache", { field: "key" });
}
