import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Sketch as EncodedSketch } from "../gen/cortex/metrics/v1/tally.ts";
import { ACCURACY, Sketch } from "./sketch.ts";

const QUANTILES = [0, 0.1, 0.5, 0.9, 0.95, 0.99, 1];

function sketchOf(values: readonly number[]): Sketch {
  const sketch = new Sketch();
  for (const value of values) sketch.add(value);
  return sketch;
}

/** The value that the sketch is to come close to. */
function exact(values: readonly number[], q: number): number {
  return values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(q * values.length) - 1)]!;
}

const milliseconds = fc.double({ min: 0.01, max: 3_600_000, noNaN: true });
const valueLists = fc.array(milliseconds, { minLength: 1, maxLength: 300 });

describe("a sketch", () => {
  it("tells every quantile as exactly as it says", () => {
    fc.assert(
      fc.property(valueLists, (values) => {
        const sketch = sketchOf(values);
        for (const q of QUANTILES) {
          const value = exact(values, q);
          expect(Math.abs(sketch.quantile(q) - value)).toBeLessThanOrEqual(value * ACCURACY * 1.0001);
        }
        expect(sketch).toMatchObject({ count: values.length, max: Math.max(...values) });
      }),
    );
  });

  it("put together with others, by way of bytes, is the sketch of all their values", () => {
    fc.assert(
      fc.property(fc.array(valueLists, { minLength: 1, maxLength: 8 }), (lists) => {
        const merged = new Sketch();
        for (const values of lists) {
          merged.merge(EncodedSketch.decode(EncodedSketch.encode(sketchOf(values).encode()!).finish()));
        }
        const all = sketchOf(lists.flat());
        expect({ ...merged.encode(), sum: 0 }).toEqual({ ...all.encode(), sum: 0 });
        expect(merged.mean).toBeCloseTo(all.mean, 6);
        for (const q of QUANTILES) expect(merged.quantile(q)).toBe(all.quantile(q));
      }),
    );
  });

  it("is the same whatever the order of what it holds", () => {
    fc.assert(
      fc.property(valueLists, (values) => {
        expect(sketchOf(values.toSorted()).encode()?.buckets).toEqual(sketchOf(values).encode()?.buckets);
      }),
    );
  });

  it("hides no slow one among few: their 99th percentile is the slowest", () => {
    expect(sketchOf([1, 1, 1, 1_333]).quantile(0.99)).toBeGreaterThan(1_300);
  });

  it("takes what is nothing, tiny or huge", () => {
    const sketch = sketchOf([0, 1e-9, Number.MIN_VALUE, 1e15]);
    expect(sketch.count).toBe(4);
    expect(sketch.quantile(0)).toBeLessThan(0.01);
    expect(sketch.max).toBe(1e15);
    expect(new Sketch().quantile(0.5)).toBe(0);
    expect(new Sketch().encode()).toBeUndefined();
  });

  it("takes little room: some bytes for each value, and a bound however many there are", () => {
    const bytes = (count: number) => {
      const values = Array.from({ length: count }, (_, index) => Math.exp(5 + 3 * Math.sin(index)));
      return EncodedSketch.encode(sketchOf(values).encode()!).finish().length;
    };
    expect(bytes(10)).toBeLessThan(60);
    expect(bytes(100_000)).toBeLessThan(1_500);
  });
});
