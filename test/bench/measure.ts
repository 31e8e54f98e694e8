/** The course of a run: warm up, look at the memory, then rounds that visit every target in turn. */
import { setTimeout as sleep } from "node:timers/promises";
import type {
  CallsJob,
  CallsResult,
  CrowdJob,
  CrowdResult,
  Job,
  MemoryJob,
  MemoryResult,
  Outcome,
  TokensJob,
  TokensResult,
} from "./load.ts";
import type { Started } from "./processes.ts";
import type { Key, Target } from "./targets.ts";
import { type Process, processTree } from "./usage.ts";

export type Plan = {
  rounds: number;
  /** So many calls, but not for longer than that: V8 goes on improving its code for thousands of them. */
  warmUp: { calls: number; callsMs: number; tokensMs: number };
  calls: { concurrency: number; forMs: number };
  /** One caller alone: what a call takes when nothing waits for anything. */
  alone: { forMs: number };
  tokens: { streams: number; everyMs: number; rampMs: number; windowMs: number };
  /** Left out when there is no time for enough streams: with few, the heap's own breathing is larger. */
  memory?: { base: number; streams: number };
};

export const FULL: Plan = {
  rounds: 5,
  warmUp: { calls: 15_000, callsMs: 14_000, tokensMs: 3_000 },
  calls: { concurrency: 16, forMs: 1_200 },
  alone: { forMs: 400 },
  tokens: { streams: 200, everyMs: 50, rampMs: 500, windowMs: 2_500 },
  memory: { base: 1_000, streams: 2_000 },
};

export const QUICK: Plan = {
  rounds: 2,
  warmUp: { calls: 6_000, callsMs: 2_400, tokensMs: 600 },
  calls: { concurrency: 16, forMs: 600 },
  alone: { forMs: 200 },
  tokens: { streams: 200, everyMs: 50, rampMs: 300, windowMs: 700 },
};

const WARM_UP_STEP_MS = 600;

/** µs of CPU: of the target's own processes, and of the nats-server beside them. */
export type Cpu = { ownUs: number; natsUs: number };

export type Round = {
  perCall: Cpu;
  perToken: Cpu;
  calls: number;
  tokens: number;
  expectedTokens: number;
  /** Tokens that came with one read of a stream; 1 when none were batched. */
  tokensPerRead: number;
};

export type Measurement = {
  key: Key;
  rounds: Round[];
  bytesPerStream?: number;
  /** Of all rounds together. */
  callsAloneMs: number[];
  firstTokensMs: number[];
  failures: string[];
};

/** A job that has not come back by then never will: longer than any plan asks for. */
const JOB_WITHIN_MS = 60_000;
const USABLE_WITHIN_MS = 20_000;

/** Talks to the load generator; one job at a time. */
export class Generator {
  readonly #started: Started;
  /** After a job that never ended no other is given: its answer could be taken for the answer to the next. */
  #stuck = false;

  constructor(started: Started) {
    this.#started = started;
  }

  do(job: CallsJob): Promise<Outcome<CallsResult>>;
  do(job: TokensJob): Promise<Outcome<TokensResult>>;
  do(job: MemoryJob): Promise<Outcome<MemoryResult>>;
  do(job: CrowdJob): Promise<Outcome<CrowdResult>>;
  do(job: Job): Promise<Outcome<unknown>> {
    const { child } = this.#started;
    if (this.#stuck) return Promise.reject(new Error(`${job.kind}: the load generator is stuck in another job`));
    return new Promise((resolve, reject) => {
      const settle = (finish: () => void): void => {
        clearTimeout(late);
        child.off("message", answered).off("exit", ended);
        finish();
      };
      const answered = (outcome: unknown): void =>
        settle(() => {
          const { result, failures } = outcome as Outcome<unknown>;
          if (result) resolve({ result, failures });
          else reject(new Error(`${job.kind}: ${failures.join("; ")}`));
        });
      const ended = (): void => settle(() => reject(new Error("the load generator has ended")));
      const late = setTimeout(() => {
        this.#stuck = true;
        settle(() => reject(new Error(`${job.kind}: no end after ${JOB_WITHIN_MS / 1_000} s`)));
      }, JOB_WITHIN_MS);
      child.once("message", answered).once("exit", ended);
      child.send(job);
    });
  }
}

/** Measures one target, a piece at a time; the run decides whose turn it is. */
export class Meter {
  readonly measurement: Measurement;
  readonly #target: Target;
  readonly #generator: Generator;
  readonly #plan: Plan;

