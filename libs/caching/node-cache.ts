/**
 * What operators ask of the cache, whichever of its levels a node has: each level says what it holds, and lets go of what is no
 * longer to be taken. Services add their levels; the node answers the CacheService for all of them.
 */
import {
  CacheServiceDefinition,
  type GetStatisticsResponse,
  type InvalidateRequest,
  type LevelStatistics,
} from "../gen/cortex/cache/v1/cache.ts";
import { CacheInvalidated } from "../gen/cortex/events/v1/events.ts";
import type { Clients, Directory, Events } from "../mesh/index.ts";
import { type Call, RpcError, type Service, startCall } from "../rpc/index.ts";
import { EVENT } from "../telemetry/index.ts";
import { keyPart } from "./keys.ts";

/** One level of the cache on this node. */
export interface CacheLevel {
  statistics(): LevelStatistics;
  /** Requests that were served by another request's call of a provider; of the level that knows. */
  sharedCalls?(): number;
  /** Takes out what is no longer to be taken, at once, and says how many answers that were. */
  drop(invalidated: CacheInvalidated): number;
  /** The same of a store that nodes share: asked of one node alone. Rejects when answers may have been left there. */
  dropShared?(invalidated: CacheInvalidated, call: Call): Promise<number>;
}

/** The levels of the cache on a node. */
export interface NodeCache {
  readonly service: Service<typeof CacheServiceDefinition>;
  /** Adds a level. Returns how to take it away. */
  addLevel(level: CacheLevel): () => void;
  /** What this node's levels hold and have done. */
  statistics(): GetStatisticsResponse;
  close(): void;
}

export interface NodeCacheOptions {
  readonly nodeId: string;
  readonly clients: Clients;
  readonly directory: Directory;
  readonly events: Events;
}

/** How long another node may take to say what its levels hold. */
const STATISTICS_TIMEOUT_MS = 2_000;

/** Makes the cache of a node, without levels. */
export function createNodeCache({ nodeId, clients, directory, events }: NodeCacheOptions): NodeCache {
  const levels = new Set<CacheLevel>();
  const drop = (invalidated: CacheInvalidated): number => sum([...levels].map((level) => level.drop(invalidated)));
  const stop = events.subscribe(EVENT.cacheInvalidated, CacheInvalidated, (invalidated) => void drop(invalidated));

  const here = (): GetStatisticsResponse => ({
    node: nodeId,
    levels: [...levels].map((level) => level.statistics()).sort((a, b) => (a.level < b.level ? -1 : 1)),
    sharedCalls: sum([...levels].map((level) => level.sharedCalls?.() ?? 0)),
  });

  const service: NodeCache["service"] = {
    async invalidate({ key, tenant, model }: InvalidateRequest, call) {
      if (!call.admin) {
        const message = "only an administrator's key may empty the cache: clients[].admin in the configuration";
        throw new RpcError("PERMISSION_DENIED", message);
      }
      const invalidated = {
        key,
        tenantPart: tenant === "" ? "" : keyPart(tenant),
        modelPart: model === "" ? "" : keyPart(model),
      };
      // The others first: what takes long here need not be waited for there.
      events.publish(EVENT.cacheInvalidated, CacheInvalidated, invalidated, call.trace, { atOnce: true });
      const dropped = drop(invalidated);
      const shared = [...levels].map((level) => level.dropShared?.(invalidated, call) ?? 0);
      return { entries: dropped + sum(await Promise.all(shared)) };
    },
    getStatistics: async () => here(),
    async listStatistics(_request, call) {
      const others = directory
        .nodesServing(CacheServiceDefinition.fullName)
        .map(({ id }) => id)
        .filter((id) => id !== nodeId);
      const { tenant, admin, requestId, trace } = call;
      const deadlineAtMs = Math.min(call.deadlineAtMs, Date.now() + STATISTICS_TIMEOUT_MS);
      const asked = startCall({ tenant, admin, requestId, trace, deadlineAtMs });
      const silent: string[] = [];
      const answers = await Promise.all(
        others.map(async (id) => {
          try {
            return [await clients.at(CacheServiceDefinition, id).getStatistics({}, asked)];
          } catch {
            silent.push(id);
            return [];
          }
        }),
      ).finally(() => asked.finish());
      return { nodes: [here(), ...answers.flat()], silent: silent.sort() };
    },
  };
  return {
    service,
    addLevel(level) {
      levels.add(level);
      return () => levels.delete(level);
    },
    statistics: here,
    close: stop,
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
