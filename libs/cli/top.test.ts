import { stripVTControlCharacters } from "node:util";
import { describe, expect, it } from "vitest";
import { WatchedNode, WatchedWorker, WatchResponse } from "../gen/cortex/metrics/v1/metrics.ts";
import { pictureOf } from "./top.ts";
import { WatchedMesh } from "./watching.ts";

const NOTHING = new Uint8Array();
const LATENCY = { count: 5, meanMs: 10, p50Ms: 10, p95Ms: 1_234, p99Ms: 10, maxMs: 10 };

function meshOf(workers: Partial<WatchedWorker>[]): WatchedMesh {
  const mesh = new WatchedMesh();
  mesh.apply({
    ...WatchResponse.decode(NOTHING),
    whole: true,
    atMs: Date.UTC(2026, 0, 1, 12),
    rates: {
      requestsPerSecond: 12.3,
      errorsPerSecond: 0,
      outputTokensPerSecond: 456,
      hitRate: 0.25,
      activeRequests: 7,
      duration: LATENCY,
      timeToFirstToken: LATENCY,
    },
    workers: workers.map((worker) => ({
      ...WatchedWorker.decode(NOTHING),
      state: "available",
      breaker: "closed",
      ...worker,
    })),
    nodes: [{ ...WatchedNode.decode(NOTHING), name: "east", rssBytes: 104_857_600, eventLoopUtilization: 0.5 }],
  });
  return mesh;
}

const happening = (sentence: string, tone = "plain") => ({ atMs: 0, kind: "worker", tone, sentence, traceId: "" });

/** What the terminal shows. */
function shown(picture: Partial<Parameters<typeof pictureOf>[0]>): string[] {
  const all = { mesh: undefined, happenings: [], trouble: "", columns: 120, rows: 20, ...picture };
  return pictureOf(all).map(stripVTControlCharacters);
}

describe("the picture of cortex top", () => {
  it("shows rates, nodes, workers (those in trouble first) and what happens", () => {
    const mesh = meshOf([
      { name: "idle" },
      { name: "main", activeRequests: 3, concurrentRequestsMax: 8, attempts: 99, errors: 1, p95Ms: 250, score: 100 },
      { name: "down", state: "unavailable", breaker: "half_open" },
    ]);
    const lines = shown({ mesh, happenings: [happening("first"), happening("Worker main has started")] });
    const text = lines.join("\n");
    expect(text).toContain("12.3 requests/s  0.0 errors/s  456 tokens/s  25 % hits  7 running  p95 1.23 s");
    expect(text).toContain("workers 2 up 0 busy 1 down  1 node: east 100 MB 50 % busy");
    expect(text).toMatch(/main +available +closed +3\/8 +99 +1 +250 ms +100/);
    expect(text).toMatch(/down +unavailable +half-open/);
    const order = ["down", "main", "idle", "first", "Worker main"].map((word) =>
      lines.findIndex((line) => line.includes(word)),
    );
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(order).not.toContain(-1);
  });

  it("fits the terminal, however small it is and however much there is to show", () => {
    const mesh = meshOf(
      Array.from({ length: 1_000 }, (_, index) => ({ name: `worker-with-a-rather-long-name-${index}` })),
    );
    const happenings = Array.from({ length: 200 }, (_, index) => happening(`something ${index} ${"x".repeat(300)}`));
    for (const [columns, rows] of [
      [200, 60],
      [80, 24],
      [40, 10],
      [20, 5],
      [10, 1],
    ] as const) {
      const lines = shown({ mesh, happenings, columns, rows });
      expect(lines.length).toBeLessThanOrEqual(rows);
      expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(columns);
    }
    const lines = shown({ mesh, happenings, rows: 24 });
    expect(lines.some((line) => /and 9\d\d more workers/.test(line))).toBe(true);
    expect(lines.at(-1)).toContain("something 199");
  });

  it("lets nothing that a client has made up command the terminal", () => {
    const lines = pictureOf({
      mesh: meshOf([]),
      happenings: [happening("A request for \x1b[2J\x07gpt\r\n failed", "bad")],
      trouble: "",
      columns: 120,
      rows: 20,
    });
    expect(lines.at(-1)).toContain("A request for �[2J�gpt�� failed");
  });

  it("says why nothing new comes", () => {
    expect(shown({ mesh: meshOf([]), trouble: "the node is away; trying again" })[1]).toBe(
      "the node is away; trying again",
    );
    expect(shown({})[0]).toContain("waiting");
  });
});
