import { describe, expect, it } from "vitest";
import { CompletionRequest } from "../gen/cortex/llm/v1/llm.ts";
import { BreakerState, Health } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";
import type { TraceContext } from "../telemetry/index.ts";
import {
  closed,
  collect,
  complete,
  createTestDialect,
  createTestWorker,
  GOOD,
  REQUEST,
  serveHttp,
  serveTcp,
  startSse,
  startTestCall,
  type TestWorker,
  until,
  wire,
} from "./test-provider.ts";
import type { WorkerChange } from "./worker.ts";

/** A server that answers chat requests as it is told. */
async function serveSwitchable() {
  const state = { answer: "good", requests: 0 };
  const server = await serveHttp((request, response) => {
    request.resume();
    state.requests += 1;
    if (state.answer === "good") startSse(response).end(GOOD);
    else if (state.answer === "cut") startSse(response).end(wire("sse", { text: "half" }));
    else if (state.answer === "hold") startSse(response);
    else if (state.answer === "begin") startSse(response, wire("sse", { text: "first" }));
    else response.writeHead(Number(state.answer)).end("no");
  });
  return Object.assign(server, { state });
}

async function reasonOf(worker: TestWorker): Promise<string | undefined> {
  return (await collect(worker.stream(REQUEST, startTestCall()))).error?.reason;
}

describe("the breaker of a worker", () => {
  it("opens when five streams in a row die midway, and asks the provider no more", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url);
    const changes: WorkerChange[] = [];
    worker.onChange((change) => changes.push(change));
    server.state.answer = "cut";
    for (let count = 0; count < 5; count += 1) expect(await reasonOf(worker)).toBe("PROVIDER_STREAM_CUT");
    expect(worker.info().breaker).toBe(BreakerState.OPEN);
    expect(changes).toContain("breaker");

    const { error } = await collect(worker.stream(REQUEST, startTestCall()));
    expect(error?.reason).toBe("BREAKER_OPEN");
    expect(error?.retryAfterMs).toBeGreaterThan(25_000);
    expect(error?.retryAfterMs).toBeLessThanOrEqual(30_000);
    await expect(worker.complete(REQUEST, startTestCall())).rejects.toMatchObject({ reason: "BREAKER_OPEN" });
    expect(server.state.requests).toBe(5);
    expect(worker.info().activeRequests).toBe(0);
  });

  it.each(["400", "404", "429"])("does not open on status %s", async (status) => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url);
    server.state.answer = status;
    for (let count = 0; count < 10; count += 1) await reasonOf(worker);
    expect(worker.info().breaker).toBe(BreakerState.CLOSED);
    expect(server.state.requests).toBe(10);
  });

  it("does not open when clients hang up", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url);
    server.state.answer = "hold";
    for (let count = 1; count <= 10; count += 1) {
      const call = startTestCall();
      const streamed = collect(worker.stream(REQUEST, call));
      await until(() => server.state.requests === count);
      call.abort();
      expect((await streamed).error?.reason).toBe("CANCELLED");
    }
    expect(worker.info().breaker).toBe(BreakerState.CLOSED);
  });

  it("stays half open when the trial's client hangs up, and closes when the next trial succeeds", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, { breaker: { failures: 1, resetMs: 20 } });
    server.state.answer = "500";
    await reasonOf(worker);
    expect(worker.info().breaker).toBe(BreakerState.OPEN);
    await until(() => worker.info().breaker === BreakerState.HALF_OPEN);

    server.state.answer = "hold";
    const call = startTestCall();
    const trial = collect(worker.stream(REQUEST, call));
    expect(await reasonOf(worker)).toBe("BREAKER_OPEN");
    await until(() => server.state.requests === 2);
    call.abort();
    await trial;
    expect(worker.info().breaker).toBe(BreakerState.HALF_OPEN);

    server.state.answer = "good";
    expect(await reasonOf(worker)).toBeUndefined();
    expect(worker.info().breaker).toBe(BreakerState.CLOSED);
  });

  it("closes at the trial's first token, not only at its end", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, { breaker: { failures: 1, resetMs: 20 } });
    server.state.answer = "500";
    await reasonOf(worker);
    await until(() => worker.info().breaker === BreakerState.HALF_OPEN);

    server.state.answer = "begin";
    const trial = worker.stream(REQUEST, startTestCall())[Symbol.asyncIterator]();
    await trial.next();
    expect(worker.info().breaker).toBe(BreakerState.CLOSED);
    await trial.return?.();
    expect(worker.info().breaker).toBe(BreakerState.CLOSED);
  });

  it("is not asked for a trial by a request that the limit refuses", async () => {
    await using server = await serveSwitchable();
    const settings = { breaker: { failures: 1, resetMs: 20 }, limits: { concurrent: 1 } };
    await using worker = createTestWorker(server.url, settings);
    server.state.answer = "hold";
    const holder = startTestCall();
    const held = collect(worker.stream(REQUEST, holder));
    await until(() => server.state.requests === 1);
    expect(await reasonOf(worker)).toBe("WORKER_BUSY");
    expect(worker.info().breaker).toBe(BreakerState.CLOSED);
    holder.abort();
    await held;
  });

  it("says in the log that it has opened", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, { breaker: { failures: 1 } });
    server.state.answer = "500";
    await reasonOf(worker);
    const lines = worker.lines.map((line) => JSON.parse(line));
    expect(lines).toContainEqual(expect.objectContaining({ worker: "w", breaker: "open", level: 40 }));
  });
});

