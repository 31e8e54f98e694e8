/** What a client sees when routers are lost under its stream: over the real in-process carrier and real HTTP. */
import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { FinishReason, type Part } from "../../libs/gen/cortex/llm/v1/llm.ts";
import {
  CacheOptions_Mode as CacheMode,
  CacheStatus_State as CacheState,
  type CacheStatus,
  RouterServiceDefinition,
  Strategy,
  type StreamRequest,
  type StreamResponse,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { bind, RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { createLogger, createMetrics, NO_TRACE, silentTracer } from "../../libs/telemetry/index.ts";
import { LiveRelay } from "./live.ts";
import { readChatRequest } from "./openai-request.ts";
import { resumableStream } from "./resume.ts";
import { createGatewayServer } from "./server.ts";

type Router = Service<typeof RouterServiceDefinition>;

const LOST = new RpcError("NODE_UNREACHABLE", "the node was lost");

const served = (worker: string): Part => ({
  part: {
    $case: "served",
    value: { id: `id-${worker}`, model: "m", worker, provider: "p", createdAtS: 1, systemFingerprint: "" },
  },
});
const text = (value: string): Part => ({ part: { $case: "text", value: { text: value, choice: 0, logprobs: [] } } });
const continued = (worker: string): Part => ({
  part: { $case: "continued", value: { worker, provider: "p", model: "m", reason: "NODE_UNREACHABLE" } },
});
const toolCall: Part = {
  part: {
    $case: "toolCall",
    value: { choice: 0, index: 0, id: "1", name: "look", argumentsJson: "{", signature: "" },
  },
};
const finish: Part = { part: { $case: "finish", value: { choice: 0, reason: FinishReason.STOP } } };

/** What one router does with a stream: sends chunks, then ends or fails. */
type Play = readonly (readonly Part[] | RpcError)[];

let call: ReturnType<typeof startCall>;
/** What the routers were asked, in order. */
let asked: StreamRequest[];
let waitedMs: number;
const servers: Server[] = [];

beforeEach(() => {
  call = startCall({ tenant: "t", requestId: "r", trace: NO_TRACE });
  asked = [];
  waitedMs = 0;
});
afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  }
});

/** What the first chunk of each says of the cache. */
const CACHED: CacheStatus = { state: CacheState.HIT, detail: "l1", ageS: 3, key: "t.m.r" };

/** Routers that take one stream each, in turn; the last one takes all others. */
function routers(...plays: Play[]): Router {
  const router: Partial<Router> = {
    async *stream(request): AsyncGenerator<StreamResponse> {
      const play = plays[Math.min(asked.length, plays.length - 1)]!;
      asked.push(request);
      let attempts = (request.resume?.attempts ?? 0) + 1;
      for (const step of play) {
        if (step instanceof RpcError) throw step;
        yield { parts: step, attempts, cache: attempts > 0 ? CACHED : undefined };
        attempts = 0;
      }
    },
    async complete(request) {
      asked.push(request);
      return { completion: { choices: [], warnings: [] }, attempts: 1, cache: CACHED };
    },
    async embed(request) {
      asked.push(request as StreamRequest);
      return { embedding: { embeddings: [], warnings: [] }, attempts: 1, cache: CACHED };
    },
    listModels: async () => ({ models: [] }),
    explain: () => Promise.reject(new RpcError("UNIMPLEMENTED", "not here")),
    join: () => {
      throw new RpcError("UNIMPLEMENTED", "not here");
    },
  };
  const log = createLogger({ level: "silent", readable: false, node: "test" });
  return bind(RouterServiceDefinition, router as Router, "in_process", { tracer: silentTracer, log });
}

const { completion } = readChatRequest({ model: "m", messages: [{ role: "user", content: "hi" }] });

interface Seen {
  readonly text: string;
  readonly parts: string[];
  readonly error?: RpcError;
}

async function see(
  router: Router,
  options: { continuation?: boolean; request?: typeof completion } = {},
): Promise<Seen> {
  const routing = options.continuation === undefined ? undefined : { strategy: Strategy.UNSPECIFIED, ...options };
  const request = { completion: options.request ?? completion, routing, cache: undefined };
  const wait = async (ms: number) => {
    waitedMs += ms;
  };
  const seen = { text: "", parts: [] as string[] };
  try {
    for await (const { parts } of resumableStream(request, call, { router: () => router, wait })) {
      for (const { part } of parts) {
        seen.parts.push(part!.$case);
        if (part?.$case === "text") seen.text += part.value.text;
      }
    }
  } catch (thrown) {
    return { ...seen, error: RpcError.from(thrown) };
  }
  return seen;
}

