/** A worker whose provider is reached over HTTP: a dialect, and around it everything that is the same for every provider. */

import { isDeepStrictEqual } from "node:util";
import { TransientSet } from "../collections/index.ts";
import type {
  Completion,
  CompletionRequest,
  EmbeddingRequest,
  EmbeddingResult,
  Model,
} from "../gen/cortex/llm/v1/llm.ts";
import {
  BreakerState,
  type CheckHealthResponse,
  type CompleteResponse,
  type EmbedResponse,
  Health,
  KeyState,
  type ModelProperties,
  type StreamResponse,
  type WorkerInfo,
} from "../gen/cortex/provider/v1/provider.ts";
import { abortReason, type Call, RpcError } from "../rpc/index.ts";
import { ATTRIBUTE, type Attributes, type Logger, type Span, type Tracer, traceFields } from "../telemetry/index.ts";
import { ActiveRequests } from "./active-requests.ts";
import { completeServed, StreamAnswer, summarize, WholeAnswer } from "./answer.ts";
import { type AnswerSummary, Attempt, type AttemptHost, type AttemptOptions, type Operation } from "./attempt.ts";
import { begunAnswer } from "./begun-answer.ts";
import { Breaker } from "./breaker.ts";
import { ConnectionPool } from "./connection-pool.ts";
import type { AttemptContext, Dialect, ProviderRequest, Timeouts } from "./dialect.ts";
import { causeFields, describe, failure } from "./failures.ts";
import { parseJson } from "./json.ts";
import { isAboutKey, type Key, type KeyChange, Keys } from "./keys.ts";
import { type Knowledge, propertiesOf } from "./model-properties.ts";
import { PartStream } from "./part-stream.ts";
import { checkKey, parseBaseUrl, type WorkerSettings, withDefaults } from "./settings.ts";
import { NO_TROUBLE, type Trouble, troubleOf, withRemedy } from "./trouble.ts";
import type { HealthCheckOptions, RequestOptions, Worker, WorkerChange, WorkerDependencies } from "./worker.ts";

/** The breaker of a worker whose settings say nothing about it. */
const BREAKER_FAILURES = 5;
const BREAKER_RESET_MS = 30_000;

const CLOSE_WAIT_MS = 30_000;

/** A provider is asked again for its models after this time, also while requests show that it is well. */
const MODELS_AGE_MAX_MS = 120_000;

/** How much of the time that is left for a check its provider may take, so that its silence can still be told. */
const CHECK_SHARE = 0.9;

/** The operations that a provider is asked, not for a client but to look after its worker, have no model. */
const NO_MODEL = "";

/**
 * Makes a worker of a dialect. It opens no connection before the first request. Throws INVALID_REQUEST, naming the field,
 * for settings that can't work.
 */
export function createHttpWorker(dialect: Dialect, settings: WorkerSettings, dependencies: WorkerDependencies): Worker {
  return new HttpWorker(dialect, settings, dependencies);
}

