/** From the rounds of a run to its numbers. Pure. */
import type { Cpu, Measurement, Round } from "./measure.ts";
import type { Key } from "./targets.ts";

/** `of` is the median over the rounds. */
export type Spread = { of: number; from: number; to: number };

export type Cost = {
  /** Own processes and nats-server together. */
  us: number;
  natsUs: number;
  /** Against the bare pipe of the same round. */
  ratio: Spread;
};

/** Against the bare pipe's; below zero when noise is larger than what is added. */
export type Added = { p50Ms: number; p99Ms: number };

export type Summary = {
  key: Key;
  call: Cost;
  token: Cost;
  addedCall: Added;
  addedFirstToken: Added;
  bytesPerStream: number | undefined;
  /** Calls in the saturating part of all rounds, and tokens in their windows: how much the numbers rest on. */
  calls: number;
  tokens: number;
  /** Share of the tokens due that came: below 1 the target, or the machine, did not keep pace. */
  pace: number;
  tokensPerRead: number;
};

export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN;
  return (lower + upper) / 2;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** The median of the values, and the range that they have. */
export function spreadOf(values: readonly number[]): Spread {
  return { of: median(values), from: Math.min(...values), to: Math.max(...values) };
}

function cost(rounds: readonly Round[], pipe: readonly Round[], pick: (round: Round) => Cpu): Cost {
  const total = (round: Round): number => pick(round).ownUs + pick(round).natsUs;
  const ratios = rounds.map((round, index) => total(round) / total(pipe[index] as Round));
  return {
    us: median(rounds.map(total)),
    natsUs: median(rounds.map((round) => pick(round).natsUs)),
    ratio: spreadOf(ratios),
  };
}

function added(values: readonly number[], pipe: readonly number[]): Added {
  return {
    p50Ms: quantile(values, 0.5) - quantile(pipe, 0.5),
    p99Ms: quantile(values, 0.99) - quantile(pipe, 0.99),
  };
}

/** `measurements` holds the bare pipe's, and all have the same number of rounds. */
export function summarize(measurements: readonly Measurement[]): Summary[] {
  const pipe = measurements.find(({ key }) => key === "pipe");
  if (!pipe) throw new Error("nothing to compare with: the bare pipe was not measured");
  return measurements.map((one) => ({
    key: one.key,
    call: cost(one.rounds, pipe.rounds, ({ perCall }) => perCall),
    token: cost(one.rounds, pipe.rounds, ({ perToken }) => perToken),
    addedCall: added(one.callsAloneMs, pipe.callsAloneMs),
    addedFirstToken: added(one.firstTokensMs, pipe.firstTokensMs),
    bytesPerStream: one.bytesPerStream,
    calls: sum(one.rounds.map(({ calls }) => calls)),
    tokens: sum(one.rounds.map(({ tokens }) => tokens)),
    pace: sum(one.rounds.map(({ tokens }) => tokens)) / sum(one.rounds.map(({ expectedTokens }) => expectedTokens)),
    tokensPerRead: median(one.rounds.map(({ tokensPerRead }) => tokensPerRead)),
  }));
}
