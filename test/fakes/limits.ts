/**
 * The rate limits of a simulated provider, for each key its own: buckets of requests and tokens that fill up again all the
 * time, as OpenAI's and Groq's do, and what the headers say of them.
 */

/** How much fits into a bucket, and how long an empty one takes to be full. */
export interface Limit {
  readonly count: number;
  readonly perMs: number;
}

export interface Limits {
  readonly requests: Limit;
  readonly tokens: Limit;
}

/** A request that was one too many. */
export interface Exceeded {
  readonly which: "requests" | "tokens";
  readonly limit: Limit;
  readonly used: number;
  readonly asked: number;
  /** Until it would have been allowed; infinite when it is more than the limit allows at once. */
  readonly waitMs: number;
}

interface Bucket {
  left: number;
  atMs: number;
}

type Buckets = Record<"requests" | "tokens", Bucket>;

/** Keeps the accounts of all keys. */
export class RateLimiter {
  readonly limits: Limits;
  readonly #accounts = new Map<string, Buckets>();

  constructor(limits: Limits) {
    this.limits = limits;
  }

  /** Takes a request of so many tokens from the account of `key`, or says why not; then nothing is taken. */
  take(key: string, tokens: number): Exceeded | undefined {
    const account = this.#account(key);
    const wanted = { requests: 1, tokens };
    for (const which of ["requests", "tokens"] as const) {
      const limit = this.limits[which];
      const { left } = account[which];
      const asked = wanted[which];
      if (asked <= left) continue;
      const waitMs = asked > limit.count ? Number.POSITIVE_INFINITY : ((asked - left) / limit.count) * limit.perMs;
      return { which, limit, used: Math.round(limit.count - left), asked, waitMs };
    }
    account.requests.left -= 1;
    account.tokens.left -= tokens;
    return undefined;
  }

  /** What the headers say now: how much is left, and when it will all be back. */
  state(key: string, which: "requests" | "tokens"): { limit: number; remaining: number; resetMs: number } {
    const { left } = this.#account(key)[which];
    const { count, perMs } = this.limits[which];
    return { limit: count, remaining: Math.floor(left), resetMs: ((count - left) / count) * perMs };
  }

  #account(key: string): Buckets {
    const nowMs = performance.now();
    let account = this.#accounts.get(key);
    if (account === undefined) {
      account = {
        requests: { left: this.limits.requests.count, atMs: nowMs },
        tokens: { left: this.limits.tokens.count, atMs: nowMs },
      };
      this.#accounts.set(key, account);
    }
    for (const which of ["requests", "tokens"] as const) {
      const bucket = account[which];
      const { count, perMs } = this.limits[which];
      bucket.left = Math.min(count, bucket.left + ((nowMs - bucket.atMs) / perMs) * count);
      bucket.atMs = nowMs;
    }
    return account;
  }
}

/** A duration as Go writes it, and with it OpenAI and Groq: `0s`, `120ms`, `7.66s`, `2m59.56s`, `1h0m0s`. */
export function goDuration(ms: number): string {
  if (ms < 1) return "0s";
  if (ms < 1000) return `${Math.round(ms)}ms`;
  const hours = Math.floor(ms / 3_600_000);
  const minutes = Math.floor((ms % 3_600_000) / 60_000);
  const seconds = Math.round((ms % 60_000) / 10) / 100;
  return `${hours > 0 ? `${hours}h` : ""}${hours > 0 || minutes > 0 ? `${minutes}m` : ""}${seconds}s`;
}
