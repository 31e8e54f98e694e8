/** What keys are made of. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { keyPart } from "./keys.ts";

it("gives every name a part of its own, always the same, that fits between dots", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (one, other) => {
      expect(keyPart(one)).toMatch(/^[0-9a-f]{20}$/);
      expect(keyPart(one) === keyPart(other)).toBe(one === other);
    }),
  );
});

it("tells names apart that have the same bytes as UTF-8", () => {
  expect(keyPart("a\ud800")).not.toBe(keyPart("a\ufffd"));
});

it("gives the same part after many other names", () => {
  const before = keyPart("acme");
  for (let other = 0; other < 3_000; other++) keyPart(`other-${other}`);
  expect(keyPart("acme")).toBe(before);
});
