/** Vectors from the cache: each input is asked for once, and what comes is what a provider would have said of all of them. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Entry } from "../../../libs/gen/cortex/cache/v1/cache.ts";
import { EmbeddingRequest, EmbeddingResult, type Warning } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import {
  type CacheOptions,
  type EmbedResponse,
  CacheOptions_Mode as Mode,
  CacheStatus_State as State,
} from "../../../libs/gen/cortex/router/v1/router.ts";
import type { Configuration } from "../../../libs/host/index.ts";
import { RpcError, startCall } from "../../../libs/rpc/index.ts";
import { NO_TRACE } from "../../../libs/telemetry/index.ts";
import { embedCached, type VectorStore } from "./vectors.ts";

const settings: Configuration["cache"] = {
  enabled: true,
  ttlMs: 900_000,
  temperatureMax: 0.9,
  tokensMax: 10,
  l1: { entries: 1, bytes: 1 },
  l2: { entries: 1, bytes: 1, timeoutMs: 50 },
};

/** Everything that was stored, as it travels. */
class Store implements VectorStore {
  readonly entries = new Map<string, Uint8Array>();
  readonly looked: { readonly keys: readonly string[]; readonly maxAgeMs: number }[] = [];

  async lookMany(keys: readonly string[], maxAgeMs: number) {
    this.looked.push({ keys, maxAgeMs });
    const there = keys.filter((key) => this.entries.has(key));
    return { entries: new Map(there.map((key) => [key, Entry.decode(this.entries.get(key)!)])), level: "l1" };
  }

  storeMany(entries: readonly (readonly [key: string, entry: Entry])[]): void {
    for (const [key, entry] of entries) this.entries.set(key, Entry.encode(entry).finish());
  }

  get decoded(): Entry[] {
    return [...this.entries.values()].map((bytes) => Entry.decode(bytes));
  }
}

/** A router with a provider behind it whose vector of a text is the text's own. */
class Asking {
  readonly store = new Store();
  /** What the provider was asked for. */
  readonly served: string[][] = [];
  model = "embedder";
  warnings: Warning[] = [];
  failing: RpcError | undefined;
  /** How many vectors are missing from each answer. */
  short = 0;
  tokens: number | undefined = 10;

  ask(
    inputs: readonly string[],
    options?: CacheOptions,
    { tenant = "acme", changed = {} }: { tenant?: string; changed?: Partial<typeof settings> } = {},
  ): Promise<EmbedResponse> {
    const call = startCall({ tenant, requestId: "r", trace: NO_TRACE });
    const request = EmbeddingRequest.fromPartial({ model: "m", inputs });
    const cache = { store: this.store, settings: { ...settings, ...changed } };
    return embedCached({ request, route: "route", options, call }, cache, async (asked) => {
      this.served.push([...asked.inputs]);
      if (this.failing !== undefined) throw this.failing;
      const answered = asked.inputs.slice(0, asked.inputs.length - this.short);
      const embedding = EmbeddingResult.fromPartial({
        served: { id: `id-${this.served.length}`, model: this.model, worker: "w", provider: "p" },
        embeddings: answered.map((input) => ({ values: this.vectorOf(input) })),
        usage: { inputTokens: this.tokens === undefined ? undefined : this.tokens * asked.inputs.length },
        warnings: this.warnings,
      });
      return { embedding, attempts: 1, cache: undefined };
    });
  }

  vectorOf(input: string): number[] {
    return [this.model.length, ...input].map((character) =>
      typeof character === "number" ? character : character.charCodeAt(0),
    );
  }
}

const vectors = (response: EmbedResponse) => response.embedding?.embeddings.map(({ values }) => values);
const status = ({ cache }: EmbedResponse) => [cache?.state, cache?.detail];