class HttpWorker implements Worker, AttemptHost {
  readonly name: string;
  readonly dialect: Dialect;
  readonly pool: ConnectionPool;
  readonly breaker: Breaker;
  readonly keys: Keys;
  readonly secrets: readonly string[];
  readonly tracer: Tracer;
  readonly attributes: Attributes;
  readonly log: Logger;
  readonly #settings: WorkerSettings;
  readonly #timeouts: Timeouts;
  readonly #active: ActiveRequests;
  readonly #clock: () => number;
  readonly #random: () => number;
  readonly #closeWaitMs: number;
  readonly #listeners = new Set<(change: WorkerChange) => void>();
  readonly #attempts = new TransientSet<Attempt>();
  #models: readonly string[];
  /** What the provider's list says of them. */
  #listed: ReadonlyMap<string, Knowledge> = new Map();
  #properties: Record<string, ModelProperties>;
  /** What the provider was found to be; whether there is room is seen when asked. */
  #health: Health = Health.UNSPECIFIED;
  #reportedHealth: Health = Health.UNSPECIFIED;
  #reportedTrouble: Trouble = NO_TROUBLE;
  /** Why the provider was found to be not available. */
  #trouble = NO_TROUBLE;
  /** When the provider has last shown how it is, and when it listed its models; never at first. */
  #heardAtMs = Number.NEGATIVE_INFINITY;
  #listedAtMs = Number.NEGATIVE_INFINITY;
  #checking: Promise<CheckHealthResponse> | undefined;
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  constructor(dialect: Dialect, settings: WorkerSettings, dependencies: WorkerDependencies) {
    const { defaults } = dialect;
    settings.keys.forEach(checkKey);
    this.name = settings.name;
    this.dialect = dialect;
    this.tracer = dependencies.tracer;
    this.log = dependencies.log.child({ worker: settings.name });
    this.#clock = dependencies.clock ?? Date.now;
    this.keys = new Keys({
      keys: settings.keys,
      clock: this.#clock,
      onChange: (change) => this.#keyChanged(change),
    });
    this.secrets = settings.keys;
    this.#settings = settings;
    this.#random = dependencies.random ?? Math.random;
    this.#closeWaitMs = dependencies.closeWaitMs ?? CLOSE_WAIT_MS;
    this.#timeouts = withDefaults(defaults.timeouts, settings.timeouts);
    this.#active = new ActiveRequests(settings.limits?.concurrent ?? 0);
    this.#models = settings.models ?? [];
    this.#properties = this.#knownProperties();
    this.pool = new ConnectionPool({
      baseUrl: parseBaseUrl(settings.baseUrl ?? defaults.baseUrl),
      timeouts: this.#timeouts,
      ...withDefaults(defaults.pool, settings.pool),
    });
    const { hostname, port, protocol } = this.pool.options.baseUrl;
    this.attributes = {
      [ATTRIBUTE.provider]: dialect.telemetryName ?? dialect.provider,
      [ATTRIBUTE.serverAddress]: hostname,
      [ATTRIBUTE.serverPort]: Number(port || (protocol === "https:" ? 443 : 80)),
      [ATTRIBUTE.worker]: settings.name,
    };
    this.breaker = new Breaker({
      failures: settings.breaker?.failures ?? BREAKER_FAILURES,
      resetMs: settings.breaker?.resetMs ?? BREAKER_RESET_MS,
      clock: this.#clock,
      onChange: (state) => this.#breakerChanged(state),
    });
  }

  info(): WorkerInfo {
    const { provider, defaults, simulated } = this.dialect;
    const { origin, pathname } = this.pool.options.baseUrl;
    return {
      name: this.name,
      provider,
      priority: this.#settings.priority ?? defaults.priority,
      baseUrl: `${origin}${pathname === "/" ? "" : pathname}`,
      models: this.#models,
      capabilities: this.#settings.capabilities ?? defaults.capabilities,
      health: this.#currentHealth(),
      breaker: this.breaker.state,
      pool: this.pool.statistics(),
      activeRequests: this.#active.count,
      concurrentRequestsMax: this.#active.max,
      simulated: simulated ?? false,
      keys: this.keys.info(),
      breakerStatistics: this.breaker.statistics(),
      weight: this.#settings.weight ?? 1,
      modelProperties: this.#properties,
      draining: false,
      tokensPerSecondMin: this.#settings.limits?.tokensPerSecondMin ?? 0,
      ...this.#currentTrouble(),
    };
  }

