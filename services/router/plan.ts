/**
 * The plan of one request: who may serve it, in which order, who has been asked, and when it is worth asking again. The rules
 * of failover are here and nowhere else:
 *
 *  1. Each candidate is asked once, best first. Those that are at their limit are passed over while a healthy one has room.
 *  2. When only those are left, the request queues for them.
 *  3. When all have failed and none was even asked, as every breaker is open, one is asked all the same.
 *  4. Whoever has failed in passing is asked again, after the time that its provider gave or a short pause, if that is soon
 *     enough and the budget of retries allows it.
 */
import { AttemptKind } from "../../libs/gen/cortex/events/v1/events.ts";
import { type RoutingOptions, Strategy } from "../../libs/gen/cortex/router/v1/router.ts";
import type { StrategyName } from "../../libs/host/index.ts";
import { abortReason, CATALOGUE, type Call, type FailedAttempt, type Reason, RpcError } from "../../libs/rpc/index.ts";
import { traceFields } from "../../libs/telemetry/index.ts";
import { Attempt } from "./attempt.ts";
import { type Candidate, RANK_DOWN, type Resolution, rankOf } from "./candidates.ts";
import type { RouterState } from "./dependencies.ts";
import { misfit, type Refusal, refusal, whyFit } from "./needs.ts";
import type { RequestAccount } from "./request-account.ts";
import type { PlanTraits } from "./traits.ts";

/** What is asked, as far as choosing goes. */
export interface PlanRequest {
  /** As the client named it. */
  readonly model: string;
  readonly traits: PlanTraits;
  readonly stream: boolean;
  readonly routing: RoutingOptions | undefined;
  readonly call: Call;
  /** Absent where nothing is served: it is only to be explained. */
  readonly account?: RequestAccount | undefined;
}

interface Failure {
  readonly candidate: Candidate;
  readonly error: RpcError;
  readonly atMs: number;
  /** How often this candidate has failed. */
  readonly count: number;
  /** When it may be asked again; Infinity for never. */
  readonly dueAtMs: number;
}

/** What may well be gone a moment later. */
const PASSING: ReadonlySet<Reason> = new Set([
  "PROVIDER_ERROR",
  "PROVIDER_OVERLOADED",
  "PROVIDER_UNREACHABLE",
  "PROVIDER_STREAM_CUT",
  "PROVIDER_INVALID_ANSWER",
  "MODEL_OUTPUT_INVALID",
  "NODE_UNREACHABLE",
  "NODE_DRAINING",
]);
/** Of the node and not of the worker: nobody was asked, and another node may run it, or have room. */
const OF_THE_NODE: ReadonlySet<Reason> = new Set(["NODE_UNREACHABLE", "NODE_DRAINING", "WORKER_BUSY"]);
/** Each node that runs the worker finds out for itself: another one may let it be asked. */
const KNOWN_BY_THE_NODE: ReadonlySet<Reason> = new Set([...OF_THE_NODE, "BREAKER_OPEN"]);
/** The worker would fail with its other models too. */
const OF_THE_WORKER: ReadonlySet<Reason> = new Set([
  "BREAKER_OPEN",
  "PROVIDER_UNREACHABLE",
  "PROVIDER_REFUSED_KEY",
  "PROVIDER_QUOTA_EXHAUSTED",
  "NODE_UNREACHABLE",
  "NODE_DRAINING",
]);
/** A candidate is asked again so often at most. */
const RETRIES_MAX = 2;
/** For each attempt that counts so many may be made that ask no provider. */
const IDLE_ATTEMPTS = 3;
/** Who was silent is asked once more, and after all others. */
const SILENT_PAUSE_MS = 1_000;
/** Before the first retry, without a word from the provider; four times as long before the second. */
const PAUSE_MS = 100;
/** The longest pause before a node that was lost is looked for again. */
const NODE_PAUSE_MAX_MS = 1_000;
/** From this rank on a worker is no match for one that is well but full. */
const RANK_SECOND_RATE = 2;

