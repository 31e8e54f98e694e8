/**
 * The router: takes a request to the workers that can serve it, one after the other, until one does. It knows no provider
 * by name and no wire format. What it needs of the mesh is in memory, so choosing costs no round trip.
 */
import type {
  Completion,
  CompletionRequest,
  EmbeddingRequest,
  EmbeddingResult,
  Model,
  Part,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import {
  ProviderServiceDefinition,
  type StreamResponse as ProviderStreamResponse,
} from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { RouterServiceDefinition, StreamResponse } from "../../libs/gen/cortex/router/v1/router.ts";
import { abortReason, type Call, type FailedAttempt, RpcError, type Service } from "../../libs/rpc/index.ts";
import { traceFields } from "../../libs/telemetry/index.ts";
import { Attempt } from "./attempt.ts";
import { AUTO, type Candidate, indexWorkers, type Routes, resolve, type WorkerIndex } from "./candidates.ts";
import type { RouterDependencies } from "./dependencies.ts";

/** How many parts may come before the first content; more than this is taken for content. */
const PARTS_BEFORE_CONTENT_MAX = 64;

/** Makes the router. */
export function createRouter(dependencies: RouterDependencies): Service<typeof RouterServiceDefinition> {
  const { directory } = dependencies;
  let index: WorkerIndex = indexWorkers([]);
  let indexed = -1;

  function currentIndex(): WorkerIndex {
    if (indexed !== directory.generation) {
      indexed = directory.generation;
      index = indexWorkers(directory.workers());
    }
    return index;
  }

  function plan(model: string, stream: boolean, call: Call): Plan {
    if (model === "") throw new RpcError("INVALID_REQUEST", "model is missing", { field: "model" });
    const candidates = resolve(model, currentIndex(), dependencies.routes);
    return new Plan(model, candidates, stream, call, dependencies);
  }

  /** Serves a unary request by the first worker that can. */
  async function serveWhole<T extends { usage?: Completion["usage"] }>(
    model: string,
    call: Call,
    serve: (attempt: Attempt) => Promise<T>,
  ): Promise<{ result: T; attempts: number }> {
    const tries = plan(model, false, call);
    for (;;) {
      const attempt = tries.next();
      try {
        const result = await serve(attempt);
        attempt.usage = result.usage;
        attempt.served();
        return { result, attempts: tries.attempts };
      } catch (thrown) {
        tries.failed(attempt, RpcError.from(thrown));
      }
    }
  }

  function provider(attempt: Attempt) {
    return dependencies.clients.at(ProviderServiceDefinition, attempt.node);
  }

  return {
    async complete({ completion }, call) {
      const request = required(completion);
      const { result, attempts } = await serveWhole(request.model, call, async (attempt) => {
        const { worker, model } = attempt.candidate;
        const response = await provider(attempt).complete(
          { worker, completion: { ...request, model }, lastResort: false },
          attempt.call,
        );
        return response.completion ?? missingAnswer(worker);
      });
      return { completion: result satisfies Completion, attempts };
    },

    stream({ completion }, call) {
      return {
        [Symbol.asyncIterator]: () => {
          const request = required(completion);
          return new RoutedStream(plan(request.model, true, call), (attempt) => {
            const { worker, model } = attempt.candidate;
            return provider(attempt).stream(
              { worker, completion: { ...request, model }, lastResort: false },
              attempt.call,
            );
          });
        },
      };
    },

    async embed({ embedding }, call) {
      if (embedding === undefined)
        throw new RpcError("INVALID_REQUEST", "embedding is missing", { field: "embedding" });
      const request: EmbeddingRequest = embedding;
      if (request.inputs.length === 0) throw new RpcError("INVALID_REQUEST", "input is empty", { field: "input" });
      const { result, attempts } = await serveWhole(request.model, call, async (attempt) => {
        const { worker, model } = attempt.candidate;
        const response = await provider(attempt).embed(
          { worker, embedding: { ...request, model }, lastResort: false },
          attempt.call,
        );
        return response.embedding ?? missingAnswer(worker);
      });
      return { embedding: result satisfies EmbeddingResult, attempts };
    },

    async explain() {
      throw new RpcError("UNIMPLEMENTED", "not yet");
    },

    async listModels() {
      return { models: listModels(currentIndex(), dependencies.routes) };
    },
  };
}

function required(request: CompletionRequest | undefined): CompletionRequest {
  if (request === undefined) throw new RpcError("INVALID_REQUEST", "completion is missing", { field: "completion" });
  if (request.messages.length === 0) throw new RpcError("INVALID_REQUEST", "messages is empty", { field: "messages" });
  return request;
}

function missingAnswer(worker: string): never {
  throw new RpcError("PROVIDER_INVALID_ANSWER", `worker ${worker} answered without an answer`);
}

function listModels(index: WorkerIndex, routes: Routes): Model[] {
  const models: Model[] = [];
  for (const [id, workers] of index.byModel) {
    const names = workers.map(({ info }) => info.name);
    models.push({ id, workers: names, createdAtS: 0, ownedBy: workers[0]!.info.provider });
    for (const name of names) models.push({ id: `${name}/${id}`, workers: [name], createdAtS: 0, ownedBy: name });
  }
  for (const [id, targets] of Object.entries(routes)) {
    models.push({ id, workers: [...targets], createdAtS: 0, ownedBy: "cortex" });
  }
  if (models.length > 0)
    models.push({ id: AUTO, workers: [...index.workers.keys()], createdAtS: 0, ownedBy: "cortex" });
  return models.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** The candidates of one request and how far it has come with them. */
class Plan {
  attempts = 0;
  readonly #model: string;
  readonly #stream: boolean;
  readonly #call: Call;
  readonly #dependencies: RouterDependencies;
  /** Candidates still to be tried, each with the nodes of it that have not been lost. */
  readonly #remaining: { candidate: Candidate; nodes: string[] }[];
  readonly #failures: FailedAttempt[] = [];
  #shortestWaitMs: number | undefined;

  constructor(
    model: string,
    candidates: readonly Candidate[],
    stream: boolean,
    call: Call,
    dependencies: RouterDependencies,
  ) {
    this.#model = model;
    this.#stream = stream;
    this.#call = call;
    this.#dependencies = dependencies;
    this.#remaining = candidates.map((candidate) => ({ candidate, nodes: [...candidate.nodes] }));
  }

  /** The next attempt; throws the final error when nothing is left to try. */
  next(): Attempt {
    const [entry] = this.#remaining;
    if (entry === undefined || this.attempts >= this.#dependencies.attemptsMax) throw this.#exhausted();
    this.attempts++;
    return new Attempt(
      {
        candidate: entry.candidate,
        node: this.#nodeFor(entry.nodes),
        number: this.attempts,
        requestedModel: this.#model,
        stream: this.#stream,
        call: this.#call,
      },
      this.#dependencies,
    );
  }

  /** Ends an attempt that failed; throws when nobody else could do better. */
  failed(attempt: Attempt, error: RpcError): void {
    attempt.failed(error);
    if (this.#call.signal.aborted) throw abortReason(this.#call.signal);
    if (error.class === "request") throw error;
    const { reason, message, field } = error;
    this.#failures.push({
      worker: attempt.candidate.worker,
      reason,
      message,
      ...(field === undefined ? {} : { field }),
    });
    if (error.retryAfterMs !== undefined) {
      this.#shortestWaitMs = Math.min(error.retryAfterMs, this.#shortestWaitMs ?? Number.POSITIVE_INFINITY);
    }
    const entry = this.#remaining[0]!;
    entry.nodes = entry.nodes.filter((node) => node !== attempt.node);
    const nodeLost = error.reason === "NODE_UNREACHABLE" || error.reason === "NODE_DRAINING";
    if (!nodeLost || entry.nodes.length === 0) this.#remaining.shift();
  }

  /** This node's own if it has one, else the less busy of two random ones; draining nodes only if there is no other. */
  #nodeFor(nodes: readonly string[]): string {
    const { nodeId, clients, directory, random } = this.#dependencies;
    if (nodes.includes(nodeId)) return nodeId;
    const staying = nodes.filter((id) => directory.node(id)?.draining !== true);
    const choice = staying.length > 0 ? staying : nodes;
    const one = choice[Math.floor(random() * choice.length)]!;
    const other = choice[Math.floor(random() * choice.length)]!;
    return clients.callsInFlight(one) <= clients.callsInFlight(other) ? one : other;
  }

  #exhausted(): RpcError {
    const { log } = this.#dependencies;
    const reasons = this.#failures.map(({ worker, reason, message }) => `${worker}: ${reason} (${message})`);
    const only = new Set(this.#failures.map(({ reason }) => reason));
    const details = { attempts: this.#failures, retryAfterMs: this.#shortestWaitMs };
    if (only.size === 1 && only.has("UNSUPPORTED_PARAMETER")) {
      const [{ message, field }] = this.#failures as [FailedAttempt];
      return new RpcError("UNSUPPORTED_PARAMETER", message, { ...details, field });
    }
    if (only.size === 1 && only.has("PROVIDER_MODEL_NOT_FOUND")) {
      const message = `no provider has the model "${this.#model}": ${reasons.join("; ")}`;
      return new RpcError("MODEL_NOT_FOUND", message, { ...details, field: "model" });
    }
    log.error(
      {
        model: this.#model,
        attempts: this.#failures.map(({ worker, reason }) => ({ worker, reason })),
        ...traceFields(this.#call.trace),
      },
      "no workers available",
    );
    return new RpcError("NO_WORKERS_AVAILABLE", `no workers available: ${reasons.join("; ")}`, details);
  }
}

/**
 * A stream that hides the failures of workers until the first content: what comes before it is held back, and a worker that
 * fails is replaced unseen. After it, chunks are handed on as they come, and a failure is told.
 */
class RoutedStream implements AsyncIterator<StreamResponse> {
  readonly #plan: Plan;
  readonly #open: (attempt: Attempt) => AsyncIterable<ProviderStreamResponse>;
  #attempt: Attempt | undefined;
  #iterator: AsyncIterator<ProviderStreamResponse> | undefined;
  #committed = false;

  constructor(plan: Plan, open: (attempt: Attempt) => AsyncIterable<ProviderStreamResponse>) {
    this.#plan = plan;
    this.#open = open;
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    if (!this.#committed) return this.#begin();
    if (this.#iterator === undefined) return Promise.resolve({ done: true, value: undefined });
    return this.#iterator.next().then(this.#onResult, this.#onFailure);
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    const iterator = this.#iterator;
    this.#iterator = undefined;
    this.#committed = true;
    this.#attempt?.failed(new RpcError("CANCELLED", "the caller went away"));
    await iterator?.return?.();
    return { done: true, value: undefined };
  }

  async #begin(): Promise<IteratorResult<StreamResponse>> {
    for (;;) {
      const attempt = this.#plan.next();
      this.#attempt = attempt;
      const held: Part[] = [];
      try {
        const iterator = this.#open(attempt)[Symbol.asyncIterator]();
        this.#iterator = iterator;
        for (;;) {
          const result = await iterator.next();
          if (result.done === true) throw new RpcError("PROVIDER_STREAM_CUT", "the stream ended without content");
          const content = this.#account(result.value.parts);
          for (const part of result.value.parts) held.push(part);
          if (content || held.length > PARTS_BEFORE_CONTENT_MAX) break;
        }
        this.#committed = true;
        attempt.firstToken();
        return { done: false, value: { parts: held, attempts: this.#plan.attempts } };
      } catch (thrown) {
        this.#iterator = undefined;
        this.#plan.failed(attempt, RpcError.from(thrown));
      }
    }
  }

  readonly #onResult = (result: IteratorResult<ProviderStreamResponse>): IteratorResult<StreamResponse> => {
    if (result.done === true) {
      this.#iterator = undefined;
      this.#attempt?.served();
      return { done: true, value: undefined };
    }
    this.#account(result.value.parts);
    return { done: false, value: { parts: result.value.parts, attempts: 0 } };
  };

  readonly #onFailure = (thrown: unknown): never => {
    this.#iterator = undefined;
    const error = RpcError.from(thrown);
    this.#attempt?.failed(error);
    if (error.class === "request") throw error;
    const worker = this.#attempt?.candidate.worker ?? "";
    throw new RpcError("STREAM_INTERRUPTED", `worker ${worker} failed after the answer had begun: ${error.message}`, {
      attempts: [{ worker, reason: error.reason, message: error.message }],
      cause: error,
    });
  };

  /** Notes the usage; says whether there is anything that a client would see as an answer. */
  #account(parts: readonly Part[]): boolean {
    let content = false;
    for (const { part } of parts) {
      switch (part?.$case) {
        case "usage":
          if (this.#attempt !== undefined) this.#attempt.usage = part.value;
          break;
        case "text":
        case "reasoning":
        case "refusal":
          content ||= part.value.text !== "";
          break;
        case "toolCall":
        case "finish":
          content = true;
          break;
        default:
      }
    }
    return content;
  }
}