  async complete(request: CompletionRequest, call: Call, options: RequestOptions = {}): Promise<CompleteResponse> {
    const context = this.#context(request.model, begunAnswer(request.messages));
    const translated = this.#translate(call, () => this.dialect.chatRequest(request, false, context));
    const attempt = new Attempt(this, chatOptions(request, call, context, options));
    return this.#ask(attempt, translated, (text) => {
      const answer = this.dialect.chatAnswer(parseJson(text, "the answer"), context);
      const completion: Completion = {
        ...answer,
        served: completeServed(answer.served, attempt, this.dialect),
        warnings: withWarnings(answer.warnings, translated),
      };
      return { value: { completion, key: attempt.key }, summary: summarize(completion) };
    });
  }

  stream(request: CompletionRequest, call: Call, options: RequestOptions = {}): AsyncIterable<StreamResponse> {
    return new PartStream((stream) => {
      const context = this.#context(request.model, begunAnswer(request.messages));
      const translated = this.#translate(call, () => this.dialect.chatRequest(request, true, context));
      const attempt = new Attempt(this, { ...chatOptions(request, call, context, options), stream: true });
      const warnings = translated.warnings ?? [];
      attempt.send({
        request: this.#prefixed(translated),
        accept: this.dialect.framing === "sse" ? "text/event-stream" : "application/x-ndjson",
        receive: () => {
          const reader = this.dialect.chatEvents(context);
          return new StreamAnswer(attempt, this.dialect, { stream, reader, warnings });
        },
      });
      return attempt;
    });
  }

  async embed(request: EmbeddingRequest, call: Call, { lastResort }: RequestOptions = {}): Promise<EmbedResponse> {
    const { embedding, provider } = this.dialect;
    if (embedding === undefined) {
      throw failure("UNIMPLEMENTED", `${provider} has no embeddings`);
    }
    const context = this.#context(request.model);
    const translated = this.#translate(call, () => embedding.request(request, context));
    const options = { call, context, lastResort, stream: false, counted: true };
    const attempt = new Attempt(this, { operation: "embeddings", ...options });
    return this.#ask(attempt, translated, (text) => {
      const answer = embedding.answer(parseJson(text, "the answer"), context);
      const served = completeServed(answer.served, attempt, this.dialect);
      const result: EmbeddingResult = { ...answer, served, warnings: withWarnings(answer.warnings, translated) };
      return { value: { embedding: result, key: attempt.key }, summary: { served, usage: result.usage } };
    });
  }

  async listModels(call: Call): Promise<Model[]> {
    if (this.#settings.models !== undefined) return this.#settings.models.map(configuredModel);
    return this.#look("list_models", call, this.dialect.modelsRequest(), (text) => this.#readModels(text));
  }

  async checkHealth(call: Call, { ageMaxMs }: HealthCheckOptions = {}): Promise<CheckHealthResponse> {
    if (call.signal.aborted) throw abortReason(call.signal);
    if (ageMaxMs === undefined) return this.#check(call);
    const known = this.#known(ageMaxMs);
    if (known !== undefined) return known;
    // Whoever asks at the same moment gets the same answer, unless the one who asked first gives up.
    if (this.#checking !== undefined) {
      const joined = await this.#checking.catch(() => undefined);
      if (joined !== undefined) return joined;
    }
    const checking = this.#check(call);
    this.#checking = checking;
    const ended = () => {
      if (this.#checking === checking) this.#checking = undefined;
    };
    checking.then(ended, ended);
    return checking;
  }

  /** What is known of the provider without asking it, if that is young enough. */
  #known(ageMaxMs: number): CheckHealthResponse | undefined {
    const nowMs = performance.now();
    const ageMs = nowMs - this.#heardAtMs;
    // Only a check finds out whether a refused key is taken again, and which models there are.
    if (ageMs > ageMaxMs || this.#health === Health.UNSPECIFIED || this.keys.trialsDue().length > 0) return undefined;
    if (this.#settings.models === undefined && nowMs - this.#listedAtMs > Math.max(ageMaxMs, MODELS_AGE_MAX_MS)) {
      return undefined;
    }
    return { health: this.#currentHealth(), latencyMs: 0, message: withRemedy(this.#trouble), ageMs };
  }

  async #check(call: Call): Promise<CheckHealthResponse> {
    if (this.pool.exhausted) {
      return { health: Health.BUSY, latencyMs: 0, message: this.#poolTrouble().message, ageMs: 0 };
    }
    const startedAtMs = performance.now();
    const request = this.dialect.healthRequest();
    const models = this.dialect.modelsRequest();
    const asksModels = this.#settings.models === undefined;
    const same = request.path === models.path && request.method === models.method && request.body === models.body;
    const ask = (trial?: Key) =>
      this.#look("health", call, request, (text) => void (asksModels && same && this.#readModels(text)), trial);
    try {
      if (!(await this.#tryRefusedKeys(ask, call))) await ask();
    } catch (thrown) {
      return this.#unhealthy(RpcError.from(thrown), performance.now() - startedAtMs, call);
    }
    const latencyMs = performance.now() - startedAtMs;
    this.#setHealth(Health.AVAILABLE);
    if (asksModels && !same) await this.#refreshModels(call);
    return { health: this.#currentHealth(), latencyMs, message: "", ageMs: 0 };
  }

  onChange(listener: (change: WorkerChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  onLoad(listener: (activeRequests: number) => void): () => void {
    return this.#active.onChange(listener);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  check(counted: boolean): void {
    if (this.#closing !== undefined) throw this.#draining();
    if (counted) this.#active.check();
  }

  begun(attempt: Attempt): void {
    this.#attempts.add(attempt);
    if (attempt.options.counted) this.#active.begin();
    this.#reportHealth();
  }

  ended(attempt: Attempt, error: RpcError | undefined): void {
    this.#attempts.delete(attempt);
    if (tellsHealth(error)) this.#heardAtMs = performance.now();
    if (attempt.options.counted) this.#active.end();
    if (error === undefined) this.#setHealth(Health.AVAILABLE);
    else if (
      error.reason === "PROVIDER_UNREACHABLE" ||
      (error.reason === "PROVIDER_REFUSED_KEY" && (this.keys.allOut || this.keys.count === 0))
    ) {
      this.#setHealth(Health.UNAVAILABLE, troubleOf(error));
    } else this.#reportHealth();
    if (this.#attempts.size === 0) this.#idle?.();
  }

  async #close(): Promise<void> {
    if (this.#attempts.size > 0) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
        timer = setTimeout(resolve, this.#closeWaitMs);
      });
      clearTimeout(timer);
    }
    for (const attempt of [...this.#attempts]) attempt.exchange.abort(this.#draining());
    await this.pool.close();
    this.breaker.shutdown();
    this.keys.shutdown();
    this.#listeners.clear();
  }

  #draining(): RpcError {
    return failure("NODE_DRAINING", "it is being closed");
  }

  #context(model: string, begun?: string): AttemptContext {
    return {
      worker: this.name,
      model,
      begun,
      nowS: Math.floor(this.#clock() / 1000),
      mintId: (prefix) => prefix + randomText(this.#random),
    };
  }

  #translate(call: Call, translate: () => ProviderRequest): ProviderRequest {
    try {
      return translate();
    } catch (thrown) {
      const error = RpcError.from(thrown);
      if (error.reason === "INTERNAL") {
        const fields = { ...traceFields(call.trace), ...causeFields(error.cause) };
        this.log.error(fields, "the dialect could not translate a request");
      }
      throw error;
    }
  }

  #prefixed(request: ProviderRequest): ProviderRequest {
    const { pathname } = this.pool.options.baseUrl;
    return pathname === "/" || request.fromRoot ? request : { ...request, path: `${pathname}${request.path}` };
  }

  #ask<T>(
    attempt: Attempt,
    request: ProviderRequest,
    read: (text: string) => { readonly value: T; readonly summary?: AnswerSummary },
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      attempt.send({
        request: this.#prefixed(request),
        accept: "application/json",
        receive: () => new WholeAnswer(attempt, this.dialect, { read, resolve, reject }),
      });
    });
  }

  /** Asks with the keys that were refused and may be tried again. True when the provider has taken one. */
  async #tryRefusedKeys(ask: (trial: Key) => Promise<unknown>, call: Call): Promise<boolean> {
    let taken = false;
    let error: RpcError | undefined;
    for (const key of this.keys.trialsDue()) {
      try {
        await ask(key);
        taken = true;
      } catch (thrown) {
        if (call.signal.aborted) throw abortReason(call.signal);
        error = RpcError.from(thrown);
        // The other keys would fare no better.
        if (!isAboutKey(error)) break;
      }
    }
    // With no other key this is how the worker is.
    if (error !== undefined && this.keys.allOut) throw error;
    return taken;
  }

  /** Asks something to look after the worker: past breaker and limits, within the connect time-out and what the call leaves. */
  async #look<T>(
    operation: Operation,
    call: Call,
    request: ProviderRequest,
    read: (text: string) => T,
    trial?: Key,
  ): Promise<T> {
    const leftMs = Math.max(Math.floor((call.deadlineAtMs - Date.now()) * CHECK_SHARE), 1);
    const limitMs = Math.min(this.#timeouts.connectMs, leftMs);
    const timeouts: Timeouts = {
      connectMs: limitMs,
      poolMs: limitMs,
      firstTokenMs: limitMs,
      stallMs: limitMs,
      totalMs: limitMs,
    };
    const context = this.#context(NO_MODEL);
    const attempt = new Attempt(this, { operation, call, context, stream: false, counted: false, timeouts, trial });
    return this.#ask(attempt, request, (text) => ({ value: read(text) }));
  }

  #readModels(text: string): Model[] {
    const listed = this.dialect.modelsAnswer(parseJson(text, "the list of models"));
    const ids = listed.map(({ id }) => id);
    this.#listedAtMs = performance.now();
    this.#listed = new Map(
      listed.flatMap(({ id, properties }) => (properties === undefined ? [] : [[id, properties]])),
    );
    const before = [this.#models, this.#properties];
    this.#models = ids;
    this.#properties = this.#knownProperties();
    if (!isDeepStrictEqual([this.#models, this.#properties], before)) this.#notify("models");
    return listed.map(({ properties: _, ...model }) => model);
  }

  #knownProperties(): Record<string, ModelProperties> {
    return propertiesOf(this.#settings, this.#models, (model) => {
      const [named, listed] = [this.dialect.modelProperties?.(model), this.#listed.get(model)];
      return named === undefined ? listed : { ...named, ...listed };
    });
  }

  async #refreshModels(call: Call): Promise<void> {
    try {
      await this.listModels(call);
    } catch (thrown) {
      if (call.signal.aborted) throw abortReason(call.signal);
      const error = RpcError.from(thrown);
      this.log.warn({ reason: error.reason }, `the provider's models are not known: ${describe(error)}`);
    }
  }

  #unhealthy(error: RpcError, latencyMs: number, call: Call): CheckHealthResponse {
    if (call.signal.aborted) throw abortReason(call.signal);
    // Its silence, too, has been found out by asking.
    this.#heardAtMs = performance.now();
    const trouble = troubleOf(error);
    // Who has it asked reads also what the provider says to that.
    const message = withRemedy({ ...trouble, message: error.forLog ?? error.message });
    // Keys that rest make it busy for as long as they do, and that is known without asking again.
    if (this.#keysRest()) {
      this.#reportHealth();
      return { health: this.#currentHealth(), latencyMs, message, ageMs: 0 };
    }
    const full = error.reason === "PROVIDER_RATE_LIMITED" || error.reason === "PROVIDER_OVERLOADED";
    const health = full || error.reason === "WORKER_BUSY" ? Health.BUSY : Health.UNAVAILABLE;
    this.#setHealth(health, trouble);
    return { health, latencyMs, message, ageMs: 0 };
  }

  #currentHealth(): Health {
    if (this.#health === Health.UNAVAILABLE) return Health.UNAVAILABLE;
    return this.#active.full || this.pool.exhausted || this.#keysRest() ? Health.BUSY : this.#health;
  }

  /** Why it can't serve now, or has no room. */
  #currentTrouble(): Trouble {
    const health = this.#currentHealth();
    if (health === Health.UNAVAILABLE) return this.#trouble;
    const open = this.breaker.whyOpen();
    if (open !== undefined) return { reason: "BREAKER_OPEN", message: open };
    if (health !== Health.BUSY) return NO_TROUBLE;
    if (this.#active.full) return { reason: "WORKER_BUSY", message: this.#active.whyFull() };
    if (this.pool.exhausted) return this.#poolTrouble();
    const keys = this.keys.refusal();
    return keys === undefined
      ? this.#trouble
      : { reason: keys.reason, message: "no key can be used: those that serve rest" };
  }

  #poolTrouble(): Trouble {
    const { connections } = this.pool.options;
    return { reason: "WORKER_BUSY", message: `all ${connections} connections are in use (pool.connections)` };
  }

  /** No key can be used, but one will be. */
  #keysRest(): boolean {
    return this.keys.waitMs() !== undefined;
  }

  #setHealth(health: Health, trouble = NO_TROUBLE): void {
    this.#trouble = trouble;
    if (health === this.#health) {
      this.#reportHealth();
      return;
    }
    const before = this.#health;
    this.#health = health;
    const { reason, message } = trouble;
    if (health === Health.AVAILABLE) this.log.info({ health: "available" }, "worker is available");
    else if (health === Health.BUSY) this.log.info({ health: "busy", reason }, `worker is busy: ${message}`);
    else {
      const level = this.#settings.assumed === true && before === Health.UNSPECIFIED ? "debug" : "warn";
      this.log[level]({ health: "unavailable", reason }, `worker is unavailable: ${message}`);
    }
    this.#reportHealth();
  }

  #reportHealth(): void {
    const health = this.#currentHealth();
    // Why it is busy is of interest to who looks; why it is down may be news.
    const isNews = health === Health.UNAVAILABLE && !isDeepStrictEqual(this.#trouble, this.#reportedTrouble);
    if (health === this.#reportedHealth && !isNews) return;
    this.#reportedHealth = health;
    this.#reportedTrouble = this.#trouble;
    this.#notify("health");
  }

  #breakerChanged(state: BreakerState): void {
    if (state === BreakerState.OPEN) {
      this.log.warn({ breaker: "open" }, "breaker opened: the worker gets no requests until a trial succeeds");
    } else if (state === BreakerState.HALF_OPEN) {
      this.log.info({ breaker: "half_open" }, "breaker half open: the next request is a trial");
    } else {
      this.log.info({ breaker: "closed" }, "breaker closed: the worker serves again");
    }
    this.#notify("breaker");
  }

  #keyChanged(change: KeyChange): void {
    const { fingerprint: key, state, reason } = change;
    if (state === KeyState.OUT) {
      this.log.error(
        { key, reason },
        "the provider refuses a key: it serves no more until a health check shows that it is taken again",
      );
    } else if (state === KeyState.RESTING) {
      const restMs = Math.round(change.restingUntilMs - this.#clock());
      const level = reason === "PROVIDER_QUOTA_EXHAUSTED" ? "warn" : "info";
      this.log[level]({ key, reason, rest_ms: restMs }, "the provider limits a key: it rests");
    } else this.log.info({ key }, "a key is back");
    this.#notify(change);
    this.#reportHealth();
  }

  #notify(change: WorkerChange): void {
    for (const listener of this.#listeners) {
      try {
        listener(change);
      } catch (thrown) {
        // It is called from within an attempt, which must not suffer for it.
        this.log.error({ change, ...causeFields(thrown) }, "a listener to changes of the worker failed");
      }
    }
  }
}