const NAMES: Readonly<Record<Strategy, StrategyName | undefined>> = {
  [Strategy.UNSPECIFIED]: undefined,
  [Strategy.LOCAL_FIRST]: "local_first",
  [Strategy.ROUND_ROBIN]: "round_robin",
  [Strategy.LEAST_LOADED]: "least_loaded",
  [Strategy.WEIGHTED]: "weighted",
  [Strategy.LATENCY]: "latency",
  [Strategy.COST]: "cost",
  [Strategy.AFFINITY]: "affinity",
};

export class Plan {
  /** Attempts made so far. */
  attempts = 0;
  readonly strategy: StrategyName;
  readonly request: PlanRequest;
  readonly #state: RouterState;
  #resolution: Resolution;
  #candidates: readonly Candidate[];
  /** The candidates differ in what they can do, so it matters what the request needs. */
  #choosy: boolean;
  /** Those that may not be chosen any more in this round: asked, or passed over. */
  readonly #tried = new Set<Candidate>();
  /** Those that were passed over because they are at their limit. */
  #full: readonly Candidate[] = [];
  /** Whether one of those was among the candidates at the last choice. */
  #metFull = false;
  /** By `worker/model`. */
  readonly #failures = new Map<string, Failure>();
  /** In order, for the final error. */
  readonly #history: FailedAttempt[] = [];
  /** Nodes on which a worker has failed, while others may run it: `worker@node`. */
  readonly #lostAt = new Set<string>();
  #waitedMs = 0;
  #lastResortTaken = false;
  /** Attempts for which no provider was asked: they cost nothing, so they do not count, up to a bound. */
  #idle = 0;

  /** Throws when every candidate lacks what the request needs, or is being drained, unless that is only to be explained. */
  constructor(request: PlanRequest, resolution: Resolution, state: RouterState, use: "serve" | "explain" = "serve") {
    this.request = request;
    this.#state = state;
    this.#resolution = resolution;
    const configured = resolution.route?.strategy ?? state.routing().strategy;
    this.strategy = NAMES[request.routing?.strategy ?? Strategy.UNSPECIFIED] ?? configured;
    this.#candidates = this.#able(resolution, use);
    this.#choosy = isChoosy(this.#candidates);
  }

  /** Whether a stream that breaks may go on at another worker. */
  get continuation(): boolean {
    const { routing } = this.request;
    return routing?.continuation ?? this.#resolution.route?.continuation ?? this.#state.routing().continuation;
  }

  /** Whether a second worker may be asked while the first one is late. */
  get hedging(): boolean {
    const { routing } = this.request;
    return routing?.hedging ?? this.#resolution.route?.hedging ?? this.#state.routing().hedging.enabled;
  }

  /** Whether there is somebody else to ask, who is well and has not been asked. */
  get hasAlternative(): boolean {
    return this.#candidates.some((candidate) => !this.#tried.has(candidate) && rankOf(candidate.info) < RANK_DOWN);
  }

