/** How long a provider wants to be left alone: the headers that say so, and the forms in which durations are written. */

/** The headers of an answer, names in lower case. */
export type Headers = Readonly<Record<string, string | string[] | undefined>>;

/** The first value of a header; the empty text when there is none. */
export function header(headers: Headers, name: string): string {
  const value = headers[name];
  return (Array.isArray(value) ? value[0] : value) ?? "";
}

/** A wait of more than a week is as good as never, and timers do not take it. */
const WAIT_MS_MAX = 7 * 24 * 3600 * 1000;

/** A wait as an error may tell it: whole milliseconds, within bounds. Undefined for none and for one that is over. */
export function boundedWaitMs(waitMs: number | undefined): number | undefined {
  return waitMs === undefined || waitMs < 0 ? undefined : Math.min(Math.ceil(waitMs), WAIT_MS_MAX);
}

/** What `retry-after` says: seconds, or a date. */
export function retryAfterMs(headers: Headers): number | undefined {
  const value = header(headers, "retry-after");
  return secondsMs(value) ?? untilMs(headers, Date.parse(value));
}

/** A bare number of seconds; undefined for anything else. */
export function secondsMs(text: string): number | undefined {
  return /^\s*\d+(\.\d+)?\s*$/.test(text) ? Number(text) * 1000 : undefined;
}

/** How far off a moment is, the provider's own clock tells; 0 for one that is over, undefined for none. */
export function untilMs(headers: Headers, momentMs: number): number | undefined {
  const waitMs = momentMs - Date.parse(header(headers, "date"));
  return Number.isFinite(waitMs) ? Math.max(waitMs, 0) : undefined;
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const PART = /(\d+(?:\.\d+)?)(ms|[smhd])/iy;

/**
 * A duration as Go writes it: `6m0s`, `34.4s`, `350ms`; undefined for anything else. Read by hand rather than with matchAll,
 * as every answer of some providers has two of them.
 */
export function durationMs(text: string): number | undefined {
  if (text === "") return undefined;
  let sum = 0;
  PART.lastIndex = 0;
  while (PART.lastIndex < text.length) {
    const part = PART.exec(text);
    if (part === null) return undefined;
    sum += Number(part[1]) * UNIT_MS[part[2]!.toLowerCase()]!;
  }
  return sum;
}
