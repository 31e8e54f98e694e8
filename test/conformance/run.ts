/** Plays scenarios against a gateway, several at a time, and says how each went. */
import type { Gateway } from "./gateways.ts";
import type { Scenario } from "./scenario.ts";
import { type Stage, type StagePlan, setStage } from "./stage.ts";
import { Mismatch } from "./verdict.ts";

/** More would only wait for the processor, and be late for what they measure. */
const CONCURRENT = 8;
const SCENARIO_WITHIN_MS = 60_000;

/** How one scenario went. */
export interface Result {
  readonly group: string;
  readonly name: string;
  readonly must: string;
  readonly passed: boolean;
  readonly seen: string;
  /** The answer was cut short, and nothing said so. */
  readonly silent: boolean;
  readonly durationMs: number;
}

/** A run that is under way. */
export interface Run {
  readonly gateway: string;
  /** Settles when the scenario of this name is over; never rejects. */
  result(name: string): Promise<Result>;
  /** All of them, in the order of the scenarios. */
  readonly results: Promise<Result[]>;
  /** Ends the gateway and the providers. */
  stop(): Promise<void>;
}

export interface RunOptions {
  readonly scenarios: readonly Scenario[];
  /** Where the ports of the providers begin; free ones for 0. */
  readonly port?: number;
  /** Starts the gateway, or waits until its operator has. */
  readonly start: (stages: readonly StagePlan[]) => Promise<Gateway>;
  /** Told of each scenario that is over. */
  readonly onResult?: (result: Result) => void;
}

/** The name as part of a model's and a worker's name; the number keeps it apart from others like it. */
function slug(name: string, number: number): string {
  const words = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
  return `s${number}-${words.slice(0, 40)}`.replace(/-$/, "");
}

/** Sets all stages, starts the gateway and begins. */
export async function startRun({ scenarios, port = 0, start, onResult }: RunOptions): Promise<Run> {
  const sets: Stage[][] = [];
  let nextPort = port;
  const stopStages = () => Promise.all(sets.flat().map((stage) => stage.stop()));
  let gateway: Gateway;
  try {
    for (const [number, { name, stages = 1, providers = 2, concurrent, flavor }] of scenarios.entries()) {
      const set: Stage[] = [];
      sets.push(set);
      for (let index = 0; index < stages; index += 1) {
        const model = slug(name, number + 1) + (stages > 1 ? `-${"abc"[index]}` : "");
        set.push(await setStage({ model, providers, port: nextPort, concurrent, flavor }));
        if (port !== 0) nextPort += providers;
      }
    }
    gateway = await start(sets.flat().map(({ plan }) => plan));
  } catch (error) {
    await stopStages();
    throw error;
  }
  for (const stage of sets.flat()) stage.enter(gateway.doorTo(stage.plan));

  const results = new Map(scenarios.map(({ name }) => [name, Promise.withResolvers<Result>()]));
  const waiting = scenarios.map((scenario, index) => ({ scenario, stages: sets[index]! }));
  // The long ones first, so that the end does not wait for one that began late.
  const queue = waiting.sort((one, other) => lengthOf(other.scenario) - lengthOf(one.scenario));
  const playing = Array.from({ length: CONCURRENT }, async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const result = await play(next.scenario, next.stages);
      onResult?.(result);
      results.get(next.scenario.name)!.resolve(result);
    }
  });
  return {
    gateway: gateway.name,
    result: (name) => results.get(name)!.promise,
    results: Promise.all(scenarios.map(({ name }) => results.get(name)!.promise)),
    stop: async () => {
      queue.length = 0;
      await Promise.all(playing);
      await gateway.stop();
      await stopStages();
    },
  };
}

/** Outages and limits are about seconds. */
function lengthOf({ group }: Scenario): number {
  return group === "outage" ? 2 : group === "limits" ? 1 : 0;
}

async function play(scenario: Scenario, stages: Stage[]): Promise<Result> {
  const { group, name, must } = scenario;
  const startedAtMs = performance.now();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Mismatch("it took longer than a minute")), SCENARIO_WITHIN_MS);
  });
  const outcome = await Promise.race([scenario.run(...stages), late]).then(
    (seen) => ({ passed: true, seen, silent: false }),
    (error: unknown) =>
      error instanceof Mismatch
        ? { passed: false, seen: error.message, silent: error.silent }
        : { passed: false, seen: `the suite failed: ${(error as Error).stack}`, silent: false },
  );
  clearTimeout(timer);
  return { group, name, must, ...outcome, durationMs: Math.round(performance.now() - startedAtMs) };
}
