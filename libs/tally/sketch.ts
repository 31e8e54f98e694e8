/**
 * How values are distributed, in little memory: a DDSketch (Masson, Rim, Lee 2019). Buckets grow by 2 %, so a quantile is within 1 %
 * of the true one, and two sketches put together are the sketch of all their values. Encoded, ten values take about 30 bytes.
 */
import type { Sketch as EncodedSketch } from "../gen/cortex/metrics/v1/tally.ts";

/** How far a quantile may be from the true value, as a part of it. */
export const ACCURACY = 0.01;

const GAMMA = (1 + ACCURACY) / (1 - ACCURACY);
const LOG_GAMMA = Math.log(GAMMA);
/** Of a millisecond: what is less counts as this. */
const VALUE_MIN = 0.001;
const VALUE_MAX = 1e9;
/** So that the lowest bucket is 0. */
const OFFSET = -Math.ceil(Math.log(VALUE_MIN) / LOG_GAMMA);
/** By how many buckets a sketch grows at least. */
const CHUNK = 32;

/** The bucket that a value lies in. */
function bucketOf(value: number): number {
  if (!(value > VALUE_MIN)) return 0;
  return Math.ceil(Math.log(Math.min(value, VALUE_MAX)) / LOG_GAMMA) + OFFSET;
}

/** The value that stands for all in a bucket. */
function middleOf(bucket: number): number {
  return (2 * GAMMA ** (bucket - OFFSET)) / (GAMMA + 1);
}

/** A sketch of values that are not negative. */
export class Sketch {
  count = 0;
  sum = 0;
  max = 0;
  /** How many values each bucket has, from `#first` on. */
  #counts = new Uint32Array(0);
  #first = 0;

  add(value: number): void {
    this.count++;
    this.sum += value;
    if (value > this.max) this.max = value;
    const bucket = bucketOf(value);
    this.#reach(bucket);
    this.#counts[bucket - this.#first]!++;
  }

  /** Adds all values of a sketch that was encoded. */
  merge(encoded: EncodedSketch | undefined): void {
    if (encoded === undefined) return;
    const { buckets } = encoded;
    this.sum += encoded.sum;
    if (encoded.max > this.max) this.max = encoded.max;
    let bucket = 0;
    for (let place = 0; place + 1 < buckets.length; place += 2) {
      bucket += buckets[place]!;
      const count = buckets[place + 1]!;
      this.#reach(bucket);
      this.#counts[bucket - this.#first]! += count;
      this.count += count;
    }
  }

  /** Adds all values of another sketch. */
  absorb(other: Sketch): void {
    if (other.count === 0) return;
    const counts = other.#counts;
    this.#reach(other.#first);
    this.#reach(other.#first + counts.length - 1);
    for (let place = 0; place < counts.length; place++)
      this.#counts[other.#first + place - this.#first]! += counts[place]!;
    this.count += other.count;
    this.sum += other.sum;
    if (other.max > this.max) this.max = other.max;
  }

  /** The smallest value that is no less than the part `q` of all, 0 ≤ q ≤ 1; 0 without values. Of few, p99 is the largest. */
  quantile(q: number): number {
    if (this.count === 0) return 0;
    const rank = Math.max(1, Math.ceil(q * this.count)) - 1;
    let seen = 0;
    for (let place = 0; place < this.#counts.length; place++) {
      seen += this.#counts[place]!;
      if (seen > rank) return Math.min(middleOf(this.#first + place), this.max);
    }
    return this.max;
  }

  get mean(): number {
    return this.count === 0 ? 0 : this.sum / this.count;
  }

  encode(): EncodedSketch | undefined {
    if (this.count === 0) return undefined;
    const buckets: number[] = [];
    let last = 0;
    for (let place = 0; place < this.#counts.length; place++) {
      const count = this.#counts[place]!;
      if (count === 0) continue;
      buckets.push(this.#first + place - last, count);
      last = this.#first + place;
    }
    return { sum: this.sum, max: this.max, buckets };
  }

  /** Begins anew, with the room that it had. */
  clear(): void {
    this.count = 0;
    this.sum = 0;
    this.max = 0;
    this.#counts.fill(0);
  }

  /** Makes room for a bucket. */
  #reach(bucket: number): void {
    const { length } = this.#counts;
    const end = this.#first + length;
    if (bucket >= this.#first && bucket < end) return;
    // It grows where it had to, so that values further that way find room.
    const first = length === 0 ? bucket : bucket < this.#first ? Math.max(0, bucket - CHUNK) : this.#first;
    const counts = new Uint32Array((bucket >= end ? bucket + CHUNK : end) - first);
    if (length > 0) counts.set(this.#counts, this.#first - first);
    this.#counts = counts;
    this.#first = first;
  }
}
