/** The gRPC carrier's calling end: one channel for each node, managed by us, so that routing and retries stay ours. */

import {
  Client,
  type ClientReadableStream,
  connectivityState,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { TransientSet } from "../collections/index.ts";
import { formatTraceparent } from "../telemetry/index.ts";
import { abortReason } from "./call.ts";
import type { RpcError } from "./errors.ts";
import type { Call, Carrier, MethodDefinition, Service, ServiceDefinition } from "./service.ts";
import { fromServiceError } from "./status.ts";
import { describe, MESSAGE_BYTES_MAX, METADATA } from "./wire.ts";

/** What the caller proves itself with. */
export interface ChannelOptions {
  /** The mesh's secret, between nodes. Read at each call, as it may change. */
  readonly meshSecret?: (() => string | undefined) | undefined;
  /** A client's key, for everyone else. */
  readonly clientKey?: string | undefined;
  /** What errors call the other end; by its address when absent, which only those may read who have given it. */
  readonly target?: string | undefined;
}

/** A connection to one node. */
export interface Channel extends Carrier {
  readonly address: string;
  /**
   * Called when the connection is lost or can't be made (false) and when it stands (true). From then on the channel tries
   * to reconnect by itself.
   */
  onConnection(listener: (connected: boolean) => void): void;
  /** Ends every call that runs on it, as its node is known to be gone though the connection may not have noticed. */
  abandonCalls(error: RpcError): void;
  /** Ends the connection; calls on it fail. */
  close(): void;
}

/** A call that runs. */
interface Ongoing {
  abandon(error: RpcError): void;
}

/** How many messages of a stream wait here for a slow reader before the sender is told to pause. */
const WAITING_MESSAGES_MAX = 16;

/** Opens a channel to `host:port`. It connects at the first call, or at once if somebody listens for its connection. */
export function connect(address: string, options: ChannelOptions): Channel {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
    // A connection on which nothing happens is not lost: whoever listens for it would be told so.
    "grpc.client_idle_timeout_ms": 2_147_483_647,
    // The router owns retries; a second layer would multiply attempts and hold messages of streams in a buffer.
    "grpc.enable_retries": 0,
    "grpc.enable_channelz": 0,
    "grpc.service_config_disable_resolution": 1,
    // Every channel has its own connection: closing one must not disturb another to the same address.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.enable_http_proxy": 0,
  });
  const target = options.target ?? `the node at ${address}`;
  let closed = false;
  const ongoing = new TransientSet<Ongoing>();

  function metadataOf(call: Call): Metadata {
    const metadata = new Metadata();
    metadata.set(METADATA.traceparent, formatTraceparent(call.trace));
    if (call.trace.state !== "") metadata.set(METADATA.tracestate, call.trace.state);
    const meshSecret = options.meshSecret?.();
    if (meshSecret !== undefined) {
      metadata.set(METADATA.meshSecret, meshSecret);
      metadata.set(METADATA.tenant, call.tenant);
      if (call.admin) metadata.set(METADATA.admin, "1");
      metadata.set(METADATA.requestId, call.requestId);
    }
    if (options.clientKey !== undefined) metadata.set(METADATA.authorization, `Bearer ${options.clientKey}`);
    return metadata;
  }

  return {
    address,
    client<D extends ServiceDefinition>(definition: D): Service<D> {
      const description = describe(definition);
      const methods = Object.entries<MethodDefinition>(definition.methods).map(([key, method]) => {
        const described = description[key]!;
        if (!method.responseStream) {
          return [
            key,
            (request: unknown, call: Call) => callUnary(client, described, request, call, metadataOf, target, ongoing),
          ];
        }
        return [
          key,
          (request: unknown, call: Call) => ({
            [Symbol.asyncIterator]: () =>
              new RemoteStream(
                (options) =>
                  client.makeServerStreamRequest(
                    described.path,
                    described.requestSerialize,
                    described.responseDeserialize,
                    request,
                    metadataOf(call),
                    options,
                  ),
                call,
                target,
                ongoing,
              ),
          }),
        ];
      });
      return Object.fromEntries(methods) as Service<D>;
    },
    abandonCalls(error) {
      for (const call of [...ongoing]) call.abandon(error);
    },
    onConnection(listener) {
      const channel = client.getChannel();
      let last: boolean | undefined;
      const watch = (): void => {
        if (closed) return;
        const state = channel.getConnectivityState(true);
        const connected = state === connectivityState.READY;
        const lost =
          state === connectivityState.TRANSIENT_FAILURE || (state === connectivityState.IDLE && last === true);
        if ((connected && last !== true) || (lost && last !== false)) {
          last = connected;
          listener(connected);
        }
        channel.watchConnectivityState(state, Number.POSITIVE_INFINITY, (error) => {
          if (error === undefined) watch();
        });
      };
      watch();
    },
    close() {
      closed = true;
      client.close();
    },
  };
}

