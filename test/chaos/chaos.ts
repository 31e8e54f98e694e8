/**
 * Chaos: a mesh of many nodes under a steady load, of which providers, adapters, routers and nats-server die, freeze and
 * misbehave at random, always so that one healthy way is left. No client may see anything of it but a pause.
 */
import { startMesh, type TestMesh } from "../mesh.ts";
import { Load, type Tally } from "./load.ts";
import { Random } from "./random.ts";
import { type Harm, MODEL, NatsVictim, NodeVictim, ProviderVictim, unsettled, type Victim } from "./victims.ts";

/** How many of a kind may be hurt at the same time; they are 3 providers, 2 adapters, 2 routers and one nats-server. */
const HURT_MAX: Readonly<Record<Victim["kind"], number>> = { provider: 2, adapter: 1, router: 1, nats: 1 };
/** Between two blows. */
const PAUSE_MS = [300, 2_000] as const;
/** A provider that works again is trusted again after its breaker's rest. */
const TRUST_MS = 1_500;
const SETTLED_WITHIN_MS = 40_000;
/** Quiet before the first blow and after the last one. */
const QUIET_MS = 1_000;

export interface ChaosOptions {
  readonly seconds: number;
  readonly seed: number;
  /** Questions a second. */
  readonly rate: number;
  /** Told of every blow. */
  readonly onEvent?: (line: string) => void;
}

/** Something that happened to a victim. */
export interface ChaosEvent {
  readonly atMs: number;
  readonly what: string;
}

export interface ChaosReport {
  readonly options: { readonly seconds: number; readonly seed: number; readonly rate: number };
  readonly events: readonly ChaosEvent[];
  /** How often each blow was struck. */
  readonly blows: Readonly<Record<string, number>>;
  readonly tally: Tally;
  /** What did not come back. */
  readonly unhealed: readonly string[];
  /** What the processes of Cortex have written about requests that failed. */
  readonly logs: Readonly<Record<string, readonly string[]>>;
}

/** Runs it to its end; whatever happens, every process ends with it. */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const providers = await Promise.all([1, 2, 3].map((number) => ProviderVictim.start(`provider ${number}`)));
  try {
    const mesh = await startMesh("many nodes", {
      workers: providers.map(({ url }, index) => ({
        name: `${MODEL}-${index + 1}`,
        provider: "openai",
        baseUrl: url,
        keys: ["chaos"],
        models: [MODEL],
        timeouts: { connectMs: 1_000, firstTokenMs: 1_500, stallMs: 1_500 },
        breaker: { resetMs: 1_000 },
      })),
      settings: { routing: { strategy: "round_robin" } },
      replicas: { router: 2, "adapter-openai": 2 },
    });
    const nats = new NatsVictim(mesh);
    try {
      return await new Chaos(mesh, providers, nats, options).run();
    } finally {
      for (const node of mesh.nodes) node.kill("SIGCONT");
      nats.signal("SIGCONT");
      await mesh[Symbol.asyncDispose]();
    }
  } finally {
    await Promise.all(providers.map((provider) => provider.stop()));
  }
}

class Chaos {
  readonly #mesh: TestMesh;
  readonly #victims: readonly Victim[];
  readonly #routers: readonly NodeVictim[];
  readonly #adapters: readonly NodeVictim[];
  readonly #options: ChaosOptions;
  readonly #random: Random;
  readonly #events: ChaosEvent[] = [];
  readonly #blows: Record<string, number> = {};
  readonly #unhealed: string[] = [];
  readonly #hurt = new Map<Victim, Promise<void>>();
  readonly #startedAtMs = performance.now();

  constructor(mesh: TestMesh, providers: readonly Victim[], nats: Victim, options: ChaosOptions) {
    this.#mesh = mesh;
    this.#options = options;
    this.#random = new Random(options.seed);
    const nodes = (kind: "adapter" | "router", service: string) =>
      [service, `${service}-2`].map(
        (name, index) => new NodeVictim(kind, `${kind} ${index + 1}`, mesh.node(name), mesh),
      );
    this.#routers = nodes("router", "router");
    this.#adapters = nodes("adapter", "adapter-openai");
    this.#victims = [...providers, ...this.#adapters, ...this.#routers, nats];
  }

