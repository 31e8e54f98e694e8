/** Who owns a key, as nodes come and go. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import { Ownership } from "./ownership.ts";

const INTERFACE = "cortex.test.v1.TestService";

/** What is known where the nodes of these ids serve {@link INTERFACE}; the directory has them by id. */
function seenBy(ids: readonly string[]) {
  let nodes = [...ids].sort().map((id) => NodeRecord.create({ id }));
  const ownership = new Ownership({ nodesServing: (name) => (name === INTERFACE ? nodes : []) });
  return {
    ownerOf: (key: string) => ownership.ownerOf(INTERFACE, key),
    now: (later: readonly string[]) => {
      nodes = [...later].sort().map((id) => NodeRecord.create({ id }));
    },
    ownership,
  };
}

const nodeIds = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,12}-[0-9a-f]{8}$/), { minLength: 1, maxLength: 12 });
const keys = fc.array(fc.string(), { minLength: 1, maxLength: 50 });

describe("the owner of a key", () => {
  it("is one of the nodes that serve, the same for everybody who sees the same nodes", () => {
    fc.assert(
      fc.property(nodeIds, keys, (ids, asked) => {
        const [one, other] = [seenBy(ids), seenBy([...ids].reverse())];
        for (const key of asked) {
          expect(ids).toContain(one.ownerOf(key));
          expect(other.ownerOf(key)).toBe(one.ownerOf(key));
        }
      }),
    );
  });

  it("changes only from or to the node that has gone or come", () => {
    fc.assert(
      fc.property(nodeIds, keys, fc.nat(), (ids, asked, which) => {
        const seen = seenBy(ids);
        const gone = ids[which % ids.length]!;
        const before = asked.map(seen.ownerOf);
        seen.now(ids.filter((id) => id !== gone));
        for (const [index, key] of asked.entries()) {
          if (before[index] !== gone) expect(seen.ownerOf(key)).toBe(before[index]);
        }
        seen.now(ids);
        expect(asked.map(seen.ownerOf)).toEqual(before);
      }),
    );
  });

  it("is nobody when nobody serves", () => {
    const { ownership, now } = seenBy(["a"]);
    expect(ownership.ownerOf("cortex.test.v1.OtherService", "key")).toBeUndefined();
    now([]);
    expect(ownership.ownerOf(INTERFACE, "key")).toBeUndefined();
  });

  it("is each node about as often as any other, of keys that differ little too", () => {
    const ids = ["cache-00000001", "cache-00000002", "cache-00000003", "cache-00000004"];
    const { ownerOf } = seenBy(ids);
    const owned = new Map<string, number>();
    for (let key = 0; key < 40_000; key++) {
      const owner = ownerOf(`tenant.model.${key}`)!;
      owned.set(owner, (owned.get(owner) ?? 0) + 1);
    }
    for (const id of ids) {
      expect(owned.get(id)).toBeGreaterThan(9_000);
      expect(owned.get(id)).toBeLessThan(11_000);
    }
  });

  it("stays the same in every version of Cortex", () => {
    const { ownerOf } = seenBy(["a", "b", "c"]);
    expect(["", "1", "2", "3", "4", "5", "tenant.model.request"].map(ownerOf).join("")).toBe("ccabbcc");
  });
});
