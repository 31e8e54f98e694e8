import { beforeEach, describe, expect, it } from "vitest";
import type { MetricsServiceDefinition, WatchResponse } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { type Call, type OwnedCall, type Service, startCall } from "../../libs/rpc/index.ts";
import { attempt, request } from "../../libs/tally/test-events.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { Board, NOTHING_TOLD } from "./board.ts";
import { Happenings } from "./happenings.ts";
import { Memory } from "./memory.ts";
import type { WorkerState } from "./mesh-state.ts";
import { MetricsAnswers } from "./service.ts";
import { countAttempt, countRequest } from "./test-counting.ts";

const START_MS = 1_800_000_000_000;

let nowMs: number;
let memory: Memory;
let happenings: Happenings;
let workers: Map<string, WorkerState>;
let totals: { requests: number; errors: number; outputTokens: number; hits: number; served: number };
let reads: number;
let board: Board;

function worker(name: string, more: Partial<WorkerState> = {}): void {
  const state: WorkerState = {
    name,
    provider: "openai",
    state: "available",
    breaker: "closed",
    activeRequests: 0,
    concurrentRequestsMax: 0,
    priority: 1,
    nodes: ["n"],
    simulated: false,
    added: false,
    models: 1,
    connectionsOpen: 0,
    connectionsMax: 0,
    reason: "",
    message: "",
  };
  workers.set(name, { ...state, ...more });
}

beforeEach(() => {
  nowMs = START_MS;
  memory = new Memory();
  happenings = new Happenings((id) => id);
  workers = new Map();
  totals = { requests: 0, errors: 0, outputTokens: 0, hits: 0, served: 0 };
  reads = 0;
  const state = {
    workers: () => {
      reads++;
      return [...workers.values()];
    },
    nodes: () => [],
  };
  board = new Board({
    memory,
    state,
    happenings,
    totals: () => ({ ...totals }),
    eventsLost: () => 3,
    now: () => nowMs,
  });
});

const names = (message: WatchResponse) => message.workers.map(({ name }) => name);

describe("those who watch", () => {
  it("are told everything first, and then what has changed", async () => {
    worker("a");
    worker("b");
    happenings.nodeBack("n", nowMs);
    let { message, told } = await board.tell(NOTHING_TOLD, 1_000);
    expect(message).toMatchObject({ whole: true, gone: [], eventsLost: 3 });
    expect(names(message)).toEqual(["a", "b"]);
    expect(message.happenings).toHaveLength(1);
    nowMs += 1_000;
    ({ message, told } = await board.tell(told, 1_000));
    expect(message).toMatchObject({ whole: false, workers: [], gone: [], happenings: [] });
    nowMs += 1_000;
    worker("b", { state: "unavailable" });
    workers.delete("a");
    worker("c");
    happenings.nodeLost("n", [], nowMs);
    ({ message, told } = await board.tell(told, 1_000));
    expect(names(message)).toEqual(["b", "c"]);
    expect(message).toMatchObject({ gone: ["a"], whole: false });
    expect(message.happenings).toHaveLength(1);
    nowMs += 1_000;
    worker("a");
    ({ message, told } = await board.tell(told, 1_000));
    expect(message).toMatchObject({ gone: [] });
    expect(names(message)).toEqual(["a"]);
  });

  it("are told the same at the cost of one, and the difference when they were slow", async () => {
    worker("a");
    const first = await board.tell(NOTHING_TOLD, 1_000);
    const others = await Promise.all(Array.from({ length: 50 }, () => board.tell(NOTHING_TOLD, 1_000)));
    expect(others.every(({ message }) => message === first.message)).toBe(true);
    expect(reads).toBe(1);
    for (let second = 1; second <= 100; second++) {
      nowMs += 1_000;
      worker("a", { activeRequests: second });
      worker(`short-lived-${second}`);
      if (second > 1) workers.delete(`short-lived-${second - 1}`);
      await board.tell(NOTHING_TOLD, 1_000);
    }
    const { message } = await board.tell(first.told, 1_000);
    expect(message.workers.map(({ name, activeRequests }) => [name, activeRequests])).toEqual([
      ["a", 100],
      ["short-lived-100", 0],
    ]);
    expect(message.gone).toHaveLength(99);
    expect(message.whole).toBe(false);
  });

  it("see what each worker has done in five minutes, also while a step ends", async () => {
    worker("main");
    for (let index = 0; index < 40; index++) {
      countAttempt(memory, attempt({ durationMs: 500 }), nowMs);
      nowMs += 1_000;
      const { message } = await board.tell(NOTHING_TOLD, 1_000);
      expect(message.workers[0]).toMatchObject({ attempts: index + 1, score: 100 });
    }
    nowMs += 320_000;
    const { message } = await board.tell(NOTHING_TOLD, 1_000);
    expect(message.workers[0]).toMatchObject({ attempts: 0, score: 0, p95Ms: 0 });
  });

  it("see rates of the interval that they have asked for, and the models that are used most", async () => {
    for (let quarter = 0; quarter < 40; quarter++) {
      nowMs += 250;
      totals.requests += quarter < 36 ? 1 : 10;
      totals.served += 5;
      totals.hits += 1;
      board.sample();
    }
    countRequest(memory, request({ requestedModel: "x" }), nowMs);
    for (let index = 0; index < 3; index++)
      countRequest(memory, request({ requestedModel: "y", durationMs: 70 }), nowMs);
    const { message } = await board.tell(NOTHING_TOLD, 1_000);
    expect(message.rates).toMatchObject({ requestsPerSecond: 40, errorsPerSecond: 0, hitRate: 0.2 });
    expect(message.rates!.duration).toMatchObject({ count: 4, maxMs: 100 });
    const longer = await board.tell(NOTHING_TOLD, 10_000);
    expect(longer.message.rates!.requestsPerSecond).toBeCloseTo(7.6, 1);
    expect(message.mostUsed.map(({ name, figures }) => [name, figures!.requests])).toEqual([
      ["y", 3],
      ["x", 1],
    ]);
  });
});

