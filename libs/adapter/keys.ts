/**
 * The keys of a worker: which one the next request is sent with, which ones rest, and which ones are out.
 *
 * The provider decides: a key rests for as long as it said, counted from the longest wait it has said, and one that it
 * refused serves nobody until a health check has shown that it is taken again. What the headers say is left of a limit only
 * puts a key behind the others, as it is old by the time it is read. Keys are told apart by fingerprints; the secrets stay
 * here and in the header that the dialect makes of them.
 */
import { createHash } from "node:crypto";
import { type KeyInfo, KeyState } from "../gen/cortex/provider/v1/provider.ts";
import type { Reason, RpcError } from "../rpc/index.ts";
import { failure } from "./failures.ts";
import type { RateLimit, RateLimits } from "./rate-limits.ts";

/** How long a key rests when the provider does not say: doubled each time, up to the second number. */
const LIMITED_MS = [1_000, 60_000] as const;
/** The same for an account that has used up its quota, which an operator or the next month ends. */
const EXHAUSTED_MS = [600_000, 3_600_000] as const;
/** When a key that was refused is tried again by a health check, while others serve. */
const REFUSED_MS = [600_000, 6 * 3_600_000] as const;
/** The same when no key is left: the first time at once, as good keys have been seen to be refused for a moment. */
const REFUSED_ALL_MS = [30_000, 600_000] as const;

/** What is left of a limit is forgotten after this time when the provider does not say when it is whole again. */
const LIMIT_FORGOTTEN_MS = 60_000;
/** A rest that is put off by less is not told again: many answers at once say nearly the same. */
const TOLD_AGAIN_MS = 1_000;
/** setTimeout takes no more. */
const TIMER_MS_MAX = 2_147_483_647;

/** The errors that are about the key: with another one the same request may be served. The most hopeful first. */
const KEY_REASONS: readonly Reason[] = ["PROVIDER_RATE_LIMITED", "PROVIDER_QUOTA_EXHAUSTED", "PROVIDER_REFUSED_KEY"];

/** Whether another key may help. */
export function isAboutKey({ reason }: RpcError): boolean {
  return KEY_REASONS.includes(reason);
}

/** Of two errors about keys, the one that tells the caller more: that waiting helps, and the shorter wait. */
export function moreHopeful(a: RpcError, b: RpcError): RpcError {
  const lead = KEY_REASONS.indexOf(b.reason) - KEY_REASONS.indexOf(a.reason);
  if (lead !== 0) return lead > 0 ? a : b;
  return (a.retryAfterMs ?? Number.POSITIVE_INFINITY) <= (b.retryAfterMs ?? Number.POSITIVE_INFINITY) ? a : b;
}

/** A key has begun to rest or rests longer, is out, or is back. */
export interface KeyChange {
  readonly fingerprint: string;
  /** What it is now. */
  readonly state: KeyState;
  /** Milliseconds since the Unix epoch; 0 unless it rests. */
  readonly restingUntilMs: number;
  /** Why; undefined when it is back. */
  readonly reason: Reason | undefined;
}

/** What a key is used for: a client's request, looking after the worker, or seeing whether a refused key is taken again. */
export type KeyUse = "request" | "look" | "trial";

/** A key, for one exchange. Give it back with `settle` exactly once. */
export interface Lease {
  readonly key: Key;
  readonly use: KeyUse;
  /** How often the key had been rested or taken out. What began before says nothing about what is now. */
  readonly setbacks: number;
}

/** One key; only its pool changes it. */
export interface Key {
  readonly fingerprint: string;
  readonly secret: string;
}

class PooledKey implements Key {
  readonly fingerprint: string;
  /** Private, so that nothing that shows the object shows it. */
  readonly #secret: string;
  inFlight = 0;
  requests = 0;
  /** When it was chosen last. Not `requests`: a key that was away would have to make up for all that it has missed. */
  turn = 0;
  setbacks = 0;
  restingUntilMs = 0;
  restReason: Reason | undefined;
  out = false;
  refusedAtMs = 0;
  /** In a row, without a request that was served in between. */
  limited = 0;
  refused = 0;
  /** What was told of it last. */
  toldState: KeyState = KeyState.AVAILABLE;
  toldUntilMs = 0;
  remainingRequests = Number.POSITIVE_INFINITY;
  remainingRequestsUntilMs = 0;
  remainingTokens = Number.POSITIVE_INFINITY;
  remainingTokensUntilMs = 0;