describe("the health of a worker", () => {
  it("is unknown at first, then what the provider answers", async () => {
    let status = 200;
    await using server = await serveHttp((_request, response) => void response.writeHead(status).end("not JSON"));
    await using worker = createTestWorker(server.url);
    const changes: WorkerChange[] = [];
    worker.onChange((change) => changes.push(change));
    expect(worker.info().health).toBe(Health.UNSPECIFIED);

    const good = await worker.checkHealth(startTestCall());
    expect(good).toEqual({ health: Health.AVAILABLE, latencyMs: expect.any(Number), message: "", ageMs: 0 });
    expect(good.latencyMs).toBeGreaterThan(0);
    expect(worker.info().health).toBe(Health.AVAILABLE);

    status = 500;
    const bad = await worker.checkHealth(startTestCall());
    expect(bad).toMatchObject({ health: Health.UNAVAILABLE, message: expect.stringContaining("status page") });
    expect(worker.info().health).toBe(Health.UNAVAILABLE);

    status = 429;
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.BUSY });
    expect(changes).toEqual(["health", "health", "health"]);
  });

  it("is unavailable within the connect time-out when the provider is silent", async () => {
    await using server = await serveTcp((socket) => socket.resume());
    await using worker = createTestWorker(server.url, { timeouts: { connectMs: 100 } });
    const answer = await worker.checkHealth(startTestCall());
    expect(answer.health).toBe(Health.UNAVAILABLE);
    expect(answer.latencyMs).toBeLessThan(2_000);
  });

  it("says why it is unavailable or busy, and tells when that changes", async () => {
    let status = 200;
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(status, { "content-type": "text/html" }).end(`["m"] canary`.slice(0, status === 200 ? 5 : 12));
    });
    const error = (code: number) =>
      code === 404 ? new RpcError("PROVIDER_INVALID_ANSWER", "canary") : new RpcError("PROVIDER_ERROR", "canary");
    const dialect = createTestDialect("sse", { error });
    await using worker = createTestWorker(server.url, {}, { dialect });
    const why: unknown[] = [];
    worker.onChange(() => why.push([worker.info().reason, worker.info().message]));
    for (const next of [200, 500, 500, 404, 200]) {
      status = next;
      await worker.checkHealth(startTestCall());
    }
    expect(why).toEqual([
      ["", ""],
      ["PROVIDER_ERROR", "The provider failed"],
      ["PROVIDER_INVALID_ANSWER", "the provider answered 404 text/html; is baseUrl right?"],
      ["", ""],
    ]);
    expect(worker.lines.join()).not.toContain("canary");

    await using full = createTestWorker("http://127.0.0.1:1", { limits: { concurrent: 1 }, breaker: { failures: 1 } });
    const held = collect(full.stream(REQUEST, startTestCall()));
    expect(full.info()).toMatchObject({ reason: "WORKER_BUSY", message: expect.stringContaining("limits.concurrent") });
    await held;
    expect(full.info()).toMatchObject({
      reason: "PROVIDER_UNREACHABLE",
      message: "no answer from 127.0.0.1:1 (ECONNREFUSED)",
    });
  });

  it("rests behind its breaker for the last failure's reason", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, { breaker: { failures: 1 } });
    await worker.checkHealth(startTestCall());
    server.state.answer = "500";
    await reasonOf(worker);
    expect(worker.info()).toMatchObject({
      health: Health.AVAILABLE,
      reason: "BREAKER_OPEN",
      message: "it rests after a failure (PROVIDER_ERROR)",
    });
  });

  it("follows what becomes of requests", async () => {
    const { url } = await (async () => {
      await using server = await serveHttp(() => {});
      return server;
    })();
    await using worker = createTestWorker(url);
    await collect(worker.stream(REQUEST, startTestCall()));
    expect(worker.info().health).toBe(Health.UNAVAILABLE);
    await using back = await serveSwitchable();
    await using other = createTestWorker(back.url);
    await collect(other.stream(REQUEST, startTestCall()));
    expect(other.info().health).toBe(Health.AVAILABLE);
  });

  it("is busy, without asking, when every connection is in use", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, { pool: { connections: 1 } });
    server.state.answer = "hold";
    const call = startTestCall();
    const held = collect(worker.stream(REQUEST, call));
    await until(() => server.state.requests === 1);
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.BUSY });
    expect(server.state.requests).toBe(1);
    call.abort();
    await held;
  });

  it("is asked whatever the breaker and the limit say", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, { breaker: { failures: 1 }, limits: { concurrent: 1 } });
    server.state.answer = "500";
    await reasonOf(worker);
    expect(worker.info().breaker).toBe(BreakerState.OPEN);
    server.state.answer = "good";
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(worker.info().breaker).toBe(BreakerState.OPEN);
  });

  it("is given up with its call", async () => {
    await using server = await serveHttp((request) => void request.resume());
    await using worker = createTestWorker(server.url);
    const call = startTestCall();
    const checked = worker.checkHealth(call);
    await until(() => server.sockets.size === 1);
    const [socket] = server.sockets;
    const gone = closed(socket!);
    call.abort();
    await expect(checked).rejects.toMatchObject({ reason: "CANCELLED" });
    expect(await gone).toBeLessThan(1_000);
    expect(worker.info().health).toBe(Health.UNSPECIFIED);
  });
});

