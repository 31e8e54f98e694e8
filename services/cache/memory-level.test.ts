/** The second level: what it holds, and that its bounds hold. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { keyPart } from "../../libs/caching/index.ts";
import { MemoryLevel } from "./memory-level.ts";

const run = promisify(execFile);
const HOUR_MS = 3_600_000;
const later = (): number => Date.now() + HOUR_MS;
const bytesOf = (text: string): Buffer => Buffer.from(text);
const EVERYTHING = { key: "", tenantPart: "", modelPart: "" };

describe("the second level", () => {
  it("gives back what it was given, byte for byte, and memory of its own", async () => {
    const level = new MemoryLevel({ entries: 10, bytes: 1_000_000 });
    const message = Buffer.from("....an answer....");
    await level.keep("k", message.subarray(4, 13), later());
    message.fill(0);
    const found = await level.find("k");
    expect(found?.toString()).toBe("an answer");
    expect(found?.buffer.byteLength).toBe(9);
  });

  it("never takes more entries or bytes than it may, and the latest is there", async () => {
    const puts = fc.array(fc.record({ key: fc.nat(40).map(String), size: fc.nat(20_000) }), { maxLength: 100 });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 20 }), fc.nat(60_000), puts, async (entries, bytes, sequence) => {
        const level = new MemoryLevel({ entries, bytes });
        for (const { key, size } of sequence) {
          await level.keep(key, Buffer.alloc(size, 1), later());
          const { entries: held, bytes: taken } = level.statistics();
          expect(held).toBeLessThanOrEqual(entries);
          expect(taken).toBeLessThanOrEqual(bytes);
          // Its own bytes are the least that it counts with.
          expect(taken).toBeGreaterThanOrEqual(((await level.find(key))?.length ?? 0) * Math.min(1, held));
          if (bytes > size + 2_000) expect((await level.find(key))?.length).toBe(size);
          if (size > bytes) expect(await level.find(key)).toBeUndefined();
        }
      }),
      { numRuns: 50 },
    );
  });

  it("lets go of what was asked for longest ago, and counts it", async () => {
    const level = new MemoryLevel({ entries: 2, bytes: 1_000_000 });
    await level.keep("one", bytesOf("1"), later());
    await level.keep("two", bytesOf("2"), later());
    await level.find("one");
    await level.keep("three", bytesOf("3"), later());
    expect([level.has("one"), level.has("two"), level.has("three")]).toEqual([true, false, true]);
    expect(level.statistics()).toMatchObject({ entries: 2, evictions: 1 });
  });

  it("keeps nothing that is bigger than it, and leaves the rest where it is", async () => {
    const level = new MemoryLevel({ entries: 10, bytes: 10_000 });
    await level.keep("small", bytesOf("s"), later());
    await level.keep("big", Buffer.alloc(10_000), later());
    expect([level.has("small"), level.has("big")]).toEqual([true, false]);
  });

  it("keeps nothing longer than it may, and nothing that has expired already", async () => {
    const level = new MemoryLevel({ entries: 10, bytes: 10_000 });
    await level.keep("past", bytesOf("p"), Date.now() - 1);
    expect(level.has("past")).toBe(false);
    await level.keep("short", bytesOf("s"), Date.now() + 50);
    await level.keep("long", bytesOf("l"), later());
    await expect.poll(() => level.has("short")).toBe(false);
    expect(await level.find("short")).toBeUndefined();
    expect((await level.find("long"))?.toString()).toBe("l");
    expect(level.statistics().entries).toBe(1);
  });

  it("counts hits and misses, of several at once too", async () => {
    const level = new MemoryLevel({ entries: 10, bytes: 10_000 });
    await level.keep("a", bytesOf("a"), later());
    await level.keep("b", bytesOf("b"), later());
    await level.find("a");
    await level.find("nobody");
    expect((await level.findMany(["a", "nobody", "b"])).map((entry) => entry?.toString())).toEqual([
      "a",
      undefined,
      "b",
    ]);
    expect(level.statistics()).toMatchObject({ hits: 3, misses: 2 });
  });

  it.each([
    { entries: 0, bytes: 1_000 },
    { entries: 1_000, bytes: 0 },
  ])("is not there with no room at all: $entries entries, $bytes bytes", async (bounds) => {
    const level = new MemoryLevel(bounds);
    await level.keep("a", bytesOf("a"), later());
    expect(await level.find("a")).toBeUndefined();
    expect(level.drop(EVERYTHING)).toBe(0);
    expect(level.statistics()).toMatchObject({ entries: 0, bytes: 0 });
  });

  it("takes other bounds at run time: what was asked for last stays, for as long as it might", async () => {
    const level = new MemoryLevel({ entries: 10, bytes: 100_000 });
    for (const name of ["a", "b", "c"])
      await level.keep(name, bytesOf(name), name === "c" ? Date.now() + 100 : later());
    await level.find("a");
    level.resize({ entries: 2, bytes: 100_000 });
    expect(["a", "b", "c"].map((name) => level.has(name))).toEqual([true, false, true]);
    expect(level.statistics()).toMatchObject({ entries: 2, entriesMax: 2 });
    await expect.poll(() => level.has("c")).toBe(false);
    level.resize({ entries: 0, bytes: 0 });
    expect(await level.find("a")).toBeUndefined();
  });

  it("drops what is of a tenant, of a model, of both, one alone, and everything", async () => {
    const names = ["acme.m1", "acme.m2", "umbrella.m1", "umbrella.m2"];
    const keyOf = (name: string): string => `${name.split(".").map(keyPart).join(".")}.0123`;
    const rest = async (dropped: Partial<typeof EVERYTHING>): Promise<string[]> => {
      const level = new MemoryLevel({ entries: 10, bytes: 100_000 });
      for (const name of names) await level.keep(keyOf(name), bytesOf(name), later());
      const count = level.drop({ ...EVERYTHING, ...dropped });
      const left = names.filter((name) => level.has(keyOf(name)));
      expect(count).toBe(names.length - left.length);
      return left;
    };
    expect(await rest({ tenantPart: keyPart("acme") })).toEqual(["umbrella.m1", "umbrella.m2"]);
    expect(await rest({ modelPart: keyPart("m1") })).toEqual(["acme.m2", "umbrella.m2"]);
    expect(await rest({ tenantPart: keyPart("acme"), modelPart: keyPart("m2") })).toEqual([
      names[0],
      names[2],
      names[3],
    ]);
    expect(await rest({ key: keyOf("acme.m1") })).toEqual(names.slice(1));
    expect(await rest({ key: keyOf("acme.m1"), tenantPart: keyPart("umbrella") })).toEqual(names);
    expect(await rest({})).toEqual([]);
  });

  it("takes no more memory for many answers than for as many as it holds", { timeout: 60_000 }, async () => {
    const { stdout } = await run(process.execPath, ["--expose-gc", "--input-type=module-typescript", "-e", CHURN]);
    const { held, resident } = JSON.parse(stdout) as { held: number; resident: number[] };
    // It has been full since the first of these, and everything in it has been replaced several times.
    expect(held).toBeLessThan(40_000);
    expect(resident.at(-1)! / resident[1]!).toBeLessThan(1.2);
  });
});

/** Puts 50,000 more answers at a time into a full level, and tells by how much its process has grown since the start. */
const CHURN = `
import { MemoryLevel } from ${JSON.stringify(new URL("memory-level.ts", import.meta.url).href)};
const resident = () => {
  gc();
  return process.memoryUsage().rss;
};
const level = new MemoryLevel({ entries: 1_000_000, bytes: 40 * 1024 * 1024 });
const start = resident();
const grown = [];
for (let index = 0; index < 250_000; index++) {
  const answer = Buffer.from(("answer " + index + " ").repeat(10 + (index % 40)));
  await level.keep("tenant.model." + index, answer, Date.now() + 3_600_000);
  if (index % 50_000 === 49_999) grown.push(resident() - start);
}
console.log(JSON.stringify({ held: level.statistics().entries, resident: grown }));
`;
