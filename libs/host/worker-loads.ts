/** Tells the mesh how many requests the workers of this node serve, so that all routers see the same load. */
import type { ProviderService } from "../adapter/index.ts";
import { WorkerLoads, type WorkerLoads_Load } from "../gen/cortex/events/v1/events.ts";
import type { Mesh } from "../mesh/index.ts";
import { EVENT, NO_TRACE } from "../telemetry/index.ts";

/** Between two events of changes. */
const SPACING_MS = 50;
/** As above when a full worker has room again: requests wait for that in the routers' queues. */
const URGENT_SPACING_MS = 5;
/** How often all workers are told, as an event may be lost. */
const REPEAT_MS = 2_000;

interface Watched {
  activeRequests: number;
  stop(): void;
}

/** Publishes until the returned function is called. A node that is alone tells nobody: its router counts for itself. */
export function publishLoads(mesh: Mesh, workers: ProviderService): () => void {
  const watched = new Map<string, Watched>();
  const changed = new Set<string>();
  let timer: NodeJS.Timeout | undefined;
  let urgent = false;
  let publishedAtMs = Number.NEGATIVE_INFINITY;

  function watch(name: string): void {
    watched.get(name)?.stop();
    const worker = workers.workers().find((known) => known.name === name);
    if (worker === undefined) {
      watched.delete(name);
      changed.add(name);
      schedule(false);
      return;
    }
    const { activeRequests, concurrentRequestsMax } = worker.info();
    const entry: Watched = {
      activeRequests,
      stop: worker.onLoad((active) => {
        const freed = active < entry.activeRequests && entry.activeRequests === concurrentRequestsMax;
        entry.activeRequests = active;
        if (isAlone()) return;
        changed.add(name);
        schedule(freed);
      }),
    };
    watched.set(name, entry);
    changed.add(name);
    schedule(false);
  }

  function schedule(atOnce: boolean): void {
    if (timer !== undefined && (urgent || !atOnce)) return;
    clearTimeout(timer);
    urgent = atOnce;
    const spacingMs = atOnce ? URGENT_SPACING_MS : SPACING_MS;
    const delayMs = Math.max(0, publishedAtMs + spacingMs - performance.now());
    timer = setTimeout(() => publish(changed, urgent), delayMs).unref();
  }

  function isAlone(): boolean {
    return mesh.directory.nodes().length === 1;
  }

  function publish(names: ReadonlySet<string>, atOnce: boolean): void {
    const loads: WorkerLoads_Load[] = [];
    for (const worker of names) loads.push({ worker, activeRequests: watched.get(worker)?.activeRequests ?? 0 });
    changed.clear();
    clearTimeout(timer);
    timer = undefined;
    urgent = false;
    publishedAtMs = performance.now();
    if (loads.length === 0 || isAlone()) return;
    mesh.events.publish(EVENT.workerLoad, WorkerLoads, { node: mesh.nodeId, loads }, NO_TRACE, { atOnce });
  }

  const stopWatching = workers.onChange(({ worker, change }) => {
    if (change === "added" || change === "removed" || change === "replaced") watch(worker);
  });
  for (const { name } of workers.workers()) watch(name);
  const repeating = setInterval(() => publish(new Set([...watched.keys(), ...changed]), false), REPEAT_MS).unref();
  return () => {
    stopWatching();
    clearInterval(repeating);
    clearTimeout(timer);
    for (const { stop } of watched.values()) stop();
  };
}
