/** Candidates and requests to choose among them, for tests. */
import { BreakerState, Health, type ModelProperties, WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { Candidate } from "./candidates.ts";
import type { RequestTraits } from "./traits.ts";

/** What a candidate is like; the rest is as of a worker that is well. */
export interface CandidateOptions {
  readonly model?: string;
  readonly nodes?: readonly string[];
  readonly hash?: number;
  readonly info?: Partial<WorkerInfo>;
  readonly properties?: Partial<ModelProperties>;
}

/** A worker that is well, on one node. */
export function candidateOf(worker: string, options: CandidateOptions = {}): Candidate {
  const well = { provider: "p", weight: 1, health: Health.AVAILABLE, breaker: BreakerState.CLOSED };
  const { model = "m", nodes = ["node"], hash = hashOf(worker), properties, info } = options;
  return {
    worker,
    provider: "p",
    model,
    nodes,
    hash,
    info: { ...WorkerInfo.decode(new Uint8Array()), ...well, ...info, name: worker },
    properties: properties && { capabilities: [], ...properties },
    capabilities: new Set(),
  };
}

/** As many of them. */
export function candidatesOf(count: number, options: (index: number) => CandidateOptions = () => ({})): Candidate[] {
  return Array.from({ length: count }, (_, index) => candidateOf(`w${String(index).padStart(4, "0")}`, options(index)));
}

/** A small request that belongs to `conversation`. */
export function traitsOf(conversation = 0): RequestTraits {
  return { tenant: "t", inputTokens: 1_000, outputTokensMax: undefined, conversation };
}

/** A number generator that says the same each time (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function hashOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < name.length; index += 1) hash = Math.imul(hash ^ name.charCodeAt(index), 0x01000193);
  return Math.imul(hash ^ (hash >>> 15), 0x85ebca6b) >>> 0;
}
