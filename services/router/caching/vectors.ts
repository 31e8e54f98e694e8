/**
 * Vectors from the cache, input by input: only those that are not there are asked for, each once. The router hands in how
 * they are got from a provider. All vectors of an answer are of the same model, whose name may stand for several: vectors of
 * two models have nothing to do with each other.
 */
import type { Entry } from "../../../libs/gen/cortex/cache/v1/cache.ts";
import type {
  Embedding,
  EmbeddingRequest,
  EmbeddingResult,
  Served,
  Usage,
  Warning,
} from "../../../libs/gen/cortex/llm/v1/llm.ts";
import {
  type CacheOptions,
  type CacheStatus,
  type EmbedResponse,
  CacheOptions_Mode as Mode,
  CacheStatus_State as State,
} from "../../../libs/gen/cortex/router/v1/router.ts";
import type { Configuration } from "../../../libs/host/index.ts";
import { type Call, RpcError } from "../../../libs/rpc/index.ts";
import type { RequestAccount } from "../request-account.ts";
import { vectorKeys } from "./key.ts";
import { bypassVectors, unkeptVectors } from "./rules.ts";

/** Where vectors are kept. */
export interface VectorStore {
  /** The entries that there are, by key, and the last level that had one. Never rejects but for the call's own end. */
  lookMany(
    keys: readonly string[],
    maxAgeMs: number,
    call: Call,
  ): Promise<{ readonly entries: ReadonlyMap<string, Entry>; readonly level: string }>;
  storeMany(entries: readonly (readonly [key: string, entry: Entry])[]): void;
}

/** A request for vectors, as far as the cache goes. */
export interface VectorsAsked {
  readonly request: EmbeddingRequest;
  /** A mark of what its model's name stands for now. */
  readonly route: string;
  readonly options: CacheOptions | undefined;
  readonly call: Call;
  /** Whose it is. */
  readonly account?: RequestAccount | undefined;
}

/** Gets vectors from a provider. */
type Serve = (request: EmbeddingRequest) => Promise<EmbedResponse>;

interface VectorCache {
  readonly store: VectorStore;
  readonly settings: Configuration["cache"];
}

/**
 * The vectors of all inputs, in their order. The usage is what was used now: 0 when all of them came from the cache. What
 * `serve` throws is thrown; CACHE_MISS when only what is there was wanted, and something is not.
 */
export async function embedCached(asked: VectorsAsked, cache: VectorCache, serve: Serve): Promise<EmbedResponse> {
  const { request, route, options, call } = asked;
  const onlyCached = options?.mode === Mode.ONLY_IF_CACHED;
  const why = bypassVectors(options, cache.settings);
  if (why !== undefined) {
    if (onlyCached) throw notCached();
    return { ...(await serve(request)), cache: { state: State.BYPASS, detail: why, ageS: 0, key: "" } };
  }
  const keys = vectorKeys(request, call.tenant, route);
  const { kept, level } = await lookUp(asked, cache.store, keys);
  const absent = new Map<string, string>();
  for (const [index, key] of keys.entries()) if (!kept.has(key)) absent.set(key, request.inputs[index]!);
  const told = (detail: string): CacheStatus => statusOf(keys, kept, detail);

  if (absent.size === 0) {
    asked.account?.fromCache(level, savedBy(keys, kept));
    return { embedding: joined(keys, kept, new Map()), attempts: 0, cache: told(level) };
  }
  if (onlyCached) throw notCached();
  const unlessKept = options?.mode === Mode.REFRESH ? "refresh" : "";
  if (absent.size === keys.length) {
    const whole = await serve(request);
    return { ...whole, cache: told(keep(whole.embedding, keys, asked, cache) ?? unlessKept) };
  }
  const some = await serve({ ...request, inputs: [...absent.values()] });
  const answer = some.embedding;
  if (answer !== undefined && fits(answer, absent.size, kept)) {
    const unkept = keep(answer, [...absent.keys()], asked, cache);
    const fresh = new Map([...absent.keys()].map((key, index) => [key, answer.embeddings[index]!]));
    return { ...some, embedding: joined(keys, kept, fresh, answer), cache: told(unkept ?? unlessKept) };
  }
  // Another model has served than the one whose vectors are kept, so all have to be of the one that serves now.
  const whole = await serve(request);
  kept.clear();
  const unkept = keep(whole.embedding, keys, asked, cache);
  return {
    embedding: whole.embedding && { ...whole.embedding, usage: sum(answer?.usage, whole.embedding.usage) },
    attempts: some.attempts + whole.attempts,
    cache: told(unkept ?? unlessKept),
  };
}

/** A vector that was kept, and when. */
interface KeptVector {
  readonly embedding: Embedding;
  readonly served: Served | undefined;
  readonly warnings: readonly Warning[];
  /** What it has used; known where it was asked for alone. */
  readonly inputTokens: number | undefined;
  readonly createdAtMs: number;
}