describe("vectors", () => {
  it("are asked for once, and then come from the cache", async () => {
    const asking = new Asking();
    const first = await asking.ask(["aa", "bb"]);
    expect(status(first)).toEqual([State.MISS, ""]);
    const second = await asking.ask(["bb", "aa", "bb"]);
    expect(asking.served).toEqual([["aa", "bb"]]);
    expect(asking.store.looked.at(-1)?.keys.length).toBe(2);
    expect(vectors(second)).toEqual(["bb", "aa", "bb"].map((input) => asking.vectorOf(input)));
    expect(second).toMatchObject({
      attempts: 0,
      embedding: { served: first.embedding!.served, usage: { inputTokens: 0 } },
    });
    expect(status(second)).toEqual([State.HIT, "l1"]);
  });

  it("are asked for only as far as they are missing, each once", async () => {
    const asking = new Asking();
    await asking.ask(["aa", "bb"]);
    const answer = await asking.ask(["cc", "aa", "dd", "cc", "bb"]);
    expect(asking.served[1]).toEqual(["cc", "dd"]);
    expect(vectors(answer)).toEqual(["cc", "aa", "dd", "cc", "bb"].map((input) => asking.vectorOf(input)));
    expect(answer).toMatchObject({ attempts: 1, embedding: { usage: { inputTokens: 20 }, served: { id: "id-2" } } });
    expect(status(answer)).toEqual([State.MISS, "2 of 5"]);
    expect(status(await asking.ask(["dd", "cc", "bb"]))).toEqual([State.HIT, "l1"]);
  });

  it("are the same as without a cache, whatever is asked for after whatever", async () => {
    const inputs = fc.array(fc.string({ unit: fc.constantFrom("a", "b"), minLength: 2, maxLength: 2 }), {
      minLength: 1,
      maxLength: 6,
    });
    await fc.assert(
      fc.asyncProperty(fc.array(inputs, { maxLength: 5 }), async (requests) => {
        const asking = new Asking();
        const asked = new Set<string>();
        for (const request of requests) {
          const before = asking.served.length;
          expect(vectors(await asking.ask(request))).toEqual(request.map((input) => asking.vectorOf(input)));
          expect(asking.served.slice(before).flat()).toEqual(
            [...new Set(request)].filter((input) => !asked.has(input)),
          );
          for (const input of request) asked.add(input);
        }
      }),
    );
  });

  it("say how old they are, and where the only one is kept", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    const [key] = [...asking.store.entries.keys()];
    expect((await asking.ask(["aa", "aa"])).cache).toMatchObject({
      key,
      ageS: expect.toSatisfy((age: number) => age >= 0),
    });
    expect((await asking.ask(["aa", "bb"])).cache?.key).toBe("");
  });

  it("of a simulation say so from the cache too", async () => {
    const asking = new Asking();
    asking.warnings = [{ code: "SIMULATED", message: "no model", parameter: "" }];
    await asking.ask(["aa", "bb"]);
    expect((await asking.ask(["aa", "bb"])).embedding?.warnings).toEqual(asking.warnings);
    expect((await asking.ask(["aa", "cc"])).embedding?.warnings).toEqual(asking.warnings);
  });

  it("are never those of another tenant", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    expect(status(await asking.ask(["aa"], undefined, { tenant: "other" }))).toEqual([State.MISS, ""]);
  });

  it("are kept with what the provider counted, as far as it is known, and as long as is asked for", async () => {
    const asking = new Asking();
    await asking.ask(["aa"], { mode: Mode.UNSPECIFIED, ttlS: 60 });
    await asking.ask(["bb", "cc"]);
    const kept = asking.store.decoded.map(({ content, createdAtMs, expiresAtMs }) => [
      content?.$case === "vector" ? content.value.inputTokens : "",
      expiresAtMs - createdAtMs,
    ]);
    expect(kept).toEqual([
      [10, 60_000],
      [undefined, 900_000],
      [undefined, 900_000],
    ]);
  });
});

