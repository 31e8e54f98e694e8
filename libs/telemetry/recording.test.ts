/** Which traces of a node are exported, when that is decided, and what is held meanwhile. */
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ATTRIBUTE } from "./names.ts";
import { type FinishedSpan, RecordingTracer } from "./recording.ts";
import { HeadSampler, type SamplingRules } from "./sampling.ts";
import { formatTraceparent, type KeptFor, parseTraceparent, randomTraceId, type Span } from "./trace.ts";

const KEEP: readonly KeptFor[] = ["error", "failover", "slow"];
const NOTHING_DRAWN: SamplingRules = {
  share: 0,
  perSecondMax: Number.POSITIVE_INFINITY,
  perSecondMin: 0,
  parentBased: true,
  keep: KEEP,
  slowFirstTokenMs: 5_000,
  slowMs: 60_000,
};
const MODEL = { [ATTRIBUTE.requestModel]: "m" };
const REMOTE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
const remote = (sampled: boolean) => parseTraceparent(`${REMOTE}-0${sampled ? 1 : 0}`, "vendor=1,other=2")!;

let nowMs: number;
let exported: FinishedSpan[];
let kept: string[];
const tracers: RecordingTracer[] = [];

beforeEach(() => {
  nowMs = 1_000;
  exported = [];
  kept = [];
});
afterEach(async () => {
  for (const tracer of tracers.splice(0)) await tracer.shutdown();
});

function createTracer(rules: Partial<SamplingRules> = {}, heldBytesMax?: number): RecordingTracer {
  const tracer = new RecordingTracer({
    rules: { ...NOTHING_DRAWN, ...rules },
    isFault: (type) => type !== "INVALID_REQUEST" && type !== "CANCELLED",
    exportSpan: (span) => exported.push(span),
    onKept: (traceId) => kept.push(traceId),
    now: () => nowMs,
    ...(heldBytesMax === undefined ? {} : { heldBytesMax }),
  });
  tracers.push(tracer);
  return tracer;
}

/** A request as a gateway sees it: a root, and a call below it. */
function request(tracer: RecordingTracer, within: (call: Span) => void = () => {}): Span {
  const root = tracer.startSpan("POST /v1/chat/completions", undefined, "server", MODEL);
  const call = tracer.startSpan("Stream", root.context, "server");
  within(call);
  call.end();
  root.end();
  return root;
}

const names = () => exported.map(({ name }) => name);

