/** From a model's name to the workers that can serve it, best first. Pure: the mesh comes in as a snapshot. */
import type { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import { BreakerState, Health, type WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../../libs/rpc/index.ts";

/** The name that asks Cortex to choose. */
export const AUTO = "auto";

/** One place that could serve a request. */
export interface Candidate {
  readonly worker: string;
  readonly provider: string;
  /** The worker's own name of the model. */
  readonly model: string;
  /** The nodes that run the worker; at least one. */
  readonly nodes: readonly string[];
}

/** A worker of the mesh; several nodes may run it. */
export interface KnownWorker {
  readonly info: WorkerInfo;
  readonly nodes: readonly string[];
}

/** The workers of the mesh by what is asked for. Built once for each change of the directory. */
export interface WorkerIndex {
  readonly workers: ReadonlyMap<string, KnownWorker>;
  /** In the order in which they are to be tried. */
  readonly byModel: ReadonlyMap<string, readonly KnownWorker[]>;
  /** All, in that order. */
  readonly ordered: readonly KnownWorker[];
}

/** Makes the index of the workers that run now. */
export function indexWorkers(running: readonly RunningWorker[]): WorkerIndex {
  const workers = new Map<string, { info: WorkerInfo; nodes: string[] }>();
  for (const { node, info } of running) {
    if (info === undefined) continue;
    const known = workers.get(info.name);
    if (known === undefined) workers.set(info.name, { info, nodes: [node] });
    else {
      known.nodes.push(node);
      // The worker is as well as its healthiest replica; one that has only begun knows less than the others.
      const better = rank(info) - rank(known.info) || known.info.models.length - info.models.length;
      if (better < 0) known.info = info;
    }
  }
  const ordered = [...workers.values()].sort((a, b) => localFirst(a.info, b.info));
  const byModel = new Map<string, KnownWorker[]>();
  for (const worker of ordered) {
    for (const model of new Set(worker.info.models)) {
      const serving = byModel.get(model);
      if (serving === undefined) byModel.set(model, [worker]);
      else serving.push(worker);
    }
  }
  return { workers, byModel, ordered };
}

/**
 * The order of `local_first`: lowest priority number first. Workers that are known to be down come last instead of being
 * left out, so that a wrong belief about them can't refuse a request that they could serve.
 */
function localFirst(a: WorkerInfo, b: WorkerInfo): number {
  return rank(a) - rank(b) || a.priority - b.priority || (a.name < b.name ? -1 : 1);
}

function rank({ health, breaker, simulated }: WorkerInfo): number {
  const down = health === Health.UNAVAILABLE || breaker === BreakerState.OPEN;
  return (down ? 4 : 0) + (simulated ? 2 : 0) + (health === Health.BUSY ? 1 : 0);
}

/** Routes by name: what a name that clients ask for stands for, first choice first. */
export type Routes = Readonly<Record<string, readonly string[]>>;

/**
 * The candidates for a model name, in the order in which they are to be tried: `auto`, a route, `worker/model`, or a model.
 * Throws MODEL_NOT_FOUND with the closest names.
 */
export function resolve(name: string, index: WorkerIndex, routes: Routes): Candidate[] {
  const routed = Object.hasOwn(routes, name);
  if (name === AUTO && !routed) return automatic(index);
  const route = routed ? routes[name]! : [name];
  const candidates: Candidate[] = [];
  for (const target of route) {
    for (const candidate of direct(target, index)) {
      const known = candidates.some(({ worker, model }) => worker === candidate.worker && model === candidate.model);
      if (!known) candidates.push(candidate);
    }
  }
  if (candidates.length > 0) return candidates;
  // A route whose workers have not come up (yet) is no mistake of the client's.
  if (routed) throw new RpcError("NO_WORKERS_AVAILABLE", `no worker of the route "${name}" is running`);
  throw notFound(name, index, routes);
}

/** Providers list all their models together; these words mark those that hold no conversation. */
const NOT_FOR_CHAT =
  /embed|whisper|transcri|tts|speech|audio|dall-e|image|imagen|veo|sora|moderation|guard|rerank|davinci|babbage|aqa/i;

function automatic(index: WorkerIndex): Candidate[] {
  const candidates = index.ordered
    .filter(({ info }) => info.models.length > 0)
    .map((worker) =>
      candidateOf(worker, worker.info.models.find((model) => !NOT_FOR_CHAT.test(model)) ?? worker.info.models[0]!),
    );
  if (candidates.length > 0) return candidates;
  throw new RpcError("NO_WORKERS_AVAILABLE", "no workers available: no worker that has a model is running");
}

function direct(target: string, index: WorkerIndex): Candidate[] {
  const slash = target.indexOf("/");
  const worker = slash > 0 ? index.workers.get(target.slice(0, slash)) : undefined;
  const model = target.slice(slash + 1);
  const known = worker === undefined ? undefined : knownModel(model, worker.info.models);
  if (worker !== undefined && known !== undefined) return [candidateOf(worker, known)];
  // Models have names with slashes too, and their first part may be a worker's name: openai/gpt-oss-20b, groq/compound.
  const exact = index.byModel.get(target) ?? [];
  const latest = index.byModel.get(`${target}:latest`) ?? [];
  const serving =
    latest.length === 0 ? exact : index.ordered.filter((other) => exact.includes(other) || latest.includes(other));
  const candidates = serving.map((other) => candidateOf(other, knownModel(target, other.info.models)!));
  // A worker that could not be asked for its models may well have this one.
  if (worker?.info.models.length === 0 && model !== "") candidates.push(candidateOf(worker, model));
  return candidates;
}

/** Ollama lists `llama3.2:latest` and takes `llama3.2` for it (https://github.com/ollama/ollama/blob/main/docs/api.md). */
function knownModel(model: string, models: readonly string[]): string | undefined {
  if (models.includes(model)) return model;
  return models.includes(`${model}:latest`) ? `${model}:latest` : undefined;
}

function candidateOf({ info, nodes }: KnownWorker, model: string): Candidate {
  return { worker: info.name, provider: info.provider, model, nodes };
}

const SUGGESTIONS_MAX = 3;

function notFound(name: string, index: WorkerIndex, routes: Routes): RpcError {
  const asked = name.toLowerCase();
  const worker = index.workers.get(name.slice(0, Math.max(0, name.indexOf("/"))));
  const known = new Set([
    ...Object.keys(routes),
    ...index.byModel.keys(),
    ...(worker?.info.models ?? []).map((model) => `${worker!.info.name}/${model}`),
  ]);
  const near = [...known]
    .map((candidate) => ({ candidate, distance: unlikeness(asked, candidate.toLowerCase()) }))
    .filter(({ distance }) => distance < 0.5)
    .sort((a, b) => a.distance - b.distance)
    .slice(0, SUGGESTIONS_MAX)
    .map(({ candidate }) => `"${candidate}"`);
  const hint =
    near.length > 0
      ? `; did you mean ${near.join(" or ")}?`
      : '; GET /v1/models lists what there is, and "auto" lets Cortex choose';
  return new RpcError("MODEL_NOT_FOUND", `the model "${name.slice(0, 200)}" does not exist${hint}`, { field: "model" });
}

/** From 0 for the same name to 1 for nothing in common. A name that is the beginning of the other is likely meant. */
function unlikeness(asked: string, candidate: string): number {
  const longest = Math.min(Math.max(asked.length, candidate.length), DISTANCE_CHARACTERS_MAX);
  if (asked.length >= 3 && candidate.startsWith(asked)) return 0.25;
  // At least as far apart as they differ in length.
  if (Math.abs(asked.length - candidate.length) >= longest / 2) return 1;
  return distance(asked, candidate) / longest;
}

const DISTANCE_CHARACTERS_MAX = 64;

/** Levenshtein's distance, of the first characters. */
function distance(a: string, b: string): number {
  const [left, right] = [a.slice(0, DISTANCE_CHARACTERS_MAX), b.slice(0, DISTANCE_CHARACTERS_MAX)];
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const cost = left[i - 1] === right[j - 1] ? 0 : 1;
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + cost));
    }
    row = next;
  }
  return row[right.length]!;
}
