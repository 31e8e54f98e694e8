import { describe, expect, it } from "vitest";
import { readRateLimits } from "./rate-limits.ts";
import type { Headers } from "./waits.ts";

/** As recorded from the providers. */
const RECORDED: readonly [string, Headers, ReturnType<typeof readRateLimits>][] = [
  [
    "OpenAI",
    {
      "x-ratelimit-limit-requests": "500",
      "x-ratelimit-limit-tokens": "200000",
      "x-ratelimit-remaining-requests": "499",
      "x-ratelimit-remaining-tokens": "199992",
      "x-ratelimit-reset-requests": "120ms",
      "x-ratelimit-reset-tokens": "6m0s",
    },
    { requests: { remaining: 499, resetMs: 120 }, tokens: { remaining: 199_992, resetMs: 360_000 } },
  ],
  [
    "Groq",
    {
      "x-ratelimit-remaining-requests": "14397",
      "x-ratelimit-remaining-tokens": "29987",
      "x-ratelimit-reset-requests": "17.5s",
      "x-ratelimit-reset-tokens": "26ms",
    },
    { requests: { remaining: 14_397, resetMs: 17_500 }, tokens: { remaining: 29_987, resetMs: 26 } },
  ],
  [
    "Azure",
    { "x-ratelimit-remaining-requests": "99", "x-ratelimit-remaining-tokens": "-1" },
    { requests: { remaining: 99, resetMs: undefined }, tokens: { remaining: 0, resetMs: undefined } },
  ],
  [
    "Anthropic",
    {
      date: "Wed, 19 Aug 2026 14:34:11 GMT",
      "anthropic-ratelimit-requests-remaining": "9999",
      "anthropic-ratelimit-requests-reset": "2026-08-19T14:34:11Z",
      "anthropic-ratelimit-input-tokens-remaining": "10000000",
      "anthropic-ratelimit-tokens-remaining": "12000000",
      "anthropic-ratelimit-tokens-reset": "2026-08-19T14:34:12Z",
    },
    { requests: { remaining: 9_999, resetMs: 0 }, tokens: { remaining: 12_000_000, resetMs: 1_000 } },
  ],
  [
    "Mistral",
    {
      "x-ratelimit-remaining-tokens-minute": "97292",
      "x-ratelimit-tokens-query-cost": "128",
      "x-ratelimit-remaining-req-minute": "87",
    },
    { requests: { remaining: 87, resetMs: 60_000 }, tokens: { remaining: 97_292, resetMs: 60_000 } },
  ],
  ["Cohere's trial", { "x-trial-endpoint-call-remaining": "7" }, { requests: { remaining: 7, resetMs: 60_000 } }],
  [
    "OpenRouter",
    { date: "Wed, 19 Aug 2026 14:34:11 GMT", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1787150400000" },
    {
      requests: { remaining: 0, resetMs: 1_787_150_400_000 - Date.parse("2026-08-19T14:34:11Z") },
    },
  ],
  [
    "Together",
    { "x-ratelimit-remaining": "9", "x-ratelimit-reset": "3" },
    { requests: { remaining: 9, resetMs: 3_000 } },
  ],
  ["Ollama", { "content-type": "application/json", date: "Wed, 19 Aug 2026 14:34:11 GMT" }, undefined],
];

describe("the limits of a key", () => {
  it.each(RECORDED)("are read from the headers of %s", (_name, headers, limits) => {
    const read = readRateLimits(headers);
    expect(read?.requests).toEqual(limits?.requests);
    expect(read?.tokens).toEqual(limits?.tokens);
    expect(read === undefined).toBe(limits === undefined);
  });

  it.each(["", "many", "NaN", "1e400", "0x", " ", "9".repeat(500)])("are not read from %j", (text) => {
    expect(readRateLimits({ "x-ratelimit-remaining-requests": text })?.requests?.remaining ?? 0).toBe(0);
    const limits = readRateLimits({ "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": text });
    expect(limits?.requests?.resetMs ?? 0).toBe(0);
  });

  it("are nothing in a header that came twice", () => {
    expect(readRateLimits({ "x-ratelimit-remaining-requests": ["1", "2"] })).toBeUndefined();
  });
});
