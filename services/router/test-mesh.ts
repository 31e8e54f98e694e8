/** A mesh in memory for the router's tests: the real router over the real in-process carrier, with workers that do as told. */
import { expect } from "vitest";
import { CacheStoreServiceDefinition } from "../../libs/gen/cortex/cache/v1/cache.ts";
import type {
  AttemptFinished,
  AttemptsFinished,
  RequestFinished,
  RequestsFinished,
  TrafficCounted,
} from "../../libs/gen/cortex/events/v1/events.ts";
import { type CompletionRequest, FinishReason, type Part, Role, type Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { NodeRecord, type RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import {
  BreakerState,
  Health,
  ProviderServiceDefinition,
  type StreamResponse as ProviderStreamResponse,
  WorkerInfo,
} from "../../libs/gen/cortex/provider/v1/provider.ts";
import {
  type JoinResponse,
  RouterServiceDefinition,
  type StreamResponse,
} from "../../libs/gen/cortex/router/v1/router.ts";
import type { Configuration } from "../../libs/host/index.ts";
import type { Clients, Directory, Events } from "../../libs/mesh/index.ts";
import { bind, type Call, RpcError, type Service, type ServiceDefinition } from "../../libs/rpc/index.ts";
import { createLogger, createMetrics, EVENT, type Logger, silentTracer } from "../../libs/telemetry/index.ts";
import { createRouter } from "./service.ts";

type Provider = Service<typeof ProviderServiceDefinition>;
/** What a worker does when it is asked, on any of its nodes. */
export interface Behaviour {
  stream?(request: CompletionRequest, call: Call, node: string): AsyncIterable<ProviderStreamResponse>;
  complete?(request: CompletionRequest, call: Call, node: string): Promise<Usage | undefined>;
  readonly models?: readonly string[];
  /** What else is to be known of it. */
  readonly info?: Partial<WorkerInfo>;
  readonly nodes?: readonly string[];
}

export const HERE = "here";
export const served = (worker: string): Part => ({
  part: {
    $case: "served",
    value: { id: `id-${worker}`, model: "m", worker, provider: "p", createdAtS: 1, systemFingerprint: "" },
  },
});
export const warning = (code: string): Part => ({
  part: { $case: "warning", value: { code, message: "", parameter: "" } },
});
export const text = (value: string): Part => ({
  part: { $case: "text", value: { text: value, choice: 0, logprobs: [] } },
});
export const finish: Part = { part: { $case: "finish", value: { choice: 0, reason: FinishReason.STOP } } };
export const usage = (value: Usage): Part => ({ part: { $case: "usage", value } });
export const chunk = (...parts: Part[]): ProviderStreamResponse => ({ parts, key: "" });
export const request: CompletionRequest = {
  model: "m",
  messages: [{ role: Role.USER, name: "", content: [{ part: { $case: "text", value: "hi" } }] }],
  tools: [],
  logprobs: false,
  user: "",
  extraJson: {},
};

/** A worker whose stream fails at once. */
export const failing = (error: Error): Behaviour => ({
  stream: () => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(error) }) }),
  complete: () => Promise.reject(error),
});
/** A worker that says so many words. */
export const saying = (...words: string[]): Behaviour => ({
  async *stream(_request, _call, node) {
    yield chunk(served(node));
    for (const word of words) yield chunk(text(word));
    yield chunk(finish, usage({ inputTokens: 3, outputTokens: words.length }));
  },
  complete: async () => ({ inputTokens: 3, outputTokens: words.length }),
});
export const overloaded = new RpcError("PROVIDER_OVERLOADED", "is full");

