/** Who leads, who follows, and all the ways in which a lead ends. */
import { describe, expect, it } from "vitest";
import { keyPart } from "../../libs/caching/index.ts";
import { LEASE_MS, Leads } from "./leads.ts";

const LEAD = { kind: "lead" };
const follow = (node: string) => ({ kind: "follow", node });

function setUp(max?: number) {
  const time = { nowMs: 1_000 };
  const gone = new Set<string>();
  const leads = new Leads({
    isThere: (node) => !gone.has(node),
    nowMs: () => time.nowMs,
    ...(max === undefined ? {} : { max }),
  });
  return { leads, time, gone, take: (node: string, whole = false, key = "k") => leads.take(key, node, whole) };
}

describe("a lead", () => {
  it("goes to the router that asks first; the others follow it, and it is told again that it leads", () => {
    const { take, leads } = setUp();
    expect([take("a"), take("b"), take("a"), take("b")]).toEqual([LEAD, follow("a"), LEAD, follow("a")]);
    expect(take("b", false, "other")).toEqual(LEAD);
    expect(leads.size).toBe(2);
  });

  it("is not taken by asking who leads", () => {
    const { take, leads } = setUp();
    expect(leads.roleOf("k", "a", false)).toBeUndefined();
    expect(take("b")).toEqual(LEAD);
    expect(leads.roleOf("k", "a", false)).toEqual(follow("b"));
  });

  it("ends when its router says so, and not when another one does", () => {
    const { take, leads } = setUp();
    take("a");
    leads.end("k", "b");
    leads.end("other", "a");
    expect(take("b")).toEqual(follow("a"));
    leads.end("k", "a");
    expect(take("b")).toEqual(LEAD);
  });

  it("ends when its router is gone", () => {
    const { take, gone } = setUp();
    take("a");
    gone.add("a");
    expect([take("b"), take("c")]).toEqual([LEAD, follow("b")]);
  });

  it("ends when nobody renews it, and lasts while it is renewed", () => {
    const { take, time } = setUp();
    take("a");
    time.nowMs += LEASE_MS - 1;
    expect(take("a")).toEqual(LEAD);
    time.nowMs += LEASE_MS - 1;
    expect(take("b")).toEqual(follow("a"));
    time.nowMs += 1;
    expect(take("b")).toEqual(LEAD);
    // The first has come late: it leads no more, and what it says ends nothing.
    expect(take("a")).toEqual(follow("b"));
  });

  it("is followed no more when its answer is invalidated", () => {
    const { leads } = setUp();
    const key = `${keyPart("acme")}.${keyPart("m")}.1`;
    leads.take(key, "a", false);
    leads.take(key, "b", true);
    leads.drop({ key: "", tenantPart: keyPart("umbrella"), modelPart: "" });
    expect(leads.roleOf(key, "c", false)).toEqual(follow("a"));
    leads.drop({ key: "", tenantPart: keyPart("acme"), modelPart: "" });
    expect([leads.roleOf(key, "c", false), leads.size]).toEqual([undefined, 0]);
  });
});

describe("an answer that comes whole", () => {
  it("follows a stream, but no stream follows it", () => {
    const { take } = setUp();
    expect(take("whole-1", true)).toEqual(LEAD);
    expect(take("whole-2", true)).toEqual(follow("whole-1"));
    expect(take("stream-1")).toEqual(LEAD);
    expect(take("stream-2")).toEqual(follow("stream-1"));
    expect(take("whole-3", true)).toEqual(follow("stream-1"));
    // It is renewed all the same.
    expect(take("whole-1", true)).toEqual(LEAD);
  });

  it("ends apart from a stream of the same", () => {
    const { take, leads } = setUp();
    take("a", true);
    take("b");
    leads.end("k", "b");
    expect(take("c", true)).toEqual(follow("a"));
  });
});

describe("leads", () => {
  it("are bounded: more routers lead, but nobody follows them; what has expired makes room", () => {
    const { take, leads, time } = setUp(2);
    expect([take("a", false, "1"), take("a", false, "2"), take("a", false, "3")]).toEqual([LEAD, LEAD, LEAD]);
    expect(leads.size).toBe(2);
    expect(take("b", false, "3")).toEqual(LEAD);
    time.nowMs += LEASE_MS - 1;
    take("a", false, "1");
    time.nowMs += 1;
    expect(take("a", false, "3")).toEqual(LEAD);
    expect([take("b", false, "3"), take("b", false, "1")]).toEqual([follow("a"), follow("a")]);
    expect(leads.size).toBe(2);
  });
});