describe("a trace that was not drawn", () => {
  it("is not exported when nothing happens in it, and nothing stays of it where it began", () => {
    const tracer = createTracer();
    request(tracer);
    expect(exported).toEqual([]);
    expect(kept).toEqual([]);
    expect(tracer.figures).toMatchObject({ held: 0, heldBytes: 0, exported: 0, forgotten: 2 });
  });

  it("is held where it began when it has gone to another node, which may see more", () => {
    const tracer = createTracer();
    const root = request(tracer, (call) => expect(formatTraceparent(call.context)).toMatch(/-00$/));
    expect(tracer.figures.held).toBe(2);
    tracer.keep(root.context.traceId);
    expect(names()).toEqual(["Stream", "POST /v1/chat/completions"]);
  });

  it("tells those who are called that it was not", () => {
    const root = createTracer().startSpan("root", undefined, "server");
    expect(root.context.sampled).toBe(false);
    expect(root.recording).toBe(true);
  });

  it.each<[KeptFor, (call: Span) => void]>([
    ["error", (call) => call.fail("PROVIDER_ERROR", "it failed")],
    ["failover", (call) => call.keep("failover")],
    [
      "slow",
      (call) => {
        nowMs += 5_001;
        call.event("first_token");
      },
    ],
    [
      "slow",
      (call) => {
        call.set(ATTRIBUTE.requestModel, "m");
        nowMs += 60_001;
      },
    ],
  ])("is exported whole for an %s, and the mesh is told once", (why, happen) => {
    const tracer = createTracer();
    const root = request(tracer, (call) => {
      tracer.startSpan("before", call.context, "internal").end();
      happen(call);
      happen(call);
      tracer.startSpan("after", call.context, "internal").end();
    });
    expect(names().sort()).toEqual(["POST /v1/chat/completions", "Stream", "after", "before"]);
    expect(kept).toEqual([root.context.traceId]);
    const marked = exported.filter(({ attributes }) => attributes[ATTRIBUTE.kept] === why);
    expect(marked).toHaveLength(1);
    expect(tracer.figures).toMatchObject({ held: 0, heldBytes: 0, exported: 4, dropped: 0 });
  });

  it("tells those who are called after it was found to be of interest", () => {
    const root = createTracer().startSpan("root", undefined, "server");
    root.keep("failover");
    expect(root.context.sampled).toBe(true);
  });

  it.each([
    ["a client's own mistake", (call: Span) => call.fail("INVALID_REQUEST", "no")],
    ["a client that left", (call: Span) => call.fail("CANCELLED", "gone")],
    [
      "what lasts long without asking a model",
      () => {
        nowMs += 3_600_000;
      },
    ],
  ])("is not kept for %s", (_what, happen) => {
    const tracer = createTracer();
    const root = tracer.startSpan("GET /api/live", undefined, "server");
    happen(root);
    root.end();
    expect(exported).toEqual([]);
    expect(kept).toEqual([]);
  });

  it("is kept only for what the rules name", () => {
    const tracer = createTracer({ keep: ["error"] });
    request(tracer, (call) => call.keep("failover"));
    expect(exported).toEqual([]);
    request(tracer, (call) => call.fail("INTERNAL", "broken"));
    expect(exported).toHaveLength(2);
  });

  it("is not recorded at all where nothing would keep it", () => {
    const tracer = createTracer({ keep: [] });
    const root = tracer.startSpan("root", undefined, "server");
    expect(root.recording).toBe(false);
    expect(root.context.traceId).toMatch(/^[0-9a-f]{32}$/);
    expect(tracer.startSpan("child", root.context, "internal").context.traceId).toBe(root.context.traceId);
    expect(tracer.startSpan("child", remote(false), "internal").recording).toBe(false);
  });
});

describe("a trace that began on another node", () => {
  const served = (tracer: RecordingTracer) => {
    const call = tracer.startSpan("Stream", remote(false), "server");
    tracer.startSpan("chat", call.context, "client").end();
    call.end();
    return call.context;
  };

  it("is held until another node has seen whether it is of interest", () => {
    const tracer = createTracer();
    const { traceId, state } = served(tracer);
    expect(state).toBe("vendor=1,other=2");
    expect(tracer.figures.held).toBe(2);
    tracer.keep("00000000000000000000000000000001");
    expect(exported).toEqual([]);
    tracer.keep(traceId);
    expect(names()).toEqual(["chat", "Stream"]);
    expect(exported[1]).toMatchObject({ parentSpanId: "00f067aa0ba902b7", state: "vendor=1,other=2" });
    expect(kept).toEqual([]);
    tracer.keep(traceId);
    expect(exported).toHaveLength(2);
    expect(tracer.figures).toMatchObject({ held: 0, heldBytes: 0 });
  });

  it("exports what is still open when it ends", () => {
    const tracer = createTracer();
    const call = tracer.startSpan("Stream", remote(false), "server");
    tracer.keep(call.context.traceId);
    expect(exported).toEqual([]);
    call.end();
    expect(names()).toEqual(["Stream"]);
  });

  it("is forgotten after a while, but not while something of it is open", () => {
    const tracer = createTracer();
    served(tracer);
    const long = tracer.startSpan("Stream", remote(false), "server");
    nowMs += 600_000;
    tracer.sweep();
    expect(tracer.figures.held).toBe(2);
    long.end();
    nowMs += 4_000;
    tracer.sweep();
    expect(tracer.figures.held).toBe(3);
    nowMs += 1_001;
    tracer.sweep();
    expect(tracer.figures).toMatchObject({ held: 0, heldBytes: 0, forgotten: 3, dropped: 0 });
  });

  it("is exported when it was drawn there", () => {
    const tracer = createTracer();
    tracer.startSpan("Stream", remote(true), "server").end();
    expect(names()).toEqual(["Stream"]);
    expect(kept).toEqual([]);
  });

  it("is exported when a later part of it comes as drawn", () => {
    const tracer = createTracer();
    served(tracer);
    tracer.startSpan("Again", remote(true), "server").end();
    expect(names()).toEqual(["chat", "Stream", "Again"]);
  });

  it("is drawn here only where the rules do not ask the caller", () => {
    createTracer({ share: 1 }).startSpan("Stream", remote(false), "server").end();
    expect(exported).toEqual([]);
    createTracer({ share: 1, parentBased: false }).startSpan("Stream", remote(false), "server").end();
    expect(names()).toEqual(["Stream"]);
  });
});