/** A mesh in memory. Workers are tried in the order in which they are given. */
export class FakeMesh {
  /** `worker@node`, each time that one is asked. */
  readonly asked: string[] = [];
  readonly requests: CompletionRequest[] = [];
  /** Which of them said that it was the last resort. */
  readonly lastResorts: string[] = [];
  readonly events: AttemptFinished[] = [];
  /** What was told of requests. */
  readonly ended: RequestFinished[] = [];
  /** What was told of them in sums. */
  readonly counted: TrafficCounted[] = [];
  /** What was counted. */
  readonly metrics = createMetrics();
  readonly logged: string[] = [];
  /** What the router does with an event, by subject. */
  readonly heard = new Map<string, (event: unknown) => void>();
  readonly draining = new Set<string>();
  /** Nodes that are alive, as far as it matters. */
  readonly alive = new Set<string>();
  /** Nodes that are known no longer. */
  readonly gone = new Set<string>();
  /** Nodes that route. */
  readonly routers: string[] = [];
  readonly listeners = new Set<() => void>();
  readonly callsInFlight: Record<string, number> = {};
  readonly log: Logger = createLogger({
    level: "trace",
    readable: false,
    node: "test",
    destination: { write: (line) => this.logged.push(line) },
  });
  workers: Record<string, Behaviour>;
  generation = 1;
  cacheEnabled = false;
  /** The owner of every key of the cache; nobody is when it is not there. */
  owner: Partial<Service<typeof CacheStoreServiceDefinition>> | undefined;
  /** What another router says of an answer that it is getting. */
  joined: () => AsyncIterable<JoinResponse> = () => expect.fail("nobody is to be joined");
  stop: () => void = () => {};
  /** Takes everything out of the cache. */
  invalidate: () => void = () => {};
  reads = 0;
  nowMs = 0;
  /** The router's clock is a real one; otherwise it goes a step each time that it is read. */
  timePasses = false;
  randoms: number[] = [];

  constructor(workers: Record<string, Behaviour>) {
    this.workers = workers;
  }

