import { validateHeaderValue } from "node:http";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type CacheStatus,
  CacheOptions_Mode as Mode,
  CacheStatus_State as State,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { type CachingWish, cacheHeaders, isHit, readCaching } from "./caching-options.ts";
import { readChatRequest, readEmbeddingsRequest, readShortChatRequest } from "./openai-request.ts";

const messages = [{ role: "user", content: "hi" }];

function read(headers: Record<string, string>, wish?: CachingWish) {
  return readCaching(wish, (name) => headers[name] ?? "");
}

function refusalOf(action: () => unknown): RpcError {
  try {
    action();
  } catch (thrown) {
    return RpcError.from(thrown);
  }
  throw new Error("it was not refused");
}

describe("what a request says of the cache", () => {
  it("is nothing when nothing is wished", () => {
    expect(read({})).toBeUndefined();
    expect(read({}, {})).toBeUndefined();
    expect(read({}, null)).toBeUndefined();
    expect(read({}, { no_cache: false, only_if_cached: false })).toBeUndefined();
  });

  it.each([
    ["no-store", { mode: Mode.OFF }],
    ["no-cache", { mode: Mode.REFRESH }],
    ["only-if-cached", { mode: Mode.ONLY_IF_CACHED }],
    ["max-age=60", { mode: Mode.UNSPECIFIED, maxAgeS: 60 }],
    ['NO-CACHE , Max-Age="0"', { mode: Mode.REFRESH, maxAgeS: 0 }],
    ["no-cache, no-store", { mode: Mode.OFF }],
    ["only-if-cached, max-age=5", { mode: Mode.ONLY_IF_CACHED, maxAgeS: 5 }],
    ["max-age=99999999999999999999", { mode: Mode.UNSPECIFIED, maxAgeS: 4_294_967_295 }],
    ["no-transform, no-cache, min-fresh=5, x=y=z", { mode: Mode.REFRESH }],
  ])("understands Cache-Control: %s", (value, expected) => {
    expect(read({ "cache-control": value })).toEqual(expected);
  });

  it.each(["no-transform", "max-stale", "min-fresh=3", "private=x", ",", "no-cache-at-all"])(
    "ignores what Cache-Control has besides: %s",
    (value) => {
      expect(read({ "cache-control": value })).toBeUndefined();
    },
  );

  it.each([
    ["off", Mode.OFF],
    ["refresh", Mode.REFRESH],
    ["only-if-cached", Mode.ONLY_IF_CACHED],
  ] as const)("may be %s, by header or in the body", (word, mode) => {
    expect(read({ "x-cortex-cache": word })).toEqual({ mode });
    expect(read({}, { mode: word })).toEqual({ mode });
  });

  it("may be said in the body by the names of old", () => {
    expect(read({}, { no_cache: true })).toEqual({ mode: Mode.OFF });
    expect(read({}, { only_if_cached: true })).toEqual({ mode: Mode.ONLY_IF_CACHED });
  });

  it("may be how long the answer is kept, how old it may be and how fast it comes", () => {
    expect(read({ "x-cortex-cache-ttl": "30" })).toEqual({ mode: Mode.UNSPECIFIED, ttlS: 30 });
    expect(read({}, { ttl_s: 40, max_age_s: 0, tokens_per_second: 12.5 })).toEqual({
      mode: Mode.UNSPECIFIED,
      ttlS: 40,
      maxAgeS: 0,
      tokensPerSecond: 12.5,
    });
  });

  it("is as Cortex's header says before the body, and as the body says before Cache-Control", () => {
    const headers = { "cache-control": "no-store, max-age=1" };
    const wish = { mode: "refresh", ttl_s: 10, max_age_s: 2 } as const;
    expect(read(headers, wish)).toEqual({ mode: Mode.REFRESH, ttlS: 10, maxAgeS: 2 });
    expect(read({ ...headers, "x-cortex-cache": "only-if-cached", "x-cortex-cache-ttl": "20" }, wish)).toEqual({
      mode: Mode.ONLY_IF_CACHED,
      ttlS: 20,
      maxAgeS: 2,
    });
    expect(read(headers, { ttl_s: 10 })).toEqual({ mode: Mode.OFF, ttlS: 10, maxAgeS: 1 });
  });

  it.each([
    ["x-cortex-cache", "never"],
    ["x-cortex-cache", "off, refresh"],
    ["x-cortex-cache-ttl", "0"],
    ["x-cortex-cache-ttl", "-1"],
    ["x-cortex-cache-ttl", "1.5"],
    ["x-cortex-cache-ttl", "0x10"],
    ["x-cortex-cache-ttl", "4294967296"],
    ["cache-control", "max-age"],
    ["cache-control", "max-age=soon"],
  ])("is refused for a wrong %s: %s", (name, value) => {
    const refusal = refusalOf(() => read({ [name]: value }));
    expect(refusal).toMatchObject({ reason: "INVALID_REQUEST", field: name });
    expect(refusal.message).toContain(name);
  });

  const readers: Record<string, (body: object) => { caching: CachingWish }> = {
    chat: (body) => readChatRequest({ model: "m", messages, ...body }),
    "short chat": (body) => ({ ...readShortChatRequest({ messages, ...body }) }),
    embeddings: (body) => readEmbeddingsRequest({ model: "m", input: "hi", ...body }),
  };
  describe.each(Object.entries(readers))("in the body of %s", (_name, reader) => {
    it("is read, and is no wish for the routing", () => {
      const cache = { mode: "refresh" as const, ttl_s: 5 };
      const read = reader({ cortex: { cache, strategy: "cost" } });
      expect(read).toMatchObject({ caching: cache });
      expect(read).toHaveProperty("routing", { strategy: "cost" });
      expect(reader({ cortex: { strategy: "cost" } }).caching).toBeUndefined();
      expect(reader({}).caching).toBeUndefined();
    });

    it.each([
      ["cortex.cache.mode", { mode: "never" }],
      ["cortex.cache.ttl_s", { ttl_s: 0 }],
      ["cortex.cache.ttl_s", { ttl_s: "60" }],
      ["cortex.cache.max_age_s", { max_age_s: -1 }],
      ["cortex.cache.tokens_per_second", { tokens_per_second: 0 }],
      ["cortex.cache.no_cache", { no_cache: "yes" }],
      ["cortex.cache.ttl", { ttl: 60 }],
      ["cortex.cache", { mode: "refresh", no_cache: true }],
      ["cortex.cache", "off"],
    ])("is refused for a wrong %s", (field, cache) => {
      expect(refusalOf(() => reader({ cortex: { cache } }))).toMatchObject({ reason: "INVALID_REQUEST", field });
    });
  });
});