describe("what is drawn", () => {
  it("is the share, alike on all nodes", () => {
    const tracer = createTracer({ share: 0.25 });
    for (let i = 0; i < 4_000; i++) request(tracer);
    expect(exported.length / 2).toBeGreaterThan(800);
    expect(exported.length / 2).toBeLessThan(1_200);
    const other = createTracer({ share: 0.25, parentBased: false, keep: [] });
    for (const { traceId } of exported.slice(0, 100)) {
      const parent = { ...remote(false), traceId };
      expect(other.startSpan("Stream", parent, "server").recording).toBe(true);
    }
  });

  it("is no more of the share than so many a second", () => {
    const tracer = createTracer({ share: 1, perSecondMax: 3 });
    const roots = () => names().filter((name) => name.startsWith("POST")).length;
    for (let i = 0; i < 20; i++) request(tracer);
    expect(roots()).toBe(3);
    nowMs += 60_000;
    for (let i = 0; i < 20; i++) request(tracer);
    expect(roots()).toBe(6);
    tracer.startSpan("Stream", remote(true), "server").end();
    expect(names().at(-1)).toBe("Stream");
  });

  it("is every request of its kind where few come", () => {
    const tracer = createTracer({ perSecondMin: 1 });
    const roots = () => names().filter((name) => name.startsWith("POST")).length;
    for (let i = 0; i < 20; i++) request(tracer);
    expect(roots()).toBe(10);
    tracer.startSpan("GET /v1/models", undefined, "server").end();
    expect(names()).toContain("GET /v1/models");
    nowMs += 2_000;
    for (let i = 0; i < 20; i++) request(tracer);
    expect(roots()).toBe(12);
    nowMs += 600_000;
    for (let i = 0; i < 20; i++) request(tracer);
    expect(roots()).toBe(22);
  });

  it("follows the rules as they change", () => {
    const tracer = createTracer();
    request(tracer);
    tracer.rules = { ...NOTHING_DRAWN, share: 1 };
    request(tracer);
    expect(exported).toHaveLength(2);
  });
});

describe("a client without a trace", () => {
  it("gets one, whose root is the first span below it", () => {
    const tracer = createTracer({ share: 1 });
    const trace = tracer.newTrace();
    tracer.startSpan("Complete", trace, "server").end();
    expect(exported).toMatchObject([{ traceId: trace.traceId, parentSpanId: "" }]);
    expect(createTracer().startSpan("Complete", createTracer().newTrace(), "server").recording).toBe(true);
  });
});

