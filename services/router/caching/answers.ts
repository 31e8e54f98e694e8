/**
 * Answers from the cache, and one provider's call for all who ask the same at the same time. The router asks here first; what
 * comes from a provider is got by what the router hands in. See docs/caching.md for the rules.
 */

import { type CacheLevel, isInvalidated, keyPart } from "../../../libs/caching/index.ts";
import { TransientMap, TransientSet } from "../../../libs/collections/index.ts";
import type { Entry, LevelStatistics } from "../../../libs/gen/cortex/cache/v1/cache.ts";
import type { CacheInvalidated } from "../../../libs/gen/cortex/events/v1/events.ts";
import type { CompletionRequest, EmbeddingRequest, Part } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import {
  type CacheOptions,
  type CacheStatus,
  type CompleteResponse,
  type EmbedResponse,
  type JoinResponse,
  CacheOptions_Mode as Mode,
  type Resume,
  RouterServiceDefinition,
  type RoutingOptions,
  CacheStatus_State as State,
  type StreamResponse,
} from "../../../libs/gen/cortex/router/v1/router.ts";
import { type Call, type OwnedCall, RpcError, startCall } from "../../../libs/rpc/index.ts";
import { ATTRIBUTE, SPAN, type Tracer } from "../../../libs/telemetry/index.ts";
import type { RequestAccount } from "../request-account.ts";
import { Flight } from "./flight.ts";
import { FollowedAnswer, FollowedWhole } from "./followed.ts";
import { answerKey, vectorKeys } from "./key.ts";
import { type Acquired, CacheLevels, type LevelsDependencies } from "./levels.ts";
import { compact, replay, toCompletion, usageOf } from "./parts.ts";
import { bypass, unkept } from "./rules.ts";
import { collect, Deferred, FirstChunk, OneChunk } from "./streams.ts";
import { embedCached, type VectorStore, type VectorsAsked } from "./vectors.ts";

export interface AnswersDependencies extends LevelsDependencies {
  readonly tracer: Tracer;
  /** For a whole request, in milliseconds. */
  timeoutMs(): number;
}

/** A chat request, as far as the cache goes. */
export interface Asked {
  readonly request: CompletionRequest;
  /** What its model's name stands for now; undefined when nobody knows it, and nothing is looked up. */
  readonly route: string | undefined;
  readonly routing: RoutingOptions | undefined;
  readonly options: CacheOptions | undefined;
  readonly call: Call;
  readonly account: RequestAccount;
}

/** Gets an answer from a provider, from its beginning or from where it was lost. */
type GetStream = (call: Call, resume: Resume | undefined) => AsyncIterator<StreamResponse>;
type GetWhole = (call: Call) => Promise<CompleteResponse>;

/** How often leads are renewed, so that the owner does not take this router for dead. */
const RENEW_MS = 20_000;

interface OpenFlight {
  readonly flight: Flight;
  readonly key: string;
  readonly led: boolean;
  /** Its answer may be kept; not so when answers like it were taken out while it was on its way. */
  kept: boolean;
}

export class CachedAnswers implements CacheLevel {
  readonly levels: CacheLevels;
  readonly #dependencies: AnswersDependencies;
  /** By key, those that come whole with a mark behind. */
  readonly #flights = new TransientMap<string, OpenFlight>();
  /** Those and the ones that nobody may join. */
  readonly #open = new TransientSet<OpenFlight>();
  /** Look-ups at owners that are on their way, by key like those. */
  readonly #acquiring = new TransientMap<string, Promise<Acquired>>();
  /** Vectors that a provider has been asked for, by the keys of all of them. */
  readonly #vectors = new TransientMap<string, Promise<EmbedResponse>>();
  readonly #renewing: NodeJS.Timeout;
  #shared = 0;

  constructor(dependencies: AnswersDependencies) {
    this.#dependencies = dependencies;
    this.levels = new CacheLevels(dependencies);
    this.#renewing = setInterval(() => this.#renew(), RENEW_MS).unref();
  }

