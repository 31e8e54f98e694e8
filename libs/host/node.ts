/** A node: one process that runs one or more services. What starts first, and in which order everything ends. */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createProviderService } from "../adapter/index.ts";
import { ProviderServiceDefinition } from "../gen/cortex/provider/v1/provider.ts";
import { createClients, joinMesh } from "../mesh/index.ts";
import { type Caller, createGrpcServer, type GrpcServer } from "../rpc/index.ts";
import { createLogger, setLevel, startTracer } from "../telemetry/index.ts";
import { createAuthenticator, sameSecret } from "./authentication.ts";
import type { Configuration } from "./config.ts";
import { checkMesh } from "./health.ts";
import { type Host, type RunningService, type ServiceEntry, StartError } from "./host.ts";
import { LiveConfiguration } from "./live-configuration.ts";
import { publishLoads } from "./worker-loads.ts";

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
  readonly host: Host;
  /** host:port of its gRPC server. */
  readonly grpcAddress: string;
  /** Where people reach its services: `REST` → `http://127.0.0.1:8080`. */
  readonly addresses: Readonly<Record<string, string>>;
  /** Drains and ends the node: streams that run end whole, new calls go elsewhere. */
  stop(): Promise<void>;
}

/** Starts a node. Throws StartError for what its user can mend. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { configuration, services, version } = options;
  const nodeId = `${configuration.nodeName.replaceAll(/[^A-Za-z0-9-]/g, "-").slice(0, 40)}-${randomBytes(4).toString("hex")}`;
  const startedAtMs = performance.now();
  const log = createLogger({ level: configuration.log.level, readable: options.readableLogs, node: nodeId });
  const tracer = await startTracer({
    recording: configuration.tracing,
    resource: {
      "service.name": services.length === 1 ? `cortex-${services[0]!.name}` : "cortex",
      "service.version": version,
      "service.instance.id": nodeId,
    },
  });
  // What is done to end the node if its start fails half way, last thing first.
  const undo: (() => unknown)[] = [() => tracer.shutdown()];
  try {
    let authenticate = createAuthenticator(configuration.clients);
    let meshSecret: () => string | undefined = () => undefined;
    const interfaces = [...new Set(services.flatMap((service) => service.interfaces.map(({ fullName }) => fullName)))];
    const grpc = createGrpcServer({
      tracer,
      log,
      descriptors: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
      interfaces,
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
        return { callsInFlight: grpc.callsInFlight, eventLoopDelayMs };
      },
      log,
    }).catch((error: unknown) => {
      throw new StartError((error as Error).message, { cause: error });
    });
    meshSecret = () => mesh.secret;
    undo.push(() => mesh.leave());

    const clients = createClients({ nodeId, directory: mesh.directory, meshSecret, tracer, log });
    undo.push(() => clients.close());
    const workers = createProviderService();
    undo.push(() => workers.close(), publishLoads(mesh, workers));
    const live = new LiveConfiguration({
      initial: configuration,
      load: options.reload ?? (() => configuration),
      log,
      onReloaded: () => {},
    });
    live.onChange(({ clients: known, log: { level } }) => {
      authenticate = createAuthenticator(known);
      setLevel(log, level);
    });
    const host: Host = {
      nodeId,
      get configuration() {
        return live.current;
      },
      onConfiguration: (listener) => live.onChange(listener),
      mesh,
      clients,
      workers,
      tracer,
      log,
      authenticate: (authorization) => authenticate(authorization),
      serve(definition, implementation) {
        clients.addLocal(definition, implementation);
        grpc.add(definition, implementation);
      },
      health: () =>
        checkMesh(mesh, {
          version,
          uptimeS: (performance.now() - startedAtMs) / 1_000,
          problems: live.problem === undefined ? [] : [live.problem],
        }),
    };
    if (services.some(({ adapter }) => adapter !== undefined)) host.serve(ProviderServiceDefinition, workers.service);

    // Adapters ask their providers whether they are there, so services start side by side.
    const started = await Promise.allSettled(services.map((service) => service.start(host)));
    const running = started.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
    for (const service of running) if (service.stop !== undefined) undo.push(() => service.stop!());
    const failed = started.find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    if (options.reload !== undefined) {
      live.follow();
      undo.push(() => live.stop());
    }
    await mesh.open();
    log.info({ services: services.map(({ name }) => name), grpc: grpcAddress }, "the node is ready");

    let stopped: Promise<void> | undefined;
    return {
      host,
      grpcAddress,
      addresses: Object.assign({}, ...running.map(({ addresses }) => addresses ?? {})) as Record<string, string>,
      stop() {
        stopped ??= stopNode(host, grpc, running, undo);
        return stopped;
      },
    };
  } catch (error) {
    await unwind(undo, log);
    throw error;
  }
}

async function stopNode(
  host: Host,
  grpc: GrpcServer,
  running: readonly RunningService[],
  undo: (() => unknown)[],
): Promise<void> {
  const { log, mesh, configuration } = host;
  const { drainMs } = configuration.node;
  const startedAtMs = performance.now();
  log.info("draining: what runs ends whole, new calls go elsewhere");
  await mesh.drain();
  grpc.drain();
  // Calls that are on their way to this node still arrive; with nobody else there, there are none.
  if (mesh.directory.nodes().length > 1) await new Promise((resolve) => setTimeout(resolve, DRAIN_NOTICE_MS));
  const drained = Promise.all(running.map((service) => service.drain?.()));
  await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, drainMs).unref())]);
  await grpc.close(Math.max(0, drainMs - (performance.now() - startedAtMs)));
  await unwind(undo, log);
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
