import { describe, expect, it } from "vitest";
import { type Limit, TimeLimit } from "./time-limit.ts";

function passed(totalMs: number, use: (limit: TimeLimit) => void): Promise<Limit> {
  return new Promise((resolve) => use(new TimeLimit(totalMs, resolve)));
}

/** Holds up the whole process, as a pause of its container does. */
function block(ms: number): void {
  const untilMs = performance.now() + ms;
  while (performance.now() < untilMs);
}

describe("the time limits of an attempt", () => {
  it("name the phase that took too long", async () => {
    expect(await passed(10_000, (limit) => limit.enter("connect", 20))).toBe("connect");
  });

  it("name the whole when that passes first", async () => {
    expect(await passed(20, (limit) => limit.enter("connect", 10_000))).toBe("total");
  });

  it("count a phase from when it was entered, shorter or longer than the one before", async () => {
    const use = (limit: TimeLimit): void => {
      limit.enter("connect", 10);
      limit.enter("firstToken", 10_000);
      limit.enter("stall", 20);
    };
    expect(await passed(20_000, use)).toBe("stall");
  });

  it("count only the whole while they are held", async () => {
    const use = (limit: TimeLimit): void => {
      limit.enter("stall", 10);
      limit.hold();
    };
    expect(await passed(100, use)).toBe("total");
  });

  it("count the phase anew when they are released", async () => {
    const use = (limit: TimeLimit): void => {
      limit.enter("stall", 10);
      limit.hold();
      setTimeout(() => limit.release(), 40);
    };
    expect(await passed(10_000, use)).toBe("stall");
  });

  it("do not blame the provider for a pause of our own process", async () => {
    const limits: Limit[] = [];
    const limit = new TimeLimit(10_000, (passed) => limits.push(passed));
    limit.enter("stall", 20);
    // Read in the turn that follows, as a socket's data would be.
    const { port1, port2 } = new MessageChannel();
    const read = new Promise<void>((resolve) => {
      port2.once("message", () => {
        limit.touch();
        resolve();
      });
    });
    port1.postMessage("data");
    block(60);
    await read;
    expect(limits).toEqual([]);
    limit.clear();
    port1.close();
  });

  it("say nothing after they were cleared", async () => {
    const limits: Limit[] = [];
    const limit = new TimeLimit(20, (passed) => limits.push(passed));
    limit.enter("stall", 10);
    limit.clear();
    await new Promise((resolve) => setTimeout(resolve, 40));
    expect(limits).toEqual([]);
  });
});
