/**
 * The router: takes a request to the workers that can serve it, one after the other, until one does. It knows no provider
 * by name and no wire format. What it needs of the mesh is in memory, so choosing costs no round trip.
 *
 * A name resolves to candidates (candidates.ts); a strategy chooses among them (strategies.ts); the plan says who is asked
 * next and when (plan.ts), a stream hides what happens on the way (routed-stream.ts), and every attempt is accounted
 * (attempt.ts).
 */
import type { CacheLevel } from "../../libs/caching/index.ts";
import { CacheStoreServiceDefinition } from "../../libs/gen/cortex/cache/v1/cache.ts";
import { TrafficCounted, WorkerLoads } from "../../libs/gen/cortex/events/v1/events.ts";
import type {
  Completion,
  CompletionRequest,
  EmbeddingRequest,
  EmbeddingResult,
  Model,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { ProviderServiceDefinition } from "../../libs/gen/cortex/provider/v1/provider.ts";
import {
  type Resume,
  RouterServiceDefinition,
  type RoutingOptions,
  Strategy,
  type StreamResponse,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { type Call, RpcError, type Service } from "../../libs/rpc/index.ts";
import { EVENT, METRIC } from "../../libs/telemetry/index.ts";
import { Admission } from "./admission.ts";
import type { Attempt } from "./attempt.ts";
import { Budget } from "./budget.ts";
import { CachedAnswers } from "./caching/answers.ts";
import { AUTO, type Resolution, type Routes, WorkerIndex } from "./candidates.ts";
import type { RouterDependencies, RouterState } from "./dependencies.ts";
import { Latencies } from "./latencies.ts";
import { Loads } from "./loads.ts";
import { changeOf, Plan, type PlanRequest } from "./plan.ts";
import { RequestAccount } from "./request-account.ts";
import { RoutedStream } from "./routed-stream.ts";
import { Chooser } from "./strategies.ts";
import { Telling } from "./telling.ts";
import { ChatTraits, embeddingTraits } from "./traits.ts";

/** Extra calls that are saved up in quiet times. */
const RETRIES_SAVED = 20;
const HEDGES_SAVED = 10;
/** For so long after its last worker was lost a name is taken to be coming back. */
const DEPARTED_MS = 60_000;
/** When to ask again for a name whose workers were lost. */
const DEPARTED_RETRY_AFTER_MS = 2_000;

/** A request that is to be served, by a call of its own or one that others share. */
interface Serving {
  readonly routing: RoutingOptions | undefined;
  readonly call: Call;
  readonly account: RequestAccount;
}

type ServedRequest = PlanRequest & { readonly account: RequestAccount };

/** A router, and how to end it. */
export interface Router {
  readonly service: Service<typeof RouterServiceDefinition>;
  /** What it keeps in memory, for whoever asks what the cache holds. */
  readonly cacheLevel: CacheLevel;
  /** Requests that a worker serves on a node at this moment; undefined when that is not known. */
  activeRequests(node: string, worker: string): number | undefined;
  /** Listens to no more events. */
  stop(): void;
}

/** Makes the router. */
export function createRouter(dependencies: RouterDependencies): Router {
  const { directory, events, nodeId, now } = dependencies;
  const loads = new Loads();
  const latencies = new Latencies({ now });
  const indexes = new Indexes(dependencies);
  const state: RouterState = {
    ...dependencies,
    loads,
    latencies,
    chooser: new Chooser({ loads, latencies, random: dependencies.random, now }),
    admission: new Admission({ loads, limits: () => dependencies.routing().queue, now }),
    telling: new Telling(dependencies),
    retries: new Budget(RETRIES_SAVED),
    hedges: new Budget(HEDGES_SAVED),
    prefillRefused: new Set(),
    index: () => indexes.current(),
    recentlyKnown: (name) => indexes.recentlyKnown(name),
  };

  const subscriptions = [
    dependencies.metrics.collect((report) => {
      state.telling.countEnded();
      const { requests, streams } = state.telling.inFlight;
      report.set(METRIC.requestsInFlight, requests);
      report.set(METRIC.streamsOpen, streams);
      report.set(METRIC.queueDepth, state.admission.waiting);
      report.set(METRIC.queueSize, dependencies.routing().queue.size);
      report.set(METRIC.callBudget, state.retries.left, "retries");
      report.set(METRIC.callBudget, state.hedges.left, "hedges");
    }),
    events.subscribe(EVENT.workerLoad, WorkerLoads, (reported) => {
      // Alone, this router's own numbers are exact, and nobody would ever correct what has been reported.
      // What comes late of a node that has left would count for ever; of one that is new it is said again soon.
      if (directory.nodes().length > 1 && directory.known(reported.node)) loads.report(reported);
    }),
  ];
  // What other routers measure counts here too; without any, nobody has to hear one's own events.
  let others: (() => void) | undefined;
  const nodes = new Set<string>();
  const watchMesh = (): void => {
    const routers = directory.nodesServing(RouterServiceDefinition.fullName);
    const isAlone = directory.nodes().length <= 1;
    if (routers.every(({ id }) => id === nodeId)) {
      others?.();
      others = undefined;
    } else {
      others ??= events.subscribe(EVENT.trafficCounted, TrafficCounted, ({ node, firstTokens }) => {
        if (node === nodeId) return;
        for (const { worker, model, timesMs } of firstTokens) {
          for (const ms of timesMs) latencies.record(worker, model, ms);
        }
      });
    }
    if (dependencies.cache().enabled) connectAhead(dependencies);
    for (const id of nodes) {
      if (directory.known(id) && !isAlone) continue;
      nodes.delete(id);
      loads.forget(id);
    }
    if (!isAlone) for (const { id } of directory.nodes()) nodes.add(id);
  };
  watchMesh();
  subscriptions.push(directory.onChange(watchMesh));

  /** What a name stands for; one whose workers were lost a moment ago is waited for, as they are likely to come back. */
  async function lookUp(model: string, call: Call): Promise<Resolution> {
    const untilMs = now() + Math.min(dependencies.routing().waitMaxMs, call.deadlineAtMs - Date.now());
    for (;;) {
      try {
        return state.index().resolve(model);
      } catch (thrown) {
        if (!state.recentlyKnown(model)) throw thrown;
        const leftMs = untilMs - now();
        if (leftMs <= 0) {
          const message = `no worker that has the model "${model.slice(0, 200)}" is running any more`;
          throw new RpcError("NO_WORKERS_AVAILABLE", message, { retryAfterMs: DEPARTED_RETRY_AFTER_MS });
        }
        await changeOf(directory, leftMs, call);
      }
    }
  }

  function plan(request: ServedRequest): Plan | Promise<Plan> {
    const { model, call } = request;
    if (model === "") throw new RpcError("INVALID_REQUEST", "model is missing", { field: "model" });
    const { retryRatio, hedging } = dependencies.routing();
    state.retries.earn(retryRatio);
    state.hedges.earn(hedging.ratio);
    let resolution: Resolution;
    try {
      resolution = state.index().resolve(model);
    } catch {
      return lookUp(model, call).then((found) => new Plan(request, found, state));
    }
    return new Plan(request, resolution, state);
  }

  /** Serves a unary request by the first worker that can. */
  async function serveWhole<T extends { usage?: Completion["usage"] }>(
    request: ServedRequest,
    serve: (attempt: Attempt) => Promise<{ result: T; key: string }>,
  ): Promise<{ result: T; attempts: number }> {
    request.account.callBegins();
    try {
      const tries = await plan(request);
      for (;;) {
        const attempt = await tries.next();
        try {
          const { result, key } = await serve(attempt);
          attempt.usage = result.usage;
          attempt.key = key;
          attempt.served();
          return { result, attempts: tries.attempts };
        } catch (thrown) {
          tries.failed(attempt, RpcError.from(thrown));
        }
      }
    } finally {
      request.account.callEnds();
    }
  }

  function provider(attempt: Attempt) {
    return dependencies.clients.at(ProviderServiceDefinition, attempt.node);
  }

  function accountOf(operation: "chat" | "embeddings", model = "", stream: boolean, call: Call): RequestAccount {
    return new RequestAccount({ operation, model, stream, call }, state);
  }

  const answers = new CachedAnswers({
    ...dependencies,
    settings: dependencies.cache,
    timeoutMs: () => dependencies.routing().timeoutMs,
  });

  /** What a name stands for now, as far as it changes answers; undefined when nobody knows it. */
  function routeOf(model: string): string | undefined {
    try {
      const { resolved, route } = state.index().resolve(model);
      return route === undefined ? resolved : `${resolved} ${route.targets.join(" ")}`;
    } catch {
      return undefined;
    }
  }

  async function completed(request: CompletionRequest, { routing, call, account }: Serving) {
    const traits = new ChatTraits(request, call.tenant);
    const wanted = { model: request.model, traits, stream: false, routing, call, account };
    const { result, attempts } = await serveWhole(wanted, async (attempt) => {
      const { worker, model } = attempt.candidate;
      const asked = { worker, completion: { ...request, model }, lastResort: attempt.lastResort };
      const response = await provider(attempt).complete(asked, attempt.call);
      return { result: response.completion ?? missingAnswer(worker), key: response.key };
    });
    return { completion: result satisfies Completion, attempts, cache: undefined };
  }

  async function embedded(request: EmbeddingRequest, { routing, call, account }: Serving) {
    const traits = embeddingTraits(request.inputs, call.tenant);
    const wanted = { model: request.model, traits, stream: false, routing, call, account };
    const { result, attempts } = await serveWhole(wanted, async (attempt) => {
      const { worker, model } = attempt.candidate;
      const asked = { worker, embedding: { ...request, model }, lastResort: attempt.lastResort };
      const response = await provider(attempt).embed(asked, attempt.call);
      return { result: response.embedding ?? missingAnswer(worker), key: response.key };
    });
    return { embedding: result satisfies EmbeddingResult, attempts, cache: undefined };
  }

  function streamed(
    request: CompletionRequest,
    { routing, call, account }: Serving,
    resume: Resume | undefined,
  ): AsyncIterator<StreamResponse> {
    let isOver = false;
    const ended = (error?: RpcError): void => {
      if (isOver) return;
      isOver = true;
      account.callEnds();
      // A call that others may share does not end the request.
      if (call === account.call) account.end(error);
    };
    account.callBegins();
    const traits = new ChatTraits(request, call.tenant);
    let tries: Plan | Promise<Plan>;
    try {
      tries = plan({ model: request.model, traits, stream: true, routing, call, account });
    } catch (thrown) {
      ended(RpcError.from(thrown));
      throw thrown;
    }
    const make = (made: Plan): RoutedStream =>
      new RoutedStream({
        plan: made,
        request,
        resume,
        state,
        ended,
        ask(attempt, asked) {
          const { worker, model } = attempt.candidate;
          const message = { worker, completion: { ...asked, model }, lastResort: attempt.lastResort };
          return provider(attempt).stream(message, attempt.call);
        },
      });
    return tries instanceof Promise ? new LaterStream(tries.then(make), ended) : make(tries);
  }

  const service: Service<typeof RouterServiceDefinition> = {
    async complete({ completion, routing, cache }, call) {
      const account = accountOf("chat", completion?.model, false, call);
      try {
        const request = required(completion);
        const isDirect = !dependencies.cache().enabled && cache === undefined;
        const answer = await (isDirect
          ? completed(request, { routing, call, account })
          : answers.complete(
              { request, route: routeOf(request.model), routing, options: cache, call, account },
              (made) => completed(request, { routing, call: made, account }),
            ));
        account.end(undefined, answer.completion?.usage);
        return answer;
      } catch (thrown) {
        account.end(RpcError.from(thrown));
        throw thrown;
      }
    },

    stream({ completion, routing, resume, cache }, call) {
      return {
        [Symbol.asyncIterator]: () => {
          const account = accountOf("chat", completion?.model, true, call);
          try {
            const request = required(completion);
            const isDirect = resume !== undefined || (!dependencies.cache().enabled && cache === undefined);
            if (isDirect) return streamed(request, { routing, call, account }, resume);
            const asked = { request, route: routeOf(request.model), routing, options: cache, call, account };
            return answers.stream(asked, (made, from) => streamed(request, { routing, call: made, account }, from));
          } catch (thrown) {
            account.end(RpcError.from(thrown));
            throw thrown;
          }
        },
      };
    },

    async embed({ embedding, routing, cache }, call) {
      const account = accountOf("embeddings", embedding?.model, false, call);
      try {
        const request = requiredInputs(embedding);
        const route = dependencies.cache().enabled || cache !== undefined ? routeOf(request.model) : undefined;
        const serve = (wanted: EmbeddingRequest) => embedded(wanted, { routing, call, account });
        const answer = await (route === undefined
          ? serve(request)
          : answers.embed({ request, route, options: cache, call, account }, serve));
        account.end();
        return answer;
      } catch (thrown) {
        account.end(RpcError.from(thrown));
        throw thrown;
      }
    },

    join({ key, whole }, call) {
      return { [Symbol.asyncIterator]: () => answers.join(key, whole, call) };
    },

    async listModels() {
      return { models: listModels(state.index(), routesOf(dependencies)) };
    },

    async explain({ completion, routing }, call) {
      const request = required(completion);
      const startedAtMs = performance.now();
      const resolution = state.index().resolve(request.model);
      const traits = new ChatTraits(request, call.tenant);
      const { certain, guessed } = traits.needs;
      const wanted = { model: request.model, traits, stream: true, routing, call };
      const tries = new Plan(wanted, resolution, state, "explain");
      const candidates = tries.explain();
      const durationUs = (performance.now() - startedAtMs) * 1_000;
      return {
        resolved: resolution.resolved,
        strategy: Strategy[tries.strategy.toUpperCase() as keyof typeof Strategy],
        needs: [...certain, ...guessed],
        candidates: candidates.map(({ candidate, refused, why }) => {
          const { worker, provider: name, model, nodes } = candidate;
          return { worker, provider: name, model, nodes, refused, why };
        }),
        durationUs,
      };
    },
  };

  return {
    service,
    cacheLevel: answers,
    activeRequests: (node, worker) => (directory.nodes().length > 1 ? loads.at(node, worker) : loads.of(worker)),
    stop() {
      others?.();
      answers.stop();
      state.telling.tellSums();
      for (const unsubscribe of subscriptions) unsubscribe();
    },
  };
}

/** Opens the connections that look-ups need, which have no time to wait for one. */
function connectAhead({ directory, clients, nodeId }: RouterDependencies): void {
  for (const definition of [CacheStoreServiceDefinition, RouterServiceDefinition]) {
    for (const { id } of directory.nodesServing(definition.fullName)) if (id !== nodeId) clients.at(definition, id);
  }
}

/** The index of the workers that run now, and the names that were lost a short while ago. */
class Indexes {
  readonly #dependencies: RouterDependencies;
  #index: WorkerIndex;
  #generation = -1;
  #routes: Routes;
  /** Since when a model, or a worker's name and a slash, is gone. */
  readonly #departed = new Map<string, number>();

  constructor(dependencies: RouterDependencies) {
    this.#dependencies = dependencies;
    this.#routes = routesOf(dependencies);
    this.#index = new WorkerIndex([], this.#routes);
  }

  current(): WorkerIndex {
    const { directory, now } = this.#dependencies;
    const routes = routesOf(this.#dependencies);
    if (this.#generation === directory.generation && this.#routes === routes) return this.#index;
    const before = this.#index;
    this.#generation = directory.generation;
    this.#routes = routes;
    this.#index = new WorkerIndex(directory.workers(), routes);
    const nowMs = now();
    const alive = new Set(directory.nodes().map(({ id }) => id));
    for (const [name, nodes] of before.names()) {
      // Where the node is still there, the worker was taken away on purpose.
      if (!this.#index.has(name) && !nodes.some((id) => alive.has(id))) this.#departed.set(name, nowMs);
    }
    for (const [name, atMs] of this.#departed) {
      if (this.#index.has(name) || nowMs - atMs > DEPARTED_MS) this.#departed.delete(name);
    }
    return this.#index;
  }

  recentlyKnown(name: string): boolean {
    if (this.#departed.size === 0) return false;
    const { [name]: route } = this.#routes;
    const oldestMs = this.#dependencies.now() - DEPARTED_MS;
    if (name === AUTO) return [...this.#departed.values()].some((atMs) => atMs >= oldestMs);
    const targets = route !== undefined && Object.hasOwn(this.#routes, name) ? route.targets : [name];
    return targets.some((target) => {
      const worker = target.slice(0, target.indexOf("/") + 1);
      const atMs = this.#departed.get(target) ?? (worker === "" ? undefined : this.#departed.get(worker));
      return atMs !== undefined && atMs >= oldestMs;
    });
  }
}

function routesOf(dependencies: RouterDependencies): Routes {
  return dependencies.routing().models;
}

/** A stream whose plan is not made yet. */
class LaterStream implements AsyncIterator<StreamResponse> {
  readonly #making: Promise<RoutedStream>;
  readonly #ended: (error?: RpcError) => void;
  #made: RoutedStream | undefined;
  #left = false;

  constructor(making: Promise<RoutedStream>, ended: (error?: RpcError) => void) {
    this.#making = making;
    this.#ended = ended;
    // It may fail before anybody asks for it.
    making.catch((thrown: unknown) => ended(RpcError.from(thrown)));
  }

  async next(): Promise<IteratorResult<StreamResponse>> {
    this.#made ??= await this.#making;
    return this.#left ? DONE : this.#made.next();
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    this.#left = true;
    if (this.#made !== undefined) return this.#made.return();
    this.#ended(new RpcError("CANCELLED", "the caller went away"));
    return DONE;
  }
}

const DONE: IteratorResult<StreamResponse> = { done: true, value: undefined };

function required(request: CompletionRequest | undefined): CompletionRequest {
  if (request === undefined) throw new RpcError("INVALID_REQUEST", "completion is missing", { field: "completion" });
  if (request.messages.length === 0) throw new RpcError("INVALID_REQUEST", "messages is empty", { field: "messages" });
  return request;
}

function requiredInputs(request: EmbeddingRequest | undefined): EmbeddingRequest {
  if (request === undefined) throw new RpcError("INVALID_REQUEST", "embedding is missing", { field: "embedding" });
  if (request.inputs.length === 0) throw new RpcError("INVALID_REQUEST", "input is empty", { field: "input" });
  return request;
}

function missingAnswer(worker: string): never {
  throw new RpcError("PROVIDER_INVALID_ANSWER", `worker ${worker} answered without an answer`);
}

function listModels(index: WorkerIndex, routes: Routes): Model[] {
  const models: Model[] = [];
  for (const [id, workers] of index.models()) {
    const names = workers.map(({ name }) => name);
    models.push({ id, workers: names, createdAtS: 0, ownedBy: workers[0]!.provider });
    for (const name of names) models.push({ id: `${name}/${id}`, workers: [name], createdAtS: 0, ownedBy: name });
  }
  for (const [id, { targets }] of Object.entries(routes)) {
    models.push({ id, workers: [...targets], createdAtS: 0, ownedBy: "cortex" });
  }
  if (models.length > 0) {
    models.push({ id: AUTO, workers: index.workers.map(({ name }) => name), createdAtS: 0, ownedBy: "cortex" });
  }
  return models.sort((a, b) => (a.id < b.id ? -1 : 1));
}
