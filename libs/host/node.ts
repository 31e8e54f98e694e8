/** A node: one process that runs one or more services. What starts first, and in which order everything ends. */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createProviderService, type ProviderService } from "../adapter/index.ts";
import { createNodeCache, type NodeCache } from "../caching/index.ts";
import { CacheServiceDefinition } from "../gen/cortex/cache/v1/cache.ts";
import { ConfigurationChanged, ServiceChanged, ServiceChanged_Change } from "../gen/cortex/events/v1/events.ts";
import { ProviderServiceDefinition } from "../gen/cortex/provider/v1/provider.ts";
import { createClients, joinMesh } from "../mesh/index.ts";
import { type Caller, createGrpcServer, type GrpcServer, RpcError, type ServiceDefinition } from "../rpc/index.ts";
import {
  createLogger,
  createMetrics,
  EVENT,
  type Logger,
  METRIC,
  NO_TRACE,
  setLevel,
  startTracer,
} from "../telemetry/index.ts";
import { createAuthenticator, sameSecret } from "./authentication.ts";
import type { Configuration } from "./config.ts";
import { checkMesh } from "./health.ts";
import { HealthReports } from "./health-report.ts";
import { type Host, type ServiceEntry, StartError } from "./host.ts";
import { KeptTraces } from "./kept-traces.ts";
import { LiveConfiguration } from "./live-configuration.ts";
import { reportNode } from "./node-metrics.ts";
import { createOperations, listenForOperations, type Operations, type Readiness } from "./operations.ts";
import { Serving } from "./serving.ts";
import { type ServiceLife, Supervisor } from "./supervisor.ts";
import { isFault } from "./tracing-settings.ts";
import { publishLoads } from "./worker-loads.ts";

/** The service that answers over HTTP, and so for its node too. */
const GATEWAY = "gateway";

/** How long the others may take to hear that a node drains; only then it stops listening. */
const DRAIN_NOTICE_MS = 300;

/** A caller that has shown the secret of the mesh. */
const MESH_NODE: Caller = { trusted: true, tenant: "", admin: false };

export interface NodeOptions {
  readonly configuration: Configuration;
  /** Makes a configuration of what its file says now, or throws ConfigurationError. Absent when the file is not followed. */
  readonly reload?: ((text: string) => Configuration) | undefined;
  readonly services: readonly ServiceEntry[];
  /** Where NATS is. */
  readonly natsUrl: string;
  readonly version: string;
  /** Logs for people instead of JSON. */
  readonly readableLogs: boolean;
}

/** A node that runs. */
export interface RunningNode {
  readonly nodeId: string;
  readonly log: Logger;
  readonly workers: ProviderService;
  /** host:port of its gRPC server. */
  readonly grpcAddress: string;
  /** host:port where it answers /metrics; empty when it counts nothing. */
  readonly metricsAddress: string;
  /** Where people reach its services: `REST` → `http://127.0.0.1:8080`. */
  readonly addresses: Readonly<Record<string, string>>;
  /**
   * Something was thrown in this process that nobody has caught. True when it is one of this node's services: that one is
   * restarted alone. Otherwise nobody knows what is broken, and the process should end.
   */
  uncaught(error: unknown): boolean;
  /** Drains and ends the node: streams that run end whole, new calls go elsewhere. `drainMs` takes the configuration's place. */
  stop(drainMs?: number): Promise<void>;
}