describe("vectors of several models", () => {
  it("are never mixed: those of the model that serves now are asked for all", async () => {
    const asking = new Asking();
    await asking.ask(["aa", "bb"]);
    asking.model = "another";
    const answer = await asking.ask(["aa", "cc"]);
    expect(asking.served.slice(1)).toEqual([["cc"], ["aa", "cc"]]);
    expect(vectors(answer)).toEqual(["aa", "cc"].map((input) => asking.vectorOf(input)));
    expect(answer).toMatchObject({
      attempts: 2,
      embedding: { usage: { inputTokens: 30 }, served: { model: "another" } },
    });
    expect(status(answer)).toEqual([State.MISS, ""]);
  });

  it("are never mixed from the cache either: the model that most are of stands", async () => {
    const asking = new Asking();
    await asking.ask(["aa", "bb"]);
    asking.model = "another";
    await asking.ask(["cc"]);
    asking.model = "embedder";
    const answer = await asking.ask(["cc", "aa", "bb"]);
    expect(asking.served.at(-1)).toEqual(["cc"]);
    expect(vectors(answer)).toEqual(["cc", "aa", "bb"].map((input) => asking.vectorOf(input)));
  });

  it("are not there for who wants nothing but the cache", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    asking.model = "another";
    await asking.ask(["bb"]);
    await expect(asking.ask(["aa", "bb"], { mode: Mode.ONLY_IF_CACHED })).rejects.toHaveProperty(
      "reason",
      "CACHE_MISS",
    );
  });

  it("of which a call does not say what it used are of unknown use", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    asking.model = "another";
    asking.tokens = undefined;
    expect((await asking.ask(["aa", "bb"])).embedding?.usage).toBeUndefined();
  });
});

describe("what a request says of the cache", () => {
  it("is heeded: off, refreshed, only what is there, not older than", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    expect(status(await asking.ask(["aa"], { mode: Mode.OFF }))).toEqual([State.BYPASS, "no_cache"]);
    expect(asking.store.looked.length).toBe(1);
    asking.model = "another";
    expect(status(await asking.ask(["aa"], { mode: Mode.REFRESH }))).toEqual([State.MISS, "refresh"]);
    const again = await asking.ask(["aa"], { mode: Mode.ONLY_IF_CACHED, maxAgeS: 5 });
    expect(vectors(again)).toEqual([asking.vectorOf("aa")]);
    expect(asking.store.looked.at(-1)?.maxAgeMs).toBe(5_000);
    await expect(asking.ask(["aa", "bb"], { mode: Mode.ONLY_IF_CACHED })).rejects.toHaveProperty(
      "reason",
      "CACHE_MISS",
    );
    expect(asking.served).toEqual([["aa"], ["aa"], ["aa"]]);
  });

  it("counts for nothing where there is no cache", async () => {
    const asking = new Asking();
    const off = { changed: { enabled: false } };
    expect(status(await asking.ask(["aa"], undefined, off))).toEqual([State.BYPASS, "disabled"]);
    expect(asking.store.entries.size).toBe(0);
    await expect(asking.ask(["aa"], { mode: Mode.ONLY_IF_CACHED }, off)).rejects.toHaveProperty("reason", "CACHE_MISS");
  });
});

describe("what must not be kept", () => {
  it("is not, and the answer says why", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    asking.warnings = [{ code: "UNSUPPORTED_PARAMETER", message: "", parameter: "user" }];
    expect(status(await asking.ask(["bb"]))).toEqual([State.MISS, "warning"]);
    const partly = await asking.ask(["aa", "bb"]);
    expect(status(partly)).toEqual([State.MISS, "1 of 2, warning"]);
    expect(partly.embedding?.warnings).toEqual(asking.warnings);
    expect(asking.store.entries.size).toBe(1);
  });

  it("is no error that a provider has made", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    asking.failing = new RpcError("PROVIDER_OVERLOADED", "is full");
    await expect(asking.ask(["aa", "bb"])).rejects.toBe(asking.failing);
    expect(vectors(await asking.ask(["aa"]))).toEqual([asking.vectorOf("aa")]);
  });

  it("is no answer with too few vectors; it is never mixed with others", async () => {
    const asking = new Asking();
    await asking.ask(["aa"]);
    asking.short = 1;
    const answer = await asking.ask(["aa", "bb", "cc"]);
    expect(asking.served.at(-1)).toEqual(["aa", "bb", "cc"]);
    expect(vectors(answer)?.length).toBe(2);
    expect(status(answer)).toEqual([State.MISS, "unfinished"]);
    expect(asking.store.entries.size).toBe(1);
  });
});