describe("a stream whose router is lost", () => {
  it("goes on at another one, which is told what the client has seen", async () => {
    const seen = await see(
      routers([[served("a"), text("One ")], [text("two")], LOST], [[continued("b"), text(" three")], [finish]]),
    );
    expect(seen).toEqual({ text: "One two three", parts: ["served", "text", "text", "continued", "text", "finish"] });
    expect(asked.map(({ resume }) => resume)).toEqual([undefined, { text: "One two", worker: "a", attempts: 1 }]);
    expect(asked[1]?.completion).toEqual(completion);
  });

  it("goes on when the router drains, and again when that one is lost too", async () => {
    const draining = new RpcError("NODE_DRAINING", "is about to stop");
    const seen = await see(
      routers(
        [[served("a"), text("One")], draining],
        [[continued("b"), text(" two")], LOST],
        [[continued("c"), text(" three")], [finish]],
      ),
    );
    expect(seen.text).toBe("One two three");
    expect(seen.error).toBeUndefined();
    expect(asked[2]?.resume).toEqual({ text: "One two", worker: "b", attempts: 2 });
  });

  it("waits for a router while none can be reached", async () => {
    const down = Array.from({ length: 5 }, (): Play => [LOST]);
    const seen = await see(routers([[served("a"), text("One")], LOST], ...down, [[text(" two")], [finish]]));
    expect(seen).toMatchObject({ text: "One two" });
    expect(seen.error).toBeUndefined();
    expect(waitedMs).toBeGreaterThan(0);
  });

  it("does not wait forever, and ends with an error then", async () => {
    const seen = await see(routers([[served("a"), text("One")], LOST], [LOST]));
    expect(seen.error).toMatchObject({
      reason: "STREAM_INTERRUPTED",
      attempts: [{ worker: "a", reason: "NODE_UNREACHABLE" }],
    });
    expect(waitedMs).toBeGreaterThanOrEqual(10_000);
    expect(waitedMs).toBeLessThan(12_000);
  });

  it("goes on three times and no more", async () => {
    const seen = await see(routers([[served("a"), text("x")], LOST]));
    expect(seen.error?.reason).toBe("STREAM_INTERRUPTED");
    expect(asked).toHaveLength(4);
  });

  it("ends well when all had come but the end", async () => {
    const seen = await see(routers([[served("a"), text("One")], [finish], LOST]));
    expect(seen).toEqual({ text: "One", parts: ["served", "text", "finish"] });
    expect(asked).toHaveLength(1);
  });

  const begun: Play = [[served("a"), text("One")], LOST];
  const refused: Record<string, [Play, Parameters<typeof see>[1]]> = {
    "a tool call has begun": [[[served("a"), text("One"), toolCall], LOST], {}],
    "continuation is switched off": [begun, { continuation: false }],
    "more than one choice": [begun, { request: { ...completion, choiceCount: 2 } }],
  };
  it.each(Object.entries(refused))("ends in an error when nobody may go on: %s", async (why, [play, options]) => {
    const seen = await see(routers(play), options);
    expect(seen.error?.reason).toBe("STREAM_INTERRUPTED");
    expect(seen.error?.message).toContain(why);
    expect(asked).toHaveLength(1);
  });

  it("ends in the error that the other router gives", async () => {
    const interrupted = new RpcError("STREAM_INTERRUPTED", "no other could go on");
    expect((await see(routers([[served("a"), text("One")], LOST], [interrupted]))).error).toBe(interrupted);
    asked = [];
    const seen = await see(routers([[served("a"), text("One")], LOST], [new RpcError("MODEL_NOT_FOUND", "gone")]));
    expect(seen.error?.reason).toBe("STREAM_INTERRUPTED");
    expect(waitedMs).toBe(0);
  });

  it("is not asked for again before anything has come, nor after an error of another kind", async () => {
    expect((await see(routers([LOST]))).error).toBe(LOST);
    const interrupted = new RpcError("STREAM_INTERRUPTED", "the worker failed");
    expect((await see(routers([[served("a"), text("One")], interrupted]))).error).toBe(interrupted);
    expect(asked).toHaveLength(2);
  });

  it("is given up when the client leaves", async () => {
    const stream = resumableStream({ completion, routing: undefined, cache: undefined }, call, {
      router: () => routers([[served("a"), text("One")], LOST], [LOST]),
      wait: async () => call.cancel(),
    })[Symbol.asyncIterator]();
    await stream.next();
    await expect(stream.next()).rejects.toMatchObject({ reason: "CANCELLED" });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });
});

