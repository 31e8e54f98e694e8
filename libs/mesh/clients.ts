/**
 * Reaching a service wherever it lives: in this node by a function call, on another node over its channel. The choice is
 * made at each call, from the directory in memory.
 */
import {
  bind,
  type Call,
  type CarrierDependencies,
  type Channel,
  connect,
  type MethodDefinition,
  RpcError,
  type Service,
  type ServiceDefinition,
} from "../rpc/index.ts";
import type { Directory } from "./directory.ts";
import { Ownership } from "./ownership.ts";

/** How many nodes one call may be offered to when nodes are lost under it. */
const NODES_TRIED_MAX = 3;

/** The clients of a node. */
export interface Clients {
  /** Makes a service of this node callable without a socket. */
  addLocal<D extends ServiceDefinition>(definition: D, implementation: Service<D>): void;
  /** A service of this node is not there any more, or not now: its calls go to other nodes. */
  removeLocal(definition: ServiceDefinition): void;
  /**
   * A service that may have many replicas: this node's own if it has one, else the less busy of two random ones. When a node
   * is lost, or leaves, before it has answered, the call goes to another one. With no replica left: NODE_UNREACHABLE.
   */
  service<D extends ServiceDefinition>(definition: D): Service<D>;
  /** The service of one node, tried once: a lost node is NODE_UNREACHABLE, and the caller decides what then. */
  at<D extends ServiceDefinition>(definition: D, nodeId: string): Service<D>;
  /**
   * The id of the node that owns `key` among those that serve the definition, this one included; undefined when nobody does.
   * Cheap: every node tells it from its directory alone, and all that see the same nodes tell the same.
   */
  ownerOf(definition: ServiceDefinition, key: string): string | undefined;
  /** Calls to `nodeId` that have not ended, plus what the node itself last reported. */
  callsInFlight(nodeId: string): number;
  close(): void;
}

export interface ClientsOptions extends CarrierDependencies {
  readonly nodeId: string;
  /** Read at each new connection, as it may change. */
  readonly meshSecret: () => string | undefined;
  readonly directory: Directory;
  /** 0 ≤ x < 1; Math.random when absent. */
  readonly random?: () => number;
}

interface Peer {
  readonly channel: Channel;
  readonly services: Map<ServiceDefinition, Service<ServiceDefinition>>;
  callsInFlight: number;
}

type AnyMethod = (request: unknown, call: Call) => unknown;