/** Starts a node. Throws StartError for what its user can mend. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { configuration, services, version } = options;
  const nodeId = `${configuration.nodeName.replaceAll(/[^A-Za-z0-9-]/g, "-").slice(0, 40)}-${randomBytes(4).toString("hex")}`;
  const startedAtMs = performance.now();
  const log = createLogger({ level: configuration.log.level, readable: options.readableLogs, node: nodeId });
  const keptTraces = new KeptTraces();
  const tracer = await startTracer({
    recording: configuration.tracing.enabled,
    resource: {
      "service.name": services.length === 1 ? `cortex-${services[0]!.name}` : "cortex",
      "service.version": version,
      "service.instance.id": nodeId,
    },
    rules: configuration.tracing,
    isFault,
    onKept: (traceId) => keptTraces.add(traceId),
    log,
  });
  const metrics = createMetrics({
    enabled: configuration.metrics.enabled,
    process: true,
    onFailure: (error) => log.warn({ err: error }, "some metrics can't be told"),
  });
  // What is done to end the node if its start fails half way, last thing first.
  const undo: (() => unknown)[] = [() => tracer.shutdown()];
  try {
    let authenticate = createAuthenticator(configuration.clients);
    let problems: () => string[] = () => [];
    let meshSecret: () => string | undefined = () => undefined;
    const interfaces = namesOf(services.flatMap((service) => service.interfaces));
    const grpc = createGrpcServer({
      tracer,
      metrics,
      log,
      descriptors: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
      interfaces,
      meshOnly: namesOf(services.flatMap(({ meshOnly = [] }) => meshOnly)),
      authenticate(authorization, secret) {
        const own = meshSecret();
        if (secret !== "" && own !== undefined && sameSecret(secret, own)) return MESH_NODE;
        return { trusted: false, ...authenticate(authorization) };
      },
    });
    const grpcPort = await listenGrpc(grpc, configuration);
    undo.push(() => grpc.close(0));
    const eventLoop = monitorEventLoopDelay({ resolution: 10 });
    eventLoop.enable();
    let eventLoopBefore = performance.eventLoopUtilization();
    undo.push(() => void eventLoop.disable());

    const grpcAddress = `${advertisedHost(configuration)}:${grpcPort}`;
    const mesh = await joinMesh({
      natsUrl: options.natsUrl,
      closed: true,
      node: {
        id: nodeId,
        name: configuration.nodeName,
        address: grpcAddress,
        services: services.map(({ name }) => name),
        interfaces,
        version,
        zone: configuration.node.zone,
      },
      load: () => {
        const eventLoopDelayMs = eventLoop.percentile(99) / 1e6;
        eventLoop.reset();
        const { utilization } = performance.eventLoopUtilization(eventLoopBefore);
        eventLoopBefore = performance.eventLoopUtilization();
        return {
          callsInFlight: grpc.callsInFlight,
          eventLoopDelayMs,
          eventLoopUtilization: utilization,
          rssBytes: process.memoryUsage.rss(),
          problems: problems(),
        };
      },
      log,
    }).catch((error: unknown) => {
      throw new StartError((error as Error).message, { cause: error });
    });
    meshSecret = () => mesh.secret;
    undo.push(() => mesh.leave());
    if (configuration.tracing.enabled) undo.push(keptTraces.share(mesh, (traceId) => tracer.keep(traceId)));

    const clients = createClients({ nodeId, directory: mesh.directory, meshSecret, tracer, log });
    undo.push(() => clients.close());
    const workers = createProviderService();
    undo.push(() => workers.close(), publishLoads(mesh, workers));
    const cache = createNodeCache({ nodeId, clients, directory: mesh.directory, events: mesh.events });
    undo.push(() => cache.close());
    const live = new LiveConfiguration({
      initial: configuration,
      load: options.reload ?? (() => configuration),
      log,
      onReloaded({ accepted, problems }) {
        metrics.add(METRIC.configurationReloads, 1, accepted ? "accepted" : "refused");
        const event = { node: nodeId, accepted, problems: problems.length };
        mesh.events.publish(EVENT.configurationChanged, ConfigurationChanged, event, NO_TRACE);
      },
    });
    live.onChange(({ clients: known, log: { level }, tracing }) => {
      authenticate = createAuthenticator(known);
      setLevel(log, level);
      tracer.setRules(tracing);
    });
    const supervisor = new Supervisor({
      log,
      hostFor: (life) => createHost(life, node),
      drainMs: () => live.current.node.drainMs,
      onChange({ service, change, error }) {
        if (change === "crashed") metrics.add(METRIC.serviceCrashes, 1, service);
        const event: ServiceChanged = {
          change: change === "crashed" ? ServiceChanged_Change.CRASHED : ServiceChanged_Change.RESTARTED,
          node: nodeId,
          service,
          reason: change === "crashed" ? RpcError.from(error).reason : "",
        };
        mesh.events.publish(EVENT.serviceChanged, ServiceChanged, event, NO_TRACE);
      },
    });
    undo.push(() => supervisor.stop());
    const troubles = new Map<string, string>();
    problems = () => [
      ...(live.problem === undefined ? [] : [live.problem]),
      ...supervisor.problems(),
      ...troubles.values(),
    ];
    let readiness: Readiness = { ready: false, why: "its services are being started" };
    const operations = createOperations({
      metrics,
      nodes: () => mesh.directory.nodes(),
      keysRequired: () => live.current.clients.length > 0,
      token: () => live.current.metrics.token,
      authenticate: (authorization) => authenticate(authorization),
      readiness: () => readiness,
    });
    const node: NodeParts = {
      nodeId,
      mesh,
      clients,
      workers,
      tracer,
      metrics,
      operations,
      log,
      live,
      troubles,
      cache,
      serving: new Serving(clients, grpc),
      authenticate: (authorization) => authenticate(authorization),
      health: ({ causes } = { causes: false }) =>
        checkMesh(mesh, {
          causes,
          version,
          uptimeS: (performance.now() - startedAtMs) / 1_000,
          problems: problems(),
        }),
      report: () => reports.get(),
    };
    const reports = new HealthReports({ mesh, clients, check: () => node.health({ causes: true }) });
    undo.push(
      reportNode(metrics, {
        nodeId,
        version,
        services: services.map(({ name }) => name),
        zone: configuration.node.zone,
        mesh,
        workers,
        cache: () => cache.statistics(),
        health: () => node.health(),
        callsInFlight: () => grpc.callsInFlight,
        spans: () => tracer.figures(),
        configurationValid: () => live.problem === undefined,
      }),
    );
    const ownAddress = await startOperations(operations, configuration, services, undo);
    if (services.some(({ adapter }) => adapter !== undefined)) {
      node.serving.open(ProviderServiceDefinition, workers.service);
    }

    if (interfaces.includes(CacheServiceDefinition.fullName)) {
      node.serving.open(CacheServiceDefinition, cache.service);
    }

    // Adapters ask their providers whether they are there, so services start side by side.
    await supervisor.start(services);
    if (options.reload !== undefined) {
      live.follow();
      undo.push(() => live.stop());
    }
    const metricsAddress = metrics.enabled ? (ownAddress ?? restAddress(supervisor, configuration)) : "";
    mesh.setMetricsAddress(metricsAddress);
    readiness = { ready: true, why: "" };
    grpc.open();
    await mesh.open();
    log.info({ services: services.map(({ name }) => name), grpc: grpcAddress }, "the node is ready");

    let stopped: Promise<void> | undefined;
    return {
      nodeId,
      log,
      workers,
      grpcAddress,
      metricsAddress,
      get addresses() {
        const all = supervisor.running().map(({ addresses }) => addresses ?? {});
        return Object.assign({}, ...all) as Record<string, string>;
      },
      uncaught: (error) => supervisor.uncaught(error),
      stop(drainMs) {
        readiness = { ready: false, why: "it is about to stop" };
        stopped ??= stopNode(node, grpc, supervisor, drainMs ?? live.current.node.drainMs).then(() =>
          unwind(undo, log),
        );
        return stopped;
      },
    };
  } catch (error) {
    await unwind(undo, log);
    throw error;
  }
}

/** What the services of a node share. */
interface NodeParts
  extends Pick<
    Host,
    | "nodeId"
    | "mesh"
    | "clients"
    | "workers"
    | "tracer"
    | "metrics"
    | "operations"
    | "log"
    | "authenticate"
    | "health"
    | "report"
  > {
  readonly live: LiveConfiguration;
  readonly serving: Serving;
  readonly cache: NodeCache;
  /** What services have told to be wrong, by service and name. */
  readonly troubles: Map<string, string>;
}