describe("over HTTP", () => {
  async function start(router: Router): Promise<string> {
    const log = createLogger({ level: "silent", readable: false, node: "test" });
    const server = createGatewayServer({
      router: () => router,
      registry: () => {
        throw new Error("not asked");
      },
      keysRequired: () => false,
      caching: () => false,
      health: () => {
        throw new Error("not asked");
      },
      report: () => expect.fail("not asked"),
      summaries: () => expect.fail("not asked"),
      live: new LiveRelay({ metrics: () => expect.fail("not asked"), log }),
      authenticate: () => ({ tenant: "t", admin: false }),
      operations: {
        scrape: () => expect.fail("not asked"),
        targets: () => expect.fail("not asked"),
        readiness: () => expect.fail("not asked"),
        refused: () => expect.fail("not asked"),
      },
      tracer: silentTracer,
      metrics: createMetrics(),
      log,
      bodyBytesMax: 100_000,
      keepAliveMs: 60_000,
      timeoutMs: 60_000,
    });
    servers.push(server);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  function post(url: string, body: object, headers: Record<string, string> = {}) {
    return fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(body),
    });
  }

  const messages = [{ role: "user", content: "hi" }];
  const interruptedOnce = () => routers([[served("a"), text("One")], LOST], [[continued("b"), text(" two")], [finish]]);

  it("a comment tells of it, and the events know nothing of it", async () => {
    const url = await start(interruptedOnce());
    const response = await post(`${url}/v1/chat/completions`, { model: "m", messages, stream: true });
    const body = await response.text();
    expect(response.headers.get("x-cortex-worker")).toBe("a");
    expect(body).toContain("\n\n: continued by worker b (NODE_UNREACHABLE)\n\ndata: {");
    const texts = [...body.matchAll(/"delta":\{"content":"([^"]*)"\}/g)].map(([, piece]) => piece);
    expect(texts).toEqual(["One", " two"]);
    expect(body.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(body).not.toContain("id-b");
  });

  it("the short form knows nothing of it at all", async () => {
    const response = await post(`${await start(interruptedOnce())}/api/chat`, { messages });
    expect(await response.text()).toBe("One two");
  });

  it.each([
    ["/v1/chat/completions", { model: "m", messages }],
    ["/v1/chat/completions", { model: "m", messages, stream: true }],
    ["/v1/embeddings", { model: "m", input: "hi" }],
    ["/api/chat", { messages }],
  ])("the router is told how the client of %s wants it routed", async (path, body) => {
    const url = await start(routers([[served("a"), text("One")], [finish]]));
    await post(
      url + path,
      { ...body, cortex: { strategy: "cost", hedging: true } },
      { "x-cortex-strategy": "weighted" },
    );
    await post(url + path, body, { "x-cortex-continuation": "off" });
    await post(url + path, body);
    expect(asked.map(({ routing }) => routing)).toEqual([
      { strategy: Strategy.WEIGHTED, hedging: true },
      { strategy: Strategy.UNSPECIFIED, continuation: false },
      undefined,
    ]);
    const refused = await post(url + path, body, { "x-cortex-hedging": "sometimes" });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: { param: "x-cortex-hedging" } });
  });

  it.each([
    ["/v1/chat/completions", { model: "m", messages }],
    ["/v1/chat/completions", { model: "m", messages, stream: true }],
    ["/v1/embeddings", { model: "m", input: "hi" }],
    ["/api/chat", { messages }],
  ])("the client of %s tells the router what may come from the cache, and is told what did", async (path, body) => {
    const url = await start(routers([[served("a"), text("One")], [finish]]));
    const answer = await post(
      url + path,
      { ...body, cortex: { cache: { ttl_s: 60 } } },
      { "cache-control": "no-cache, max-age=5" },
    );
    await post(url + path, body, { "x-cortex-cache": "off" });
    await post(url + path, body);
    expect(asked.map(({ cache }) => cache)).toEqual([
      { mode: CacheMode.REFRESH, ttlS: 60, maxAgeS: 5 },
      { mode: CacheMode.OFF },
      undefined,
    ]);
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      "x-cortex-cache": "hit; level=l1; age=3",
      "x-cortex-cache-key": "t.m.r",
      "cache-status": "cortex; hit; detail=l1",
      age: "3",
    });
    const refused = await post(url + path, body, { "x-cortex-cache": "sometimes" });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: { param: "x-cortex-cache" } });
  });
});
