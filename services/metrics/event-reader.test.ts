/** Events are read as any other reader reads them. */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AttemptFinished, AttemptsFinished } from "../../libs/gen/cortex/events/v1/events.ts";
import { EventReader, eachEvent } from "./event-reader.ts";
import { attempt } from "./test-events.ts";

function read(reader: BinaryReader, count: number): string[] {
  return Array.from({ length: count }, () => reader.string());
}

describe("reading events", () => {
  it("reads the same strings as protobuf's own reader, whatever came before", () => {
    const text = fc.oneof(fc.string({ unit: "grapheme", maxLength: 60 }), fc.string({ maxLength: 3 }));
    fc.assert(
      fc.property(fc.array(text, { maxLength: 300 }), (texts) => {
        const writer = new BinaryWriter();
        for (const each of texts) writer.string(each);
        const bytes = writer.finish();
        expect(read(new EventReader(bytes), texts.length)).toEqual(texts.map((each) => each.toWellFormed()));
      }),
    );
  });

  it("refuses a string that ends beyond the message", () => {
    for (const length of [5, 31, 32, 100_000]) {
      const bytes = new BinaryWriter().uint32(length).raw(new Uint8Array(4).fill(65)).finish();
      expect(() => new EventReader(bytes).string()).toThrow(RangeError);
      expect(() => new BinaryReader(bytes).string()).toThrow(RangeError);
    }
  });
});

describe("a message of several events", () => {
  const attempts = ["1", "2", "3"].map((requestId) => attempt({ requestId, reason: "x".repeat(40), durationMs: 0.5 }));

  it("is read event by event, as its own type reads it, and fields of later versions are passed over", () => {
    const writer = new BinaryWriter();
    for (const one of attempts) {
      AttemptsFinished.encode({ attempts: [one] }, writer);
      writer.tag(2, WireType.Varint).uint32(300).tag(3, WireType.Bit64).double(1.5);
      writer.tag(4, WireType.LengthDelimited).string("x".repeat(200)).tag(5, WireType.Bit32).float(1);
    }
    const read: AttemptFinished[] = [];
    const bytes = writer.finish();
    eachEvent(bytes, AttemptFinished, (event) => read.push(event));
    expect(read).toEqual(attempts);
    expect(AttemptsFinished.decode(bytes).attempts).toEqual(attempts);
  });

  it("is an error when it is cut off, after what could be read", () => {
    const whole = AttemptsFinished.encode({ attempts }).finish();
    const { length } = AttemptsFinished.encode({ attempts: attempts.slice(0, 2) }).finish();
    for (let end = length + 1; end < whole.length; end++) {
      const read: string[] = [];
      expect(() =>
        eachEvent(whole.subarray(0, end), AttemptFinished, ({ requestId }) => read.push(requestId)),
      ).toThrow();
      expect(read).toEqual(["1", "2"]);
    }
  });
});
