/** The cache: the second level, shared by the nodes that run this service, and a store behind it where one is configured. */
import { CacheServiceDefinition, CacheStoreServiceDefinition } from "../../libs/gen/cortex/cache/v1/cache.ts";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import type { Configuration, Host, RunningService, ServiceEntry } from "../../libs/host/index.ts";
import { Leads } from "./leads.ts";
import { MemoryLevel } from "./memory-level.ts";
import { OuterLevel } from "./outer-level.ts";
import { openRedis } from "./redis.ts";
import { CacheStore } from "./service.ts";

/** Answers the CacheStoreService; the CacheService is its node's, for all levels that are there. */
export const cache: ServiceEntry = {
  name: "cache",
  interfaces: [CacheServiceDefinition, CacheStoreServiceDefinition],
  meshOnly: [CacheStoreServiceDefinition],
  start,
};

async function start(host: Host): Promise<RunningService> {
  const { directory } = host.mesh;
  const memory = new MemoryLevel(host.configuration.cache.l2);
  const leads = new Leads({
    isThere: (node) => directory.nodesServing(RouterServiceDefinition.fullName).some(({ id }) => id === node),
    nowMs: () => performance.now(),
  });
  const third = new ThirdLevel(host);
  const store = new CacheStore(memory, leads, () => third.level);
  host.addCacheLevel({
    statistics: () => memory.statistics(),
    drop: (invalidated) => store.drop(invalidated),
  });
  third.configure(host.configuration.cache.l3);
  host.onConfiguration(({ cache: { l2, l3 } }) => {
    memory.resize(l2);
    third.configure(l3);
  });
  host.serve(CacheStoreServiceDefinition, store);
  return { stop: async () => third.configure(undefined) };
}

/** The third level as it is configured now. */
class ThirdLevel {
  readonly #host: Host;
  #url: string | undefined;
  #open: { readonly level: OuterLevel; readonly removeLevel: () => void } | undefined;

  constructor(host: Host) {
    this.#host = host;
  }

  get level(): OuterLevel | undefined {
    return this.#open?.level;
  }

  configure(settings: Configuration["cache"]["l3"]): void {
    const url = settings?.url;
    if (url === this.#url) return;
    this.#url = url;
    this.#open?.removeLevel();
    void this.#open?.level.close();
    this.#open = undefined;
    if (url === undefined) return;
    const host = this.#host;
    const level = new OuterLevel({
      open: (listener) => openRedis(url, listener),
      timeoutMs: () => host.configuration.cache.l3?.timeoutMs ?? 0,
      nowMs: () => performance.now(),
      problem: (sentence) => host.problem("l3", sentence),
    });
    const removeLevel = host.addCacheLevel({
      statistics: () => level.statistics(),
      drop: () => 0,
      dropShared: (invalidated, { signal }) => level.drop(invalidated, signal),
    });
    this.#open = { level, removeLevel };
  }
}
