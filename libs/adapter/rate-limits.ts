/**
 * What the headers of an answer say about how much of a key's limits is left. The names do not overlap, so one reader
 * understands every provider:
 * - OpenAI, Groq, Azure and most compatible servers: `x-ratelimit-remaining-requests`, `x-ratelimit-reset-requests: 6m0s`
 *   (https://platform.openai.com/docs/guides/rate-limits);
 * - Anthropic: `anthropic-ratelimit-requests-remaining`, `-reset: 2026-08-19T14:34:11Z` (https://docs.claude.com/en/api/rate-limits);
 * - Mistral: `x-ratelimit-remaining-req-minute`, `x-ratelimit-remaining-tokens-minute`;
 * - OpenRouter, Together: `x-ratelimit-remaining`, `x-ratelimit-reset`, of requests;
 * - Cohere's trial keys: `x-trial-endpoint-call-remaining`.
 */
import { durationMs, type Headers, untilMs } from "./waits.ts";

/** One limit of a key. */
export interface RateLimit {
  readonly remaining: number;
  /** Until it is whole again; absent where the provider does not say. */
  readonly resetMs?: number | undefined;
}

/** The limits of a key, as far as an answer tells. */
export interface RateLimits {
  readonly requests?: RateLimit | undefined;
  readonly tokens?: RateLimit | undefined;
}

const MINUTE_MS = 60_000;

/** Undefined when the headers tell nothing. */
export function readRateLimits(headers: Headers): RateLimits | undefined {
  const requests = readRequests(headers);
  const tokens = readTokens(headers);
  return requests === undefined && tokens === undefined ? undefined : { requests, tokens };
}

function readRequests(headers: Headers): RateLimit | undefined {
  const common = headers["x-ratelimit-remaining-requests"];
  if (common !== undefined) return limit(common, () => waitMs(headers, "x-ratelimit-reset-requests"));
  const anthropic = headers["anthropic-ratelimit-requests-remaining"];
  if (anthropic !== undefined) return limit(anthropic, () => waitMs(headers, "anthropic-ratelimit-requests-reset"));
  const mistral = headers["x-ratelimit-remaining-req-minute"];
  if (mistral !== undefined) return limit(mistral, () => MINUTE_MS);
  const trial = headers["x-trial-endpoint-call-remaining"];
  if (trial !== undefined) return limit(trial, () => MINUTE_MS);
  const plain = headers["x-ratelimit-remaining"];
  return plain === undefined ? undefined : limit(plain, () => waitMs(headers, "x-ratelimit-reset"));
}

function readTokens(headers: Headers): RateLimit | undefined {
  const common = headers["x-ratelimit-remaining-tokens"];
  if (common !== undefined) return limit(common, () => waitMs(headers, "x-ratelimit-reset-tokens"));
  // The strictest of Anthropic's limits: on all tokens, on those that go in, on those that come out.
  const anthropic = headers["anthropic-ratelimit-tokens-remaining"];
  if (anthropic !== undefined) return limit(anthropic, () => waitMs(headers, "anthropic-ratelimit-tokens-reset"));
  const input = headers["anthropic-ratelimit-input-tokens-remaining"];
  if (input !== undefined) return limit(input, () => waitMs(headers, "anthropic-ratelimit-input-tokens-reset"));
  const mistral = headers["x-ratelimit-remaining-tokens-minute"];
  return mistral === undefined ? undefined : limit(mistral, () => MINUTE_MS);
}

function limit(text: string | string[], reset: () => number | undefined): RateLimit | undefined {
  const remaining = typeof text === "string" && text !== "" ? Number(text) : Number.NaN;
  // Groq and Azure have been seen to go below zero.
  if (!Number.isFinite(remaining) || Math.abs(remaining) > Number.MAX_SAFE_INTEGER) return undefined;
  return { remaining: Math.max(Math.floor(remaining), 0), resetMs: reset() };
}

const EPOCH_S = 1e9;
const EPOCH_MS = 1e12;
/** No provider's text of a duration or a moment is longer. */
const TEXT_CHARS_MAX = 40;

/** A duration as Go writes it, `6m0s`; bare seconds; or a moment: RFC 3339, or since the epoch in seconds or milliseconds. */
function waitMs(headers: Headers, name: string): number | undefined {
  const text = headers[name];
  if (typeof text !== "string" || text === "" || text.length > TEXT_CHARS_MAX) return undefined;
  const number = Number(text);
  if (Number.isFinite(number)) {
    if (number < EPOCH_S) return Math.max(number * 1000, 0);
    return untilMs(headers, number < EPOCH_MS ? number * 1000 : number);
  }
  if (text.includes("T")) return untilMs(headers, Date.parse(text));
  return durationMs(text);
}