  constructor(secret: string) {
    this.#secret = secret;
    this.fingerprint = createHash("sha256").update(secret).digest("hex").slice(0, 8);
  }

  get secret(): string {
    return this.#secret;
  }

  /** Why it can't serve. */
  get reason(): Reason | undefined {
    return this.out ? "PROVIDER_REFUSED_KEY" : this.restReason;
  }

  canServe(nowMs: number): boolean {
    return !this.out && nowMs >= this.restingUntilMs;
  }

  /** False when the provider would refuse a request of so many tokens, by what it said last. */
  hasRoom(tokens: number, nowMs: number): boolean {
    return (
      (this.remainingRequests > 0 || nowMs >= this.remainingRequestsUntilMs) &&
      (this.remainingTokens >= tokens || nowMs >= this.remainingTokensUntilMs)
    );
  }
}

interface KeysOptions {
  readonly keys: readonly string[];
  /** Milliseconds since the Unix epoch. */
  readonly clock: () => number;
  readonly onChange: (change: KeyChange) => void;
}

export class Keys {
  readonly #clock: () => number;
  readonly #onChange: (change: KeyChange) => void;
  readonly #keys: readonly PooledKey[];
  #turn = 0;
  #timer: NodeJS.Timeout | undefined;
  #firesAtMs = Number.POSITIVE_INFINITY;
  #shutDown = false;

  constructor({ keys, clock, onChange }: KeysOptions) {
    this.#clock = clock;
    this.#onChange = onChange;
    this.#keys = [...new Set(keys)].map((secret) => new PooledKey(secret));
  }

  /** How many there are; none for a provider that needs none. */
  get count(): number {
    return this.#keys.length;
  }

  /** There are keys, and the provider has refused all of them. */
  get allOut(): boolean {
    return this.count > 0 && this.#keys.every((key) => key.out);
  }

