/**
 * From a model's name to the places that can serve it. Pure: the mesh comes in as a snapshot, and everything derived from it
 * is kept for as long as the snapshot holds. The order in which candidates are tried is the strategies' business.
 */
import type { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import {
  BreakerState,
  Health,
  type ModelProperties,
  type WorkerInfo,
} from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { StrategyName } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { modelNotFound } from "./suggestions.ts";

/** The name that asks Cortex to choose. */
export const AUTO = "auto";

/** One place that could serve a request: the same object for as long as its index is. */
export interface Candidate {
  readonly worker: string;
  readonly provider: string;
  /** The worker's own name of the model. */
  readonly model: string;
  /** The nodes that run the worker; at least one. */
  readonly nodes: readonly string[];
  /** The worker, as well as its healthiest replica. */
  readonly info: WorkerInfo;
  /** What is known of the model. */
  readonly properties: ModelProperties | undefined;
  /** What the model can do. */
  readonly capabilities: ReadonlySet<string>;
  /** A number for the worker's name, 32 bits. */
  readonly hash: number;
}

/** What a name that clients ask for stands for, first choice first. A name or a target may have one `*` in it. */
export interface Route {
  readonly targets: readonly string[];
  /** Orders the candidates of all targets together; without one, a target is tried only when those before it have failed. */
  readonly strategy?: StrategyName | undefined;
  /** Absent to leave it to the configuration. */
  readonly continuation?: boolean | undefined;
  readonly hedging?: boolean | undefined;
}

export type Routes = Readonly<Record<string, Route>>;

/** What a name was taken for. */
export interface Resolution {
  /** "auto", "route fast", "pattern gpt-*", "model gpt-4o" or "worker groq-main". */
  readonly resolved: string;
  /** Each candidate once; at least one. */
  readonly candidates: readonly Candidate[];
  /** The target that each candidate was found by, from 0: those of a target come after all of the targets before it. */
  readonly targets: ReadonlyMap<Candidate, number> | undefined;
  readonly route: Route | undefined;
}

/** A worker of the mesh; several nodes may run it. */
interface KnownWorker {
  readonly info: WorkerInfo;
  readonly nodes: readonly string[];
  readonly hash: number;
  readonly capabilities: ReadonlySet<string>;
  readonly candidates: Map<string, Candidate>;
}

/** How badly a worker is: 0 when it is well, at least {@link RANK_DOWN} when it is known to be down. */
export function rankOf({ health, breaker, simulated }: WorkerInfo): number {
  const down = health === Health.UNAVAILABLE || breaker === BreakerState.OPEN;
  return (down ? RANK_DOWN : 0) + (simulated ? 2 : 0) + (health === Health.BUSY ? 1 : 0);
}

export const RANK_DOWN = 4;

/** Resolutions that are remembered; names come from clients, so there is a bound. */
const REMEMBERED_MAX = 10_000;

/** The workers of the mesh by what is asked for. Made once for each change of the directory. */
export class WorkerIndex {
  readonly #workers = new Map<string, KnownWorker>();
  /** Workers by model, lowest priority number first. */
  readonly #byModel = new Map<string, KnownWorker[]>();
  /** All, in that order. */
  readonly #ordered: readonly KnownWorker[];
  readonly #routes: Routes;
  readonly #patterns: readonly { readonly name: string; readonly route: Route }[];
  readonly #remembered = new Map<string, Resolution>();

  constructor(running: readonly RunningWorker[], routes: Routes) {
    const workers = new Map<string, { info: WorkerInfo; nodes: string[] }>();
    for (const { node, info } of running) {
      if (info === undefined) continue;
      const known = workers.get(info.name);
      if (known === undefined) workers.set(info.name, { info, nodes: [node] });
      else {
        known.nodes.push(node);
        // The worker is as well as its healthiest replica; one that has only begun knows less than the others.
        const better = rankOf(info) - rankOf(known.info) || known.info.models.length - info.models.length;
        if (better < 0) known.info = info;
      }
    }
    const ordered: KnownWorker[] = [];
    for (const [name, { info, nodes }] of workers) {
      const worker = {
        info,
        nodes,
        hash: hashOf(name),
        capabilities: new Set(info.capabilities),
        candidates: new Map(),
      };
      this.#workers.set(name, worker);
      ordered.push(worker);
    }
    ordered.sort((a, b) => a.info.priority - b.info.priority || (a.info.name < b.info.name ? -1 : 1));
    this.#ordered = ordered;
    for (const worker of ordered) {
      for (const model of new Set(worker.info.models)) {
        const serving = this.#byModel.get(model);
        if (serving === undefined) this.#byModel.set(model, [worker]);
        else serving.push(worker);
      }
    }
    this.#routes = routes;
    this.#patterns = Object.entries(routes)
      .filter(([name]) => name.includes("*"))
      .map(([name, route]) => ({ name, route }))
      // The one that says most comes first.
      .sort((a, b) => b.name.length - a.name.length || (a.name < b.name ? -1 : 1));
  }

  /** The models that there are, and the workers that serve each. */
  models(): Iterable<readonly [model: string, workers: readonly WorkerInfo[]]> {
    return [...this.#byModel].map(([model, workers]) => [model, workers.map(({ info }) => info)] as const);
  }

  get workers(): readonly WorkerInfo[] {
    return this.#ordered.map(({ info }) => info);
  }

  /** The models, and the workers' names with a slash behind; each with the nodes that have it. */
  names(): (readonly [name: string, nodes: readonly string[]])[] {
    const models = [...this.#byModel].map(
      ([model, workers]) => [model, workers.flatMap(({ nodes }) => nodes)] as const,
    );
    return [...models, ...this.#ordered.map(({ info, nodes }) => [`${info.name}/`, nodes] as const)];
  }

  /** Whether anybody has this name for a model, or is the worker of `worker/model`. */
  has(name: string): boolean {
    const slash = name.indexOf("/");
    return this.#byModel.has(name) || (slash > 0 && this.#workers.has(name.slice(0, slash)));
  }

  /** What a name stands for. Throws MODEL_NOT_FOUND with the closest names, and NO_WORKERS_AVAILABLE. */
  resolve(name: string): Resolution {
    let resolution = this.#remembered.get(name);
    if (resolution === undefined) {
      resolution = this.#resolve(name);
      if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear();
      this.#remembered.set(name, resolution);
    }
    return resolution;
  }

  #resolve(name: string): Resolution {
    if (Object.hasOwn(this.#routes, name)) return this.#byRoute(`route ${name}`, this.#routes[name]!, "", name);
    if (name === AUTO) return this.#automatic();
    const slash = name.indexOf("/");
    const named = slash > 0 ? this.#workers.get(name.slice(0, slash)) : undefined;
    if (named !== undefined && knownModel(name.slice(slash + 1), named.info.models) !== undefined) {
      return this.#simple(`worker ${named.info.name}`, name);
    }
    const pattern = this.#byPattern(name, false);
    if (pattern !== undefined) return pattern;
    const direct = this.#direct(name);
    if (direct.length > 0)
      return { resolved: `model ${name}`, candidates: direct, targets: undefined, route: undefined };
    const last = this.#byPattern(name, true);
    if (last !== undefined) return last;
    throw modelNotFound(name, this.#namesNear(name));
  }

  #simple(resolved: string, target: string): Resolution {
    return { resolved, candidates: this.#direct(target), targets: undefined, route: undefined };
  }

  /** The route whose pattern fits. One that fits everything is asked only when nothing else has the name. */
  #byPattern(name: string, everything: boolean): Resolution | undefined {
    for (const { name: pattern, route } of this.#patterns) {
      if ((pattern === "*") !== everything) continue;
      const star = matchStar(pattern, name);
      if (star !== undefined) return this.#byRoute(`pattern ${pattern}`, route, star, name);
    }
    // A client may ask by a pattern too.
    if (everything || name === "*" || !name.includes("*")) return undefined;
    const candidates = new Set<Candidate>();
    for (const [model, workers] of this.#byModel) {
      for (const worker of workers) {
        const full = `${worker.info.name}/${model}`;
        if (matchStar(name, model) !== undefined || matchStar(name, full) !== undefined) {
          candidates.add(this.#candidate(worker, model));
        }
      }
    }
    if (candidates.size === 0) return undefined;
    return { resolved: `pattern ${name}`, candidates: [...candidates], targets: undefined, route: undefined };
  }

  #byRoute(resolved: string, route: Route, star: string, name: string): Resolution {
    const targets = new Map<Candidate, number>();
    for (const [position, target] of route.targets.entries()) {
      for (const candidate of this.#direct(target.replace("*", () => star))) {
        if (!targets.has(candidate)) targets.set(candidate, position);
      }
    }
    // Workers that have not come up (yet) are no mistake of the client's.
    if (targets.size === 0) {
      throw new RpcError("NO_WORKERS_AVAILABLE", `no worker of the route "${name.slice(0, 200)}" is running`);
    }
    const ordered = route.strategy === undefined && route.targets.length > 1;
    return { resolved, candidates: [...targets.keys()], targets: ordered ? targets : undefined, route };
  }

  #automatic(): Resolution {
    const candidates = new Set<Candidate>();
    for (const worker of this.#ordered) {
      const conversing = worker.info.models.filter((model) => !NOT_FOR_CHAT.test(model));
      // Of models that can do the same, the first stands for all.
      const abilities = new Set<string>();
      for (const model of conversing.length > 0 ? conversing : worker.info.models.slice(0, 1)) {
        const candidate = this.#candidate(worker, model);
        const ability = `${[...candidate.capabilities].sort().join()} ${candidate.properties?.contextTokensMax}`;
        if (!abilities.has(ability)) candidates.add(candidate);
        abilities.add(ability);
      }
    }
    if (candidates.size > 0) {
      return { resolved: AUTO, candidates: [...candidates], targets: undefined, route: undefined };
    }
    throw new RpcError("NO_WORKERS_AVAILABLE", "no workers available: no worker that has a model is running");
  }

  #direct(target: string): Candidate[] {
    const slash = target.indexOf("/");
    const worker = slash > 0 ? this.#workers.get(target.slice(0, slash)) : undefined;
    const model = target.slice(slash + 1);
    const known = worker === undefined ? undefined : knownModel(model, worker.info.models);
    if (worker !== undefined && known !== undefined) return [this.#candidate(worker, known)];
    // Models have names with slashes too, and their first part may be a worker's name: openai/gpt-oss-20b, groq/compound.
    const exact = this.#byModel.get(target) ?? [];
    const latest = this.#byModel.get(`${target}:latest`) ?? [];
    const serving =
      latest.length === 0 ? exact : this.#ordered.filter((other) => exact.includes(other) || latest.includes(other));
    const candidates = serving.map((other) => this.#candidate(other, knownModel(target, other.info.models)!));
    // A worker that could not be asked for its models may well have this one.
    if (worker?.info.models.length === 0 && model !== "") candidates.push(this.#candidate(worker, model));
    return candidates;
  }

  #candidate(worker: KnownWorker, model: string): Candidate {
    let candidate = worker.candidates.get(model);
    if (candidate === undefined) {
      const { info, nodes, hash } = worker;
      const properties = Object.hasOwn(info.modelProperties, model)
        ? info.modelProperties[model]
        : info.modelProperties["*"];
      const own = properties?.capabilities ?? [];
      const capabilities = own.length > 0 ? new Set(own) : worker.capabilities;
      candidate = { worker: info.name, provider: info.provider, model, nodes, info, properties, capabilities, hash };
      worker.candidates.set(model, candidate);
    }
    return candidate;
  }

  #namesNear(name: string): Set<string> {
    const worker = this.#workers.get(name.slice(0, Math.max(0, name.indexOf("/"))));
    return new Set([
      ...Object.keys(this.#routes),
      ...this.#byModel.keys(),
      ...(worker?.info.models ?? []).map((model) => `${worker!.info.name}/${model}`),
    ]);
  }
}

/** Providers list all their models together; these words mark those that hold no conversation. */
const NOT_FOR_CHAT =
  /embed|whisper|transcri|tts|speech|audio|dall-e|image|imagen|veo|sora|moderation|guard|rerank|davinci|babbage|aqa/i;

/** Ollama lists `llama3.2:latest` and takes `llama3.2` for it (https://github.com/ollama/ollama/blob/main/docs/api.md). */
function knownModel(model: string, models: readonly string[]): string | undefined {
  if (models.includes(model)) return model;
  return models.includes(`${model}:latest`) ? `${model}:latest` : undefined;
}

/** What the pattern's one `*` stands for in `name`; undefined if it does not fit. */
function matchStar(pattern: string, name: string): string | undefined {
  const star = pattern.indexOf("*");
  const before = pattern.slice(0, star);
  const after = pattern.slice(star + 1);
  const fits = name.length >= before.length + after.length && name.startsWith(before) && name.endsWith(after);
  return fits ? name.slice(before.length, name.length - after.length) : undefined;
}

/** FNV-1a, and a mix so that names that differ in their last letter are far apart. */
export function hashOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < name.length; index++) {
    hash = Math.imul(hash ^ name.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}
