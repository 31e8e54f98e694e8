/** What comes and goes with requests: the same as a Map and a Set, but what is gone is garbage. */
import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { TransientMap, TransientSet } from "./index.ts";

describe("a transient map", () => {
  it("holds what a Map holds, in the same order, whatever comes and goes", () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.tuple(fc.constant("set"), fc.nat({ max: 40 })) },
      { weight: 4, arbitrary: fc.tuple(fc.constant("delete"), fc.nat({ max: 40 })) },
      { weight: 1, arbitrary: fc.tuple(fc.constantFrom("clear", "churn"), fc.nat({ max: 700 })) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        const transient = new TransientMap<number, string>();
        const map = new Map<number, string>();
        for (const [what, key] of steps) {
          if (what === "set") for (const each of [transient, map]) each.set(key, `value ${key}`);
          else if (what === "delete") expect(transient.delete(key)).toBe(map.delete(key));
          else if (what === "clear") for (const each of [transient, map]) each.clear();
          else
            for (let i = 1_000; i < 1_000 + key; i++) {
              transient.set(i, "");
              transient.delete(i);
            }
          expect([...transient]).toEqual([...map]);
          expect(transient.get(key)).toBe(map.get(key));
          expect(transient.size).toBe(map.size);
        }
        expect([...transient.values()]).toEqual([...map.values()]);
      }),
    );
  });

  it("may lose entries while it is read", () => {
    const transient = new TransientMap<number, number>();
    for (let key = 0; key < 2_000; key++) transient.set(key, key);
    let read = 0;
    for (const [key] of transient) {
      read++;
      transient.delete(key);
    }
    expect({ read, size: transient.size }).toEqual({ read: 2_000, size: 0 });
  });
});

describe("a transient set", () => {
  it("holds each member once", () => {
    const set = new TransientSet<string>();
    for (const member of ["a", "b", "a", "c"]) set.add(member);
    expect(set.delete("b")).toBe(true);
    expect(set.delete("b")).toBe(false);
    expect([...set]).toEqual(["a", "c"]);
    set.clear();
    expect(set.size).toBe(0);
  });

  it("keeps nothing alive that is gone, as a Set does once it has become old", () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as (options?: { readonly type: "minor" }) => void;
    /** How much of 64 MB that have come and gone minor collections take for alive. */
    const survivingShare = (set: { add(member: object): void; delete(member: object): void }): number => {
      const members = 64_000;
      const ongoing: object[] = [];
      collect();
      const oldBytes = () =>
        getHeapSpaceStatistics().find(({ space_name }) => space_name === "old_space")!.space_used_size;
      const before = oldBytes();
      for (let i = 0; i < members; i++) {
        const member = { content: new Array<number>(128).fill(i) };
        set.add(member);
        ongoing.push(member);
        if (ongoing.length > 16) set.delete(ongoing.shift()!);
        if (i % 1_000 === 0) collect({ type: "minor" });
      }
      return (oldBytes() - before) / (members * 1_024);
    };
    expect(survivingShare(new TransientSet())).toBeLessThan(0.05);
    expect(survivingShare(new Set())).toBeGreaterThan(0.25);
  });
});
