import { getEventListeners } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { describe, expect, it } from "vitest";
import { Health, type StreamResponse } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";
import {
  closed,
  collect,
  createTestWorker,
  GOOD,
  REQUEST,
  serveHttp,
  serveTcp,
  startSse,
  startTestCall,
  type TestServer,
  until,
  wire,
} from "./test-provider.ts";

/** The promise is 100 ms; a busy machine is given more. */
const CLOSED_WITHIN_MS = 1_000;

/** A server whose requests the test takes one after the other. */
async function serveByHand(): Promise<
  TestServer & { take(): Promise<{ request: IncomingMessage; response: ServerResponse }> }
> {
  const arrived: { request: IncomingMessage; response: ServerResponse }[] = [];
  const server = await serveHttp((request, response) => {
    request.resume();
    arrived.push({ request, response });
  });
  const take = async () => {
    await until(() => arrived.length > 0);
    return arrived.shift()!;
  };
  return Object.assign(server, { take });
}

function iterate(stream: AsyncIterable<StreamResponse>): AsyncIterator<StreamResponse> {
  return stream[Symbol.asyncIterator]();
}

const reason = (name: string) => expect.objectContaining({ reason: name });

describe("a time-out", () => {
  it("ends an attempt that gets no connection", async () => {
    // Takes the TCP connection and never answers the TLS handshake.
    await using server = await serveTcp((socket) => socket.resume());
    await using worker = createTestWorker(`https://127.0.0.1:${server.port}`, { timeouts: { connectMs: 100 } });
    const { error } = await collect(worker.stream(REQUEST, startTestCall()));
    expect(error?.reason).toBe("PROVIDER_TIMEOUT");
    expect(error?.message).toBe("no connection to the provider within 100 ms (timeouts.connectMs)");
    expect(error?.forLog).toBe(`no connection to 127.0.0.1:${server.port} within 100 ms (timeouts.connectMs)`);
  });

  it("ends an attempt whose provider says nothing", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { timeouts: { firstTokenMs: 100 } });
    const message = "no content within 100 ms (timeouts.firstTokenMs)";
    const streamed = collect(worker.stream(REQUEST, startTestCall()));
    const first = closed((await server.take()).request);
    expect((await streamed).error).toMatchObject({ reason: "PROVIDER_TIMEOUT", message });
    await first;
    const completed = worker.complete(REQUEST, startTestCall());
    const second = closed((await server.take()).request);
    await expect(completed).rejects.toMatchObject({ reason: "PROVIDER_TIMEOUT", message });
    await second;
  });

  it("ends a stream that has comments and a beginning but no content", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { timeouts: { firstTokenMs: 150 } });
    const streamed = collect(worker.stream(REQUEST, startTestCall()));
    const { request, response } = await server.take();
    startSse(response, wire("sse", { id: "a" }, { text: "" }));
    const pings = setInterval(() => response.write(": ping\n\n"), 10);
    const gone = closed(request);
    expect((await streamed).error?.message).toContain("timeouts.firstTokenMs");
    await gone;
    clearInterval(pings);
  });

  it("ends a stream that stalls, but not one that sends comments", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { timeouts: { stallMs: 150 } });
    const startedAtMs = performance.now();
    const streamed = collect(worker.stream(REQUEST, startTestCall()));
    const { response } = await server.take();
    startSse(response, wire("sse", { text: "half" }));
    for (let count = 0; count < 20; count += 1) {
      response.write(": ping\n\n");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const { text, error } = await streamed;
    expect(text).toBe("half");
    expect(error).toMatchObject({
      reason: "PROVIDER_TIMEOUT",
      message: "nothing came for 150 ms (timeouts.stallMs)",
    });
    expect(performance.now() - startedAtMs).toBeGreaterThan(400);
  });

  it("ends a whole answer that stalls", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { timeouts: { stallMs: 100 } });
    const completed = worker.complete(REQUEST, startTestCall());
    (await server.take()).response.write('{"id":');
    await expect(completed).rejects.toMatchObject({
      reason: "PROVIDER_TIMEOUT",
      message: expect.stringContaining("stallMs"),
    });
  });

  it("ends a stream that goes on for too long", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { timeouts: { totalMs: 200 } });
    const streamed = collect(worker.stream(REQUEST, startTestCall()));
    const { response } = await server.take();
    startSse(response);
    const tokens = setInterval(() => response.write(wire("sse", { text: "x" })), 10);
    const { text, error } = await streamed;
    clearInterval(tokens);
    expect(text).toMatch(/^x+$/);
    expect(error).toMatchObject({
      reason: "PROVIDER_TIMEOUT",
      message: "not finished within 200 ms (timeouts.totalMs)",
    });
  });
});