  constructor(target: Target, generator: Generator, plan: Plan) {
    this.#target = target;
    this.#generator = generator;
    this.#plan = plan;
    this.measurement = {
      key: target.key,
      rounds: [],
      callsAloneMs: [],
      firstTokensMs: [],
      failures: [],
    };
  }

  /** Waits until a call is answered as it should be; services that are ready may still have to find each other. */
  async untilUsable(): Promise<void> {
    const until = performance.now() + USABLE_WITHIN_MS;
    for (;;) {
      const job: CallsJob = { kind: "calls", ...this.#about(), concurrency: 1, forMs: 1 };
      const failure = await this.#generator.do(job).then(
        ({ failures }) => failures[0],
        (error: Error) => error.message,
      );
      if (failure === undefined) return;
      if (performance.now() > until) throw new Error(`${this.#target.name}: ${failure}`);
      await sleep(250);
    }
  }

  async warmUp(): Promise<void> {
    const { calls, tokens, warmUp } = this.#plan;
    const about = this.#about();
    const until = performance.now() + warmUp.callsMs;
    for (let called = 0; called < warmUp.calls && performance.now() < until; ) {
      const job: CallsJob = { kind: "calls", ...about, ...calls, forMs: WARM_UP_STEP_MS };
      called += this.#keep(await this.#generator.do(job)).calls;
    }
    this.#keep(await this.#generator.do({ kind: "tokens", ...about, ...tokens, windowMs: warmUp.tokensMs }));
  }

  async memory(upstreamPort: number): Promise<void> {
    if (!this.#plan.memory) return;
    const job: MemoryJob = { kind: "memory", ...this.#about(), ...this.#plan.memory, upstreamPort };
    this.measurement.bytesPerStream = this.#keep(await this.#generator.do(job)).bytesPerStream;
  }

  async round(): Promise<void> {
    const { calls, alone, tokens } = this.#plan;
    const about = this.#about();
    const called = this.#keep(await this.#generator.do({ kind: "calls", ...about, ...calls }));
    const single = this.#keep(await this.#generator.do({ kind: "calls", ...about, concurrency: 1, ...alone }));
    const streamed = this.#keep(await this.#generator.do({ kind: "tokens", ...about, ...tokens }));
    this.measurement.callsAloneMs.push(...single.latenciesMs);
    this.measurement.firstTokensMs.push(...streamed.firstTokensMs);
    this.measurement.rounds.push({
      perCall: share(about.processes, called.cpuUs, called.calls),
      perToken: share(about.processes, streamed.cpuUs, streamed.tokens),
      calls: called.calls,
      tokens: streamed.tokens,
      expectedTokens: streamed.expected,
      tokensPerRead: streamed.tokens / streamed.reads,
    });
  }

  /** Looked up each time: a target may start processes of its own at any moment. */
  #about(): { door: Target["door"]; processes: Process[] } {
    return { door: this.#target.door, processes: processTree(this.#target.roots) };
  }

  #keep<Result>({ result, failures }: Outcome<Result>): Result {
    this.measurement.failures.push(...failures);
    if (failures.length > 0) throw new Error(`${this.#target.name}: ${failures.length} failed, first: ${failures[0]}`);
    return result;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** What one of `count` has cost. */
export function share(processes: Process[], cpuUs: number[], count: number): Cpu {
  const of = (nats: boolean): number =>
    sum(cpuUs.filter((_, index) => (processes[index]?.name === "nats-server") === nats));
  return { ownUs: of(false) / count, natsUs: of(true) / count };
}
