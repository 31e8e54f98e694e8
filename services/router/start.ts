/** The router, and the registry that tells and changes which workers it routes to. */
import { CacheServiceDefinition } from "../../libs/gen/cortex/cache/v1/cache.ts";
import { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import type { Host, RunningService, ServiceEntry } from "../../libs/host/index.ts";
import { createRegistry } from "./registry.ts";
import { createRouter } from "./service.ts";

/** Answers the RouterService and the RegistryService; the CacheService is its node's, for the first level that it has. */
export const router: ServiceEntry = {
  name: "router",
  interfaces: [RouterServiceDefinition, RegistryServiceDefinition, CacheServiceDefinition],
  start,
};

async function start(host: Host): Promise<RunningService> {
  const { clients, log, mesh, metrics, nodeId, tracer } = host;
  const { directory, events } = mesh;
  const { service, cacheLevel, activeRequests, stop } = createRouter({
    nodeId,
    clients,
    directory,
    events,
    log,
    metrics,
    tracer,
    routing: () => host.configuration.routing,
    cache: () => host.configuration.cache,
    now: () => performance.now(),
    random: Math.random,
  });
  host.serve(RouterServiceDefinition, service);
  host.addCacheLevel(cacheLevel);
  host.serve(RegistryServiceDefinition, createRegistry({ directory, nodeId, activeRequests }));
  return { stop: async () => stop() };
}
