/**
 * The gRPC server of a node: serves bound services to any gRPC client, with server reflection and the standard health
 * service (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
 */

import { randomUUID } from "node:crypto";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import {
  type Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import type { PackageDefinition } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation } from "grpc-health-check";
import { TransientSet } from "../collections/index.ts";
import { METRIC, type Metrics, parseTraceparent } from "../telemetry/index.ts";
import { type OwnedCall, startCall } from "./call.ts";
import { REFUSALS, RpcError } from "./errors.ts";
import { bind, type CarrierDependencies } from "./in-process.ts";
import type { Call, MethodDefinition, Service, ServiceDefinition } from "./service.ts";
import { toStatus } from "./status.ts";
import { describe, MESSAGE_BYTES_MAX, METADATA } from "./wire.ts";

/** Who calls, as far as the metadata of a call proves it. */
export interface Caller {
  /** The caller is a node of the mesh: its word on tenant, role and request id holds. */
  readonly trusted: boolean;
  /** The tenant of the client's key; for a trusted caller the tenant it speaks for. */
  readonly tenant: string;
  /** The client's key is an administrator's; not asked of a trusted caller. */
  readonly admin: boolean;
}

export interface GrpcServerOptions extends CarrierDependencies {
  /** Where calls are counted; nowhere when absent. */
  readonly metrics?: Metrics | undefined;
  /**
   * Decides who calls, by the values of the metadata `authorization` and `cortex-mesh-secret` (empty if absent). Throws
   * UNAUTHENTICATED. Not asked for reflection and health.
   */
  authenticate(authorization: string, meshSecret: string): Caller;
  /** All contracts, and the health service's, as an encoded FileDescriptorSet, for reflection. */
  readonly descriptors: Buffer;
  /** The full names of the services that reflection shows. */
  readonly interfaces: readonly string[];
  /** The full names of services that answer nodes of the mesh and administrators alone; others get PERMISSION_DENIED. */
  readonly meshOnly?: readonly string[];
}

/** The gRPC server of a node. */
export interface GrpcServer {
  /** Serves a service from now on, whether or not the server listens already. */
  add<D extends ServiceDefinition>(definition: D, implementation: Service<D>): void;
  /** What the health service says of a service that was added: whether it can be called now. */
  setServing(definition: ServiceDefinition, serving: boolean): void;
  /** Starts listening; 0 takes a free port. Returns the port. Rejects with the system's error (EADDRINUSE …). */
  listen(host: string, port: number): Promise<number>;
  /** Calls that are being served now. */
  readonly callsInFlight: number;
  /** Its node has started: health checks of the node as a whole answer SERVING from now on. */
  open(): void;
  /** Health checks answer NOT_SERVING from now on, so that balancers look elsewhere; calls are still served. */
  drain(): void;
  /** Stops listening, waits for calls to end, and after `graceMs` ends those that remain. */
  close(graceMs: number): Promise<void>;
}

