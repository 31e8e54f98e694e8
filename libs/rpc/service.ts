/**
 * A service, whichever way it is reached: what it implements and what its client offers are one type, derived from the
 * generated definition. Which carrier brings a call to it is invisible to both sides.
 */
import type { TraceContext } from "../telemetry/index.ts";

/** What ts-proto generates for a message type: how to put it on the wire and take it off. */
export interface MessageType<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(input: Uint8Array): T;
}

/** One method of a generated service definition. */
export interface MethodDefinition {
  readonly name: string;
  // biome-ignore lint/suspicious/noExplicitAny: the message types of a method are known only where a definition is named.
  readonly requestType: MessageType<any>;
  readonly requestStream: boolean;
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  readonly responseType: MessageType<any>;
  readonly responseStream: boolean;
}

/** What ts-proto generates for a service (`outputServices=generic-definitions`). */
export interface ServiceDefinition {
  readonly name: string;
  readonly fullName: string;
  readonly methods: Readonly<Record<string, MethodDefinition>>;
}

/** What accompanies every call: how to give it up, until when, for whom, and as part of which trace. */
export interface Call {
  /** Aborted when the caller goes away or the deadline passes; its reason is an RpcError. */
  readonly signal: AbortSignal;
  /** Milliseconds since the Unix epoch; Infinity for none. */
  readonly deadlineAtMs: number;
  /** Whom the client's key belongs to. */
  readonly tenant: string;
  /** Whoever calls may change the mesh: add workers, drain them, and the like. */
  readonly admin: boolean;
  /** Names the client's request in logs and headers, the same in every call made for it. */
  readonly requestId: string;
  /** The span that makes the call, as parent of what the call does. */
  readonly trace: TraceContext;
}

type RequestOf<M extends MethodDefinition> = M["requestType"] extends MessageType<infer T> ? T : never;
type ResponseOf<M extends MethodDefinition> = M["responseType"] extends MessageType<infer T> ? T : never;

/** A method: a promise for one answer, or an async iterable for a stream of them. Messages are shared: never change one. */
export type Method<M extends MethodDefinition> = (
  request: RequestOf<M>,
  call: Call,
) => M["responseStream"] extends true ? AsyncIterable<ResponseOf<M>> : Promise<ResponseOf<M>>;

/** What a service implements, and what its client offers. */
export type Service<D extends ServiceDefinition> = {
  readonly [K in keyof D["methods"]]: Method<D["methods"][K]>;
};

/** A way to reach services: in process, plain gRPC, and later links. All behave alike; the contract suite shows it. */
export interface Carrier {
  /** The service at the other end. Cheap: call it as often as convenient. */
  client<D extends ServiceDefinition>(definition: D): Service<D>;
}