  /** Why nothing can be sent now; undefined when something can. */
  refusal(): RpcError | undefined {
    if (this.count === 0) return undefined;
    const nowMs = this.#clock();
    if (this.#keys.some((key) => key.canServe(nowMs))) return undefined;
    const retryAfterMs = this.waitMs(nowMs);
    if (retryAfterMs === undefined) {
      const what = this.count === 1 ? "its key" : `all of its ${this.count} keys`;
      return failure("PROVIDER_REFUSED_KEY", `the provider has refused ${what}`);
    }
    const limited = this.#keys.some((key) => !key.out && key.restReason === "PROVIDER_RATE_LIMITED");
    const seconds = Math.ceil(retryAfterMs / 1_000);
    const message = `no key can be used, the first one rests for ${seconds} s more`;
    return failure(limited ? "PROVIDER_RATE_LIMITED" : "PROVIDER_QUOTA_EXHAUSTED", message, { retryAfterMs });
  }

  /** Until the first key that rests is back; undefined when none rests, or another can be used. */
  waitMs(nowMs = this.#clock()): number | undefined {
    let untilMs = Number.POSITIVE_INFINITY;
    for (const key of this.#keys) if (!key.out) untilMs = Math.min(untilMs, key.restingUntilMs);
    return untilMs > nowMs && untilMs < Number.POSITIVE_INFINITY ? Math.ceil(untilMs - nowMs) : undefined;
  }

  /**
   * The key with the fewest requests on their way, then the one that has waited longest for its turn; of those that seem to
   * have room for `tokens` if there is one, and none of `except`.
   * Undefined when there is none that can be used.
   */
  take(use: "request" | "look", tokens: number, except: readonly Key[] = []): Lease | undefined {
    const nowMs = this.#clock();
    let best: PooledKey | undefined;
    for (const key of this.#keys) {
      if (!key.canServe(nowMs) || except.includes(key)) continue;
      if (best === undefined || isBetter(key, best, tokens, nowMs)) best = key;
    }
    if (best === undefined) return undefined;
    this.#turn += 1;
    best.turn = this.#turn;
    best.remainingRequests -= 1;
    best.remainingTokens -= tokens;
    return begin(best, use);
  }

  /** A refused key, for a trial of whether it is taken again. */
  takeForTrial(key: Key): Lease {
    return begin(key as PooledKey, "trial");
  }

  /** The refused keys that may be tried again now, not by a client's request. */
  trialsDue(): readonly Key[] {
    const nowMs = this.#clock();
    const { allOut } = this;
    const due = this.#keys.filter((key) => key.out && nowMs >= key.refusedAtMs + trialWaitMs(key.refused, allOut));
    return due.sort((a, b) => a.refusedAtMs - b.refusedAtMs);
  }

  /** The exchange has ended, well if there is no error. `limits` is what the answer's head said. */
  settle({ key: leased, use, setbacks }: Lease, error: RpcError | undefined, limits: RateLimits | undefined): void {
    const key = leased as PooledKey;
    key.inFlight -= 1;
    const current = setbacks === key.setbacks;
    if (error === undefined) {
      if (!current) return;
      if (use === "request") {
        key.limited = 0;
        key.refused = 0;
      }
      if (use === "trial") this.#bringBack(key);
      return;
    }
    switch (error.reason) {
      case "PROVIDER_REFUSED_KEY":
        this.#takeOut(key, current);
        return;
      case "PROVIDER_RATE_LIMITED":
        this.#rest(key, error, current, saidMs(error) ?? resetMs(limits), LIMITED_MS);
        return;
      case "PROVIDER_QUOTA_EXHAUSTED":
        this.#rest(key, error, current, saidMs(error), EXHAUSTED_MS);
        return;
    }
  }

  /** What an answer's head said of the limits. */
  report({ key: leased }: Lease, { requests, tokens }: RateLimits): void {
    const key = leased as PooledKey;
    const nowMs = this.#clock();
    if (requests !== undefined) {
      key.remainingRequests = requests.remaining;
      key.remainingRequestsUntilMs = nowMs + (requests.resetMs ?? LIMIT_FORGOTTEN_MS);
    }
    if (tokens !== undefined) {
      key.remainingTokens = tokens.remaining;
      key.remainingTokensUntilMs = nowMs + (tokens.resetMs ?? LIMIT_FORGOTTEN_MS);
    }
  }

  info(): KeyInfo[] {
    const nowMs = this.#clock();
    return this.#keys.map((key) => {
      const state = stateOf(key, nowMs);
      const serves = state === KeyState.AVAILABLE;
      return {
        fingerprint: key.fingerprint,
        state,
        restingUntilMs: state === KeyState.RESTING ? key.restingUntilMs : 0,
        requests: key.requests,
        inFlight: key.inFlight,
        reason: serves ? "" : (key.reason ?? ""),
        remainingRequests: known(key.remainingRequests, key.remainingRequestsUntilMs, nowMs),
        remainingTokens: known(key.remainingTokens, key.remainingTokensUntilMs, nowMs),
      };
    });
  }

  /** Ends its timer. Nothing is told any more. */
  shutdown(): void {
    this.#shutDown = true;
    clearTimeout(this.#timer);
  }

  #rest(
    key: PooledKey,
    { reason }: RpcError,
    current: boolean,
    said: number | undefined,
    [firstMs, maxMs]: readonly [number, number],
  ): void {
    if (current) {
      key.limited += 1;
      key.setbacks += 1;
    }
    // Answers to requests that were sent before it rested may put its return off, never forward.
    const restMs = said ?? growing(firstMs, maxMs, Math.max(key.limited, 1));
    const untilMs = this.#clock() + restMs;
    if (untilMs <= key.restingUntilMs) return;
    key.restingUntilMs = untilMs;
    key.restReason = reason;
    if (key.out) return;
    this.#arm(untilMs);
    const again = key.toldState === KeyState.RESTING && untilMs < key.toldUntilMs + TOLD_AGAIN_MS;
    if (!again) this.#tell(key, KeyState.RESTING);
  }

