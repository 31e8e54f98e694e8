/** Events are read as any other reader reads them. */
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EventReader } from "./event-reader.ts";

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
