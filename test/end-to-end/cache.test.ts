/** Answers from the cache: what is kept, what never is, and who gets it. Real processes, real clients, simulated providers. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import OpenAI from "openai";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { CacheStoreServiceDefinition } from "../../libs/gen/cortex/cache/v1/cache.ts";
import {
  CacheOptions_Mode as Mode,
  RouterServiceDefinition,
  CacheStatus_State as State,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { readChatRequest } from "../../services/gateway/openai-request.ts";
import { type Seen, see } from "../asking.ts";
import { type Simulator, startAnthropicSimulator, startOpenAiSimulator } from "../fakes/index.ts";
import { ask, SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const CORTEX = new URL("../../services/cortex.ts", import.meta.url).pathname;
const KEY_A = "key-of-tenant-a";
const KEY_B = "key-of-tenant-b";
/** So many failures are provoked here that the breaker would get between; it has tests of its own. */
const breaker = { failures: 1_000 };
const timeouts = { connectMs: 2_000, firstTokenMs: 5_000, stallMs: 2_000 };
const TOKENS_MAX = 100;

let questions = 0;

/** Nobody has asked it before. */
function question(more = ""): string {
  questions += 1;
  return `question ${questions} one two three four five six seven${more}`;
}

function messagesOf(content: string): OpenAI.ChatCompletionUserMessageParam[] {
  return [{ role: "user", content }];
}