/** Makes the gRPC server of a node. */
export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  const server = new Server({
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
    // Channelz keeps a record of every channel and call, and has leaked before (grpc-node #1958, #2068).
    "grpc.enable_channelz": 0,
    // Nodes ping idle connections to notice a dead peer.
    "grpc.keepalive_permit_without_calls": 1,
  });
  const attendants = new Attendants(server);
  const health = new HealthImplementation({ "": "NOT_SERVING" });
  health.addToServer(attendants as unknown as Parameters<HealthImplementation["addToServer"]>[0]);
  const visible = [...options.interfaces, HEALTH_SERVICE];
  const reflection = new ReflectionService(reflected(options.descriptors), { services: visible });
  reflection.addToServer(attendants as unknown as Server);
  const served: string[] = [];
  let draining = false;
  let closed = false;
  let callsInFlight = 0;

  function follow({ fullName }: ServiceDefinition, { name, responseStream }: MethodDefinition): Follow {
    const type = responseStream ? "server_stream" : "unary";
    return () => {
      const startedAtMs = performance.now();
      callsInFlight++;
      return (accepted, error) => {
        callsInFlight--;
        const { metrics } = options;
        if (metrics === undefined) return;
        const code = error === undefined ? "OK" : (status[error.code] ?? "UNKNOWN");
        metrics.add(METRIC.grpcHandled, 1, type, fullName, name, code);
        const seconds = (performance.now() - startedAtMs) / 1_000;
        metrics.observe(METRIC.grpcDuration, seconds, accepted?.call.trace, type, fullName, name);
        // A call from within the mesh is counted where its client's request came in.
        if (error !== undefined && accepted?.fromMesh !== true && REFUSALS.has(error.reason)) {
          metrics.add(METRIC.refusals, 1, "grpc", error.reason);
        }
      };
    };
  }

  function accept({ name, fullName }: ServiceDefinition, metadata: Metadata, deadline: Date | number): Accepted {
    const caller = options.authenticate(first(metadata, METADATA.authorization), first(metadata, METADATA.meshSecret));
    if (!caller.trusted && !caller.admin && options.meshOnly?.includes(fullName) === true) {
      throw new RpcError("PERMISSION_DENIED", `only nodes of the mesh and administrators may ask ${name}`);
    }
    const trace = parseTraceparent(first(metadata, METADATA.traceparent), first(metadata, METADATA.tracestate));
    const call = startCall({
      tenant: caller.trusted ? first(metadata, METADATA.tenant) || caller.tenant : caller.tenant,
      admin: caller.trusted ? first(metadata, METADATA.admin) !== "" : caller.admin,
      requestId: (caller.trusted && first(metadata, METADATA.requestId)) || randomUUID(),
      trace: trace ?? options.tracer.newTrace(),
      deadlineAtMs: typeof deadline === "number" ? deadline : deadline.getTime(),
    });
    return { call, fromMesh: caller.trusted };
  }

  return {
    add(definition, implementation) {
      const bound = bind(definition, implementation, "grpc", options) as Record<string, unknown>;
      const acceptHere: Accept = (metadata, deadline) => accept(definition, metadata, deadline);
      const handlers = Object.fromEntries(
        Object.entries<MethodDefinition>(definition.methods).map(([key, method]) => [
          key,
          method.responseStream
            ? serveStream(bound[key] as Streaming, acceptHere, follow(definition, method))
            : serveUnary(bound[key] as Unary, acceptHere, follow(definition, method)),
        ]),
      );
      server.addService(describe(definition), handlers as Parameters<Server["addService"]>[1]);
      health.setStatus(definition.fullName, draining ? "NOT_SERVING" : "SERVING");
      served.push(definition.fullName);
    },
    setServing({ fullName }, serving) {
      if (closed) return;
      health.setStatus(fullName, serving && !draining ? "SERVING" : "NOT_SERVING");
    },
    async listen(host, port) {
      const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
      return new Promise((resolve, reject) => {
        server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
          if (error === null) resolve(bound);
          else reject(error);
        });
      });
    },
    get callsInFlight() {
      return callsInFlight;
    },
    open() {
      if (!draining) health.setStatus("", "SERVING");
    },
    drain() {
      draining = true;
      for (const name of ["", ...served]) health.setStatus(name, "NOT_SERVING");
    },
    async close(graceMs) {
      closed = true;
      const force = setTimeout(() => server.forceShutdown(), graceMs);
      attendants.close();
      await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      clearTimeout(force);
    },
  };
}

/** A stream of health or reflection. */
type AttendantStream = { emit(event: "error", failure: object): void; on(event: string, listener: () => void): void };
type Handler = (call: AttendantStream, respond?: unknown) => void;

/**
 * The health and reflection services on a server. Their streams last as long as their clients like, and nobody's request is
 * served by them: when the server closes they are ended instead of waited for.
 */
class Attendants {
  readonly #server: Server;
  readonly #streams = new TransientSet<AttendantStream>();

  constructor(server: Server) {
    this.#server = server;
  }

