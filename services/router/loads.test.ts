/** Requests in flight per worker, as one router knows them. */
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { Loads } from "./loads.ts";

function reported(node: string, counts: Readonly<Record<string, number>>) {
  return { node, loads: Object.entries(counts).map(([worker, activeRequests]) => ({ worker, activeRequests })) };
}

describe("the load of a worker", () => {
  it("is what this router runs there as long as nobody reports", () => {
    const loads = new Loads();
    expect(loads.of("w")).toBe(0);
    loads.begin("w");
    loads.begin("w");
    loads.begin("other");
    expect([loads.of("w"), loads.of("other")]).toEqual([2, 1]);
    loads.end("w");
    loads.end("w");
    loads.end("w");
    expect(loads.of("w")).toBe(0);
  });

  it("is what its node reports, and what this router has begun and ended since", () => {
    const loads = new Loads();
    loads.begin("w");
    loads.report(reported("n", { w: 5 }));
    expect(loads.of("w")).toBe(5);
    loads.begin("w");
    loads.begin("w");
    expect(loads.of("w")).toBe(7);
    loads.end("w");
    loads.end("w");
    loads.end("w");
    expect(loads.of("w")).toBe(4);
    loads.report(reported("n", { w: 3 }));
    expect(loads.of("w")).toBe(3);
    // Nothing of its own runs that could end.
    loads.end("w");
    expect(loads.of("w")).toBe(3);
  });

  it("is the sum over the nodes that run it, until they leave", () => {
    const loads = new Loads();
    loads.report(reported("a", { w: 5, x: 1 }));
    loads.report(reported("b", { w: 7 }));
    expect([loads.at("a", "w"), loads.at("b", "w"), loads.at("b", "x"), loads.at("c", "w")]).toEqual([
      5,
      7,
      0,
      undefined,
    ]);
    expect(loads.of("w")).toBe(12);
    // Whichever of its nodes it goes to, it counts once.
    loads.begin("w");
    expect(loads.of("w")).toBe(13);
    loads.report(reported("b", { w: 8 }));
    // Half of the change since its last report is taken to be a's.
    expect(loads.of("w")).toBeGreaterThanOrEqual(13);
    expect(loads.of("w")).toBeLessThanOrEqual(14);
    loads.forget("b");
    loads.forget("unheard of");
    expect([loads.of("w"), loads.of("x")]).toEqual([6, 1]);
    loads.forget("a");
    expect([loads.of("w"), loads.of("x")]).toEqual([1, 0]);
  });

  it("is never below what this router runs there, as a report may be older than an attempt", () => {
    const loads = new Loads();
    for (let attempt = 0; attempt < 3; attempt += 1) loads.begin("w");
    loads.report(reported("n", { w: 1 }));
    expect(loads.of("w")).toBe(3);
    loads.end("w");
    expect(loads.of("w")).toBe(2);
  });

  it("does not fall by an attempt that the full worker has refused, as it was never one of those that it serves", () => {
    const loads = new Loads();
    // Two routers ask for the only slot; the report that the other one has it comes before the refusal does.
    loads.begin("w");
    loads.report(reported("n", { w: 1 }));
    loads.refused("w");
    expect(loads.of("w")).toBe(1);
    loads.report(reported("n", { w: 0 }));
    expect(loads.of("w")).toBe(0);
    loads.refused("w");
    expect(loads.of("w")).toBe(0);
  });

  it("tells once, and a moment later, that a worker which has refused somebody may have room", () => {
    vi.useFakeTimers();
    try {
      const loads = new Loads();
      const released: string[] = [];
      // As the queue does: whoever waits is sent as soon as there seems to be room.
      loads.onRelease((worker) => released.push(worker));
      for (let attempt = 0; attempt < 3; attempt += 1) {
        loads.begin("w");
        loads.refused("w");
      }
      expect(released).toEqual([]);
      vi.advanceTimersByTime(100);
      expect(released).toEqual(["w"]);
      loads.begin("w");
      loads.refused("w");
      vi.advanceTimersByTime(100);
      expect(released).toEqual(["w", "w"]);
    } finally {
      vi.useRealTimers();
    }
  });

  it("stays as reported when another router begins what this one has ended", () => {
    const loads = new Loads();
    for (let attempt = 0; attempt < 4; attempt += 1) loads.begin("w");
    loads.report(reported("n", { w: 4, x: 1 }));
    for (let attempt = 0; attempt < 4; attempt += 1) loads.end("w");
    expect(loads.of("w")).toBe(0);
    // The number of w is the same as before, so the node need not name it.
    loads.report(reported("n", { x: 2 }));
    expect(loads.of("w")).toBe(4);
  });

  it("tells when room may have come free, and only then", () => {
    const loads = new Loads();
    const freed: string[] = [];
    const stop = loads.onRelease((worker) => freed.push(worker));
    const freedBy = (change: () => void) => {
      change();
      return freed.splice(0);
    };
    expect(freedBy(() => loads.begin("w"))).toEqual([]);
    expect(freedBy(() => loads.report(reported("n", { w: 3, x: 2 })))).toEqual([]);
    expect(freedBy(() => loads.end("w"))).toEqual(["w"]);
    // Its own end has been told of.
    expect(freedBy(() => loads.report(reported("n", { w: 2 })))).toEqual([]);
    expect(freedBy(() => loads.report(reported("n", { w: 1 })))).toEqual(["w"]);
    expect(freedBy(() => loads.report(reported("n", { w: 1 })))).toEqual([]);
    expect(freedBy(() => loads.forget("n")).sort()).toEqual(["w", "x"]);
    stop();
    expect(freedBy(() => loads.end("w"))).toEqual([]);
  });

  it("is the truth as soon as everybody has reported, whatever happened before", () => {
    const worker = fc.constantFrom("w", "x");
    const node = fc.constantFrom("a", "b");
    const step = fc.oneof(
      fc.record({ do: fc.constant("begin" as const), router: fc.nat({ max: 1 }), worker, node }),
      fc.record({ do: fc.constant("end" as const), router: fc.nat({ max: 1 }), which: fc.nat() }),
      fc.record({ do: fc.constant("report" as const), node }),
      fc.record({ do: fc.constant("leave" as const), node }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const routers = [new Loads(), new Loads()];
        const running: { router: number; worker: string; node: string }[] = [];
        const own = (router: number, name: string) =>
          running.filter((one) => one.router === router && one.worker === name).length;
        const report = (name: string) => {
          const counts = Object.fromEntries(
            ["w", "x"].map((each) => [each, running.filter((one) => one.node === name && one.worker === each).length]),
          );
          for (const loads of routers) loads.report(reported(name, counts));
        };
        for (const one of steps) {
          if (one.do === "begin") {
            running.push(one);
            routers[one.router]!.begin(one.worker);
          } else if (one.do === "end") {
            const mine = running.filter(({ router }) => router === one.router);
            const ended = mine[one.which % Math.max(1, mine.length)];
            if (ended === undefined) continue;
            running.splice(running.indexOf(ended), 1);
            routers[one.router]!.end(ended.worker);
          } else if (one.do === "report") report(one.node);
          else for (const loads of routers) loads.forget(one.node);
          for (const [index, loads] of routers.entries()) {
            for (const name of ["w", "x"]) expect(loads.of(name)).toBeGreaterThanOrEqual(own(index, name));
          }
        }
        report("a");
        report("b");
        for (const loads of routers) {
          for (const name of ["w", "x"]) {
            expect(loads.of(name)).toBe(running.filter((one) => one.worker === name).length);
          }
        }
        // What has gone leaves nothing behind.
        for (const { router, worker: name } of running.splice(0)) routers[router]!.end(name);
        report("a");
        report("b");
        for (const loads of routers) expect([loads.of("w"), loads.of("x")]).toEqual([0, 0]);
      }),
      { numRuns: 300 },
    );
  });
});