describe("the models of a worker", () => {
  it("are asked of the provider with its health unless they are configured", async () => {
    const paths: (string | undefined)[] = [];
    let models = ["a"];
    await using server = await serveHttp((request, response) => {
      paths.push(request.url);
      response.end(JSON.stringify(models));
    });
    await using worker = createTestWorker(server.url, { models: undefined });
    await using configured = createTestWorker(server.url, { models: ["x"] });
    const changes: WorkerChange[] = [];
    worker.onChange((change) => changes.push(change));

    await worker.checkHealth(startTestCall());
    expect(worker.info().models).toEqual(["a"]);
    await worker.checkHealth(startTestCall());
    expect(changes).toEqual(["health", "models"]);
    models = ["a", "b"];
    expect(await worker.listModels(startTestCall())).toMatchObject([{ id: "a" }, { id: "b" }]);
    expect(worker.info().models).toEqual(["a", "b"]);
    expect(changes).toEqual(["health", "models", "models"]);
    expect(paths).toEqual(["/health", "/models", "/health", "/models", "/models"]);

    await configured.checkHealth(startTestCall());
    expect(await configured.listModels(startTestCall())).toMatchObject([{ id: "x" }]);
    expect(paths.slice(5)).toEqual(["/health"]);
  });

  it("are read from the health answer where that is the same", async () => {
    const paths: (string | undefined)[] = [];
    await using server = await serveHttp((request, response) => {
      paths.push(request.url);
      response.end('["a"]');
    });
    const dialect = createTestDialect("sse", { healthRequest: () => ({ method: "GET", path: "/models" }) });
    await using worker = createTestWorker(server.url, { models: undefined }, { dialect });
    await worker.checkHealth(startTestCall());
    expect(worker.info().models).toEqual(["a"]);
    expect(paths).toEqual(["/models"]);
  });

  it("have the properties that the list says, else those that are known by their names", async () => {
    let contextTokensMax = 10;
    await using server = await serveHttp((request, response) => {
      response.end(request.url === "/models" ? '["a","b"]' : "{}");
    });
    const plain = createTestDialect("sse");
    const dialect = createTestDialect("sse", {
      modelsAnswer: (body) =>
        plain
          .modelsAnswer(body)
          .map((model) => (model.id === "a" ? { ...model, properties: { contextTokensMax } } : model)),
      modelProperties: (model) => (model === "c" ? undefined : { capabilities: ["vision"], contextTokensMax: 5 }),
    });
    await using worker = createTestWorker(server.url, { models: undefined }, { dialect });
    await using configured = createTestWorker(server.url, { models: ["b", "c"] }, { dialect });
    const changes: WorkerChange[] = [];
    worker.onChange((change) => change === "models" && changes.push(change));
    expect(worker.info().modelProperties).toEqual({});
    for (const model of await worker.listModels(startTestCall())) expect(model).not.toHaveProperty("properties");
    const vision = { capabilities: ["vision"] };
    const b = { ...vision, contextTokensMax: 5 };
    expect(worker.info().modelProperties).toEqual({ a: { ...vision, contextTokensMax: 10 }, b });
    expect(configured.info().modelProperties).toEqual({ b });
    await worker.listModels(startTestCall());
    expect(changes).toEqual(["models"]);
    contextTokensMax = 20;
    await worker.listModels(startTestCall());
    expect(worker.info().modelProperties["a"]).toEqual({ ...vision, contextTokensMax: 20 });
    expect(changes).toEqual(["models", "models"]);
  });

  it("do not make a worker unavailable when they can't be had", async () => {
    await using server = await serveHttp((request, response) => {
      response.writeHead(request.url === "/models" ? 500 : 200).end("no");
    });
    await using worker = createTestWorker(server.url, { models: undefined });
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(worker.info().models).toEqual([]);
    await expect(worker.listModels(startTestCall())).rejects.toMatchObject({ reason: "PROVIDER_ERROR" });
  });
});

