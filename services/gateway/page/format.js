/** How numbers and times are written. */

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
/** For what was not measured. */
export const NOTHING = "–";

/**
 * `1,234`
 * @param {number} value
 */
export function count(value) {
  return WHOLE.format(value);
}

/**
 * Three digits at most: `0.4`, `12`, `340`, `1.2k`.
 * @param {number} value
 */
export function rate(value) {
  if (value >= 1_000_000) return `${digits(value / 1_000_000)}M`;
  if (value >= 999.5) return `${digits(value / 1_000)}k`;
  return digits(value);
}

/** @param {number} value */
function digits(value) {
  if (value === 0) return "0";
  if (value < 0.095) return value.toFixed(2);
  return value < 9.95 ? value.toFixed(1) : value.toFixed(0);
}

/**
 * `340 ms`, `1.2 s`, `2 min`
 * @param {number} ms
 */
export function milliseconds(ms) {
  if (ms < 0.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  if (ms < 99_950) return `${(ms / 1_000).toFixed(ms < 9_950 ? 1 : 0)} s`;
  return `${(ms / 60_000).toFixed(0)} min`;
}

/**
 * `12 %`
 * @param {number} part from 0 to 1
 */
export function percent(part) {
  const value = part * 100;
  return `${value > 0 && value < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
}

/**
 * `$0.00042`
 * @param {number} usd
 */
export function cost(usd) {
  if (usd === 0) return "$0";
  return `$${usd >= 0.01 ? usd.toFixed(3) : usd.toPrecision(2)}`;
}

/**
 * `14:03:59`
 * @param {number} atMs since the Unix epoch
 */
export function clock(atMs) {
  return CLOCK.format(atMs);
}

/**
 * `1 worker`, `3 workers`
 * @param {number} value
 * @param {string} noun
 */
export function some(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/**
 * `312 MB`
 * @param {number} value
 */
export function bytes(value) {
  return value >= 1_000_000_000 ? `${digits(value / 1_000_000_000)} GB` : `${digits(value / 1_000_000)} MB`;
}
