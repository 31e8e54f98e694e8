/**
 * `npm run bench -- --choosing`: what it costs the router to choose among a thousand workers, under each strategy.
 *
 * No worker is better than all others at first sight: all are in one tier, have the same priority, have something to do, have been
 * measured, have a price. Half of them have a limit, and two have been tried already. What is known of them has come over the
 * wire, so that equal strings are not the same strings.
 */
import { performance } from "node:perf_hooks";
import { WorkerLoads } from "../../libs/gen/cortex/events/v1/events.ts";
import { CompletionRequest, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import { BreakerState, Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { STRATEGY_NAMES, type StrategyName } from "../../libs/host/index.ts";
import { startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE, silentTracer } from "../../libs/telemetry/index.ts";
import { Admission } from "../../services/router/admission.ts";
import { Budget } from "../../services/router/budget.ts";
import { type Candidate, rankOf, WorkerIndex } from "../../services/router/candidates.ts";
import type { RouterState } from "../../services/router/dependencies.ts";
import { Latencies } from "../../services/router/latencies.ts";
import { Loads } from "../../services/router/loads.ts";
import { Plan } from "../../services/router/plan.ts";
import { Chooser } from "../../services/router/strategies.ts";
import { ChatTraits } from "../../services/router/traits.ts";
import { machine, table } from "./report.ts";

/** What a choice may cost. */
const CHOICE_MAX_US = 50;

const WORKERS = 1_000;
const MODEL = "llama-3.3-70b-versatile";
/** Long enough for CPU time that the system counts by ticks of 10 ms. */
const ROUND_MS = 200;
const ROUNDS = 5;

/** A cost in µs of CPU: the median of the rounds, and the best and the worst of them. */
interface Cost {
  readonly of: number;
  readonly from: number;
  readonly to: number;
}

interface Row {
  readonly strategy: StrategyName;
  /** `Chooser.next`. */
  readonly choice: Cost;
  /** From the model's name to the attempt that is to be made, and its end. */
  readonly attempt: Cost;
}

/** What was measured, as a section of docs/benchmarks.md; whether no choice costs more than it may. */
export function benchChoosing(date: string): { readonly section: string; readonly withinBudget: boolean } {
  const rows = STRATEGY_NAMES.map((strategy): Row => {
    const mesh = new Mesh(strategy);
    return { strategy, choice: costOf(() => mesh.choose()), attempt: costOf(() => mesh.attempt()) };
  });
  return { section: sectionOf(rows, date), withinBudget: rows.every(({ choice }) => choice.of <= CHOICE_MAX_US) };
}

const HEADING = "## Choosing among 1,000 workers";

function sectionOf(rows: readonly Row[], date: string): string {
  const cells = rows.map(({ strategy, choice, attempt }) => [
    strategy,
    choice.of.toFixed(1),
    `${choice.from.toFixed(1)}–${choice.to.toFixed(1)}`,
    `≤ ${CHOICE_MAX_US} ${choice.of <= CHOICE_MAX_US ? "(met)" : "(over)"}`,
    attempt.of.toFixed(1),
  ]);
  return `${HEADING}

Written by \`npm run bench -- --choosing\` on ${date}. Machine: ${machine()}.

${table(["strategy", "µs a choice", "min–max", "budget", "µs with its attempt"], cells)}

- A choice: the next worker for a request for which two of the thousand have been tried. All have the same priority, are measured, have
  a price and something to do, and half of them a limit, so that none drops out early. CPU time of the process, the
  median of ${ROUNDS} rounds of about ${ROUND_MS} ms after a warm-up.
- With its attempt: from the model's name to the first attempt, its span (not recorded), account and end; a short prompt.
`;
}

/** What a router knows of a mesh with so many workers. */
class Mesh {
  readonly #strategy: StrategyName;
  readonly #index: WorkerIndex;
  readonly #candidates: readonly Candidate[];
  readonly #tried: ReadonlySet<Candidate>;
  readonly #state: RouterState;
  readonly #completion: CompletionRequest;
  readonly #call = startCall({ tenant: "team-a", requestId: "r", trace: NO_TRACE });

  constructor(strategy: StrategyName) {
    this.#strategy = strategy;
    const now = () => performance.now();
    const loads = new Loads();
    const latencies = new Latencies({ now });
    this.#index = new WorkerIndex(
      Array.from({ length: WORKERS }, (_, index) => runningWorker(index)),
      {},
    );
    this.#candidates = this.#index.resolve(MODEL).candidates;
    this.#tried = new Set([this.#candidates[7]!, this.#candidates[WORKERS / 2]!]);
    for (let index = 0; index < WORKERS; index += 1) {
      for (let sample = 0; sample < 5; sample += 1) latencies.record(nameOf(index), MODEL, 100 + (index % 37));
      for (let own = 0; own <= index % 3; own += 1) loads.begin(nameOf(index));
    }
    const reported = Array.from({ length: WORKERS }, (_, index) => ({
      worker: nameOf(index),
      activeRequests: 3 + (index % 5),
    }));
    loads.report(WorkerLoads.decode(WorkerLoads.encode({ node: "node-0", loads: reported }).finish()));
    const admission = new Admission({ loads, limits: () => ({ size: 1_000, waitMaxMs: 1_000 }), now });
    const state: Partial<RouterState> = {
      nodeId: "node-1",
      telling: { tellAttempt: () => undefined } as unknown as RouterState["telling"],
      tracer: silentTracer,
      routing: () => ({ strategy, attemptsMax: 8, retryRatio: 0.2 }) as ReturnType<RouterState["routing"]>,
      now,
      random: Math.random,
      loads,
      latencies,
      admission,
      chooser: new Chooser({ loads, latencies, random: Math.random, now }),
      retries: new Budget(10),
      hedges: new Budget(10),
    };
    this.#state = state as RouterState;
    const said = { part: { $case: "text" as const, value: "What is the capital of France, and how many live there?" } };
    const messages = [{ role: Role.USER, content: [said] }];
    this.#completion = CompletionRequest.fromPartial({ model: MODEL, messages });
  }

  choose(): void {
    const traits = new ChatTraits(this.#completion, "team-a");
    this.#state.chooser.next(this.#strategy, this.#candidates, this.#tried, traits, tierOf);
  }

  attempt(): void {
    const request = {
      model: MODEL,
      traits: new ChatTraits(this.#completion, "team-a"),
      stream: true,
      routing: undefined,
      call: this.#call,
    };
    const attempt = new Plan(request, this.#index.resolve(MODEL), this.#state).next();
    if (attempt instanceof Promise) throw new Error("nobody could be asked at once");
    attempt.served();
  }
}

const tierOf = ({ info }: Candidate): number => rankOf(info);

/** A string of its own each time. */
function nameOf(index: number): string {
  return Buffer.from(`worker-${index.toString().padStart(4, "0")}`).toString();
}

function runningWorker(index: number): RunningWorker {
  const info = {
    name: nameOf(index),
    provider: "groq",
    models: [MODEL],
    capabilities: ["code", "tools"],
    priority: 50,
    weight: 1 + (index % 5),
    health: Health.AVAILABLE,
    breaker: BreakerState.CLOSED,
    concurrentRequestsMax: index % 2 === 0 ? 64 : 0,
    modelProperties: {
      "*": { inputCostUsdPerMillion: 0.1 + (index % 7), outputCostUsdPerMillion: 0.4 + (index % 11) },
    },
  };
  return RunningWorker.decode(RunningWorker.encode(RunningWorker.fromPartial({ node: "node-0", info })).finish());
}

function costOf(run: () => void): Cost {
  let times = 1;
  // By the end of it the compiler has seen enough.
  while (usedUs(run, times) < (ROUND_MS * 1_000) / 2) times *= 2;
  const rounds = Array.from({ length: ROUNDS }, () => usedUs(run, 2 * times) / times / 2).sort((a, b) => a - b);
  return { of: rounds[ROUNDS >> 1]!, from: rounds[0]!, to: rounds.at(-1)! };
}

/** What the process uses, its threads that compile and collect included: whatever else the machine does, does not count. */
function usedUs(run: () => void, times: number): number {
  const before = process.cpuUsage();
  for (let time = 0; time < times; time += 1) run();
  const { user, system } = process.cpuUsage(before);
  return user + system;
}