  router(
    options: { routes?: Record<string, string[]> } & Partial<Configuration["routing"]> = {},
  ): Service<typeof RouterServiceDefinition> {
    const mesh = this;
    const directory = {
      get generation() {
        return mesh.generation;
      },
      workers: () => {
        mesh.reads++;
        return mesh.#running();
      },
      node: (id: string) => ({ ...NodeRecord.decode(new Uint8Array()), id, draining: mesh.draining.has(id) }),
      nodes: () => [...mesh.alive].map((id) => ({ ...NodeRecord.decode(new Uint8Array()), id })),
      known: (id: string) => !mesh.gone.has(id),
      nodesServing: () => mesh.routers.map((id) => ({ ...NodeRecord.decode(new Uint8Array()), id })),
      onChange: (listener: () => void) => {
        mesh.listeners.add(listener);
        return () => mesh.listeners.delete(listener);
      },
    } satisfies Partial<Directory>;
    const clients = {
      at: (definition: ServiceDefinition, node: string) => {
        if (definition === CacheStoreServiceDefinition) return mesh.owner;
        if (definition === RouterServiceDefinition) return { join: mesh.joined };
        return bind(ProviderServiceDefinition, mesh.#providerOf(node), "in_process", {
          tracer: silentTracer,
          log: mesh.log,
        });
      },
      ownerOf: () => (mesh.owner === undefined ? undefined : "owner"),
      callsInFlight: (node: string) => mesh.callsInFlight[node] ?? 0,
    };
    const events: Pick<Events, "gather" | "publish" | "subscribe"> = {
      subscribe: (subject, _type, handler) => {
        mesh.heard.set(subject, handler as (event: unknown) => void);
        return () => void mesh.heard.delete(subject);
      },
      publish: (subject, _type, message) => {
        expect(subject).toBe(EVENT.trafficCounted);
        mesh.counted.push(message as TrafficCounted);
      },
      gather: (subject, _type, message) => {
        if (subject === EVENT.requestFinished) mesh.ended.push(...(message as RequestsFinished).requests);
        else {
          expect(subject).toBe(EVENT.attemptFinished);
          mesh.events.push(...(message as AttemptsFinished).attempts);
        }
      },
    };
    const { routes = {}, ...settings } = options;
    const routing: Configuration["routing"] = {
      strategy: "local_first",
      models: Object.fromEntries(Object.entries(routes).map(([name, targets]) => [name, { targets }])),
      attemptsMax: 8,
      waitMaxMs: 0,
      retryRatio: 0.2,
      continuation: true,
      hedging: { enabled: false, ratio: 0.02 },
      queue: { size: 10, waitMaxMs: 10_000 },
      timeoutMs: 60_000,
      ...settings,
    };
    const cacheSettings: Configuration["cache"] = {
      enabled: this.cacheEnabled,
      ttlMs: 60_000,
      temperatureMax: 0.9,
      tokensMax: 2_000,
      l1: { entries: 100, bytes: 1_000_000 },
      l2: { entries: 0, bytes: 0, timeoutMs: 50 },
    };
    const router = createRouter({
      nodeId: HERE,
      directory: directory as unknown as Directory,
      clients: clients as unknown as Clients,
      events: events as Events,
      tracer: silentTracer,
      metrics: mesh.metrics,
      log: mesh.log,
      routing: () => routing,
      cache: () => cacheSettings,
      now: () => (mesh.timePasses ? performance.now() : ++mesh.nowMs),
      random: () => mesh.randoms.shift() ?? 0,
    });
    this.stop = router.stop;
    this.invalidate = () => router.cacheLevel.drop({ key: "", tenantPart: "", modelPart: "" });
    return bind(RouterServiceDefinition, router.service, "in_process", { tracer: silentTracer, log: mesh.log });
  }

  /** Something about the mesh is different. */
  change(): void {
    this.generation++;
    for (const listener of [...this.listeners]) listener();
  }

  outcomes(): [string, number, string][] {
    return this.events.map(({ worker, outcome, reason }) => [worker, outcome, reason]);
  }

  #running(): RunningWorker[] {
    return Object.entries(this.workers).flatMap(([name, { nodes = [HERE], models = ["m"], info }], priority) =>
      nodes.map((node) => ({
        node,
        added: false,
        info: {
          ...WorkerInfo.decode(new Uint8Array()),
          name,
          provider: "p",
          priority,
          models,
          health: Health.AVAILABLE,
          breaker: BreakerState.CLOSED,
          ...info,
        },
      })),
    );
  }

  #providerOf(node: string): Provider {
    const behaviourOf = (worker: string): Behaviour => {
      this.asked.push(`${worker}@${node}`);
      return this.workers[worker]!;
    };
    const refuse = () => Promise.reject(new RpcError("UNIMPLEMENTED", "not in this test"));
    return {
      checkHealth: refuse,
      listModels: refuse,
      getInfo: refuse,
      stream: ({ worker, completion, lastResort }, call) => {
        if (lastResort) this.lastResorts.push(worker);
        this.requests.push(completion!);
        return behaviourOf(worker).stream!(completion!, call, node);
      },
      complete: async ({ worker, completion, lastResort }, call) => {
        if (lastResort) this.lastResorts.push(worker);
        this.requests.push(completion!);
        const reported = await behaviourOf(worker).complete!(completion!, call, node);
        return { completion: { choices: [], usage: reported, warnings: [] }, key: "" };
      },
      embed: async ({ worker, embedding }, call) => {
        const reported = await behaviourOf(worker).complete!({ ...request, model: embedding!.model }, call, node);
        return { embedding: { embeddings: [{ values: [1] }], usage: reported, warnings: [] }, key: "" };
      },
    };
  }
}

export async function read(stream: AsyncIterable<StreamResponse>): Promise<StreamResponse[]> {
  const responses: StreamResponse[] = [];
  for await (const response of stream) responses.push(response);
  return responses;
}

export async function failureOf(promise: Promise<unknown>): Promise<RpcError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(RpcError);
  return error as RpcError;
}

export const textOf = (responses: readonly StreamResponse[]): string =>
  responses.flatMap(({ parts }) => parts.map(({ part }) => (part?.$case === "text" ? part.value.text : ""))).join("");