  /** The next attempt: at once, or when it is worth making one. Rejects with the final error when nothing is left to try. */
  next(kind?: AttemptKind): Attempt | Promise<Attempt> {
    if (this.#spent) throw this.#exhausted();
    const candidate = this.#choose();
    return candidate === undefined ? this.#later(kind) : this.#attempt(candidate, { kind });
  }

  /** Another attempt beside the one that is late; undefined when nobody else has room, or the budget is used up. */
  hedge(): Attempt | undefined {
    if (this.#spent) return undefined;
    const candidate = this.#choose();
    if (candidate === undefined) return undefined;
    if (rankOf(candidate.info) >= RANK_SECOND_RATE || !this.#state.hedges.take()) {
      this.#tried.delete(candidate);
      return undefined;
    }
    return this.#attempt(candidate, { kind: AttemptKind.HEDGE });
  }

  /**
   * Ends an attempt that failed. Throws when nobody else could do better: the caller has gone, or the request is at fault.
   * While an answer is `continued`, a worker that refuses the request refuses only to go on with it.
   */
  failed(attempt: Attempt, error: RpcError, continued = false): void {
    attempt.failed(error);
    const { call } = this.request;
    if (call.signal.aborted) throw abortReason(call.signal);
    if (error.class === "request" && !continued) {
      const { reason, message, field, retryAfterMs, cause, key, forLog } = error;
      // Which key it was asked with is for the ledger alone, and what logs may say of it for them.
      const isForAll = key === undefined && forLog === undefined;
      throw isForAll ? error : new RpcError(reason, message, { field, retryAfterMs, cause });
    }
    const { candidate } = attempt;
    const { reason, message, field } = error;
    this.#history.push({ worker: candidate.worker, reason, message, ...(field === undefined ? {} : { field }) });
    this.#note(candidate, error, attempt.node);
  }

  /** Ends an attempt that failed for the way in which it was asked: its worker may be asked again at once, in another way. */
  askAgain(attempt: Attempt, error: RpcError): void {
    attempt.failed(error);
    if (this.request.call.signal.aborted) throw abortReason(this.request.call.signal);
    this.#tried.delete(attempt.candidate);
  }

  /** How the candidates stand, best first, for people: what would be asked now, and why. */
  explain(): readonly { readonly candidate: Candidate; readonly refused: string; readonly why: readonly string[] }[] {
    const { chooser, admission } = this.#state;
    const { traits } = this.request;
    const explained: { candidate: Candidate; refused: string; why: string[] }[] = [];
    for (const candidate of chooser.ranking(this.strategy, this.#candidates, traits, this.#tierOf)) {
      const why: string[] = [];
      const target = this.#resolution.targets?.get(candidate);
      if (target !== undefined) why.push(`target ${target + 1} of the route`);
      if (rankOf(candidate.info) >= RANK_DOWN) why.push(whyDown(candidate, this.request.call));
      else if (candidate.info.simulated) why.push("it is a simulation");
      if (admission.full(candidate)) why.push("it is at its limit");
      if (traits.needs !== undefined) why.push(...whyFit(traits.needs, candidate));
      why.push(chooser.why(this.strategy, candidate, traits));
      explained.push({ candidate, refused: "", why });
    }
    for (const candidate of this.#resolution.candidates) {
      if (this.#candidates.includes(candidate)) continue;
      explained.push({ candidate, refused: this.#refusalOf(candidate)?.message ?? "it is being drained", why: [] });
    }
    return explained;
  }

  /** Those of a resolution that can serve the request at all. */
  #able(resolution: Resolution, use: "serve" | "explain" = "serve"): readonly Candidate[] {
    const { candidates } = resolution;
    const unable = candidates.filter(
      (candidate) => candidate.info.draining || this.#refusalOf(candidate) !== undefined,
    );
    if (unable.length === 0) return candidates;
    if (use === "explain" || unable.length < candidates.length)
      return candidates.filter((candidate) => !unable.includes(candidate));
    const refused = unable.map((candidate) => ({ candidate, refused: this.#refusalOf(candidate) }));
    const reasons = refused.map(
      ({ candidate, refused: why }) => `${candidate.worker} ${why?.message ?? "is being drained"}`,
    );
    const first = refused.find(({ refused: why }) => why !== undefined)?.refused;
    const message = `no worker can serve the request: ${[...new Set(reasons)].join("; ")}`;
    if (first === undefined || refused.some(({ refused: why }) => why === undefined)) {
      throw new RpcError("NO_WORKERS_AVAILABLE", message);
    }
    throw new RpcError(first.reason, message, { field: first.field });
  }

  get #spent(): boolean {
    const { attemptsMax } = this.#state.routing();
    return this.attempts - Math.min(this.#idle, IDLE_ATTEMPTS * attemptsMax) >= attemptsMax;
  }

  #refusalOf(candidate: Candidate): Refusal | undefined {
    if (candidate.capabilities.size === 0 && candidate.properties === undefined) return undefined;
    const { needs } = this.request.traits;
    return needs === undefined ? undefined : refusal(needs, candidate);
  }

  #misfit(candidate: Candidate): number {
    if (!this.#choosy) return 0;
    const { needs } = this.request.traits;
    return needs === undefined ? 0 : misfit(needs, candidate);
  }

  /**
   * Workers that are down come last, and those that are full before them; then the route's order counts, then how well they
   * are, then what was guessed.
   */
  readonly #tierOf = (candidate: Candidate): number => {
    const rank = rankOf(candidate.info);
    const target = this.#resolution.targets?.get(candidate) ?? 0;
    const full = rank < RANK_SECOND_RATE && this.#state.admission.full(candidate);
    if (full) this.#metFull = true;
    const last = rank >= RANK_DOWN ? 2e9 : full ? 1e9 : 0;
    return last + target * 1e6 + (rank % RANK_DOWN) * 1e4 + this.#misfit(candidate);
  };

  #best(): Candidate | undefined {
    return this.#state.chooser.next(this.strategy, this.#candidates, this.#tried, this.request.traits, this.#tierOf);
  }

  /** The best one that has not been asked and has room. None, when only those that are full are a match for the request. */
  #choose(): Candidate | undefined {
    this.#metFull = false;
    // Who was full when a rival was looked for may have room by now, or have failed.
    this.#full = [];
    const candidate = this.#best();
    if (candidate === undefined) return undefined;
    const { admission } = this.#state;
    const rank = rankOf(candidate.info);
    const full = rank < RANK_DOWN && admission.full(candidate);
    if (!full && !(this.#metFull && rank >= RANK_SECOND_RATE)) {
      this.#tried.add(candidate);
      return candidate;
    }
    const limit = this.#metFull ? RANK_SECOND_RATE : RANK_DOWN;
    this.#full = this.#candidates.filter(
      (other) => !this.#tried.has(other) && rankOf(other.info) < limit && admission.full(other),
    );
    return undefined;
  }

  #attempt(
    candidate: Candidate,
    options: { readonly kind?: AttemptKind | undefined; readonly lastResort?: boolean; readonly admitted?: boolean },
  ): Attempt {
    this.attempts++;
    const { model, traits, stream, call, account } = this.request;
    return new Attempt(
      {
        candidate,
        node: this.#nodeFor(candidate),
        number: this.attempts,
        kind: options.kind ?? (this.attempts === 1 ? AttemptKind.FIRST : AttemptKind.FAILOVER),
        strategy: this.strategy,
        requestedModel: model,
        resolved: this.#resolution.resolved,
        traits,
        stream,
        lastResort: options.lastResort ?? false,
        admitted: options.admitted ?? false,
        call,
        account,
      },
      this.#state,
    );
  }

  /** This node's own if it has one, else the less busy of two random ones; draining nodes only if there is no other. */
  #nodeFor({ worker, nodes: all }: Candidate): string {
    const { nodeId, clients, directory, random } = this.#state;
    if (all.length === 1) return all[0]!;
    const left = this.#lostAt.size === 0 ? all : all.filter((id) => !this.#lostAt.has(`${worker}@${id}`));
    const nodes = left.length > 0 ? left : all;
    if (nodes.includes(nodeId)) return nodeId;
    const staying = nodes.filter((id) => directory.node(id)?.draining !== true);
    const choice = staying.length > 0 ? staying : nodes;
    const one = choice[Math.floor(random() * choice.length)]!;
    const other = choice[Math.floor(random() * choice.length)]!;
    return clients.callsInFlight(one) <= clients.callsInFlight(other) ? one : other;
  }

  #note(candidate: Candidate, error: RpcError, node: string): void {
    const { reason } = error;
    const key = keyOf(candidate);
    const nowMs = this.#state.now();
    if (KNOWN_BY_THE_NODE.has(reason)) {
      this.#idle++;
      this.#lostAt.add(`${candidate.worker}@${node}`);
      // Another node that runs the worker may do better, at once.
      if (candidate.nodes.some((id) => !this.#lostAt.has(`${candidate.worker}@${id}`))) {
        this.#tried.delete(candidate);
        return;
      }
      for (const id of candidate.nodes) this.#lostAt.delete(`${candidate.worker}@${id}`);
    }
    const count = (this.#failures.get(key)?.count ?? 0) + 1;
    this.#failures.set(key, { candidate, error, atMs: nowMs, count, dueAtMs: nowMs + this.#pauseMs(error, count) });
    if (!OF_THE_WORKER.has(reason)) return;
    for (const other of this.#candidates) if (other.worker === candidate.worker) this.#tried.add(other);
  }

  /** How long to leave a candidate alone after its `count`th failure; Infinity for good. */
  #pauseMs({ reason, retryAfterMs, class: kind }: RpcError, count: number): number {
    const { random } = this.#state;
    const jitter = 0.5 + random() / 2;
    // The node, or another one, may be back at any moment; and another router's request may end.
    if (OF_THE_NODE.has(reason)) return Math.min(PAUSE_MS * 2 ** (count - 1), NODE_PAUSE_MAX_MS) * jitter;
    if (count > RETRIES_MAX) return Number.POSITIVE_INFINITY;
    // A little later than told, each request by another bit, so that not all come at once.
    if (retryAfterMs !== undefined && kind === "provider") return retryAfterMs * (1 + random() / 10);
    if (reason === "PROVIDER_TIMEOUT") return count > 1 ? Number.POSITIVE_INFINITY : SILENT_PAUSE_MS * jitter;
    if (!PASSING.has(reason)) return Number.POSITIVE_INFINITY;
    return PAUSE_MS * 4 ** (count - 1) * jitter;
  }

  /** Nobody can be asked at once: waits for a slot, or until it is worth asking one again. */
  async #later(kind: AttemptKind | undefined): Promise<Attempt> {
    const { admission, now, retries } = this.#state;
    const { call } = this.request;
    for (;;) {
      if (call.signal.aborted) throw abortReason(call.signal);
      if (this.#spent) throw this.#exhausted();
      if (this.#full.length > 0) {
        const waiting = this.#full;
        this.#full = [];
        const candidate = await admission.wait(waiting, call);
        this.#tried.add(candidate);
        return this.#attempt(candidate, { kind, admitted: true });
      }
      const least = this.#lastResort();
      if (least !== undefined) return this.#attempt(least, { kind, lastResort: true });
      const due = this.#soonest();
      if (due === undefined) throw this.#exhausted();
      const waitMs = due.dueAtMs - now();
      if (waitMs > 0) {
        if (!this.#mayWait(waitMs)) throw this.#exhausted();
        await this.#wait(waitMs);
        this.#refresh();
        const fresh = this.#choose();
        if (fresh !== undefined) return this.#attempt(fresh, { kind });
        continue;
      }
      const candidate = this.#candidates.find((known) => keyOf(known) === keyOf(due.candidate));
      if (candidate === undefined) {
        this.#failures.delete(keyOf(due.candidate));
        continue;
      }
      if (!OF_THE_NODE.has(due.error.reason) && !retries.take()) throw this.#exhausted();
      if (admission.full(candidate)) {
        this.#full = [candidate];
        continue;
      }
      return this.#attempt(candidate, { kind });
    }
  }

  /** When nobody was even asked, as every breaker is open: the one that has rested longest, once. */
  #lastResort(): Candidate | undefined {
    if (this.#lastResortTaken || this.#failures.size === 0) return undefined;
    let least: Failure | undefined;
    for (const failure of this.#failures.values()) {
      if (failure.error.reason !== "BREAKER_OPEN") return undefined;
      if (least === undefined || failure.dueAtMs < least.dueAtMs) least = failure;
    }
    this.#lastResortTaken = true;
    return least?.candidate;
  }

  #soonest(): Failure | undefined {
    let soonest: Failure | undefined;
    for (const failure of this.#failures.values()) {
      if (failure.dueAtMs === Number.POSITIVE_INFINITY) continue;
      if (soonest === undefined || failure.dueAtMs < soonest.dueAtMs) soonest = failure;
    }
    return soonest;
  }

  #mayWait(waitMs: number): boolean {
    const { waitMaxMs } = this.#state.routing();
    return this.#waitedMs + waitMs <= waitMaxMs && Date.now() + waitMs < this.request.call.deadlineAtMs;
  }

  /** Waits, at most until the mesh has changed: a worker may be back. Rejects when the call ends. */
  async #wait(waitMs: number): Promise<void> {
    const { directory, now } = this.#state;
    const startedAtMs = now();
    await changeOf(directory, waitMs, this.request.call);
    this.#waitedMs += now() - startedAtMs;
  }

  /** Takes in what has changed in the mesh while it waited: new workers, and breakers that have closed. */
  #refresh(): void {
    let resolution: Resolution;
    let candidates: readonly Candidate[];
    try {
      resolution = this.#state.index().resolve(this.request.model);
      candidates = this.#able(resolution);
    } catch {
      // Nobody is there now; somebody may be at the next change.
      return;
    }
    if (resolution === this.#resolution) return;
    this.#resolution = resolution;
    this.#candidates = candidates;
    this.#choosy = isChoosy(candidates);
    this.#tried.clear();
    for (const candidate of candidates) {
      const failure = this.#failures.get(keyOf(candidate));
      if (failure === undefined) continue;
      const recovered = failure.error.reason === "BREAKER_OPEN" && rankOf(candidate.info) < RANK_DOWN;
      if (recovered) this.#failures.delete(keyOf(candidate));
      else this.#tried.add(candidate);
    }
  }

  #exhausted(): RpcError {
    const { log, now } = this.#state;
    const { model, call } = this.request;
    const reasons = this.#history.map(({ worker, reason, message }) => `${worker}: ${reason} (${message})`);
    const only = new Set(this.#history.map(({ reason }) => reason));
    const details = { attempts: this.#history, retryAfterMs: this.#retryAfterMs(now()) };
    if (only.size === 1 && only.has("UNSUPPORTED_PARAMETER")) {
      const [{ message, field }] = this.#history as [FailedAttempt];
      return new RpcError("UNSUPPORTED_PARAMETER", message, { ...details, field });
    }
    if (only.size === 1 && only.has("PROVIDER_MODEL_NOT_FOUND")) {
      const message = `no provider has the model "${model}": ${reasons.join("; ")}`;
      return new RpcError("MODEL_NOT_FOUND", message, { ...details, field: "model" });
    }
    const attempts = this.#history.map(({ worker, reason }) => ({ worker, reason }));
    log.error({ model, attempts, ...traceFields(call.trace) }, "no workers available");
    if (only.size === 1 && only.has("PROVIDER_RATE_LIMITED")) {
      const message = `every worker is limited by its provider: ${reasons.join("; ")}`;
      return new RpcError("PROVIDER_RATE_LIMITED", message, details);
    }
    const message = `no workers available: ${reasons.join("; ")}. ${CATALOGUE.NO_WORKERS_AVAILABLE.remedy}`;
    return new RpcError("NO_WORKERS_AVAILABLE", message, details);
  }

  /** How long until the first of the workers may serve again, as far as they have said. */
  #retryAfterMs(nowMs: number): number | undefined {
    let shortestMs: number | undefined;
    for (const { error, atMs } of this.#failures.values()) {
      if (error.retryAfterMs === undefined) continue;
      shortestMs = Math.min(Math.max(atMs + error.retryAfterMs - nowMs, 0), shortestMs ?? Number.POSITIVE_INFINITY);
    }
    return shortestMs;
  }
}

/** Waits until the mesh has changed, or the time is over. Rejects when the call ends. */
export function changeOf(directory: RouterState["directory"], waitMs: number, call: Call): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      stopWatching();
      call.signal.removeEventListener("abort", onAbort);
    };
    const proceed = (): void => {
      end();
      resolve();
    };
    const onAbort = (): void => {
      end();
      reject(abortReason(call.signal));
    };
    const timer = setTimeout(proceed, waitMs);
    const stopWatching = directory.onChange(proceed);
    call.signal.addEventListener("abort", onAbort, { once: true });
    if (call.signal.aborted) onAbort();
  });
}

/** Whether what a request needs could change the order of these: the answer is kept for as long as they are. */
function isChoosy(candidates: readonly Candidate[]): boolean {
  let choosy = CHOOSY.get(candidates);
  if (choosy === undefined) {
    const [first] = candidates;
    choosy = candidates.some(({ capabilities }) => !isSame(capabilities, first!.capabilities));
    CHOOSY.set(candidates, choosy);
  }
  return choosy;
}

const CHOOSY = new WeakMap<readonly Candidate[], boolean>();

function isSame(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a === b || (a.size === b.size && [...a].every((word) => b.has(word)));
}

/** What exactly is wrong is for administrators: it may name an address. */
function whyDown({ info: { reason, message } }: Candidate, { admin }: Call): string {
  if (reason === "") return "it is down";
  return `it is down: ${admin ? `${message} (${reason})` : reason}`;
}

function keyOf({ worker, model }: Candidate): string {
  return `${worker}/${model}`;
}
