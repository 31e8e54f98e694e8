import { afterEach, describe, expect, it, vi } from "vitest";
import { AttemptKind, AttemptOutcome, RequestOutcome, TrafficCounted } from "../../libs/gen/cortex/events/v1/events.ts";
import { Dimension } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import type { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import { type OwnedCall, RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { Traffic } from "../../libs/tally/index.ts";
import { attempt, request as requestFinished } from "../../libs/tally/test-events.ts";
import { createMetrics, EVENT, NO_TRACE } from "../../libs/telemetry/index.ts";
import { Telling } from "./telling.ts";
import { FakeMesh, failing, HERE, overloaded, request, saying } from "./test-mesh.ts";
import { TrafficTeller } from "./traffic-teller.ts";

type Router = Service<typeof RouterServiceDefinition>;

const calls: OwnedCall[] = [];

afterEach(() => {
  for (const call of calls.splice(0)) call.finish();
});

function callOf(): OwnedCall {
  const trace = { ...NO_TRACE, traceId: String(calls.length).padStart(32, "0") };
  const call = startCall({ tenant: "tenant", requestId: `r${calls.length}`, trace });
  calls.push(call);
  return call;
}

async function ask(router: Router, model = "m"): Promise<void> {
  const parts = router.stream({ completion: { ...request, model }, routing: undefined }, callOf());
  try {
    for await (const _ of parts);
  } catch (error) {
    expect(error).toBeInstanceOf(RpcError);
  }
}

/** Everything that was told in sums, added up. */
function sums(counted: readonly TrafficCounted[]): Traffic {
  const traffic = new Traffic();
  for (const message of counted) traffic.merge(TrafficCounted.decode(TrafficCounted.encode(message).finish()));
  return traffic;
}

describe("what a router tells in sums", () => {
  it("is what its events come to, to the last request", async () => {
    const mesh = new FakeMesh({ busy: failing(overloaded), a: saying("hi", "there") });
    const router = mesh.router();
    for (let index = 0; index < 50; index++) await ask(router, index % 5 === 0 ? `nobody-has-${index}` : "m");
    mesh.stop();
    const expected = new Traffic();
    for (const event of mesh.events) expected.addAttempt(event);
    for (const event of mesh.ended) expected.addRequest(event);
    expect(sums(mesh.counted).encode()).toEqual(expected.encode());
    expect(expected.total).toMatchObject({ requests: 50, errors: 10, failovers: 40 });
    const told = mesh.counted.length;
    mesh.stop();
    expect(mesh.counted).toHaveLength(told);
  });

  it("goes out by itself, soon, and says whose it is", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    await ask(mesh.router());
    await vi.waitFor(() => expect(mesh.counted).toHaveLength(1));
    expect(mesh.counted[0]).toMatchObject({ node: HERE, total: { requests: 1 }, takeovers: [], failures: [] });
    expect(mesh.counted[0]!.tallies.map(({ dimension, name }) => [dimension, name])).toEqual([
      [Dimension.WORKER, "a"],
      [Dimension.PROVIDER, "p"],
      [Dimension.MODEL, "m"],
      [Dimension.TENANT, "tenant"],
      [Dimension.STRATEGY, "local_first"],
    ]);
  });

  it("says who failed, why, and who took over, with how often, but not when nobody had failed", async () => {
    const mesh = new FakeMesh({ busy: failing(overloaded), a: saying("hi") });
    const router = mesh.router();
    for (let index = 0; index < 3; index++) await ask(router);
    mesh.workers = { a: saying("hi") };
    mesh.change();
    await ask(router);
    mesh.stop();
    const [first] = mesh.events.filter(({ outcome }) => outcome === AttemptOutcome.SERVED);
    expect(mesh.counted.flatMap(({ takeovers }) => takeovers)).toEqual([
      {
        failedWorker: "busy",
        reason: "PROVIDER_OVERLOADED",
        worker: "a",
        inTheMiddle: false,
        requests: 3,
        traceId: first!.traceId,
      },
    ]);
  });

  it("says what nobody could serve, but not what was wrong", async () => {
    const mesh = new FakeMesh({ busy: failing(overloaded) });
    const router = mesh.router();
    for (let index = 0; index < 2; index++) await ask(router);
    await ask(router, "nobody-has-this");
    mesh.stop();
    const [first] = mesh.ended;
    expect(first!.outcome).toBe(RequestOutcome.FAILED);
    expect(mesh.counted.flatMap(({ failures }) => failures)).toEqual([
      { requestedModel: "m", reason: first!.reason, requests: 2, traceId: first!.traceId },
    ]);
  });

  it("is nothing where nothing is to be counted", async () => {
    const published: string[] = [];
    const events = {
      gather: (subject: string) => published.push(subject),
      publish: (subject: string) => published.push(subject),
    };
    const telling = new Telling({
      nodeId: "n",
      events: events as never,
      metrics: createMetrics({ enabled: false }),
    });
    telling.requestBegins(false);
    telling.tellTakeover(attempt(), attempt({ kind: AttemptKind.FAILOVER }), false);
    telling.tellRequest(requestFinished(), NO_TRACE);
    telling.tellSums();
    expect(published).toEqual([EVENT.requestFinished]);
  });

  it("fits into a message of NATS, however many names there are and however long they are, and leaves nothing out", () => {
    const messages: TrafficCounted[] = [];
    const teller = new TrafficTeller({
      nodeId: "n",
      events: { publish: (_subject, _type, message) => void messages.push(message as unknown as TrafficCounted) },
    });
    for (let index = 0; index < 5_000; index++) {
      teller.request(requestFinished({ requestedModel: `${index}${"模".repeat(300)}` }));
      const model = `${index}${"模".repeat(195)}`;
      teller.attempt(attempt({ model, timeToFirstTokenMs: 1 }));
      teller.attempt(attempt({ model: "x".repeat(1_000_000), timeToFirstTokenMs: 1 }));
    }
    for (let index = 0; index < 12_000; index++) {
      const durationMs = 1 + ((index * 7_919) % 100_000);
      const worker = `${index % 3_000}`.padStart(60, "w");
      const requestedModel = `${index % 2_500}${"模".repeat(300)}`;
      teller.attempt(attempt({ worker, model: requestedModel, durationMs, timeToFirstTokenMs: durationMs / 2 }));
      const outcome = index % 3 === 0 ? RequestOutcome.FAILED : RequestOutcome.SERVED;
      teller.request(requestFinished({ requestedModel, durationMs, outcome, reason: "INTERNAL" }));
    }
    teller.tell();
    const sizes = messages.map((message) => TrafficCounted.encode(message).finish().length);
    expect(Math.max(...sizes)).toBeLessThan(1_000_000);
    const all = sums(messages);
    expect(all.total.requests).toBe(17_000);
    expect(all.by.get(Dimension.WORKER)!.size).toBe(3_001);
    expect(Math.max(...messages.flatMap(({ takeovers, failures }) => [takeovers.length, failures.length]))).toBe(100);
  });
});

describe("what other routers have measured", () => {
  it("counts here, and one's own does not count twice", async () => {
    const mesh = new FakeMesh({ a: saying("hi"), b: saying("hi") });
    mesh.routers.push(HERE, "there");
    const router = mesh.router({ strategy: "latency" });
    const counted = (node: string, worker: string, ...timesMs: number[]) =>
      mesh.heard.get(EVENT.trafficCounted)!({
        ...TrafficCounted.decode(new Uint8Array()),
        node,
        firstTokens: [{ worker, model: "m", timesMs }],
      });
    counted("there", "a", 900, 900);
    counted("there", "b", 20);
    counted(HERE, "a", 1, 1, 1);
    const { candidates } = await router.explain({ completion: request, routing: undefined }, callOf());
    expect(
      candidates.map(({ worker, why }) => [
        worker,
        why.filter((reason) => reason.includes("first token")).map((reason) => reason.split(",")[0]),
      ]),
    ).toEqual([
      ["a", ["first token after 900 ms"]],
      ["b", ["first token after 20 ms"]],
    ]);
  });
});