describe.each(SHAPES)("the cache, with %s", (shape) => {
  let first: Simulator;
  let second: Simulator;
  let alone: Simulator;
  let claude: Simulator;
  let mesh: TestMesh;
  /** The gateways. */
  let doors: string[];
  let routers: string[];

  beforeAll(async () => {
    [first, second, alone] = await Promise.all([
      startOpenAiSimulator(),
      startOpenAiSimulator(),
      startOpenAiSimulator(),
    ]);
    claude = await startAnthropicSimulator();
    const worker = (name: string, simulator: Simulator, model: string, priority: number) => ({
      ...{ name, provider: "openai", baseUrl: simulator.url, models: [model], priority, timeouts, breaker },
    });
    mesh = await startMesh(shape, {
      workers: [
        worker("first", first, "m", 1),
        worker("second", second, "m", 2),
        worker("alone", alone, "s", 1),
        { name: "claude", provider: "anthropic", baseUrl: claude.url, keys: ["k"], models: ["c"], breaker },
      ],
      settings: {
        cache: { enabled: true, tokensMax: TOKENS_MAX, l2: { timeoutMs: 2_000 } },
        clients: [
          { key: KEY_A, tenant: "a", admin: true },
          { key: KEY_B, tenant: "b" },
        ],
      },
      replicas: { gateway: 2, router: 2, cache: 2 },
    });
    doors = mesh.nodes.flatMap(({ rest }) => rest ?? []);
    routers = mesh.nodes.filter(({ name }) => /^(cortex|router)/.test(name)).map(({ grpc }) => grpc);
  });

  beforeEach(() => {
    for (const simulator of [first, second, alone, claude]) simulator.behave(undefined);
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([first, second, alone, claude].map((simulator) => simulator?.stop()));
  });

  interface Wish {
    readonly stream?: boolean;
    readonly model?: string;
    readonly key?: string;
    readonly door?: number;
    readonly headers?: Readonly<Record<string, string>>;
    readonly onHeaders?: (headers: Headers) => void;
    readonly [field: string]: unknown;
  }

  function asked(content: string, wish: Wish = {}): Promise<Seen> {
    const { key = KEY_A, door = 0, headers = {}, stream = false, model = "m", onHeaders, ...fields } = wish;
    const streaming = stream ? { stream, stream_options: { include_usage: true } } : {};
    return see(
      doors[door % doors.length]!,
      { model, messages: messagesOf(content), ...streaming, ...fields },
      { headers: { authorization: `Bearer ${key}`, ...headers }, ...(onHeaders && { onHeaders }) },
    );
  }

  const calls = () => first.generations.length + second.generations.length + alone.generations.length;
  const stateOf = ({ headers }: Seen) => headers.get("x-cortex-cache")?.split(";")[0];

  /** Waits until every router finds the answer, wherever it is kept. */
  async function untilKept(content: string, model = "m"): Promise<void> {
    for (const router of routers) {
      await expect.poll(() => lookUp(router, content, model)).not.toBe("CACHE_MISS");
    }
  }

  /** The level that has it, or the reason of the error. */
  function lookUp(router: string, content: string, model = "m"): Promise<string> {
    const { completion } = readChatRequest({ model, messages: messagesOf(content) });
    return ask(
      router,
      async (channel, call) => {
        const client = channel.client(RouterServiceDefinition);
        const { cache } = await client.complete({ completion, cache: { mode: Mode.ONLY_IF_CACHED } }, call);
        expect(cache).toMatchObject({ state: State.HIT });
        return cache!.detail;
      },
      KEY_A,
    ).catch((error: { reason: string }) => error.reason);
  }

  it.each([
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])("gives an answer again without a call of the provider: streamed %s, then %s", async (before, after) => {
    const content = question();
    const called = calls();
    const miss = await asked(content, { stream: before });
    expect(stateOf(miss)).toBe("miss");
    expect(miss.headers.get("cache-status")).toBe("cortex; fwd=miss");
    await untilKept(content);

    for (const door of doors.keys()) {
      const hit = await asked(content, { stream: after, door });
      expect(hit.headers.get("x-cortex-cache")).toMatch(/^hit; level=l[12]; age=\d+$/);
      expect(hit.headers.get("cache-status")).toMatch(/^cortex; hit; detail=l[12]$/);
      expect(hit.headers.get("age")).toMatch(/^\d+$/);
      expect(hit.headers.get("x-cortex-cache-key")).toBe(miss.headers.get("x-cortex-cache-key"));
      expect(hit.headers.get("x-cortex-attempts")).toBe("0");
      expect(hit.headers.get("x-cortex-worker")).toBe("first");
      expect(hit).toMatchObject({ text: `You said: ${content}`, ids: miss.ids, finishReason: "stop", done: true });
      expect(hit.usage).toEqual({
        ...miss.usage,
        prompt_tokens_details: {
          ...miss.usage?.prompt_tokens_details,
          cortex_cached_tokens: miss.usage?.prompt_tokens,
        },
        completion_tokens_details: {
          ...miss.usage?.completion_tokens_details,
          cortex_cached_tokens: miss.usage?.completion_tokens,
        },
      });
      expect(hit.usage?.prompt_tokens).toBeGreaterThan(0);
    }
    expect(calls()).toBe(called + 1);
  });

  it("has it in the memory of the router that asked, and behind that in the whole mesh", async () => {
    const content = question();
    const called = calls();
    await asked(content);
    await untilKept(content);
    // Who has looked it up keeps a copy.
    for (const router of routers) await expect.poll(() => lookUp(router, content)).toBe("l1");
    expect(calls()).toBe(called + 1);
  });

  it("replays tool calls so that the SDK puts them together as before", async () => {
    const tools: OpenAI.ChatCompletionTool[] = ["look", "listen"].map((name) => ({
      type: "function",
      function: { name, parameters: { type: "object", properties: { where: { type: "string" } } } },
    }));
    const content = `please call tools: ${question()}`;
    const client = new OpenAI({ apiKey: KEY_A, baseURL: `${doors[0]}/v1`, maxRetries: 0 });
    const called = calls();
    const fold = () => client.chat.completions.stream({ model: "m", messages: messagesOf(content), tools });
    const live = await fold().finalMessage();
    expect(live.tool_calls).toHaveLength(2);
    await expect
      .poll(async () => stateOf(await asked(content, { tools, headers: { "x-cortex-cache": "only-if-cached" } })))
      .toBe("hit");
    expect(await fold().finalMessage()).toEqual(live);
    const whole = await client.chat.completions.create({ model: "m", messages: messagesOf(content), tools });
    expect(whole.choices[0]?.message.tool_calls).toEqual(live.tool_calls);
    expect(calls()).toBe(called + 1);
  });

  it("is there for the short form too", async () => {
    const messages = messagesOf(question());
    const short = async (accept: string) => {
      const response = await fetch(`${doors[0]}/api/chat`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${KEY_A}`, accept },
        body: JSON.stringify({ messages, model: "m" }),
      });
      return { state: response.headers.get("x-cortex-cache"), body: await response.text() };
    };
    const live = await short("text/plain");
    expect(live.state).toBe("miss");
    await untilKept(messages[0]!.content as string);
    expect(await short("text/plain")).toEqual({ state: expect.stringMatching(/^hit/), body: live.body });
    const whole = await short("application/json");
    expect(whole.state).toMatch(/^hit/);
    expect(JSON.parse(whole.body)).toMatchObject({ text: live.body, worker: "first" });
  });

  it("streams at the pace that is asked for", async () => {
    const content = question();
    await asked(content);
    await untilKept(content);
    const atOnce = await asked(content, { stream: true });
    const paced = await asked(content, { stream: true, cortex: { cache: { tokens_per_second: 200 } } });
    expect(stateOf(paced)).toBe("hit");
    expect(paced.text).toBe(atOnce.text);
    expect(atOnce.texts).toBe(1);
    expect(paced.texts).toBeGreaterThan(3);
    expect(paced.endedAtMs).toBeGreaterThan(paced.firstTextAtMs);
  });

  describe("is not asked", () => {
    it.each([
      ["for a high temperature", { temperature: 1 }, "temperature"],
      ["by who wants none: body", { cortex: { cache: { no_cache: true } } }, "no_cache"],
      ["by who wants none: header", { headers: { "x-cortex-cache": "off" } }, "no_cache"],
      ["by who wants none: HTTP", { headers: { "cache-control": "no-store" } }, "no_cache"],
    ] as const)("%s", async (_name, wish, detail) => {
      const content = question();
      const called = calls();
      for (const stream of [false, true]) {
        const seen = await asked(content, { ...wish, stream });
        expect(seen.headers.get("x-cortex-cache")).toBe(`bypass; detail=${detail}`);
        expect(seen.headers.get("cache-status")).toBe(`cortex; fwd=bypass; detail=${detail}`);
        expect(seen.usage?.prompt_tokens_details).not.toHaveProperty("cortex_cached_tokens");
      }
      expect(calls()).toBe(called + 2);
      // Nor was it kept, for those who ask in the usual way.
      const usual = "temperature" in wish ? { temperature: 0.5 } : {};
      expect(stateOf(await asked(content, usual))).toBe("miss");
    });
  });

  it("is renewed by who wants a fresh answer", async () => {
    const content = question();
    await asked(content);
    await untilKept(content);
    const called = calls();
    const fresh = await asked(content, { headers: { "cache-control": "no-cache" } });
    expect(fresh.headers.get("x-cortex-cache")).toBe("miss; detail=refresh");
    expect(calls()).toBe(called + 1);
    await expect.poll(async () => (await asked(content)).ids).toEqual(fresh.ids);
    expect(calls()).toBe(called + 1);
  });

  it("says so when the answer may only come from it and is not there, or is too old", async () => {
    const content = question();
    const only = { headers: { "cache-control": "only-if-cached" } };
    const called = calls();
    for (const stream of [false, true]) {
      const missing = await asked(content, { ...only, stream });
      expect(missing).toMatchObject({ status: 504, error: "CACHE_MISS" });
    }
    expect(calls()).toBe(called);
    await asked(content);
    await untilKept(content);
    expect(stateOf(await asked(content, only))).toBe("hit");
    const young = { headers: { "cache-control": "only-if-cached, max-age=0" } };
    await expect.poll(async () => (await asked(content, young)).status).toBe(504);
    expect(calls()).toBe(called + 1);
  });

  it("forgets an answer when its time is over", async () => {
    const content = question();
    const short = { headers: { "x-cortex-cache-ttl": "1" } };
    await asked(content, short);
    const called = calls();
    const only = { headers: { "x-cortex-cache": "only-if-cached" } };
    await expect.poll(async () => (await asked(content, only)).status, { timeout: 20_000 }).toBe(504);
    expect(stateOf(await asked(content))).toBe("miss");
    expect(calls()).toBe(called + 1);
  });

  describe("never keeps", () => {
    /** Asks twice; the second time nothing goes wrong any more, and nothing of the first may come back. */
    async function twice(content: string, wish: Wish): Promise<[Seen, Seen]> {
      const before = await asked(content, wish);
      for (const simulator of [first, second, alone]) simulator.behave(undefined);
      const after = await asked(content, { ...wish, door: 1 });
      expect(stateOf(after)).toBe("miss");
      expect(after).toMatchObject({ status: 200, done: true, error: undefined });
      return [before, after];
    }

    it.each([false, true])("an error; streamed: %s", async (stream) => {
      alone.behave("status:400");
      const content = question();
      const [before, after] = await twice(content, { model: "s", stream });
      expect(before.status).toBe(400);
      expect(after.text).toBe(`You said: ${content}`);
    });

    it("a stream that breaks off", async () => {
      // Whoever is asked to go on breaks off too.
      alone.behave("cut:3");
      const content = question();
      const [before, after] = await twice(content, { model: "s", stream: true });
      expect(before.done).toBe(false);
      expect(before.error).toBeDefined();
      expect(after.text).toBe(`You said: ${content}`);
    });

    it("a stream that another worker has gone on with", async () => {
      first.behave("cut:3");
      const content = question();
      const [before, after] = await twice(content, { stream: true });
      expect(before).toMatchObject({ text: `You said: ${content}`, done: true });
      expect(before.body).toContain(": continued by worker second");
      expect(after.body).not.toContain(": continued");
    });

    it("an answer with a warning that something of the request was left out", async () => {
      const content = question();
      const seen = await asked(content, { model: "c", seed: 7, max_tokens: 1_000 });
      expect(seen.headers.get("x-cortex-warnings")).toContain("seed");
      expect(stateOf(await asked(content, { model: "c", seed: 7, max_tokens: 1_000 }))).toBe("miss");
      expect(stateOf(await asked(content, { model: "c", max_tokens: 1_000 }))).toBe("miss");
    });

    it("an answer that is too long", async () => {
      alone.behave(`tokens:${TOKENS_MAX * 2}`);
      const content = question();
      const long = await asked(content, { model: "s", stream: true });
      expect(long.text.length).toBeGreaterThan(TOKENS_MAX * 4);
      expect(stateOf(await asked(content, { model: "s" }))).toBe("miss");
    });
  });

  describe("gives no tenant what is another's", () => {
    const bodies: readonly [string, Wish][] = [
      ["the same body", {}],
      ["the other's name for the user", { user: "a" }],
      ["a field of the tenant's name", { tenant: "a" }],
      ["the name of the other in a header", { headers: { "x-cortex-tenant": "a", "cortex-tenant": "a" } }],
      ["wishes for the routing and the cache", { cortex: { strategy: "cost", cache: { ttl_s: 60 } } }],
      ["only what is there", { headers: { "x-cortex-cache": "only-if-cached" } }],
    ];

    it.each(bodies)("for %s", async (_name, { headers = {}, ...fields }) => {
      const content = question();
      const mine = await asked(content, fields);
      const only = { "x-cortex-cache": "only-if-cached" };
      await expect.poll(async () => (await asked(content, { ...fields, headers: only })).ids).toEqual(mine.ids);
      const called = calls();
      const theirs = await asked(content, { ...fields, headers, key: KEY_B, door: 1 });
      if (headers["x-cortex-cache"] !== undefined) {
        expect(theirs).toMatchObject({ status: 504, error: "CACHE_MISS" });
        expect(calls()).toBe(called);
        return;
      }
      expect(stateOf(theirs)).toBe("miss");
      expect(theirs.headers.get("x-cortex-cache-key")).not.toBe(mine.headers.get("x-cortex-cache-key"));
      expect(theirs.ids).not.toEqual(mine.ids);
      expect(calls()).toBe(called + 1);
      const streamed = await asked(content, { ...fields, headers, key: KEY_B, stream: true });
      expect(streamed.ids).not.toEqual(mine.ids);
    });

    it("also while the provider is at it", async () => {
      first.behave("tokens:20,tokenMs:20");
      const content = question();
      const called = calls();
      const seen = await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          asked(content, { stream: true, door: index, key: index % 2 === 0 ? KEY_A : KEY_B }),
        ),
      );
      const idsOf = (rest: number) => new Set(seen.filter((_, index) => index % 2 === rest).flatMap(({ ids }) => ids));
      expect(idsOf(0).size).toBe(1);
      expect(idsOf(1).size).toBe(1);
      expect(idsOf(0)).not.toEqual(idsOf(1));
      expect(calls()).toBe(called + 2);
    });

    it("who knows the key can neither join the answer nor look into the store", async () => {
      first.behave("tokens:30,tokenMs:20");
      const begun = Promise.withResolvers<string>();
      const answering = asked(question(), {
        stream: true,
        onHeaders: (headers) => begun.resolve(headers.get("x-cortex-cache-key") ?? ""),
      });
      const key = await begun.promise;
      expect(key).not.toBe("");
      const join = (router: string, as: string) =>
        ask(
          router,
          async (channel, call) => {
            let chunks = 0;
            for await (const _ of channel.client(RouterServiceDefinition).join({ key, whole: true }, call)) chunks += 1;
            return chunks;
          },
          as,
        ).catch((error: { reason: string }) => error.reason);
      const [mine, theirs] = await Promise.all(
        [KEY_A, KEY_B].map((as) => Promise.all(routers.map((router) => join(router, as)))),
      );
      expect(theirs).toEqual(routers.map(() => "CACHE_MISS"));
      expect(mine).toContainEqual(expect.any(Number));
      expect((await answering).done).toBe(true);
      const store = mesh.node("cache").grpc;
      const looking = ask(
        store,
        (channel, call) => {
          const request = { key, node: "n", lookOnly: true, whole: true };
          return channel.client(CacheStoreServiceDefinition).acquire(request, call);
        },
        KEY_B,
      );
      await expect(looking).rejects.toMatchObject({ reason: "PERMISSION_DENIED" });
    });
  });

  describe("is emptied by the command line", () => {
    const cortex = async (...args: string[]) => {
      const { stdout } = await promisify(execFile)(
        process.execPath,
        [CORTEX, ...args, "--address", mesh.node("cache").grpc],
        { env: { PATH: process.env["PATH"], HOME: process.env["HOME"], CORTEX_CLIENT_KEY: KEY_A } },
      );
      return stdout;
    };
    const gone = (content: string, model?: string) =>
      Promise.all(routers.map((router) => expect.poll(() => lookUp(router, content, model)).toBe("CACHE_MISS")));

    it("for one model, on every node", async () => {
      const [content, other] = [question(), question()];
      await asked(content);
      await asked(other, { model: "s" });
      await untilKept(content);
      await untilKept(other, "s");
      await cortex("cache", "clear", "--model", "m");
      await gone(content);
      for (const router of routers) expect(await lookUp(router, other, "s")).toMatch(/^l[12]$/);
    });

    it("for one tenant, one key, and all", async () => {
      const contents = [question(), question(), question()] as const;
      for (const content of contents) {
        await asked(content, { key: KEY_B });
        await asked(content);
        await untilKept(content);
      }
      const only = { headers: { "x-cortex-cache": "only-if-cached" }, key: KEY_B };
      for (const content of contents) await expect.poll(async () => (await asked(content, only)).status).toBe(200);
      await cortex("cache", "clear", "--tenant", "b");
      await expect.poll(async () => (await asked(contents[0], only)).status).toBe(504);
      const hit = await asked(contents[0]);
      expect(stateOf(hit)).toBe("hit");
      await cortex("cache", "clear", "--cache-key", hit.headers.get("x-cortex-cache-key")!);
      await gone(contents[0]);
      expect(stateOf(await asked(contents[1]))).toBe("hit");
      await cortex("cache", "clear");
      await gone(contents[1]);
      await gone(contents[2]);
    });

    it("and tells what it has done", async () => {
      const content = question();
      await asked(content);
      await untilKept(content);
      await asked(content);
      const told = await cortex("cache", "stats");
      for (const level of ["l1", "l2"]) expect(told).toContain(level);
    });
  });

  describe("keeps embeddings input by input", () => {
    const embed = async (input: readonly string[], fields: object = {}) => {
      const response = await fetch(`${doors[0]}/v1/embeddings`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${KEY_A}` },
        body: JSON.stringify({ model: "s", input, ...fields }),
      });
      const { data, usage } = (await response.json()) as {
        data: { embedding: number[] }[];
        usage: { prompt_tokens: number };
      };
      const vectors = data.map(({ embedding }) => embedding);
      return { vectors, usage, cache: response.headers.get("x-cortex-cache") };
    };
    const lastInput = () => (alone.generations.at(-1)!.body as { input: string[] }).input;

    it("and asks only for those that are missing", async () => {
      const [a, b, c] = [question(" a"), question(" b"), question(" c")] as const;
      const before = await embed([a, b]);
      expect(before.cache).toMatch(/^miss/);
      const called = calls();
      await expect.poll(async () => (await embed([a, b])).cache).toMatch(/^hit; level=l[12]; age=/);
      expect(calls()).toBe(called);

      const mixed = await embed([b, c, a, c]);
      expect(mixed.cache).toBe('miss; detail="2 of 4"');
      expect(lastInput()).toEqual([c]);
      expect(calls()).toBe(called + 1);
      expect(mixed.vectors[0]).toEqual(before.vectors[1]);
      expect(mixed.vectors[2]).toEqual(before.vectors[0]);
      expect(mixed.vectors[1]).toEqual(mixed.vectors[3]);

      const hit = await embed([c, a]);
      expect(hit.cache).toMatch(/^hit/);
      expect(hit.vectors).toEqual([mixed.vectors[1], before.vectors[0]]);
      expect(hit.usage.prompt_tokens).toBe(0);
      expect(calls()).toBe(called + 1);
    });

    it("and once for all who ask a router for the same at the same time, also when the first of them leaves", async () => {
      alone.behave("headersMs:400");
      const before = calls();
      const input = [question(" a"), question(" b")];
      const leaving = new AbortController();
      const left = fetch(`${doors[0]}/v1/embeddings`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${KEY_A}` },
        body: JSON.stringify({ model: "s", input }),
        signal: leaving.signal,
      });
      const gone = expect(left).rejects.toThrow("abort");
      await expect.poll(() => calls()).toBe(before + 1);
      const asking = Array.from({ length: 8 }, () => embed(input));
      leaving.abort();
      await gone;
      const answers = await Promise.all(asking);
      for (const { vectors } of answers) expect(vectors).toEqual(answers[0]!.vectors);
      // The one that has left, and one for each router.
      expect(calls() - before).toBeLessThanOrEqual(1 + routers.length);
      expect(answers.filter(({ cache }) => cache?.startsWith("shared"))).toHaveLength(8 - (calls() - before - 1));
    });

    it("all of them, however many come in one request", async () => {
      const many = Array.from({ length: 2_000 }, (_, index) => question(` ${index}`));
      const before = await embed(many);
      const called = calls();
      // Whichever router is asked: what it does not have itself, the owners have.
      await expect.poll(async () => (await embed(many)).cache).toMatch(/^hit/);
      expect((await embed(many)).vectors).toEqual(before.vectors);
      expect(calls() - called).toBeLessThanOrEqual(routers.length);
    });

    it("and not for other dimensions", async () => {
      const a = question(" a");
      expect((await embed([a])).vectors[0]).toHaveLength(8);
      const short = await embed([a], { dimensions: 4 });
      expect(short.cache).toMatch(/^miss/);
      expect(short.vectors[0]).toHaveLength(4);
    });
  });
});
