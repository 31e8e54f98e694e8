/** Makes the services of a node reachable, and refuses their calls while they are being restarted. */
import type { Clients } from "../mesh/index.ts";
import { type Call, type GrpcServer, RpcError, type Service, type ServiceDefinition } from "../rpc/index.ts";

type AnyMethod = (request: unknown, call: Call) => unknown;
type Methods = Readonly<Record<string, AnyMethod>>;
/** Runs a function as a service's own. */
type Within = <A extends unknown[], T>(work: (...args: A) => T, ...args: A) => T;

/** What stands at the address of a service; behind it there is the service, or nobody. */
interface Gate {
  readonly methods: Methods;
  behind: { readonly service: Methods; readonly within: Within } | undefined;
}

/** The services that a node answers. */
export class Serving {
  readonly #clients: Clients;
  readonly #grpc: GrpcServer;
  readonly #gates = new Map<string, Gate>();

  constructor(clients: Clients, grpc: GrpcServer) {
    this.#clients = clients;
    this.#grpc = grpc;
  }

  /**
   * Makes a service reachable: in this node, from other nodes, and for any gRPC client. `within` runs its methods. Returns how
   * to take it away; its calls then go to other nodes, and those that come here all the same are refused with NODE_UNREACHABLE.
   */
  open<D extends ServiceDefinition>(definition: D, implementation: Service<D>, within: Within = directly): () => void {
    const known = this.#gates.get(definition.fullName);
    const gate = known ?? createGate(definition);
    const behind = { service: bound(definition, implementation as unknown as Methods), within };
    gate.behind = behind;
    const service = gate.methods as unknown as Service<D>;
    this.#clients.addLocal(definition, service);
    if (known === undefined) {
      this.#gates.set(definition.fullName, gate);
      this.#grpc.add(definition, service);
    } else this.#grpc.setServing(definition, true);
    return () => {
      if (gate.behind !== behind) return;
      gate.behind = undefined;
      this.#clients.removeLocal(definition);
      this.#grpc.setServing(definition, false);
    };
  }
}

function createGate(definition: ServiceDefinition): Gate {
  const methods: Record<string, AnyMethod> = {};
  const gate: Gate = { methods, behind: undefined };
  for (const key of Object.keys(definition.methods)) {
    methods[key] = (request, call) => {
      const { behind } = gate;
      if (behind === undefined) {
        throw new RpcError("NODE_UNREACHABLE", `${definition.name} is being restarted on this node`);
      }
      return behind.within(behind.service[key]!, request, call);
    };
  }
  return gate;
}

function bound(definition: ServiceDefinition, implementation: Methods): Methods {
  return Object.fromEntries(
    Object.keys(definition.methods).map((key) => [key, implementation[key]!.bind(implementation)]),
  );
}

const directly: Within = (work, ...args) => work(...args);