  stop(): void {
    clearInterval(this.#renewing);
  }

  statistics(): LevelStatistics {
    return this.levels.statistics();
  }

  sharedCalls(): number {
    return this.#shared;
  }

  drop(invalidated: CacheInvalidated): number {
    // Who asks from now on gets an answer that was begun from now on.
    for (const open of this.#open) if (isInvalidated(open.key, invalidated)) open.kept = false;
    for (const [place, open] of this.#flights) if (!open.kept) this.#flights.delete(place);
    this.#vectors.clear();
    return this.levels.drop(invalidated);
  }

  /** A streamed answer. */
  stream(asked: Asked, get: GetStream): AsyncIterator<StreamResponse> {
    const why = this.#whyNot(asked);
    if (why === undefined) return new Deferred(() => this.#stream(asked, get), asked.account);
    refuseIfOnlyCached(asked, why);
    const source = get(asked.call, undefined);
    return why === "disabled" ? source : this.#told(source, status(State.BYPASS, why), asked);
  }

  /** A whole answer. */
  async complete(asked: Asked, get: GetWhole): Promise<CompleteResponse> {
    const why = this.#whyNot(asked);
    if (why === undefined) return this.#complete(asked, get);
    refuseIfOnlyCached(asked, why);
    const answer = await get(asked.call);
    return why === "disabled" ? answer : { ...answer, cache: this.#trace(status(State.BYPASS, why), asked.call) };
  }

  /** Vectors, input by input. */
  async embed(asked: VectorsAsked, get: (request: EmbeddingRequest) => Promise<EmbedResponse>): Promise<EmbedResponse> {
    const settings = this.#dependencies.settings();
    const { mode = Mode.UNSPECIFIED } = asked.options ?? {};
    const alone = mode === Mode.OFF || mode === Mode.REFRESH || !settings.enabled;
    let shared = false;
    const { drops } = this.levels;
    const store: VectorStore = {
      lookMany: (keys, maxAgeMs, call) => this.levels.lookMany(keys, maxAgeMs, call),
      storeMany: (entries) => {
        // Whoever has asked for them keeps them, once; what may have been taken out meanwhile nobody does.
        if (!shared && drops === this.levels.drops) this.levels.storeMany(entries);
      },
    };
    const answer = await embedCached(asked, { store, settings }, (request) => {
      shared = false;
      if (alone) return get(request);
      return this.#vectorsOnce(request, asked, get, () => {
        shared = true;
      });
    });
    if (answer.cache === undefined) return answer;
    const told = shared ? { ...answer.cache, state: State.SHARED } : answer.cache;
    return { ...answer, cache: this.#trace(told, asked.call) };
  }

  /** Vectors that a provider is asked for now are got once for all who want the same of this router meanwhile. */
  async #vectorsOnce(
    request: EmbeddingRequest,
    asked: VectorsAsked,
    get: (request: EmbeddingRequest) => Promise<EmbedResponse>,
    joined: () => void,
  ): Promise<EmbedResponse> {
    const place = vectorKeys(request, asked.call.tenant, asked.route).join();
    const known = this.#vectors.get(place);
    if (known === undefined) {
      const getting = get(request).finally(() => {
        if (this.#vectors.get(place) === getting) this.#vectors.delete(place);
      });
      this.#vectors.set(place, getting);
      return getting;
    }
    try {
      const answer = await known;
      joined();
      this.#shared++;
      asked.account?.fromCache("shared", answer.embedding?.usage);
      return answer;
    } catch (thrown) {
      const { reason } = RpcError.from(thrown);
      if (reason !== "CANCELLED" && reason !== "DEADLINE_EXCEEDED") throw thrown;
      // Whoever asked first has left; who is here asks for all others.
      return this.#vectorsOnce(request, asked, get, joined);
    }
  }

  /** What another router asks for: an answer that this one is getting. */
  join(key: string, whole: boolean, call: Call): AsyncIterator<JoinResponse> {
    const told = status(State.SHARED, "", key);
    const flight = this.#joinable(key, whole, call.tenant);
    if (flight !== undefined) return flight.join(told);
    // It may have ended while the other router was on its way here, and the owner not have heard of it yet.
    const entry = key.startsWith(`${keyPart(call.tenant)}.`) ? this.levels.look(key) : undefined;
    if (entry?.content?.$case === "answer") return replay(entry.content.value.parts, { cache: told, call });
    throw new RpcError("CACHE_MISS", "this router is not getting that answer");
  }

  #whyNot({ request, route, routing, options }: Asked): string | undefined {
    if (route === undefined) return "disabled";
    const why = bypass(request, options, this.#dependencies.settings());
    // Who wants no continuation must not share the stream of one who does.
    return why ?? (routing?.continuation === false ? "continuation" : undefined);
  }

  async #stream(asked: Asked, get: GetStream): Promise<AsyncIterator<StreamResponse>> {
    const { request, call, options } = asked;
    const key = answerKey(request, call.tenant, asked.route!);
    const make = (made: Call, resume?: Resume): AsyncIterator<StreamResponse> => get(made, resume);
    if (options?.mode === Mode.REFRESH) return this.#lead(key, asked, make, "refresh");
    const found = await this.#find(key, asked, false);
    // Somebody in this router may have been faster; between this and opening one nothing else happens.
    const flight = found.kind === "entry" ? undefined : this.#joinable(key, false, call.tenant);
    if (flight !== undefined) return this.#share(flight, key, asked);
    switch (found.kind) {
      case "entry":
        return this.#hit(found.entry, found.level, key, asked);
      case "follow": {
        const followed = (made: Call) =>
          new FollowedAnswer(request, this.#joined(key, false, found.node, made), (resume) =>
            make(withTraceOf(made, call), resume),
          );
        return this.#share(this.#begin(key, asked, followed, { whole: false, led: false }), key, asked);
      }
      default: {
        const source = (made: Call): AsyncIterator<StreamResponse> => make(made);
        const opened = this.#begin(key, asked, source, { whole: false, led: found.kind === "lead" });
        return opened.join(this.#trace(status(State.MISS, "", key), call), asked.account);
      }
    }
  }

  async #complete(asked: Asked, get: GetWhole): Promise<CompleteResponse> {
    const { request, call, options } = asked;
    const key = answerKey(request, call.tenant, asked.route!);
    const source = (made: Call): AsyncIterator<StreamResponse> => new OneChunk(() => get(made));
    if (options?.mode === Mode.REFRESH) {
      const flight = this.#begin(key, asked, source, { whole: true, led: false, registered: false });
      return collect(flight.join(this.#trace(status(State.MISS, "refresh", key), call), asked.account), call);
    }
    const found = await this.#find(key, asked, true);
    const flight = found.kind === "entry" ? undefined : this.#joinable(key, true, call.tenant);
    if (flight !== undefined) return collect(this.#share(flight, key, asked), call);
    switch (found.kind) {
      case "entry": {
        const { parts, told } = this.#fromEntry(found.entry, found.level, key, asked);
        return { completion: toCompletion(parts), attempts: 0, cache: told };
      }
      case "follow": {
        const followed = (made: Call) =>
          new FollowedWhole(this.#joined(key, true, found.node, made), () => source(withTraceOf(made, call)));
        return collect(this.#share(this.#begin(key, asked, followed, { whole: true, led: false }), key, asked), call);
      }
      default: {
        const opened = this.#begin(key, asked, source, { whole: true, led: found.kind === "lead" });
        return collect(opened.join(this.#trace(status(State.MISS, "", key), call), asked.account), call);
      }
    }
  }

  /** Where the answer is, or is to come from, unless somebody in this router is getting it. */
  async #find(key: string, { options, call }: Asked, whole: boolean): Promise<Acquired> {
    const maxAgeMs = options?.maxAgeS === undefined ? Number.POSITIVE_INFINITY : options.maxAgeS * 1_000;
    const entry = this.levels.look(key, maxAgeMs);
    if (entry !== undefined) return { kind: "entry", entry, level: "l1" };
    const lookOnly = options?.mode === Mode.ONLY_IF_CACHED;
    if (!lookOnly && this.#joinable(key, whole, call.tenant) !== undefined) return { kind: "alone" };
    const acquired = await this.#acquire(key, { whole, lookOnly, maxAgeMs }, call);
    if (acquired.kind === "entry") return acquired;
    if (lookOnly) throw new RpcError("CACHE_MISS", "the answer is not in the cache");
    return acquired.kind === "follow" && acquired.node === this.#dependencies.nodeId ? { kind: "alone" } : acquired;
  }

  /** Asks the owner, once for all who ask this router the same at the same time: the first of them to go on opens the flight. */
  #acquire(
    key: string,
    options: { readonly whole: boolean; readonly lookOnly: boolean; readonly maxAgeMs: number },
    call: Call,
  ): Promise<Acquired> {
    if (options.lookOnly || options.maxAgeMs !== Number.POSITIVE_INFINITY) {
      return this.levels.acquire(key, options, call);
    }
    const place = options.whole ? `${key}${WHOLE}` : key;
    let acquiring = this.#acquiring.get(place);
    if (acquiring === undefined) {
      // Its time is bounded, and who asks first may leave before the others.
      const own = withoutEnd(call);
      acquiring = this.levels.acquire(key, options, own).finally(() => this.#acquiring.delete(place));
      this.#acquiring.set(place, acquiring);
    }
    return acquiring;
  }

  #joinable(key: string, whole: boolean, tenant: string): Flight | undefined {
    const streamed = this.#flights.get(key);
    const known = streamed ?? (whole ? this.#flights.get(`${key}${WHOLE}`) : undefined);
    return known?.flight.open === true && known.flight.tenant === tenant ? known.flight : undefined;
  }

  #lead(
    key: string,
    asked: Asked,
    make: (call: Call) => AsyncIterator<StreamResponse>,
    detail: string,
  ): AsyncIterator<StreamResponse> {
    const flight = this.#begin(key, asked, make, { whole: false, led: false, registered: false });
    return flight.join(this.#trace(status(State.MISS, detail, key), asked.call), asked.account);
  }

  /** The answer that the router of another node is getting. */
  #joined(key: string, whole: boolean, node: string, call: Call): AsyncIterator<JoinResponse> {
    return new Deferred(async () => {
      const router = this.#dependencies.clients.at(RouterServiceDefinition, node);
      return router.join({ key, whole }, call)[Symbol.asyncIterator]();
    });
  }

  /** Begins a flight that goes on until everybody has left, whoever asked first. */
  #begin(
    key: string,
    { call, options }: Asked,
    make: (call: Call) => AsyncIterator<StreamResponse>,
    how: { readonly whole: boolean; readonly led: boolean; readonly registered?: boolean },
  ): Flight {
    const { tenant, requestId, trace, admin } = call;
    const deadlineAtMs = Date.now() + this.#dependencies.timeoutMs();
    const own: OwnedCall = startCall({ tenant, requestId, trace, admin, deadlineAtMs });
    const place = how.whole ? `${key}${WHOLE}` : key;
    let source: AsyncIterator<StreamResponse>;
    try {
      source = make(own);
    } catch (thrown) {
      own.finish();
      if (how.led) this.levels.release(key);
      throw thrown;
    }
    const flight = new Flight({
      tenant,
      whole: how.whole,
      source,
      ended: (end) => {
        if (this.#flights.get(place) === open) this.#flights.delete(place);
        this.#open.delete(open);
        const parts = end.kind === "whole" ? end.parts : undefined;
        this.#keep(key, open.kept ? parts : undefined, how.led, options, call);
        if (parts === undefined) own.cancel();
        own.finish();
      },
    });
    const open: OpenFlight = { flight, key, led: how.led, kept: true };
    this.#open.add(open);
    if (how.registered !== false) this.#flights.set(place, open);
    return flight;
  }

  /** Stores what a flight has brought, if it may be kept. */
  #keep(
    key: string,
    parts: readonly Part[] | undefined,
    led: boolean,
    options: CacheOptions | undefined,
    call: Call,
  ): void {
    const settings = this.#dependencies.settings();
    const why = parts === undefined ? "broken" : unkept(parts, settings);
    if (parts === undefined || why !== undefined) {
      if (led) this.levels.release(key);
      this.#span(`not kept: ${why}`, call);
      return;
    }
    const nowMs = Date.now();
    const ttlMs = options?.ttlS === undefined ? settings.ttlMs : options.ttlS * 1_000;
    const answer = { parts: compact(parts) };
    const entry: Entry = {
      content: { $case: "answer", value: answer },
      createdAtMs: nowMs,
      expiresAtMs: nowMs + ttlMs,
    };
    this.levels.store(key, entry, led);
    this.#span("kept", call);
  }

  #share(flight: Flight, key: string, asked: Asked): AsyncIterator<StreamResponse> {
    this.#shared++;
    asked.account.fromCache("shared");
    return flight.join(this.#trace(status(State.SHARED, "", key), asked.call), asked.account);
  }

  #hit(entry: Entry, level: string, key: string, asked: Asked): AsyncIterator<StreamResponse> {
    const { parts, told } = this.#fromEntry(entry, level, key, asked);
    const { options, call, account } = asked;
    return replay(parts, { tokensPerSecond: options?.tokensPerSecond, cache: told, call, account });
  }

  #fromEntry(
    entry: Entry,
    level: string,
    key: string,
    asked: Asked,
  ): { readonly parts: readonly Part[]; readonly told: CacheStatus } {
    const parts = entry.content?.$case === "answer" ? entry.content.value.parts : [];
    const ageS = Math.max(0, Date.now() - entry.createdAtMs) / 1_000;
    const told = this.#trace({ ...status(State.HIT, level, key), ageS }, asked.call);
    asked.account.fromCache(level, usageOf(parts));
    return { parts, told };
  }

  /** A stream that tells in its first chunk why the cache was not asked. */
  #told(source: AsyncIterator<StreamResponse>, told: CacheStatus, { call }: Asked): AsyncIterator<StreamResponse> {
    this.#trace(told, call);
    return new FirstChunk(source, told);
  }

  #trace(told: CacheStatus, call: Call): CacheStatus {
    this.#span(`${STATE_NAMES[told.state]}${told.detail === "" ? "" : ` ${told.detail}`}`, call);
    return told;
  }

  #span(what: string, call: Call): void {
    const span = this.#dependencies.tracer.startSpan(SPAN.cache, call.trace, "internal");
    span.set(ATTRIBUTE.cache, what);
    span.end();
  }

  /** Tells the owners of the keys that this router is still at it. */
  #renew(): void {
    for (const { flight, key, led } of this.#flights.values()) {
      if (led) this.levels.renew(key, flight.whole);
    }
  }
}

/** Behind the key of an answer that comes whole. */
const WHOLE = "/whole";

const STATE_NAMES: Record<State, string> = {
  [State.UNSPECIFIED]: "unspecified",
  [State.HIT]: "hit",
  [State.MISS]: "miss",
  [State.SHARED]: "shared",
  [State.BYPASS]: "bypass",
};

function refuseIfOnlyCached({ options }: Asked, why: string): void {
  if (options?.mode !== Mode.ONLY_IF_CACHED) return;
  throw new RpcError(
    "CACHE_MISS",
    `only an answer from the cache was wanted, which has none for this request (${why})`,
  );
}

function status(state: State, detail: string, key = ""): CacheStatus {
  return { state, detail, ageS: 0, key };
}

const NEVER = new AbortController().signal;

/** The call for work that outlives it. */
function withoutEnd(call: Call): Call {
  return { ...call, signal: NEVER, deadlineAtMs: Number.POSITIVE_INFINITY };
}

function withTraceOf(call: Call, other: Call): Call {
  return { ...call, trace: other.trace };
}
