import { describe, expect, it } from "vitest";
import {
  KeyChanged_Change,
  NodeChanged_Change,
  ServiceChanged_Change,
  type TrafficCounted_Takeover,
  WorkerChanged_Change,
} from "../../libs/gen/cortex/events/v1/events.ts";
import { BreakerState, Health, WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { Happenings } from "./happenings.ts";

const AT_MS = 1_800_000_000_000;

/** What is told, with its tone. */
function told(tell: (happenings: Happenings) => void): string[] {
  const happenings = new Happenings((id) => ({ "n-1": "east" })[id] ?? id);
  tell(happenings);
  return happenings.since(0, 100).map(({ tone, sentence }) => `${tone}: ${sentence}`);
}

const takeover = (failedWorker: string, worker: string, more: Partial<TrafficCounted_Takeover> = {}) => ({
  failedWorker,
  reason: "PROVIDER_OVERLOADED",
  worker,
  inTheMiddle: false,
  requests: 1,
  traceId: "cafe",
  ...more,
});

describe("what people are told", () => {
  it("of a failover: who failed, why, and who took over", () => {
    const sentences = told((happenings) => {
      happenings.takeover(takeover("groq-main", "openai-main"), AT_MS);
      happenings.takeover(takeover("groq-main", "openai-main", { inTheMiddle: true }), AT_MS);
      happenings.takeover(takeover("groq-main", "groq-main"), AT_MS);
    });
    expect(sentences).toEqual([
      "plain: groq-main failed (PROVIDER_OVERLOADED), openai-main took over",
      "plain: groq-main failed in the middle of an answer (PROVIDER_OVERLOADED), openai-main went on with it",
      "plain: groq-main failed (PROVIDER_OVERLOADED), groq-main served when asked again",
    ]);
  });

  it("of what happens again and again: once in ten seconds, with how often it was", () => {
    const sentences = told((happenings) => {
      for (let index = 0; index < 100; index++) {
        happenings.takeover(takeover("a", "b", { requests: 10 }), AT_MS + index * 150);
      }
    });
    expect(sentences).toEqual([
      "plain: a failed (PROVIDER_OVERLOADED), b took over",
      "plain: a failed (PROVIDER_OVERLOADED), b took over; and 669 more since it was last told",
    ]);
  });

  it("of requests that failed for everybody", () => {
    const sentences = told((happenings) => {
      const failure = { reason: "NO_WORKERS_AVAILABLE", requests: 1, traceId: "cafe" };
      happenings.failure({ requestedModel: "gpt-4o", ...failure }, AT_MS);
      happenings.failure({ requestedModel: "", ...failure }, AT_MS);
    });
    expect(sentences).toEqual([
      "bad: A request for gpt-4o failed (NO_WORKERS_AVAILABLE)",
      "bad: A request for a model failed (NO_WORKERS_AVAILABLE)",
    ]);
  });

  it("of workers, their breakers and their keys", () => {
    const info = { ...WorkerInfo.decode(new Uint8Array()), name: "main", provider: "openai" };
    const worker = (change: WorkerChanged_Change, more: Partial<WorkerInfo> = {}) => ({
      change,
      node: "n-1",
      info: { ...info, ...more },
    });
    const { STARTED, STOPPED, HEALTH, BREAKER, REPLACED } = WorkerChanged_Change;
    const key = { node: "n-1", worker: "main", provider: "openai", fingerprint: "12ab34cd", restingUntilMs: 0 };
    const sentences = told((happenings) => {
      happenings.worker(worker(STARTED), AT_MS);
      happenings.worker(worker(HEALTH, { health: Health.BUSY }), AT_MS);
      happenings.worker(worker(HEALTH, { health: Health.AVAILABLE }), AT_MS);
      happenings.worker(worker(HEALTH, { health: Health.UNAVAILABLE }), AT_MS);
      happenings.worker(worker(HEALTH, { health: Health.UNAVAILABLE }), AT_MS);
      happenings.worker(worker(HEALTH, { health: Health.BUSY }), AT_MS);
      happenings.worker(worker(BREAKER, { breaker: BreakerState.OPEN }), AT_MS);
      happenings.worker(worker(BREAKER, { breaker: BreakerState.HALF_OPEN }), AT_MS);
      happenings.worker(worker(BREAKER, { breaker: BreakerState.CLOSED }), AT_MS);
      happenings.worker(worker(REPLACED), AT_MS);
      happenings.worker(worker(STOPPED), AT_MS);
      const resting = { change: KeyChanged_Change.RESTED, reason: "PROVIDER_RATE_LIMITED" };
      happenings.key({ ...key, ...resting, restingUntilMs: AT_MS + 20_000 }, AT_MS);
      happenings.key({ ...key, change: KeyChanged_Change.OUT, reason: "PROVIDER_REFUSED_KEY" }, AT_MS);
      happenings.key({ ...key, change: KeyChanged_Change.BACK, reason: "" }, AT_MS);
    });
    expect(sentences).toEqual([
      "good: Worker main (openai) has started on node east",
      "bad: Worker main does not answer on node east",
      "good: Worker main answers again on node east",
      "bad: The breaker of main has opened: it gets no requests for now",
      "plain: The breaker of main lets a trial through",
      "good: The breaker of main has closed: it serves again",
      "plain: Worker main runs with other settings on node east",
      "plain: Worker main was taken out of service on node east",
      "plain: Key 12ab34cd of main rests (PROVIDER_RATE_LIMITED) for 20 s",
      "bad: Key 12ab34cd of main is out (PROVIDER_REFUSED_KEY)",
      "good: Key 12ab34cd of main serves again",
    ]);
  });

  it("of nodes, services and configurations", () => {
    const { JOINED, DRAINING, LEFT } = NodeChanged_Change;
    const { CRASHED, RESTARTED } = ServiceChanged_Change;
    const sentences = told((happenings) => {
      for (const change of [JOINED, DRAINING, LEFT]) {
        happenings.node({ change, node: "n-1", services: ["router", "cache"] }, AT_MS);
      }
      happenings.nodeLost("west", ["a"], AT_MS);
      happenings.nodeLost("west", ["a", "b", "c", "d", "e", "f", "g"], AT_MS);
      happenings.nodeLost("west", [], AT_MS);
      happenings.nodeBack("west", AT_MS);
      happenings.service({ change: CRASHED, node: "n-1", service: "router", reason: "INTERNAL" }, AT_MS);
      happenings.service({ change: RESTARTED, node: "n-1", service: "router", reason: "" }, AT_MS);
      happenings.configuration({ node: "n-1", accepted: true, problems: 0 }, AT_MS);
      happenings.configuration({ node: "n-1", accepted: false, problems: 2 }, AT_MS);
    });
    expect(sentences).toEqual([
      "good: Node east has joined (router, cache)",
      "plain: Node east drains: it finishes what it has and takes nothing new",
      "plain: Node east has left",
      "bad: Node west was lost, and with it worker a",
      "bad: Node west was lost, and with it workers a, b, c, d, e and 2 more",
      "bad: Node west was lost",
      "good: Node west is back",
      "bad: Service router on node east has crashed (INTERNAL) and is being restarted",
      "good: Service router on node east runs again",
      "plain: Node east has taken over its changed configuration",
      "bad: The changed configuration of node east has 2 mistakes; the one before stays in force",
    ]);
  });

  it("is bounded, and comes back as it was", () => {
    const happenings = new Happenings((id) => id);
    for (let index = 0; index < 5_000; index++) {
      happenings.takeover(takeover(`w${index}`, "a"), AT_MS);
    }
    expect(happenings.since(0, 10_000)).toHaveLength(200);
    expect(happenings.since(0, 3).map(({ sentence }) => sentence)).toEqual(
      [4_997, 4_998, 4_999].map((n) => `w${n} failed (PROVIDER_OVERLOADED), a took over`),
    );
    expect(happenings.since(happenings.number, 10)).toEqual([]);
    const other = new Happenings((id) => id);
    other.restore(happenings.save());
    expect(other.since(0, 10_000)).toEqual(happenings.since(0, 10_000));
  });
});
