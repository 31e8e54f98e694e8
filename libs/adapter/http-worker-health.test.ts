/** What a worker knows of its provider without asking it, as whoever looks after it gets to hear. */
import { describe, expect, it } from "vitest";
import { Health } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError, startCall } from "../rpc/index.ts";
import { NO_TRACE } from "../telemetry/index.ts";
import {
  collect,
  createTestDialect,
  createTestWorker,
  GOOD,
  REQUEST,
  serveHttp,
  startSse,
  startTestCall,
  until,
} from "./test-provider.ts";

const LONG_MS = 60_000;

/** A provider that counts what it is asked: checks, lists of models, chats. */
async function serveCounted() {
  const asked = { checks: 0, models: 0, chats: 0 };
  const state = { status: 200, holds: false };
  const server = await serveHttp((request, response) => {
    request.resume();
    if (request.url === "/chat") {
      asked.chats += 1;
      if (state.status === 200) startSse(response).end(GOOD);
      else response.writeHead(state.status).end("no");
      return;
    }
    if (request.url === "/models") asked.models += 1;
    else asked.checks += 1;
    if (!state.holds) response.writeHead(state.status).end('["m"]');
  });
  return Object.assign(server, { asked, state });
}

describe("a check of a worker that takes what is known", () => {
  it("asks the provider at first, and then only for what is too old", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url);
    const check = (ageMaxMs: number) => worker.checkHealth(startTestCall(), { ageMaxMs });
    expect(await check(LONG_MS)).toMatchObject({ health: Health.AVAILABLE, ageMs: 0 });
    expect(server.asked.checks).toBe(1);
    const known = await check(LONG_MS);
    expect(known).toMatchObject({ health: Health.AVAILABLE, latencyMs: 0, message: "" });
    expect(known.ageMs).toBeGreaterThan(0);
    expect(server.asked.checks).toBe(1);
    expect(await check(0)).toMatchObject({ health: Health.AVAILABLE, ageMs: 0 });
    expect(server.asked.checks).toBe(2);
  });

  it("takes a request that was served for an answer, and one that reached nobody", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url);
    const check = () => worker.checkHealth(startTestCall(), { ageMaxMs: LONG_MS });
    await collect(worker.stream(REQUEST, startTestCall()));
    expect(await check()).toMatchObject({ health: Health.AVAILABLE });
    expect(server.asked).toEqual({ checks: 0, models: 0, chats: 1 });

    await using lost = createTestWorker("http://127.0.0.1:1");
    await collect(lost.stream(REQUEST, startTestCall()));
    const known = await lost.checkHealth(startTestCall(), { ageMaxMs: LONG_MS });
    expect(known).toMatchObject({ health: Health.UNAVAILABLE, message: expect.stringMatching(/\w+/) });
    expect(known.ageMs).toBeGreaterThan(0);
  });

  it("asks when requests were given up or went wrong before anybody has shown that the provider is there", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url);
    server.state.status = 500;
    await collect(worker.stream(REQUEST, startTestCall()));
    server.state.status = 200;
    expect(await worker.checkHealth(startTestCall(), { ageMaxMs: LONG_MS })).toMatchObject({
      health: Health.AVAILABLE,
    });
    expect(server.asked.checks).toBe(1);
  });

  it("asks for a key that was refused, whatever the other ones serve", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      const good = request.headers.authorization === "Bearer good";
      if (!good) refused += 1;
      if (!good) response.writeHead(401).end("no");
      else if (request.url === "/chat") startSse(response).end(GOOD);
      else response.end("[]");
    });
    const error = (status: number) => new RpcError(status === 401 ? "PROVIDER_REFUSED_KEY" : "PROVIDER_ERROR", "no");
    let refused = 0;
    let nowMs = Date.now();
    await using worker = createTestWorker(
      server.url,
      { keys: ["bad", "good"] },
      { dialect: createTestDialect("sse", { error }), dependencies: { clock: () => nowMs } },
    );
    for (let count = 0; count < 4; count += 1) await collect(worker.stream(REQUEST, startTestCall()));
    expect(refused).toBe(1);
    nowMs += 24 * 3_600_000;
    await worker.checkHealth(startTestCall(), { ageMaxMs: LONG_MS });
    expect(refused).toBe(2);
  });

  it("asks for the models of a worker that is not told which it has", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url, { models: undefined });
    await collect(worker.stream(REQUEST, startTestCall()));
    await worker.checkHealth(startTestCall(), { ageMaxMs: LONG_MS });
    expect(server.asked.models).toBe(1);
    await worker.checkHealth(startTestCall(), { ageMaxMs: LONG_MS });
    expect(server.asked.models).toBe(1);
  });

  it("shares the answer with whoever asks at the same moment", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url);
    const both = [1, 2].map(() => worker.checkHealth(startTestCall(), { ageMaxMs: 0 }));
    expect((await Promise.all(both)).map(({ health }) => health)).toEqual([Health.AVAILABLE, Health.AVAILABLE]);
    expect(server.asked.checks).toBe(1);
  });

  it("asks by itself when the one who asked first gives up", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url);
    server.state.holds = true;
    const first = startTestCall();
    const given = worker.checkHealth(first, { ageMaxMs: 0 }).catch((error: unknown) => error);
    await until(() => server.asked.checks === 1);
    const second = worker.checkHealth(startTestCall(), { ageMaxMs: 0 });
    server.state.holds = false;
    first.abort();
    expect(await given).toMatchObject({ reason: "CANCELLED" });
    expect(await second).toMatchObject({ health: Health.AVAILABLE, ageMs: 0 });
    expect(server.asked.checks).toBe(2);
  });
});

describe("a check of a worker whose provider is silent", () => {
  it("says so before the call's deadline, though connecting might take longer", async () => {
    await using server = await serveCounted();
    await using worker = createTestWorker(server.url, { timeouts: { connectMs: LONG_MS } });
    server.state.holds = true;
    const call = startCall({ tenant: "", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 1_000 });
    const answer = await worker.checkHealth(call);
    expect(call.signal.aborted).toBe(false);
    call.finish();
    expect(answer).toMatchObject({ health: Health.UNAVAILABLE });
    expect(worker.info().health).toBe(Health.UNAVAILABLE);
  });
});