  #takeOut(key: PooledKey, current: boolean): void {
    if (current) {
      key.refused += 1;
      key.setbacks += 1;
      key.refusedAtMs = this.#clock();
    }
    if (key.out) return;
    key.out = true;
    this.#tell(key, KeyState.OUT);
  }

  #bringBack(key: PooledKey): void {
    if (!key.out) return;
    key.out = false;
    const resting = this.#clock() < key.restingUntilMs;
    if (resting) this.#arm(key.restingUntilMs);
    this.#tell(key, resting ? KeyState.RESTING : KeyState.AVAILABLE);
  }

  #tell(key: PooledKey, state: KeyState): void {
    const restingUntilMs = state === KeyState.RESTING ? key.restingUntilMs : 0;
    key.toldState = state;
    key.toldUntilMs = restingUntilMs;
    const reason = state === KeyState.AVAILABLE ? undefined : key.reason;
    if (!this.#shutDown) this.#onChange({ fingerprint: key.fingerprint, state, restingUntilMs, reason });
  }

  /** A key can be used as soon as its time has come; the timer only tells of it. */
  #arm(atMs: number): void {
    if (this.#shutDown || atMs >= this.#firesAtMs) return;
    clearTimeout(this.#timer);
    this.#firesAtMs = atMs;
    const delayMs = Math.min(Math.max(Math.ceil(atMs - this.#clock()), 1), TIMER_MS_MAX);
    this.#timer = setTimeout(() => this.#fire(), delayMs).unref();
  }

  #fire(): void {
    this.#firesAtMs = Number.POSITIVE_INFINITY;
    const nowMs = this.#clock();
    for (const key of this.#keys) {
      if (key.out) continue;
      if (nowMs < key.restingUntilMs) this.#arm(key.restingUntilMs);
      else if (key.toldState === KeyState.RESTING) this.#tell(key, KeyState.AVAILABLE);
    }
  }
}

function begin(key: PooledKey, use: KeyUse): Lease {
  key.inFlight += 1;
  key.requests += 1;
  return { key, use, setbacks: key.setbacks };
}

function isBetter(key: PooledKey, than: PooledKey, tokens: number, nowMs: number): boolean {
  const room = key.hasRoom(tokens, nowMs);
  if (room !== than.hasRoom(tokens, nowMs)) return room;
  return key.inFlight === than.inFlight ? key.turn < than.turn : key.inFlight < than.inFlight;
}

function stateOf(key: PooledKey, nowMs: number): KeyState {
  if (key.out) return KeyState.OUT;
  return nowMs < key.restingUntilMs ? KeyState.RESTING : KeyState.AVAILABLE;
}

/** A wait of nothing is none: the next request would be limited again. */
function saidMs({ retryAfterMs }: RpcError): number | undefined {
  return retryAfterMs !== undefined && retryAfterMs > 0 ? retryAfterMs : undefined;
}

/** Until every limit of which nothing is left is whole again. */
function resetMs(limits: RateLimits | undefined): number | undefined {
  const exhausted = [limits?.requests, limits?.tokens].filter((limit) => limit?.remaining === 0) as RateLimit[];
  const ms = Math.max(0, ...exhausted.map((limit) => limit.resetMs ?? 0));
  return ms > 0 ? ms : undefined;
}

function trialWaitMs(refused: number, allOut: boolean): number {
  if (!allOut) return growing(...REFUSED_MS, refused);
  return refused <= 1 ? 0 : growing(...REFUSED_ALL_MS, refused - 1);
}

/** `firstMs` the first time, doubled each time, up to `maxMs`. */
function growing(firstMs: number, maxMs: number, times: number): number {
  return Math.min(firstMs * 2 ** Math.min(times - 1, 30), maxMs);
}

function known(remaining: number, untilMs: number, nowMs: number): number | undefined {
  return nowMs < untilMs ? Math.max(remaining, 0) : undefined;
}