  async run(): Promise<ChaosReport> {
    const { seconds, seed, rate } = this.#options;
    await this.#settle("the beginning");
    const load = new Load({
      door: { baseUrl: `${this.#mesh.rest}/v1`, headers: {} },
      model: MODEL,
      perSecond: rate,
      random: new Random(seed + 1),
      startedAtMs: this.#startedAtMs,
    });
    try {
      await sleep(QUIET_MS);
      while (performance.now() - this.#startedAtMs < seconds * 1_000) {
        this.#strike();
        await sleep(this.#random.between(...PAUSE_MS));
      }
      await Promise.all(this.#hurt.values());
      await sleep(QUIET_MS);
    } finally {
      await load.stop();
      await Promise.all(this.#hurt.values());
    }
    const logs = load.tally.failures.slice(0, 10).map(({ traceId, requestId }) => [requestId, this.#logOf(traceId)]);
    return {
      options: { seconds, seed, rate },
      events: this.#events,
      blows: this.#blows,
      tally: load.tally,
      unhealed: this.#unhealed,
      logs: Object.fromEntries(logs),
    };
  }

  /** Hurts somebody who may be hurt now. */
  #strike(): void {
    const hurt = [...this.#hurt.keys()];
    const may = this.#victims.filter(
      (victim) =>
        !hurt.includes(victim) && hurt.filter(({ kind }) => kind === victim.kind).length < HURT_MAX[victim.kind],
    );
    if (may.length === 0) return;
    const victim = this.#random.of(may);
    const harm = this.#random.of(victim.harms);
    const forMs = this.#random.between(...harm.ms);
    const done = this.#harm(victim, harm, forMs).then(
      () => void this.#hurt.delete(victim),
      // It stays hurt: nobody of its kind may be hurt any more.
      (error: unknown) => this.#tell(`${victim.name} did not heal: ${(error as Error).message}`, true),
    );
    this.#hurt.set(victim, done);
  }

  async #harm(victim: Victim, harm: Harm, forMs: number): Promise<void> {
    const blow = `${victim.kind} ${harm.name}`;
    this.#blows[blow] = (this.#blows[blow] ?? 0) + 1;
    this.#tell(`${victim.name} ${harm.name} for ${(forMs / 1_000).toFixed(1)} s`);
    await harm.hurt();
    await sleep(forMs);
    await harm.heal();
    this.#tell(`${victim.name} is back`);
    if (victim.kind === "provider") await sleep(TRUST_MS);
    else await this.#settle(victim.name);
  }

  /** Waits until the mesh is whole again as far as nobody else is hurt. */
  async #settle(after: string): Promise<void> {
    const deadlineMs = performance.now() + SETTLED_WITHIN_MS;
    for (;;) {
      const missing = await this.#missing();
      if (missing === undefined) return;
      if (performance.now() > deadlineMs) throw new Error(`after ${after}, still: ${missing}`);
      await sleep(100);
    }
  }

  async #missing(): Promise<string | undefined> {
    try {
      return await unsettled(this.#mesh, this.#routers, this.#adapters);
    } catch (error) {
      return (error as Error).message;
    }
  }

  #tell(what: string, unhealed = false): void {
    const atMs = performance.now() - this.#startedAtMs;
    this.#events.push({ atMs, what });
    if (unhealed) this.#unhealed.push(what);
    this.#options.onEvent?.(`${(atMs / 1_000).toFixed(1).padStart(6)} s  ${what}`);
  }

  #logOf(traceId: string): string[] {
    if (traceId === "") return [];
    return this.#mesh.nodes.flatMap((node) =>
      node
        .output()
        .split("\n")
        .filter((line) => line.includes(traceId))
        .map((line) => `${node.name} ${line}`),
    );
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