  /** As `Server.addService`. */
  addService(definition: ServerService, handlers: Readonly<Record<string, Handler>>): void {
    const watched = Object.entries(handlers).map(([name, handler]): [string, Handler] => [
      name,
      (call, respond) => {
        if (respond === undefined) this.#watch(call);
        handler(call, respond);
      },
    ]);
    this.#server.addService(definition, Object.fromEntries(watched) as unknown as UntypedServiceImplementation);
  }

  close(): void {
    const failure = { code: status.UNAVAILABLE, details: "the node stops" };
    for (const stream of this.#streams) stream.emit("error", failure);
    this.#streams.clear();
  }

  #watch(stream: AttendantStream): void {
    this.#streams.add(stream);
    const forget = () => this.#streams.delete(stream);
    for (const event of ["cancelled", "finish", "error"]) stream.on(event, forget);
  }
}

type ServerService = Parameters<Server["addService"]>[0];

const HEALTH_SERVICE = "grpc.health.v1.Health";
/** `FileDescriptorSet.file`: field 1, length-delimited. */
const FILE_TAG = (1 << 3) | 2;

/**
 * What reflection answers from: the files of a FileDescriptorSet as buf wrote them. Loaded by proto-loader they would be
 * written anew, with relative names of types that other clients can't resolve.
 */
function reflected(descriptors: Buffer): PackageDefinition {
  const fileDescriptorProtos: Buffer[] = [];
  const reader = new BinaryReader(descriptors);
  while (reader.pos < reader.len) {
    if (reader.uint32() !== FILE_TAG) throw new Error("the descriptors are not a FileDescriptorSet");
    fileDescriptorProtos.push(Buffer.from(reader.bytes()));
  }
  const contracts = { fileDescriptorProtos } as unknown as PackageDefinition[string];
  return { contracts };
}

type Unary = (request: unknown, call: Call) => Promise<unknown>;
type Streaming = (request: unknown, call: Call) => AsyncIterable<unknown>;
/** A call that may be served. */
interface Accepted {
  readonly call: OwnedCall;
  /** A node of the mesh makes it. */
  readonly fromMesh: boolean;
}

type Accept = (metadata: Metadata, deadline: Date | number) => Accepted;
/** Begins to follow a call; what it returns is to be called at its end. */
type Follow = () => (accepted: Accepted | undefined, error: RpcError | undefined) => void;

function first(metadata: Metadata, key: string): string {
  const [value] = metadata.get(key);
  return typeof value === "string" ? value : "";
}

function serveUnary(method: Unary, accept: Accept, follow: Follow) {
  return async (rpc: ServerUnaryCall<unknown, unknown>, respond: sendUnaryData<unknown>): Promise<void> => {
    const ended = follow();
    let accepted: Accepted | undefined;
    let error: RpcError | undefined;
    try {
      accepted = accept(rpc.metadata, rpc.getDeadline());
      rpc.on("cancelled", accepted.call.cancel);
      respond(null, await method(rpc.request, accepted.call));
    } catch (thrown) {
      error = RpcError.from(thrown);
      respond(toStatus(error, accepted?.fromMesh === true));
    } finally {
      accepted?.call.finish();
      ended(accepted, error);
    }
  };
}

function serveStream(method: Streaming, accept: Accept, follow: Follow) {
  return async (rpc: ServerWritableStream<unknown, unknown>): Promise<void> => {
    const ended = follow();
    let accepted: Accepted | undefined;
    let error: RpcError | undefined;
    try {
      accepted = accept(rpc.metadata, rpc.getDeadline());
      const { call } = accepted;
      rpc.on("cancelled", () => call.cancel());
      for await (const message of method(rpc.request, call)) {
        if (!rpc.write(message)) await drained(rpc, call.signal);
      }
      rpc.end();
    } catch (thrown) {
      error = RpcError.from(thrown);
      const { code, details, metadata } = toStatus(error, accepted?.fromMesh === true);
      rpc.emit("error", { code, details, metadata });
    } finally {
      accepted?.call.finish();
      ended(accepted, error);
    }
  };
}

/** Waits until the reader has made room: this is what slows the provider down for a slow client. */
function drained(rpc: ServerWritableStream<unknown, unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      rpc.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    rpc.on("drain", done);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
