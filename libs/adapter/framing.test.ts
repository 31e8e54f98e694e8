import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ProviderEvent } from "./dialect.ts";
import { createFramer, EVENT_LENGTH_MAX } from "./framing.ts";

function frame(framing: "sse" | "ndjson", pieces: readonly Buffer[]): ProviderEvent[] {
  const events: ProviderEvent[] = [];
  const framer = createFramer(framing, (event) => events.push(event));
  for (const piece of pieces) framer.push(piece);
  framer.end();
  return events;
}

/** With what is no event in between, as a plain text. */
function frameWithStray(pieces: readonly Buffer[]): (ProviderEvent | string)[] {
  const found: (ProviderEvent | string)[] = [];
  const framer = createFramer(
    "sse",
    (event) => found.push(event),
    (text) => found.push(text),
  );
  for (const piece of pieces) framer.push(piece);
  framer.end();
  return found;
}

/** Cuts `bytes` at the positions, which are taken modulo its length. */
function cut(bytes: Buffer, positions: readonly number[]): Buffer[] {
  const cuts = [0, ...positions.map((position) => position % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return cuts.slice(1).map((end, index) => bytes.subarray(cuts[index], end));
}

const lineEnd = fc.constantFrom("\n", "\r", "\r\n");
const value = fc.string({ unit: "grapheme", maxLength: 40 }).map((text) => text.replace(/[\r\n\0]/g, ""));
const positions = fc.array(fc.nat(), { maxLength: 30 });

const sseLine = fc.oneof(
  value.map((text) => `data: ${text}`),
  value.map((text) => `data:${text}`),
  value.map((text) => `event: ${text}`),
  value.map((text) => `: ${text}`),
  value.map((text) => `id: ${text}`),
  fc.constantFrom("", "", "retry: 10", "data", "unknown: field"),
);
const sseText = fc
  .tuple(fc.constantFrom("", "\ufeff"), fc.array(fc.tuple(sseLine, lineEnd), { maxLength: 40 }))
  .map(([mark, lines]) => mark + lines.flat().join(""));

const ndjsonText = fc
  .array(fc.tuple(fc.oneof(fc.json(), fc.constant("")), fc.constantFrom("\n", "\r\n", "\n\n")), { maxLength: 20 })
  .map((lines) => lines.flat().join(""));

describe("framing", () => {
  it("reads the same events from server-sent events wherever they are cut", () => {
    fc.assert(
      fc.property(sseText, positions, (text, at) => {
        const bytes = Buffer.from(text);
        expect(frame("sse", cut(bytes, at))).toEqual(frame("sse", [bytes]));
      }),
      { numRuns: 500 },
    );
  });

  it("finds the same stray text between server-sent events wherever they are cut", () => {
    const strayLine = fc.oneof(
      sseLine,
      fc.constantFrom("{", '  "error": {}', "}", "dat", "events", "error: x", "i"),
      value,
    );
    const text = fc
      .tuple(fc.constantFrom("", "\ufeff"), fc.array(fc.tuple(strayLine, lineEnd), { maxLength: 40 }), value)
      .map(([mark, lines, rest]) => mark + lines.flat().join("") + rest);
    fc.assert(
      fc.property(text, positions, (written, at) => {
        const bytes = Buffer.from(written);
        const whole = frameWithStray([bytes]);
        expect(frameWithStray(cut(bytes, at))).toEqual(whole);
        expect(whole.filter((found) => typeof found !== "string")).toEqual(frame("sse", [bytes]));
      }),
      { numRuns: 500 },
    );
  });

  it("gives stray text before the event that follows it, and at the end", () => {
    const text = 'data: 1\r\n\r\n{\r\n  "a": 1\r\n}\r\ndata: 2\r\n\r\n[{"error":\r\n 1}]';
    expect(frameWithStray([Buffer.from(text)])).toEqual([
      { name: "", data: "1" },
      '{\n  "a": 1\n}',
      { name: "", data: "2" },
      '[{"error":\n 1}]',
    ]);
  });

  it("keeps no more stray text than its bound, in one line or in many", () => {
    const long = Buffer.alloc(1024 * 1024, "x");
    const lines = Buffer.from("y\n".repeat(100 * 1024));
    const found = frameWithStray([long, long, Buffer.from("\ndata: 1\n\n"), lines, Buffer.from("data: 2\n\n")]);
    expect(found.filter((each) => typeof each !== "string").map(({ data }) => data)).toEqual(["1", "2"]);
    for (const each of found) if (typeof each === "string") expect(each.length).toBeLessThanOrEqual(2 * 64 * 1024);
  });

  it("reads the same events from NDJSON wherever it is cut", () => {
    fc.assert(
      fc.property(ndjsonText, positions, (text, at) => {
        const bytes = Buffer.from(text);
        const events = frame("ndjson", cut(bytes, at));
        expect(events).toEqual(frame("ndjson", [bytes]));
        expect(events.map(({ data }) => data)).toEqual(
          text
            .split("\n")
            .map((line) => line.trim())
            .filter((line) => line !== ""),
        );
      }),
      { numRuns: 500 },
    );
  });

  it.each(["\n", "\r", "\r\n"])("reads events whose lines end in %j byte by byte", (end) => {
    const text = ["event: delta", "data: grüße 🎈", "data: zwei", "", ": ping", "", "data: [DONE]", "", ""].join(end);
    const bytes = [...Buffer.from(text)].map((byte) => Buffer.from([byte]));
    expect(frame("sse", bytes)).toEqual([
      { name: "delta", data: "grüße 🎈\nzwei" },
      { name: "", data: "[DONE]" },
    ]);
  });

  it("reads a last event that lacks its line end", () => {
    expect(frame("sse", [Buffer.from("data: 1\n\ndata: 2")]).map(({ data }) => data)).toEqual(["1", "2"]);
    expect(frame("ndjson", [Buffer.from('{"a":1}\n{"b":2}')]).map(({ data }) => data)).toEqual(['{"a":1}', '{"b":2}']);
  });

  it.each(["sse", "ndjson"] as const)(
    "refuses an event without end in %s, and holds no more than its bound",
    (framing) => {
      const framer = createFramer(framing, () => {});
      const piece = Buffer.alloc(1024 * 1024, "x");
      framer.push(Buffer.from("data: "));
      const push = (): void => {
        for (let count = 0; count <= EVENT_LENGTH_MAX / piece.length; count += 1) framer.push(piece);
      };
      expect(push).toThrow(expect.objectContaining({ reason: "PROVIDER_INVALID_ANSWER" }));
    },
  );
});