type Described = ReturnType<typeof describe>[string];

function callUnary(
  client: Client,
  described: Described,
  request: unknown,
  call: Call,
  metadataOf: (call: Call) => Metadata,
  target: string,
  ongoing: TransientSet<Ongoing>,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    if (call.signal.aborted) {
      reject(abortReason(call.signal));
      return;
    }
    const onAbort = () => rpc.cancel();
    const self: Ongoing = {
      abandon(error) {
        ongoing.delete(self);
        reject(error);
        rpc.cancel();
      },
    };
    ongoing.add(self);
    const rpc = client.makeUnaryRequest(
      described.path,
      described.requestSerialize,
      described.responseDeserialize,
      request,
      metadataOf(call),
      { deadline: call.deadlineAtMs },
      (error, response) => {
        ongoing.delete(self);
        call.signal.removeEventListener("abort", onAbort);
        if (error === null) resolve(response);
        else reject(toRpcError(error, call, target));
      },
    );
    call.signal.addEventListener("abort", onAbort, { once: true });
  });
}

/** A stream from another node, read one message at a time; what waits here is bounded, then the sender pauses. */
class RemoteStream implements AsyncIterator<unknown>, Ongoing {
  readonly #rpc: ClientReadableStream<unknown> | undefined;
  readonly #signal: AbortSignal;
  readonly #onAbort = () => this.#rpc?.cancel();
  readonly #waiting: unknown[] = [];
  readonly #ongoing: TransientSet<Ongoing>;
  #pending: { resolve(result: IteratorResult<unknown>): void; reject(error: RpcError): void } | undefined;
  #failure: RpcError | undefined;
  #ended = false;

  constructor(
    start: (options: { deadline: number }) => ClientReadableStream<unknown>,
    call: Call,
    target: string,
    ongoing: TransientSet<Ongoing>,
  ) {
    this.#signal = call.signal;
    this.#ongoing = ongoing;
    if (call.signal.aborted) {
      this.#end(abortReason(call.signal));
      return;
    }
    const rpc = start({ deadline: call.deadlineAtMs });
    this.#rpc = rpc;
    ongoing.add(this);
    call.signal.addEventListener("abort", this.#onAbort, { once: true });
    rpc.on("data", (message: unknown) => {
      if (this.#pending !== undefined) {
        const { resolve } = this.#pending;
        this.#pending = undefined;
        resolve({ done: false, value: message });
        return;
      }
      if (this.#waiting.push(message) >= WAITING_MESSAGES_MAX) rpc.pause();
    });
    rpc.on("end", () => this.#end(undefined));
    rpc.on("error", (error: ServiceError) => this.#end(toRpcError(error, call, target)));
  }

  next(): Promise<IteratorResult<unknown>> {
    if (this.#waiting.length > 0) {
      const value = this.#waiting.shift();
      if (this.#waiting.length === 0 && this.#rpc!.isPaused()) this.#rpc!.resume();
      return Promise.resolve({ done: false, value });
    }
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      return Promise.reject(failure);
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject };
    });
  }

  abandon(error: RpcError): void {
    this.#end(error);
    this.#rpc?.cancel();
  }

  return(): Promise<IteratorResult<unknown>> {
    if (!this.#ended) {
      this.#end(undefined);
      this.#rpc?.cancel();
    }
    this.#waiting.length = 0;
    return Promise.resolve({ done: true, value: undefined });
  }

  #end(failure: RpcError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#ongoing.delete(this);
    this.#signal.removeEventListener("abort", this.#onAbort);
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending === undefined) this.#failure = failure;
    else if (failure === undefined) pending.resolve({ done: true, value: undefined });
    else pending.reject(failure);
  }
}

function toRpcError(error: ServiceError, call: Call, target: string): RpcError {
  if (call.signal.aborted && (error.code === status.CANCELLED || error.code === status.DEADLINE_EXCEEDED)) {
    return abortReason(call.signal);
  }
  return fromServiceError(error, target);
}