describe("a call that is given up", () => {
  it("keeps nothing of an attempt that has ended", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response).end(GOOD);
    });
    await using worker = createTestWorker(server.url);
    const call = startTestCall();
    for (let count = 0; count < 3; count += 1) await collect(worker.stream(REQUEST, call));
    expect(getEventListeners(call.signal, "abort")).toEqual([]);
  });

  it("sends nothing when that was before it began", async () => {
    await using worker = createTestWorker("http://127.0.0.1:1");
    const call = startTestCall();
    call.abort();
    expect((await collect(worker.stream(REQUEST, call))).error?.reason).toBe("CANCELLED");
    await expect(worker.complete(REQUEST, call)).rejects.toEqual(reason("CANCELLED"));
    await expect(worker.checkHealth(call)).rejects.toEqual(reason("CANCELLED"));
    await expect(worker.listModels(call)).resolves.toHaveLength(1);
  });

  it.each(["stream", "complete"] as const)(
    "closes the connection before the head of the answer (%s)",
    async (method) => {
      await using server = await serveByHand();
      await using worker = createTestWorker(server.url);
      const call = startTestCall();
      const answer =
        method === "stream" ? iterate(worker.stream(REQUEST, call)).next() : worker.complete(REQUEST, call);
      const failed = expect(answer).rejects.toEqual(reason("CANCELLED"));
      const gone = closed((await server.take()).request);
      call.abort();
      await failed;
      expect(await gone).toBeLessThan(CLOSED_WITHIN_MS);
      expect(worker.info().activeRequests).toBe(0);
    },
  );

  it("closes the connection before the first token", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url);
    const call = startTestCall();
    const streamed = collect(worker.stream(REQUEST, call));
    const { request, response } = await server.take();
    startSse(response, ": ping\n\n");
    const gone = closed(request);
    call.abort(new RpcError("DEADLINE_EXCEEDED", "too late"));
    expect((await streamed).error).toMatchObject({ reason: "DEADLINE_EXCEEDED", message: "too late" });
    expect(await gone).toBeLessThan(CLOSED_WITHIN_MS);
  });

  it("closes the connection in the middle of a stream, after what has come", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url);
    const call = startTestCall();
    const stream = iterate(worker.stream(REQUEST, call));
    const first = stream.next();
    const { request, response } = await server.take();
    startSse(response, wire("sse", { text: "half" }));
    await first;
    const gone = closed(request);
    call.abort();
    await expect(stream.next()).rejects.toEqual(reason("CANCELLED"));
    expect(await gone).toBeLessThan(CLOSED_WITHIN_MS);
    expect(await stream.next()).toMatchObject({ done: true });
  });

  it("closes the connection in the middle of a whole answer", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url);
    const call = startTestCall();
    const completed = expect(worker.complete(REQUEST, call)).rejects.toEqual(reason("CANCELLED"));
    const { request, response } = await server.take();
    response.write('{"id":');
    const gone = closed(request);
    call.abort();
    await completed;
    expect(await gone).toBeLessThan(CLOSED_WITHIN_MS);
  });

  it("closes the connection when the consumer leaves its loop", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url);
    const left = (async () => {
      for await (const _chunk of worker.stream(REQUEST, startTestCall())) break;
    })();
    const { request, response } = await server.take();
    startSse(response, wire("sse", { text: "half" }));
    const gone = closed(request);
    await left;
    expect(await gone).toBeLessThan(CLOSED_WITHIN_MS);
    expect(worker.info().activeRequests).toBe(0);
  });

  it("closes the connection of a stream that is paused for a slow consumer", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url);
    const call = startTestCall();
    const stream = iterate(worker.stream(REQUEST, call));
    const first = stream.next();
    const { request, response } = await server.take();
    startSse(response);
    while (response.write(wire("sse", { text: "x".repeat(10_000) })));
    await first;
    await until(() => worker.info().pool?.running === 1);
    const gone = closed(request);
    call.abort();
    expect(await gone).toBeLessThan(CLOSED_WITHIN_MS);
  });

  it("leaves the queue at once", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { pool: { connections: 1 } });
    const holder = collect(worker.stream(REQUEST, startTestCall()));
    const { response } = await server.take();
    const call = startTestCall();
    const queued = collect(worker.stream(REQUEST, call));
    expect(worker.info().pool?.queued).toBe(1);
    call.abort();
    expect((await queued).error?.reason).toBe("CANCELLED");
    expect(worker.info().pool?.queued).toBe(0);
    startSse(response).end(GOOD);
    expect((await holder).error).toBeUndefined();
    expect(server.sockets.size).toBe(1);
  });

  it("sends nothing on a connection that was still being made, and leaves it to others", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { pool: { connections: 1 } });
    const call = startTestCall();
    const given = collect(worker.stream(REQUEST, call));
    call.abort();
    expect((await given).error?.reason).toBe("CANCELLED");
    const next = collect(worker.stream(REQUEST, startTestCall()));
    startSse((await server.take()).response).end(GOOD);
    expect((await next).text).toBe("Hello");
    expect(server.sockets.size).toBe(1);
  });
});