/** Whether the end of an exchange says how the provider is: it was there, or could not be reached. Silence may be the model's. */
function tellsHealth(error: RpcError | undefined): boolean {
  return error === undefined || (error.reason.startsWith("PROVIDER_") && error.reason !== "PROVIDER_TIMEOUT");
}

function chatOptions(
  request: CompletionRequest,
  call: Call,
  context: AttemptContext,
  { lastResort }: RequestOptions,
): AttemptOptions {
  const describe = (span: Span): void => {
    span.set(ATTRIBUTE.requestMaxTokens, request.maxOutputTokens);
    span.set(ATTRIBUTE.requestTemperature, request.sampling?.temperature);
    span.set(ATTRIBUTE.requestTopP, request.sampling?.topP);
  };
  return { operation: "chat", call, context, lastResort, stream: false, counted: true, describe };
}

function configuredModel(id: string): Model {
  return { id, workers: [], createdAtS: 0, ownedBy: "" };
}

function withWarnings(own: Completion["warnings"], { warnings }: ProviderRequest): Completion["warnings"] {
  return warnings === undefined || warnings.length === 0 ? own : [...warnings, ...own];
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";

function randomText(random: () => number): string {
  let text = "";
  for (let count = 0; count < 16; count += 1) text += LETTERS[Math.floor(random() * LETTERS.length)];
  return text;
}