/** What is kept of one model; when it is of several, of the one that has the most. */
async function lookUp(
  { options, call }: VectorsAsked,
  store: VectorStore,
  keys: readonly string[],
): Promise<{ readonly kept: Map<string, KeptVector>; readonly level: string }> {
  if (options?.mode === Mode.REFRESH) return { kept: new Map(), level: "" };
  const maxAgeMs = options?.maxAgeS === undefined ? Number.POSITIVE_INFINITY : options.maxAgeS * 1_000;
  const byModel = new Map<string, Map<string, KeptVector>>();
  let most = new Map<string, KeptVector>();
  const { entries, level } = await store.lookMany([...new Set(keys)], maxAgeMs, call);
  for (const [key, { content, createdAtMs }] of entries) {
    if (content?.$case !== "vector" || content.value.embedding === undefined) continue;
    const { embedding, served, warnings, inputTokens } = content.value;
    const model = modelOf(served, embedding);
    const same = byModel.get(model) ?? new Map<string, KeptVector>();
    byModel.set(model, same.set(key, { embedding, served, warnings, inputTokens, createdAtMs }));
    if (same.size > most.size) most = same;
  }
  return { kept: most, level };
}

/** Vectors that have this in common can be compared with each other. */
function modelOf(served: Served | undefined, { values }: Embedding): string {
  return JSON.stringify([served?.provider, served?.model, values.length]);
}

/** Whether vectors from a provider are as many as were asked for, and of the model of those that are kept. */
function fits(fresh: EmbeddingResult, count: number, kept: ReadonlyMap<string, KeptVector>): boolean {
  if (fresh.embeddings.length !== count) return false;
  for (const { served, embedding } of kept.values()) {
    const model = modelOf(served, embedding);
    return fresh.embeddings.every((other) => modelOf(fresh.served, other) === model);
  }
  return true;
}

/** Keeps what a provider has answered for `keys`, or says why not. */
function keep(
  fresh: EmbeddingResult | undefined,
  keys: readonly string[],
  { options }: VectorsAsked,
  { store, settings }: VectorCache,
): string | undefined {
  const unkept = fresh === undefined ? "unfinished" : unkeptVectors(fresh, keys.length);
  if (fresh === undefined || unkept !== undefined) return unkept;
  const { served, warnings, usage } = fresh;
  const inputTokens = keys.length === 1 ? usage?.inputTokens : undefined;
  const createdAtMs = Date.now();
  const expiresAtMs = createdAtMs + (options?.ttlS === undefined ? settings.ttlMs : options.ttlS * 1_000);
  const vectors = new Map(keys.map((key, index) => [key, fresh.embeddings[index]!]));
  store.storeMany(
    [...vectors].map(([key, embedding]): [string, Entry] => {
      const value = { embedding, served, inputTokens, warnings };
      return [key, { content: { $case: "vector", value }, createdAtMs, expiresAtMs }];
    }),
  );
  return undefined;
}

/** One answer of what was kept and what a provider has said. */
function joined(
  keys: readonly string[],
  kept: ReadonlyMap<string, KeptVector>,
  fresh: ReadonlyMap<string, Embedding>,
  answer?: EmbeddingResult,
): EmbeddingResult {
  const warnings = new Map<string, Warning>();
  for (const each of [...(answer?.warnings ?? []), ...[...kept.values()].flatMap((vector) => vector.warnings)]) {
    warnings.set(JSON.stringify([each.code, each.parameter, each.message]), each);
  }
  return {
    served: answer?.served ?? kept.values().next().value?.served,
    embeddings: keys.map((key) => kept.get(key)?.embedding ?? fresh.get(key)!),
    usage: answer === undefined ? { inputTokens: 0 } : answer.usage,
    warnings: [...warnings.values()],
  };
}

/** `why` is the level that had them all, why what came from a provider was not kept, or what else is to be said. */
function statusOf(keys: readonly string[], kept: ReadonlyMap<string, KeptVector>, why: string): CacheStatus {
  const hits = keys.filter((key) => kept.has(key)).length;
  const share = hits > 0 && hits < keys.length ? `${hits} of ${keys.length}` : "";
  const nowMs = Date.now();
  let ageMs = 0;
  for (const { createdAtMs } of kept.values()) ageMs = Math.max(ageMs, nowMs - createdAtMs);
  return {
    state: hits === keys.length ? State.HIT : State.MISS,
    detail: [share, why].filter((word) => word !== "").join(", "),
    ageS: ageMs / 1_000,
    key: new Set(keys).size === 1 ? keys[0]! : "",
  };
}

/** What a provider's call for all of them would have used; unknown when that of one of them is. */
function savedBy(keys: readonly string[], kept: ReadonlyMap<string, KeptVector>): Usage | undefined {
  let inputTokens = 0;
  for (const key of keys) {
    const used = kept.get(key)?.inputTokens;
    if (used === undefined) return undefined;
    inputTokens += used;
  }
  return { inputTokens };
}

/** Of two calls; unknown when one of them did not say. */
function sum(one: Usage | undefined, other: Usage | undefined): Usage | undefined {
  if (one?.inputTokens === undefined || other?.inputTokens === undefined) return undefined;
  return { ...other, inputTokens: one.inputTokens + other.inputTokens };
}

function notCached(): RpcError {
  return new RpcError("CACHE_MISS", "not all of the vectors are in the cache");
}
