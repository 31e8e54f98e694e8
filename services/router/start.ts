/** The router, and the registry that tells and changes which workers it routes to. */
import { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import type { Host, RunningService, ServiceEntry } from "../../libs/host/index.ts";
import { createRegistry } from "./registry.ts";
import { createRouter } from "./service.ts";

/** Answers the RouterService and the RegistryService. */
export const router: ServiceEntry = {
  name: "router",
  interfaces: [RouterServiceDefinition, RegistryServiceDefinition],
  start,
};

async function start(host: Host): Promise<RunningService> {
  const { clients, configuration, log, mesh, nodeId, tracer } = host;
  const { directory, events } = mesh;
  host.serve(
    RouterServiceDefinition,
    createRouter({
      nodeId,
      clients,
      directory,
      events,
      log,
      tracer,
      routes: Object.fromEntries(
        Object.entries(configuration.routing.models).map(([name, { targets }]) => [name, targets]),
      ),
      attemptsMax: configuration.routing.attemptsMax,
      now: () => performance.now(),
      random: Math.random,
    }),
  );
  host.serve(RegistryServiceDefinition, createRegistry({ directory, nodeId }));
  return {};
}