describe("memory", () => {
  it("is bounded however many spans come, and the oldest idle traces go first", () => {
    const tracer = createTracer({}, 100_000);
    const open = tracer.startSpan("open", { ...remote(false), traceId: "f".repeat(32) }, "server");
    tracer.startSpan("within", open.context, "internal").end();
    let last = "";
    for (let i = 0; i < 100_000; i++) {
      last = i.toString(16).padStart(32, "0").replace(/^0/, "a");
      tracer.startSpan("Stream", { ...remote(false), traceId: last }, "server").end();
    }
    const { held, heldBytes, dropped } = tracer.figures;
    expect(heldBytes).toBeLessThanOrEqual(100_000);
    expect(held).toBeGreaterThan(100);
    expect(held + dropped).toBe(100_001);
    tracer.keep(last);
    expect(names()).toEqual(["Stream"]);
    open.keep("error");
    expect(names()).toEqual(["Stream", "within"]);
  });

  it("is bounded for one trace that never ends", () => {
    const tracer = createTracer({}, 1_000_000);
    const open = tracer.startSpan("open", undefined, "server");
    for (let i = 0; i < 100_000; i++) tracer.startSpan("within", open.context, "internal").end();
    expect(tracer.figures).toMatchObject({ held: 1_000, dropped: 99_000 });
    const others = Array.from({ length: 100 }, () => tracer.startSpan("open", undefined, "server"));
    for (let i = 0; i < 100_000; i++) tracer.startSpan("within", others[i % 100]!.context, "internal").end();
    expect(tracer.figures.heldBytes).toBeLessThanOrEqual(1_000_000);
    expect(tracer.figures.held + tracer.figures.dropped).toBe(200_000);
  });

  it("is let go in whatever order traces begin, hold something, leave, turn out to be of interest and end", () => {
    const step = fc.tuple(fc.nat({ max: 7 }), fc.constantFrom("begin", "hold", "leave", "keep", "end"));
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 120 }),
        fc.integer({ min: 1_000, max: 10_000 }),
        (steps, heldBytesMax) => {
          const tracer = createTracer({}, heldBytesMax);
          const open = new Map<number, Span>();
          let ended = 0;
          for (const [number, what] of steps) {
            const root = open.get(number);
            if (what === "begin" && root === undefined) open.set(number, tracer.startSpan("root", undefined, "server"));
            if (root === undefined) continue;
            if (what === "leave") formatTraceparent(root.context);
            if (what === "keep") root.keep("error");
            if (what === "hold") {
              tracer.startSpan("within", root.context, "internal").end();
              ended++;
            }
            if (what === "end") {
              root.end();
              open.delete(number);
              ended++;
            }
            expect(tracer.figures.heldBytes).toBeLessThanOrEqual(heldBytesMax);
          }
          for (const root of open.values()) root.end();
          nowMs += 5_001;
          tracer.sweep();
          const { held, heldBytes, exported: gone, forgotten, dropped } = tracer.figures;
          expect({ held, heldBytes, all: gone + forgotten + dropped }).toEqual({
            held: 0,
            heldBytes: 0,
            all: ended + open.size,
          });
        },
      ),
    );
  });

  it("is let go by itself", () => {
    vi.useFakeTimers();
    try {
      const tracer = createTracer();
      tracer.startSpan("Stream", remote(false), "server").end();
      nowMs += 5_001;
      vi.advanceTimersByTime(1_000);
      expect(tracer.figures.held).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("what is drawn by its id", () => {
  const rules = (share: number) => ({ ...NOTHING_DRAWN, share });

  it("is the share of all, and hardly anything of a share that is hardly anything", () => {
    const sampler = new HeadSampler();
    const ids = Array.from({ length: 20_000 }, randomTraceId);
    const drawn = (share: number) => ids.filter((id) => sampler.draws(id, rules(share))).length / ids.length;
    for (const share of [0.9, 0.5, 0.05, 0.003]) expect(Math.abs(drawn(share) - share)).toBeLessThan(0.02);
    for (const share of [0, 1e-17]) expect(drawn(share)).toBe(0);
    expect(drawn(1)).toBe(1);
  });

  it("is in every smaller share's larger one, too", () => {
    const share = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(share, share, (a, b) => {
        const sampler = new HeadSampler();
        const id = randomTraceId();
        return !sampler.draws(id, rules(Math.min(a, b))) || sampler.draws(id, rules(Math.max(a, b)));
      }),
    );
  });
});