describe("what the cache had to do with an answer", () => {
  const key = "a1.b2.c3";
  const status = (state: State, detail = "", ageS = 0): CacheStatus => ({ state, detail, ageS, key });

  it.each([
    [status(State.HIT, "l1", 12.7), "hit; level=l1; age=12", "cortex; hit; detail=l1"],
    [status(State.MISS), "miss", "cortex; fwd=miss"],
    [status(State.MISS, "refresh"), "miss; detail=refresh", "cortex; fwd=request; detail=refresh"],
    [status(State.MISS, "3 of 8"), 'miss; detail="3 of 8"', 'cortex; fwd=partial; detail="3 of 8"'],
    [status(State.MISS, "0 of 8"), 'miss; detail="0 of 8"', 'cortex; fwd=miss; detail="0 of 8"'],
    [status(State.SHARED), "shared", "cortex; fwd=miss; collapsed"],
    [
      { ...status(State.BYPASS, "temperature"), key: "" },
      "bypass; detail=temperature",
      "cortex; fwd=bypass; detail=temperature",
    ],
  ])("is told in two headers", (told, short, standard) => {
    const headers = cacheHeaders(told);
    expect(headers).toMatchObject({ "x-cortex-cache": short, "cache-status": standard });
    expect(headers["x-cortex-cache-key"]).toBe(told.key === "" ? undefined : key);
    expect(headers["age"]).toBe(isHit(told) ? "12" : undefined);
  });

  it("is not told when it is not known", () => {
    expect(cacheHeaders(undefined)).toEqual({});
    expect(cacheHeaders(status(State.UNSPECIFIED))).toEqual({});
    expect(isHit(undefined)).toBe(false);
  });

  it("is always something that Node sends, whatever the detail", () => {
    const details = fc.oneof(
      fc.string(),
      fc.string({ unit: "binary" }),
      fc.constantFrom('"', "\\", "\r\n", "é", "a b"),
    );
    fc.assert(
      fc.property(details, fc.constantFrom(...Object.values(State)), (detail, state) => {
        for (const [name, value] of Object.entries(cacheHeaders({ state, detail, ageS: 1, key: detail }))) {
          expect(() => validateHeaderValue(name, value)).not.toThrow();
          expect(value).not.toMatch(/[^\x20-\x7e]/);
        }
      }),
    );
  });
});
