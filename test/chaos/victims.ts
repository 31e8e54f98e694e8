/** Everything that can be hurt, how, and how it heals. */
import { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { ask, type TestMesh, type TestNode } from "../mesh.ts";
import { replyTo } from "./load.ts";

/** The worker's and its model's names. */
export const MODEL = "chaos";

/** One way to hurt a victim. */
export interface Harm {
  readonly name: string;
  /** How long it stays so. */
  readonly ms: readonly [least: number, most: number];
  hurt(): Promise<void> | void;
  heal(): Promise<void> | void;
}

export interface Victim {
  readonly name: string;
  /** Of its kind one at least is always left alone, unless the kind can be spared altogether. */
  readonly kind: "provider" | "adapter" | "router" | "nats";
  readonly harms: readonly Harm[];
}

/** A simulated provider, with its address for life. */
export class ProviderVictim implements Victim {
  readonly kind = "provider";
  readonly name: string;
  #simulator: Simulator;

  constructor(name: string, simulator: Simulator) {
    this.name = name;
    this.#simulator = simulator;
    simulator.behave(replyTo);
  }

  static async start(name: string): Promise<ProviderVictim> {
    return new ProviderVictim(name, await startOpenAiSimulator());
  }

  get url(): string {
    return this.#simulator.url;
  }

  stop(): Promise<void> {
    return this.#simulator.stop();
  }

  readonly harms: readonly Harm[] = [
    {
      name: "dies",
      ms: [300, 5_000],
      hurt: () => this.#simulator.stop(),
      heal: async () => {
        this.#simulator = await startOpenAiSimulator({ port: this.#simulator.port });
        this.#simulator.behave(replyTo);
      },
    },
    this.#misbehaves("answers 500", "status:500"),
    this.#misbehaves("stalls", "stall"),
    this.#misbehaves("stalls after 3 tokens", "stall:3"),
    this.#misbehaves("cuts every stream off after 4 tokens", "cut:4"),
    this.#misbehaves("ends every stream after 6 tokens", "end:6"),
    this.#misbehaves("reports errors after 2 tokens", "error:2"),
  ];

  #misbehaves(name: string, behaviour: string): Harm {
    return {
      name,
      ms: [500, 5_000],
      hurt: () => this.#simulator.behave((index, request) => `${replyTo(index, request)},${behaviour}`),
      heal: () => this.#simulator.behave(replyTo),
    };
  }
}

/** A process of Cortex; another one takes its place when it is killed. */
export class NodeVictim implements Victim {
  readonly name: string;
  readonly kind: "adapter" | "router";
  readonly #mesh: TestMesh;
  #node: TestNode;

  constructor(kind: "adapter" | "router", name: string, node: TestNode, mesh: TestMesh) {
    this.kind = kind;
    this.name = name;
    this.#node = node;
    this.#mesh = mesh;
  }

  get node(): TestNode {
    return this.#node;
  }

  readonly harms: readonly Harm[] = [
    {
      name: "is killed",
      ms: [200, 3_000],
      hurt: async () => {
        this.#node.kill("SIGKILL");
        await this.#node.exited;
      },
      heal: () => this.#restart(),
    },
    {
      name: "is stopped in an orderly way",
      ms: [200, 2_000],
      hurt: () => this.#node.kill("SIGTERM"),
      heal: () => this.#restart(),
    },
    {
      name: "freezes",
      ms: [500, 10_000],
      hurt: () => this.#node.kill("SIGSTOP"),
      heal: () => this.#node.kill("SIGCONT"),
    },
  ];

  async #restart(): Promise<void> {
    this.#node = await this.#mesh.run(this.kind === "adapter" ? "adapter-openai" : "router");
  }
}

/** The nats-server of the mesh. */
export class NatsVictim implements Victim {
  readonly kind = "nats";
  readonly name = "nats-server";
  readonly #mesh: TestMesh;

  constructor(mesh: TestMesh) {
    this.#mesh = mesh;
  }

  readonly harms: readonly Harm[] = [
    {
      name: "is killed",
      ms: [200, 4_000],
      hurt: async () => {
        this.signal("SIGKILL");
        await this.#mesh.nats.exited;
      },
      heal: async () => void (await this.#mesh.reviveNats()),
    },
    {
      name: "freezes",
      ms: [500, 8_000],
      hurt: () => this.signal("SIGSTOP"),
      heal: () => this.signal("SIGCONT"),
    },
  ];

  /** Nothing happens to one that has ended. */
  signal(signal: NodeJS.Signals): void {
    try {
      process.kill(this.#mesh.nats.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** Whether everybody who is alive knows everybody else: then the next one may be hurt. Undefined, or what is missing. */
export async function unsettled(
  mesh: TestMesh,
  routers: readonly NodeVictim[],
  adapters: readonly NodeVictim[],
): Promise<string | undefined> {
  const health = (await (await fetch(`${mesh.rest}/api/health`)).json()) as { nodes: number; nats_connected: boolean };
  const living = 1 + routers.length + adapters.length;
  if (!health.nats_connected) return "the gateway has no NATS";
  if (health.nodes !== living) return `the gateway knows ${health.nodes} of ${living} nodes`;
  const wanted = adapters.map(({ node }) => node.id).sort();
  for (const { name, node } of routers) {
    const { workers } = await ask(node.grpc, (channel, call) =>
      channel.client(RegistryServiceDefinition).get({ name: `${MODEL}-1` }, call),
    );
    const known = workers.map((worker) => worker.node).sort();
    if (known.join() !== wanted.join()) return `${name} knows the adapters ${known} instead of ${wanted}`;
  }
  return undefined;
}