/** Makes the clients of a node. */
export function createClients(options: ClientsOptions): Clients {
  const { directory, nodeId, log } = options;
  const random = options.random ?? Math.random;
  const local = new Map<string, Service<ServiceDefinition>>();
  const peers = new Map<string, Peer>();
  const balanced = new Map<ServiceDefinition, Service<ServiceDefinition>>();
  const ownership = new Ownership(directory);

  // A node that has left for good gives its connection back, and one that has moved gets another.
  const stopWatching = directory.onChange(() => {
    for (const [id, peer] of peers) {
      // Silent for so long that it is taken for dead: what it was doing for us it won't finish.
      if (peer.callsInFlight > 0 && !directory.known(id)) {
        peer.channel.abandonCalls(new RpcError("NODE_UNREACHABLE", `node ${id} has fallen silent`));
      }
      if (peer.callsInFlight === 0 && directory.node(id)?.address !== peer.channel.address) {
        peers.delete(id);
        peer.channel.close();
      }
    }
  });

  function peerOf(id: string): Peer {
    const known = peers.get(id);
    if (known !== undefined) return known;
    const address = directory.node(id)?.address;
    if (address === undefined) throw new RpcError("NODE_UNREACHABLE", `node ${id} is not in the directory`);
    const channel = connect(address, { meshSecret: options.meshSecret, target: `node ${id}` });
    channel.onConnection((connected) => {
      if (connected) directory.markReachable(id);
      else {
        log.warn({ peer: id, address }, "lost the connection to a node; it gets no calls until it is back");
        directory.markUnreachable(id);
      }
    });
    const peer: Peer = { channel, services: new Map(), callsInFlight: 0 };
    peers.set(id, peer);
    return peer;
  }

  function remote(definition: ServiceDefinition, id: string): { peer: Peer; service: Service<ServiceDefinition> } {
    const peer = peerOf(id);
    let service = peer.services.get(definition);
    if (service === undefined) {
      service = counted(definition, peer.channel.client(definition), peer);
      peer.services.set(definition, service);
    }
    return { peer, service };
  }

  function callsInFlight(id: string): number {
    return (peers.get(id)?.callsInFlight ?? 0) + (directory.node(id)?.load?.callsInFlight ?? 0);
  }

  /**
   * The less busy of two random replicas that have not been tried for this call. With none left it throws why the last one
   * failed: it may have known better than that it can't be reached.
   */
  function choose(interfaceName: string, tried: readonly string[], failure: unknown): string {
    const serving = directory.nodesServing(interfaceName).filter(({ id }) => id !== nodeId);
    const untried = serving.filter(({ id }) => !tried.includes(id));
    // One that was lost earlier and is there again has come back since.
    const replicas = untried.length > 0 ? untried : serving.filter(({ id }) => id !== tried.at(-1));
    if (replicas.length === 0) {
      throw failure ?? new RpcError("NODE_UNREACHABLE", `no node that serves ${interfaceName} can be reached`);
    }
    const one = replicas[Math.floor(random() * replicas.length)]!.id;
    const other = replicas[Math.floor(random() * replicas.length)]!.id;
    return callsInFlight(one) <= callsInFlight(other) ? one : other;
  }

  function goesElsewhere(thrown: unknown, tried: readonly string[]): boolean {
    if (!(thrown instanceof RpcError)) return false;
    const lost = thrown.reason === "NODE_UNREACHABLE" || thrown.reason === "NODE_DRAINING";
    return lost && tried.length < NODES_TRIED_MAX;
  }

  async function callUnary(definition: ServiceDefinition, key: string, request: unknown, call: Call): Promise<unknown> {
    const tried: string[] = [];
    let failure: unknown;
    for (;;) {
      const id = choose(definition.fullName, tried, failure);
      tried.push(id);
      try {
        return await methodOf(remote(definition, id).service, key)(request, call);
      } catch (thrown) {
        if (!goesElsewhere(thrown, tried)) throw thrown;
        failure = thrown;
      }
    }
  }

  async function* callStream(definition: ServiceDefinition, key: string, request: unknown, call: Call) {
    const tried: string[] = [];
    let failure: unknown;
    for (;;) {
      const id = choose(definition.fullName, tried, failure);
      tried.push(id);
      let begun = false;
      try {
        for await (const message of methodOf(remote(definition, id).service, key)(
          request,
          call,
        ) as AsyncIterable<unknown>) {
          begun = true;
          yield message;
        }
        return;
      } catch (thrown) {
        if (begun || !goesElsewhere(thrown, tried)) throw thrown;
        failure = thrown;
      }
    }
  }

  return {
    addLocal(definition, implementation) {
      const bound = bind(definition, implementation, "in_process", options);
      local.set(definition.fullName, bound as unknown as Service<ServiceDefinition>);
    },
    removeLocal(definition) {
      local.delete(definition.fullName);
    },
    service<D extends ServiceDefinition>(definition: D): Service<D> {
      const here = local.get(definition.fullName);
      if (here !== undefined) return here as unknown as Service<D>;
      let service = balanced.get(definition);
      if (service === undefined) {
        service = Object.fromEntries(
          Object.entries<MethodDefinition>(definition.methods).map(([key, { responseStream }]) => [
            key,
            (request: unknown, call: Call) =>
              responseStream ? callStream(definition, key, request, call) : callUnary(definition, key, request, call),
          ]),
        ) as Service<ServiceDefinition>;
        balanced.set(definition, service);
      }
      return service as unknown as Service<D>;
    },
    at<D extends ServiceDefinition>(definition: D, id: string): Service<D> {
      const service = id === nodeId ? local.get(definition.fullName) : remote(definition, id).service;
      if (service === undefined) {
        throw new RpcError("NODE_UNREACHABLE", `node ${id} does not serve ${definition.fullName}`);
      }
      return service as unknown as Service<D>;
    },
    ownerOf: ({ fullName }, key) => ownership.ownerOf(fullName, key),
    callsInFlight,
    close() {
      stopWatching();
      for (const { channel } of peers.values()) channel.close();
      peers.clear();
    },
  };
}

function methodOf(service: Service<ServiceDefinition>, key: string): AnyMethod {
  return (service as unknown as Record<string, AnyMethod>)[key]!;
}

/** The same service, with its calls counted for balancing. */
function counted(
  definition: ServiceDefinition,
  service: Service<ServiceDefinition>,
  peer: Peer,
): Service<ServiceDefinition> {
  const methods = Object.entries<MethodDefinition>(definition.methods).map(([key, { responseStream }]) => {
    const method = methodOf(service, key);
    if (responseStream) {
      return [
        key,
        (request: unknown, call: Call) => ({
          [Symbol.asyncIterator]: () =>
            new CountedStream((method(request, call) as AsyncIterable<unknown>)[Symbol.asyncIterator](), peer),
        }),
      ];
    }
    return [
      key,
      async (request: unknown, call: Call) => {
        peer.callsInFlight++;
        try {
          return await method(request, call);
        } finally {
          peer.callsInFlight--;
        }
      },
    ];
  });
  return Object.fromEntries(methods) as Service<ServiceDefinition>;
}

/** Hands a stream on and counts it until it ends, however it ends. */
class CountedStream implements AsyncIterator<unknown> {
  readonly #inner: AsyncIterator<unknown>;
  #peer: Peer | undefined;

  constructor(inner: AsyncIterator<unknown>, peer: Peer) {
    this.#inner = inner;
    this.#peer = peer;
    peer.callsInFlight++;
  }

  next(): Promise<IteratorResult<unknown>> {
    const answer = this.#inner.next();
    answer.then(
      ({ done }) => {
        if (done === true) this.#end();
      },
      () => this.#end(),
    );
    return answer;
  }

  return(): Promise<IteratorResult<unknown>> {
    this.#end();
    return this.#inner.return?.() ?? Promise.resolve({ done: true, value: undefined });
  }

  #end(): void {
    if (this.#peer !== undefined) this.#peer.callsInFlight--;
    this.#peer = undefined;
  }
}