/** The node as a service sees it in one of its lives; what it is given ends with that life. */
function createHost(life: ServiceLife, node: NodeParts): Host {
  const { live, serving, troubles, cache, ...shared } = node;
  const within: ServiceLife["within"] = (work, ...args) => life.within(work, ...args);
  /** What it has ever told to be wrong: some of it comes and goes for as long as the service lives. */
  const told = new Set<string>();
  return {
    ...shared,
    get configuration() {
      return live.current;
    },
    onConfiguration(listener) {
      const stop = live.onChange((configuration, before) => {
        try {
          life.within(listener, configuration, before);
        } catch (error) {
          life.crash(error);
        }
      });
      life.finally(stop);
      return stop;
    },
    addCacheLevel(level) {
      const remove = cache.addLevel(level);
      life.finally(remove);
      return remove;
    },
    serve(definition, implementation) {
      life.finally(serving.open(definition, implementation, within));
    },
    run: (name, loop) => life.run(name, loop),
    problem(name, sentence) {
      const key = `${life.service}: ${name}`;
      if (sentence === undefined) troubles.delete(key);
      else {
        if (!told.has(key)) life.finally(() => troubles.delete(key));
        told.add(key);
        troubles.set(key, sentence);
      }
    },
  };
}

function namesOf(definitions: readonly ServiceDefinition[]): string[] {
  return [...new Set(definitions.map(({ fullName }) => fullName))];
}

