/** Cutting a stream wherever a network could cut it. A dialect is given events; that they stay the same is looked at here. */
import { createFramer } from "../../libs/adapter/framing.ts";

/** A stream up to this length is read anew from its beginning for every cut; of a longer one, what is around the cut. */
const WHOLE_BYTES_MAX = 16 * 1024;
/** Around a cut of a longer one. */
const AROUND_BYTES = 512;
/** As many bytes are read for one stream, over all its cuts; beyond that some cuts are left out. */
const READ_BYTES_MAX = 1024 * 1024 * 1024;

/** What the cuts came to. */
export interface Cuts {
  readonly count: number;
  /** 1 when it was cut at every byte. */
  readonly step: number;
  /** The first byte at which a cut makes a difference. */
  readonly differentAt: number | undefined;
}

/** Cuts `body` in two at every byte, and compares what a reader would be given. */
export function cutEverywhere(framing: "sse" | "ndjson", body: Buffer, strays: boolean): Cuts {
  const windows = windowsOf(body);
  const bytes = windows.reduce((sum, { from, to, first, last }) => sum + (to - from) * (last - first), 0);
  const step = Math.max(1, Math.ceil(bytes / READ_BYTES_MAX));
  let count = 0;
  for (const { from, to, first, last } of windows) {
    const window = body.subarray(from, to);
    const whole = events(framing, strays, [window]);
    for (let at = Math.max(first, 1); at < last; at += step) {
      count += 1;
      const cut = at - from;
      const pieces = cut === 0 ? [window] : [window.subarray(0, cut), window.subarray(cut)];
      if (!isSame(framing, strays, pieces, whole)) return { count, step, differentAt: at };
    }
  }
  return { count, step, differentAt: undefined };
}

/** A part of a stream, from one line end to another, and which bytes are cut there. */
interface Window {
  readonly from: number;
  readonly to: number;
  readonly first: number;
  readonly last: number;
}

function windowsOf(body: Buffer): Window[] {
  if (body.length <= WHOLE_BYTES_MAX) return [{ from: 0, to: body.length, first: 1, last: body.length }];
  const ends = blankLineEnds(body);
  const windows: Window[] = [];
  let first = 0;
  while (first < body.length) {
    const last = ends.find((end) => end >= first + AROUND_BYTES) ?? body.length;
    const from = ends.findLast((end) => end <= first - AROUND_BYTES) ?? 0;
    const to = ends.find((end) => end >= last + AROUND_BYTES) ?? body.length;
    windows.push({ from, to, first, last });
    first = last;
  }
  return windows;
}

/** Where a line, and with it an event, has ended. */
function blankLineEnds(body: Buffer): number[] {
  const ends: number[] = [];
  const text = body.toString("latin1");
  const blank = /\r\n\r\n|\n\n|\r\r/.test(text) ? /\r\n\r\n|\n\n|\r\r/g : /\n/g;
  for (const match of text.matchAll(blank)) ends.push(match.index + match[0].length);
  return ends;
}

function events(framing: "sse" | "ndjson", strays: boolean, pieces: readonly Buffer[]): string[] {
  const seen: string[] = [];
  frame(framing, strays, pieces, (text) => seen.push(text));
  return seen;
}

function isSame(
  framing: "sse" | "ndjson",
  strays: boolean,
  pieces: readonly Buffer[],
  expected: readonly string[],
): boolean {
  let index = 0;
  let same = true;
  frame(framing, strays, pieces, (text) => {
    if (expected[index] !== text) same = false;
    index += 1;
  });
  return same && index === expected.length;
}

function frame(
  framing: "sse" | "ndjson",
  strays: boolean,
  pieces: readonly Buffer[],
  take: (text: string) => void,
): void {
  try {
    const framer = createFramer(
      framing,
      ({ name, data }) => take(`${name}\n${data}`),
      strays ? (text) => take(`stray\n\n${text}`) : undefined,
    );
    for (const piece of pieces) framer.push(piece);
    framer.end();
  } catch {
    take("refused");
  }
}