describe("the pool", () => {
  it("has true statistics while requests run, wait and rest", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { pool: { connections: 2 } });
    const pool = () => worker.info().pool;
    expect(pool()).toEqual({ size: 2, connected: 0, free: 0, running: 0, pending: 0, queued: 0 });
    const streams = [1, 2, 3].map(() => collect(worker.stream(REQUEST, startTestCall())));
    expect(pool()).toEqual({ size: 2, connected: 0, free: 0, running: 0, pending: 2, queued: 1 });
    const taken = [await server.take(), await server.take()];
    expect(pool()).toEqual({ size: 2, connected: 2, free: 0, running: 2, pending: 0, queued: 1 });
    expect(worker.info()).toMatchObject({ activeRequests: 3, health: Health.BUSY });
    for (const { response } of taken) startSse(response).end(GOOD);
    startSse((await server.take()).response).end(GOOD);
    for (const { error } of await Promise.all(streams)) expect(error).toBeUndefined();
    await until(() => pool()?.free === 2);
    expect(pool()).toEqual({ size: 2, connected: 2, free: 2, running: 0, pending: 0, queued: 0 });
    expect(worker.info()).toMatchObject({ activeRequests: 0, health: Health.AVAILABLE });
  });

  it("serves those that wait in the order in which they came", async () => {
    const bodies: string[] = [];
    await using server = await serveHttp(async (request, response) => {
      for await (const piece of request) bodies.push(JSON.parse(String(piece)).model);
      startSse(response).end(GOOD);
    });
    await using worker = createTestWorker(server.url, { pool: { connections: 1 } });
    const models = ["a", "b", "c", "d", "e"];
    await Promise.all(models.map((model) => collect(worker.stream({ ...REQUEST, model }, startTestCall()))));
    expect(bodies).toEqual(models);
  });

  it("is busy for a request that has waited too long", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { pool: { connections: 1 }, timeouts: { poolMs: 100 } });
    const holder = collect(worker.stream(REQUEST, startTestCall()));
    const { response } = await server.take();
    expect((await collect(worker.stream(REQUEST, startTestCall()))).error).toMatchObject({
      reason: "WORKER_BUSY",
      message: "no connection became free within 100 ms (timeouts.poolMs)",
    });
    startSse(response).end(GOOD);
    expect((await holder).error).toBeUndefined();
  });

  it("is busy at once when too many wait already", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { pool: { connections: 1 } });
    const calls = Array.from({ length: 1_001 }, () => startTestCall());
    const streams = calls.map((call) => collect(worker.stream(REQUEST, call)));
    expect((await collect(worker.stream(REQUEST, startTestCall()))).error?.reason).toBe("WORKER_BUSY");
    for (const call of calls) call.abort();
    await Promise.all(streams);
    expect(worker.info().activeRequests).toBe(0);
  });

  it("gives a connection back whatever becomes of the request", async () => {
    let count = 0;
    await using server = await serveHttp((request, response) => {
      request.resume();
      count += 1;
      if (count % 3 === 0) request.socket.destroy();
      else if (count % 3 === 1) response.writeHead(400).end("no");
      else startSse(response, wire("sse", { error: "x" }));
    });
    await using worker = createTestWorker(server.url, { pool: { connections: 1 }, breaker: { failures: 1_000 } });
    for (let round = 0; round < 30; round += 1) await collect(worker.stream(REQUEST, startTestCall()));
    expect(count).toBe(30);
    expect(worker.info()).toMatchObject({ activeRequests: 0, pool: { running: 0, pending: 0, queued: 0 } });
  });

  it("refuses more requests at once than the worker may serve", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { limits: { concurrent: 1 } });
    const holder = collect(worker.stream(REQUEST, startTestCall()));
    const { response } = await server.take();
    expect(worker.info()).toMatchObject({ activeRequests: 1, concurrentRequestsMax: 1, health: Health.BUSY });
    await expect(worker.complete(REQUEST, startTestCall())).rejects.toEqual(reason("WORKER_BUSY"));
    startSse(response).end(GOOD);
    await holder;
    const next = collect(worker.stream(REQUEST, startTestCall()));
    startSse((await server.take()).response).end(GOOD);
    expect((await next).error).toBeUndefined();
  });
});

