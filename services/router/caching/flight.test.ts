/** One answer for many: all of it for each, whoever comes late, is slow, or leaves. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Part } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import { type CacheStatus, CacheStatus_State, type StreamResponse } from "../../../libs/gen/cortex/router/v1/router.ts";
import { RpcError } from "../../../libs/rpc/index.ts";
import { Flight, type FlightEnd } from "./flight.ts";

const text = (value: string): Part => ({ part: { $case: "text", value: { text: value, choice: 0, logprobs: [] } } });
const chunk = (value: string): StreamResponse => ({ parts: [text(value)], attempts: 1, cache: undefined });
const told: CacheStatus = { state: CacheStatus_State.SHARED, detail: "", ageS: 0, key: "k" };
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A source that gives what it is told to, when it is told to. */
class Source implements AsyncIterator<StreamResponse> {
  asked = 0;
  returned = 0;
  readonly #waiting: ((result: IteratorResult<StreamResponse>) => void)[] = [];
  readonly #failing: ((error: Error) => void)[] = [];
  readonly #ready: (StreamResponse | Error | "end")[] = [];

  give(...values: (StreamResponse | Error | "end")[]): void {
    this.#ready.push(...values);
    this.#settle();
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    this.asked++;
    return new Promise((resolve, reject) => {
      this.#waiting.push(resolve);
      this.#failing.push(reject);
      this.#settle();
    });
  }

  return(): Promise<IteratorResult<StreamResponse>> {
    this.returned++;
    return Promise.resolve({ done: true, value: undefined });
  }

  #settle(): void {
    while (this.#ready.length > 0 && this.#waiting.length > 0) {
      const [value, resolve, reject] = [this.#ready.shift()!, this.#waiting.shift()!, this.#failing.shift()!];
      if (value === "end") resolve({ done: true, value: undefined });
      else if (value instanceof Error) reject(value);
      else resolve({ done: false, value });
    }
  }
}

function open(source = new Source()) {
  const ends: FlightEnd[] = [];
  const flight = new Flight({ tenant: "t", whole: false, source, ended: (end) => ends.push(end) });
  return { source, flight, ends };
}

async function readAll(reader: AsyncIterator<StreamResponse>): Promise<string> {
  let all = "";
  for (;;) {
    const result = await reader.next();
    if (result.done === true) return all;
    for (const { part } of result.value.parts) if (part?.$case === "text") all += part.value.text;
  }
}

describe("a flight", () => {
  it("gives everybody all of it, live and from the beginning, and asks its source once", async () => {
    const { source, flight, ends } = open();
    const early = readAll(flight.join(told));
    source.give(chunk("a"), chunk("b"));
    await turn();
    const late = readAll(flight.join(told));
    source.give(chunk("c"), "end");
    expect(await Promise.all([early, late])).toEqual(["abc", "abc"]);
    expect(source.asked).toBe(4);
    expect(ends).toEqual([{ kind: "whole", parts: [text("a"), text("b"), text("c")] }]);
    expect(flight.open).toBe(false);
  });

  it("tells each reader in its first chunk what the cache had to do with it", async () => {
    const { source, flight } = open();
    const reader = flight.join(told);
    source.give(chunk("a"), chunk("b"));
    expect((await reader.next()).value.cache).toEqual(told);
    expect((await reader.next()).value.cache).toBeUndefined();
  });

  it("is pulled by its fastest reader; a slow one finds what has come", async () => {
    const { source, flight } = open();
    const [fast, slow] = [flight.join(told), flight.join(told)];
    source.give(chunk("a"), chunk("b"), chunk("c"), "end");
    expect(await readAll(fast)).toBe("abc");
    expect(source.asked).toBe(4);
    expect(await readAll(slow)).toBe("abc");
    expect(source.asked).toBe(4);
  });

  it("goes on when one leaves, and ends when the last one has left", async () => {
    const { source, flight, ends } = open();
    const [one, other] = [flight.join(told), flight.join(told)];
    source.give(chunk("a"));
    await one.next();
    await one.return!();
    expect(source.returned).toBe(0);
    expect(await one.next()).toEqual({ done: true, value: undefined });
    await other.next();
    await other.return!();
    expect(source.returned).toBe(1);
    expect(ends).toEqual([{ kind: "broken" }]);
    expect(flight.open).toBe(false);
  });

  it("fails for everybody, and for who asks afterwards", async () => {
    const { source, flight, ends } = open();
    const [one, other] = [flight.join(told), flight.join(told)];
    const failures = [one.next(), other.next()];
    source.give(new RpcError("NO_WORKERS_AVAILABLE", "none"));
    for (const failure of failures) await expect(failure).rejects.toMatchObject({ reason: "NO_WORKERS_AVAILABLE" });
    await expect(one.next()).rejects.toMatchObject({ reason: "NO_WORKERS_AVAILABLE" });
    expect(ends).toEqual([{ kind: "broken" }]);
  });

  it("keeps no more of what else a model writes than of text", async () => {
    const { source, flight } = open();
    const [fast, slow] = [flight.join(told), flight.join(told)];
    const value = { text: "x".repeat(1024 * 1024), choice: 0, logprobs: [] };
    const refusing = { parts: [{ part: { $case: "refusal" as const, value } }], attempts: 1, cache: undefined };
    source.give(...Array.from({ length: 20 }, () => refusing), "end");
    await readAll(fast);
    await expect(readAll(slow)).rejects.toMatchObject({ reason: "STREAM_INTERRUPTED" });
  });

  it("lets go of who is too far behind to be waited for, and is not kept then", async () => {
    const { source, flight, ends } = open();
    const [fast, slow] = [flight.join(told), flight.join(told)];
    const long = "x".repeat(1024 * 1024);
    source.give(...Array.from({ length: 20 }, () => chunk(long)), "end");
    expect((await readAll(fast)).length).toBe(20 * 1024 * 1024);
    await expect(readAll(slow)).rejects.toMatchObject({ reason: "STREAM_INTERRUPTED" });
    expect(ends).toEqual([{ kind: "broken" }]);
    expect(flight.open).toBe(false);
  });

  it("gives each reader the whole text, whatever the order in which they join and read", async () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant("join" as const) }),
      fc.record({ kind: fc.constant("give" as const) }),
      fc.record({ kind: fc.constant("read" as const), which: fc.nat() }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const { source, flight } = open();
        const readers: { reader: AsyncIterator<StreamResponse>; reads: Promise<IteratorResult<StreamResponse>>[] }[] =
          [];
        let given = 0;
        const join = (): void => void readers.push({ reader: flight.join(told), reads: [] });
        join();
        for (const taken of steps) {
          if (taken.kind === "join") join();
          else if (taken.kind === "give") source.give(chunk(String(given++)));
          else {
            const { reader, reads } = readers[taken.which % readers.length]!;
            reads.push(reader.next());
          }
          await turn();
        }
        source.give("end");
        for (const { reader, reads } of readers) {
          let all = "";
          for (let index = 0; ; index++) {
            const result = await (reads[index] ?? reader.next());
            if (result.done === true) break;
            const [part] = result.value.parts;
            all += part?.part?.$case === "text" ? part.part.value.text : "";
          }
          expect(all).toBe(Array.from({ length: given }, (_, index) => String(index)).join(""));
        }
      }),
      { numRuns: 100 },
    );
  });
});
