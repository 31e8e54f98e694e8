/** Reads how long something shall be: 30s, 5m, 1h. */
import { InvalidArgumentError } from "commander";

const SECONDS: Readonly<Record<string, number>> = { "": 1, s: 1, m: 60, h: 3_600 };

/** Makes a reader of durations in seconds, for an option that takes them from `min` to `max`. */
export function seconds(min: number, max: number): (text: string) => number {
  return (text) => {
    const [, number, unit] = /^(\d{1,6}(?:\.\d{1,3})?)([smh]?)$/.exec(text) ?? [];
    const value = number === undefined ? Number.NaN : Number(number) * SECONDS[unit!]!;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`it has to be like 30s, 5m or 1h, from ${min} s to ${max} s.`);
  };
}
