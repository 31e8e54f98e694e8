/** How an adapter looks after a worker by itself, and leaves it to those who do so for all. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { createTestWorker, serveHttp, startTestCall } from "../adapter/test-provider.ts";
import { Health } from "../gen/cortex/provider/v1/provider.ts";
import { createLogger } from "../telemetry/index.ts";
import { HealthChecks } from "./health-checks.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });
const ends: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A worker that is looked after, and how often its provider was asked. */
async function start(pace: { intervalMs: number; watched: boolean }) {
  const state = { asked: 0, status: 200 };
  const server = await serveHttp((request, response) => {
    request.resume();
    state.asked += 1;
    response.writeHead(state.status).end("{}");
  });
  const worker = createTestWorker(server.url);
  const checks = new HealthChecks(
    worker,
    { intervalMs: () => pace.intervalMs, isWatched: () => pace.watched },
    log,
    () => {},
  );
  worker.onChange((change) => change === "health" && checks.changed());
  const end = new AbortController();
  const running = checks.run(end.signal);
  ends.push(async () => {
    end.abort();
    await running;
    await worker.close();
    await server[Symbol.asyncDispose]();
  });
  await checks.first;
  return { worker, state };
}

describe("the checks that an adapter makes of a worker", () => {
  it("come regularly where nobody else makes them", async () => {
    const { state } = await start({ intervalMs: 50, watched: false });
    await vi.waitFor(() => expect(state.asked).toBeGreaterThan(5));
  });

  it("are left to a health service that is there, and come again when it is gone, or does nothing", async () => {
    const pace = { intervalMs: 100, watched: true };
    const { worker, state } = await start(pace);
    // As a health service does: it asks in every interval, and takes what is known.
    let others = 0;
    for (; others < 10; others += 1) {
      const { ageMs } = await worker.checkHealth(startTestCall(), { ageMaxMs: 0 });
      expect(ageMs).toBe(0);
      await new Promise((resolve) => setTimeout(resolve, pace.intervalMs));
    }
    // The first one was its adapter's.
    expect(state.asked - others).toBeLessThanOrEqual(2);
    const before = state.asked;
    await vi.waitFor(() => expect(state.asked).toBeGreaterThan(before + 2));
    pace.watched = false;
    const then = state.asked;
    await vi.waitFor(() => expect(state.asked).toBeGreaterThan(then + 2));
  });

  it("come soon while the worker is down, whoever has found that out", async () => {
    const { worker, state } = await start({ intervalMs: 60_000, watched: true });
    expect(state.asked).toBe(1);
    state.status = 500;
    await worker.checkHealth(startTestCall());
    expect(worker.info().health).toBe(Health.UNAVAILABLE);
    state.status = 200;
    await vi.waitFor(() => expect(worker.info().health).toBe(Health.AVAILABLE));
    expect(state.asked).toBe(3);
  });
});