describe("the load of a worker", () => {
  it("is told whenever a client's request begins or ends, however it ends, and is right at that moment", async () => {
    await using server = await serveByHand();
    await using worker = createTestWorker(server.url, { limits: { concurrent: 2 } });
    const told: number[] = [];
    const stop = worker.onLoad((activeRequests) => {
      expect(worker.info().activeRequests).toBe(activeRequests);
      told.push(activeRequests);
    });
    const call = startTestCall();
    const cancelled = collect(worker.stream(REQUEST, call));
    await server.take();
    const served = collect(worker.stream(REQUEST, startTestCall()));
    const second = await server.take();
    expect((await collect(worker.stream(REQUEST, startTestCall()))).error?.reason).toBe("WORKER_BUSY");
    call.abort();
    await cancelled;
    startSse(second.response).end(GOOD);
    await served;
    const whole = worker.complete(REQUEST, startTestCall());
    (await server.take()).response.writeHead(500).end();
    await expect(whole).rejects.toThrow();
    expect(told).toEqual([1, 2, 1, 0, 1, 0]);
    // What only looks after the worker is no load.
    const health = worker.checkHealth(startTestCall());
    (await server.take()).response.end("[]");
    await health;
    stop();
    const untold = collect(worker.stream(REQUEST, startTestCall()));
    startSse((await server.take()).response).end(GOOD);
    await untold;
    expect(told).toHaveLength(6);
  });
});

describe("a slow consumer", () => {
  it("slows its provider down, and gets all of it in the end", async () => {
    const event = wire("sse", { text: "x".repeat(1_000) });
    const total = 64 * 1024;
    let written = 0;
    await using server = await serveHttp(async (request, response) => {
      request.resume();
      startSse(response);
      for (; written < total; written += 1) {
        if (!response.write(event)) await new Promise((resolve) => response.once("drain", resolve));
      }
      response.end(wire("sse", { finish: true }, "[DONE]"));
    });
    await using worker = createTestWorker(server.url, { timeouts: { stallMs: 1_000 } });
    const stream = iterate(worker.stream(REQUEST, startTestCall()));
    await stream.next();

    // Longer than the stall time-out, which must not count while it is us who do not read.
    let before = -1;
    for (let quiet = 0; quiet < 15; ) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      quiet = before === written ? quiet + 1 : 0;
      before = written;
    }
    // The kernel's buffers hold some megabytes; the whole is 65.
    expect(written * event.length).toBeLessThan(32 * 1024 * 1024);

    let received = 0;
    let largest = 0;
    for (let result = await stream.next(); result.done !== true; result = await stream.next()) {
      let bytes = 0;
      for (const { part } of result.value.parts) if (part?.$case === "text") bytes += part.value.text.length;
      largest = Math.max(largest, bytes);
      received += bytes;
    }
    // What one consumer keeps waiting is bounded: 256 KiB, and one read of the socket.
    expect(largest).toBeLessThan(512 * 1024);
    // All but the first chunk.
    expect(received).toBeGreaterThan((total - 1_000) * 1_000);
    expect(written).toBe(total);
  });

  it("is told that it was too slow when the whole time passes while it does not read", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response);
      const event = wire("sse", { text: "x".repeat(10_000) });
      const write = (): void => {
        while (!response.destroyed && response.write(event));
      };
      response.on("drain", write);
      write();
    });
    await using worker = createTestWorker(server.url, { timeouts: { totalMs: 1_500 }, breaker: { failures: 1 } });
    const stream = iterate(worker.stream(REQUEST, startTestCall()));
    await stream.next();
    await until(() => worker.info().activeRequests === 0);
    await stream.next();
    await expect(stream.next()).rejects.toMatchObject({
      reason: "DEADLINE_EXCEEDED",
      message: expect.stringContaining("totalMs"),
    });
  });
});