async function stopNode(node: NodeParts, grpc: GrpcServer, supervisor: Supervisor, drainMs: number): Promise<void> {
  const { log, mesh } = node;
  const startedAtMs = performance.now();
  log.info("draining: what runs ends whole, new calls go elsewhere");
  await mesh.drain();
  grpc.drain();
  // Calls that are on their way to this node still arrive; with nobody else there, there are none.
  if (mesh.directory.nodes().length > 1) await new Promise((resolve) => setTimeout(resolve, DRAIN_NOTICE_MS));
  await Promise.race([supervisor.drain(), new Promise((resolve) => setTimeout(resolve, drainMs).unref())]);
  await grpc.close(Math.max(0, drainMs - (performance.now() - startedAtMs)));
}

async function unwind(undo: (() => unknown)[], log: Host["log"]): Promise<void> {
  for (const step of undo.splice(0).reverse()) {
    try {
      await step();
    } catch (error) {
      log.warn({ err: error }, "something did not end well");
    }
  }
  log.flush();
}

async function listenGrpc(grpc: GrpcServer, { host, grpcPort }: Configuration): Promise<number> {
  try {
    return await grpc.listen(host, grpcPort);
  } catch (error) {
    throw portError(error, "gRPC", "CORTEX_GRPC_PORT", host, grpcPort);
  }
}

/**
 * Starts the server that answers for a node, unless it has a gateway, which does so, and is not told of another port. Returns its
 * host:port.
 */
async function startOperations(
  operations: Operations,
  configuration: Configuration,
  services: readonly ServiceEntry[],
  undo: (() => unknown)[],
): Promise<string | undefined> {
  const { host, metricsPort } = configuration;
  if (metricsPort === undefined && services.some(({ name }) => name === GATEWAY)) return undefined;
  try {
    const server = await listenForOperations(operations, { host, port: metricsPort ?? 0 });
    undo.push(() => server.close());
    return `${advertisedHost(configuration)}:${server.port}`;
  } catch (error) {
    throw portError(error, "metrics", "CORTEX_METRICS_PORT", host, metricsPort ?? 0);
  }
}

/** Where the node's gateway listens, as others reach it; empty if none does. */
function restAddress(supervisor: Supervisor, configuration: Configuration): string {
  const address = supervisor.running().find(({ addresses }) => addresses?.["REST"] !== undefined)?.addresses?.["REST"];
  return address === undefined ? "" : `${advertisedHost(configuration)}:${new URL(address).port}`;
}

/** Says what is wrong with an address to listen on and what to do about it; other errors as they are. */
export function portError(error: unknown, what: string, variable: string, host: string, port: number): Error {
  const { message } = error as Error;
  const place = `port ${port} on ${host}, which is to be Cortex's ${what} port,`;
  const choose = `choose another port: ${variable}=${port + 1} (0 takes any free one).`;
  if (message.includes("EADDRINUSE")) {
    return new StartError(`${place} is taken by another program.\nStop that program, or ${choose}`, { cause: error });
  }
  if (message.includes("EACCES")) {
    return new StartError(`${place} may not be used by this user.\nTo mend it, ${choose}`, { cause: error });
  }
  if (/EADDRNOTAVAIL|ENOTFOUND|EAI_AGAIN|EINVAL|Name resolution failed/.test(message)) {
    return new StartError(
      `HOST is ${host}, which is no address of this machine.\n` +
        "Set it to 127.0.0.1 to listen for this machine alone, or to 0.0.0.0 for everybody.",
      { cause: error },
    );
  }
  return error as Error;
}

/** What other nodes dial: the address listened on, or this machine's name when that is "every address". */
function advertisedHost({ host, hostname }: Configuration): string {
  return host === "0.0.0.0" || host === "::" ? hostname : host;
}