describe("the answers", () => {
  const calls: OwnedCall[] = [];
  let answers: MetricsAnswers & Service<typeof MetricsServiceDefinition>;

  const as = (tenant: string, admin: boolean): Call => {
    const call = startCall({ tenant, admin, requestId: "r", trace: NO_TRACE });
    calls.push(call);
    return call;
  };

  beforeEach(() => {
    answers = new MetricsAnswers({ memory, board, now: () => nowMs, eventsLost: () => 0 });
    countRequest(memory, request({ tenant: "one", durationMs: 10 }), nowMs);
    countRequest(memory, request({ tenant: "two", durationMs: 20 }), nowMs);
    countRequest(memory, request({ tenant: "two", durationMs: 30 }), nowMs);
    countAttempt(memory, attempt(), nowMs);
  });

  it("tell an administrator everything, and everybody else what is its own", async () => {
    const whole = await answers.summarize({ windowS: 0, dimensions: [] }, as("ops", true));
    expect(whole.total).toMatchObject({ requests: 3 });
    expect(new Set(whole.groups.map(({ dimension }) => dimension))).toEqual(new Set([1, 2, 3, 4, 5]));
    const own = await answers.summarize({ windowS: 0, dimensions: [] }, as("two", false));
    expect(own.total).toMatchObject({ requests: 2 });
    expect(own.groups.map(({ name }) => name)).toEqual(["two"]);
    const none = await answers.summarize({ windowS: 0, dimensions: [1] }, as("three", false));
    expect([none.total!.requests, none.groups]).toEqual([0, []]);
    const history = await answers.getHistory({ windowS: 60, points: 0 }, as("one", false));
    expect(history.points.reduce((sum, { requests }) => sum + requests, 0)).toBe(1);
    await expect(answers.getHealthScores({ windowS: 0 }, as("two", false))).rejects.toMatchObject({
      reason: "PERMISSION_DENIED",
    });
    const watching = answers.watch({ intervalMs: 0 }, as("two", false))[Symbol.asyncIterator]();
    await expect(watching.next()).rejects.toMatchObject({ reason: "PERMISSION_DENIED" });
  });

  it("refuse a window that is not remembered", async () => {
    for (const windowS of [-1, 3_601, Number.NaN]) {
      await expect(answers.summarize({ windowS, dimensions: [] }, as("ops", true))).rejects.toMatchObject({
        reason: "INVALID_REQUEST",
        field: "window_s",
      });
    }
  });

  it("tell a history in as many points as were asked for, without a gap", async () => {
    nowMs += 1_234_567;
    countRequest(memory, request(), nowMs);
    for (const [windowS, points, stepS] of [
      [0, 0, 60],
      [3_600, 30, 120],
      [600, 0, 10],
      [600, 10, 60],
      [60, 100, 10],
    ] as const) {
      const history = await answers.getHistory({ windowS, points }, as("ops", true));
      expect(history.points.length).toBe(Math.ceil((windowS || 3_600) / stepS));
      expect(history.points.every((point) => point.stepS === stepS)).toBe(true);
      const times = history.points.map(({ atMs }) => atMs);
      expect(times).toEqual(times.map((_, index) => times[0]! + index * stepS * 1_000));
      expect(times.at(-1)! <= nowMs && times.at(-1)! + stepS * 1_000 > nowMs).toBe(true);
      expect(history.points.at(-1)!.requests).toBe(1);
    }
  });

  it("end what is watched when the service stops, and when the client leaves", async () => {
    const call = startCall({ tenant: "", admin: true, requestId: "r", trace: NO_TRACE });
    const leaving = answers.watch({ intervalMs: 250 }, call)[Symbol.asyncIterator]();
    const watching = answers.watch({ intervalMs: 60_000 }, as("ops", true))[Symbol.asyncIterator]();
    await Promise.all([leaving.next(), watching.next()]);
    const [left, ended] = [leaving.next(), watching.next()];
    call.cancel();
    await expect(left).rejects.toMatchObject({ reason: "CANCELLED" });
    answers.close();
    await expect(ended).rejects.toMatchObject({ reason: "NODE_DRAINING" });
  });
});