describe("a request's span", () => {
  const parent: TraceContext = { traceId: "a".repeat(32), spanId: "b".repeat(16), sampled: true, state: "" };

  it("says what OpenTelemetry's GenAI conventions ask for", async () => {
    let headers: Record<string, unknown> = {};
    await using server = await serveHttp((request, response) => {
      request.resume();
      headers = request.headers;
      startSse(response).end(GOOD);
    });
    const dialect = createTestDialect("sse", { telemetryName: "test.telemetry" });
    await using worker = createTestWorker(server.url, {}, { dialect, recording: true });
    const request = CompletionRequest.fromPartial({
      ...REQUEST,
      maxOutputTokens: 9,
      sampling: { temperature: 0, topP: 1 },
    });
    await collect(worker.stream(request, startTestCall({ trace: parent })));
    expect(worker.spans).toEqual([
      {
        name: "chat m",
        kind: "client",
        attributes: {
          "gen_ai.operation.name": "chat",
          "gen_ai.provider.name": "test.telemetry",
          "gen_ai.request.model": "m",
          "gen_ai.request.stream": true,
          "gen_ai.request.max_tokens": 9,
          "gen_ai.request.temperature": 0,
          "gen_ai.request.top_p": 1,
          "server.address": "127.0.0.1",
          "server.port": server.port,
          "cortex.worker": "w",
          "http.response.status_code": 200,
          "gen_ai.response.id": "a-1",
          "gen_ai.response.model": "m-1",
          "gen_ai.response.finish_reasons": ["stop"],
          "gen_ai.response.time_to_first_chunk": expect.any(Number),
          "gen_ai.usage.output_tokens": 2,
        },
        events: ["first_token"],
        ends: 1,
      },
    ]);
    expect(headers["traceparent"]).toBeUndefined();
  });

  it("has the usage of a whole answer", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.end('{"id":"a-1"}');
    });
    await using worker = createTestWorker(server.url, {}, { recording: true });
    await worker.complete(REQUEST, startTestCall());
    expect(worker.spans[0]).toMatchObject({
      attributes: {
        "gen_ai.response.id": "a-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.output_tokens": 7,
      },
      ends: 1,
    });
  });

  it("fails with the error's reason and ends once, however the attempt ends", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url, {}, { recording: true });
    server.state.answer = "cut";
    await reasonOf(worker);
    server.state.answer = "500";
    await reasonOf(worker);
    server.state.answer = "hold";
    const call = startTestCall();
    const held = collect(worker.stream(REQUEST, call));
    await until(() => server.state.requests === 3);
    call.abort();
    await held;
    expect(worker.spans.map(({ failure, ends }) => [failure?.type, ends])).toEqual([
      ["PROVIDER_STREAM_CUT", 1],
      ["PROVIDER_ERROR", 1],
      ["CANCELLED", 1],
    ]);
  });
});

