/** The gateway: REST and server-sent events in, the router out. */
import type { AddressInfo } from "node:net";
import { MetricsServiceDefinition } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import { type Host, portError, type RunningService, type ServiceEntry } from "../../libs/host/index.ts";
import { LiveRelay } from "./live.ts";
import { createGatewayServer } from "./server.ts";

/** Listens on the configured port. */
export const gateway: ServiceEntry = { name: "gateway", interfaces: [], start };

async function start(host: Host, before?: RunningService): Promise<RunningService> {
  const { configuration } = host;
  const summaries = () => host.clients.service(MetricsServiceDefinition);
  const live = new LiveRelay({ metrics: summaries, log: host.log });
  const server = createGatewayServer({
    summaries,
    live,
    router: () => host.clients.service(RouterServiceDefinition),
    registry: () => host.clients.service(RegistryServiceDefinition),
    keysRequired: () => host.configuration.clients.length > 0,
    health: (options) => host.health(options),
    report: () => host.report(),
    caching: () => host.configuration.cache.enabled,
    authenticate: host.authenticate,
    operations: host.operations,
    tracer: host.tracer,
    metrics: host.metrics,
    log: host.log,
    get bodyBytesMax() {
      return host.configuration.gateway.bodyBytesMax;
    },
    get keepAliveMs() {
      return host.configuration.gateway.keepAliveMs;
    },
    get timeoutMs() {
      return host.configuration.routing.timeoutMs;
    },
  });
  // Started again, it is where its clients know it to be, also if the port was to be any free one.
  const known = configuration.restPort === 0 ? before?.addresses?.["REST"] : undefined;
  const restPort = known === undefined ? configuration.restPort : Number(new URL(known).port);
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) =>
      reject(portError(error, "REST", "PORT", configuration.host, configuration.restPort)),
    );
    server.listen({ host: configuration.host, port: restPort, backlog: 4_096 }, resolve);
  });
  const { port } = server.address() as AddressInfo;
  const name = configuration.host.includes(":") ? `[${configuration.host}]` : configuration.host;
  let closed: Promise<void> | undefined;

  function close(): Promise<void> {
    // Pages that are open would hold the gateway for ever.
    live.close();
    // Node closes idle connections by itself and marks the answers that still run with "connection: close".
    closed ??= new Promise((resolve) => {
      server.close(() => resolve());
    });
    return closed;
  }

  return {
    addresses: { REST: `http://${name}:${port}` },
    drain: close,
    async stop() {
      const ended = close();
      server.closeAllConnections();
      await ended;
    },
  };
}