describe("the log of a worker", () => {
  it("has a line for a failed attempt that leads to its trace", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url);
    server.state.answer = "500";
    const trace: TraceContext = { traceId: "a".repeat(32), spanId: "b".repeat(16), sampled: false, state: "" };
    await collect(worker.stream(REQUEST, startTestCall({ trace })));
    expect(worker.lines.map((line) => JSON.parse(line))).toContainEqual(
      expect.objectContaining({
        worker: "w",
        reason: "PROVIDER_ERROR",
        status: 500,
        trace_id: trace.traceId,
        request_id: "r-1",
        // Who asked warns of it, once.
        level: 20,
      }),
    );
  });

  it("has no line per token", async () => {
    const tokens = Array.from({ length: 500 }, () => ({ text: "x" }));
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response).end(wire("sse", ...tokens, { finish: true }, "[DONE]"));
    });
    await using worker = createTestWorker(server.url);
    await collect(worker.stream(REQUEST, startTestCall()));
    expect(worker.lines).toHaveLength(1);
  });

  it("says where a dialect stumbled, without what it stumbled over", async () => {
    const dialect = createTestDialect("sse", {
      chatAnswer() {
        throw new TypeError("canary");
      },
    });
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.end("{}");
    });
    await using worker = createTestWorker(server.url, {}, { dialect });
    await expect(worker.complete(REQUEST, startTestCall())).rejects.toMatchObject({
      reason: "PROVIDER_INVALID_ANSWER",
    });
    const line = JSON.parse(worker.lines.at(-1) ?? "{}");
    expect(line).toMatchObject({ level: 50, cause: "TypeError", cause_stack: expect.stringContaining("chatAnswer") });
    expect(worker.lines.join()).not.toContain("canary");
  });
});

describe("a defect elsewhere", () => {
  it("in a dialect leaves no attempt running", async () => {
    const broken = (): never => {
      throw new TypeError("canary");
    };
    for (const defect of [{ chatRequest: broken }, { chatEvents: broken }, { authorization: broken }]) {
      const dialect = createTestDialect("sse", defect);
      await using worker = createTestWorker("http://127.0.0.1:1", { keys: ["k"] }, { dialect });
      const { error } = await collect(worker.stream(REQUEST, startTestCall()));
      expect(error).toMatchObject({ reason: "INTERNAL", message: "internal error" });
      expect(worker.info().activeRequests).toBe(0);
      expect(worker.lines.join()).not.toContain("canary");
    }
  });

  it("in a listener to changes harms no request", async () => {
    await using server = await serveSwitchable();
    await using worker = createTestWorker(server.url);
    worker.onChange(() => {
      throw new TypeError("canary");
    });
    expect(await reasonOf(worker)).toBeUndefined();
    expect(worker.lines.map((line) => JSON.parse(line))).toContainEqual(expect.objectContaining({ level: 50 }));
  });
});

describe("closing a worker", () => {
  it("waits for what runs, takes nothing new, and leaves no connection", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response, wire("sse", { text: "half" }));
      finish = () => void response.end(wire("sse", { finish: true }, "[DONE]"));
    });
    let finish = (): void => {};
    const worker = createTestWorker(server.url, {}, { dependencies: { closeWaitMs: 10_000 } });
    const stream = worker.stream(REQUEST, startTestCall())[Symbol.asyncIterator]();
    await stream.next();
    const closing = worker.close();
    expect(worker.close()).toBe(closing);
    await expect(worker.complete(REQUEST, startTestCall())).rejects.toMatchObject({ reason: "NODE_DRAINING" });
    finish();
    expect(await stream.next()).toMatchObject({ done: false });
    expect(await stream.next()).toMatchObject({ done: true });
    await closing;
    await expect.poll(() => server.sockets.size).toBe(0);
  });

  it("ends what runs for too long", async () => {
    await using server = await serveSwitchable();
    server.state.answer = "hold";
    const worker = createTestWorker(server.url, { pool: { connections: 1 } }, { dependencies: { closeWaitMs: 50 } });
    const held = [collect(worker.stream(REQUEST, startTestCall())), collect(worker.stream(REQUEST, startTestCall()))];
    await until(() => server.state.requests === 1);
    await worker.close();
    for (const { error } of await Promise.all(held)) expect(error?.reason).toBe("NODE_DRAINING");
    await expect.poll(() => server.sockets.size).toBe(0);
  });

  it("leaves no timer and no socket behind", async () => {
    const resources = () => process.getActiveResourcesInfo().filter((name) => /Timeout|TCP/.test(name)).length;
    const before = resources();
    {
      await using server = await serveSwitchable();
      await using worker = createTestWorker(server.url, { breaker: { failures: 1 } });
      await reasonOf(worker);
      server.state.answer = "500";
      await reasonOf(worker);
    }
    await expect.poll(resources).toBeLessThanOrEqual(before);
  });
});

describe("the clock and randomness of a worker", () => {
  it("come from outside", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.end("{}");
    });
    const dependencies = { clock: () => 1_700_000_000_000, random: () => 0 };
    await using worker = createTestWorker(server.url, {}, { dependencies });
    const { served } = await complete(worker, REQUEST, startTestCall());
    expect(served).toMatchObject({ id: "cortex-aaaaaaaaaaaaaaaa", createdAtS: 1_700_000_000 });
  });
});
