/** What a client must see, and how what it saw differs from that: every judgement of the suite, in words. */
import type { Seen } from "./client.ts";

/** A client saw something else than it must. */
export class Mismatch extends Error {
  /** What it saw is cut short, and nothing said so: the worst that can happen, as nobody will notice. */
  readonly silent: boolean;

  constructor(message: string, silent = false) {
    super(message);
    this.silent = silent;
  }
}

/** An answer with 200 that is over, with less than there should be and without a word about it. */
function isSilent({ status, end, error, text }: Seen, expected: string): boolean {
  return status === 200 && end === "clean" && error === undefined && text.length < expected.length;
}

/** What was seen, in a few words. */
export function describe(seen: Seen, expected?: string): string {
  if (seen.status === 0) return seen.end === "late" ? "no answer at all" : "the connection was lost without an answer";
  const words = [String(seen.status)];
  if (expected !== undefined && seen.text !== "") words.push(extent(seen.text, expected));
  else if (expected !== undefined && seen.status < 400) words.push("no text");
  if (seen.finishes.length > 0) words.push(`finish ${seen.finishes.join(" and ")}`);
  if (seen.error !== undefined) words.push(`error ${errorName(seen)}`);
  else if (seen.status >= 400) words.push("no error body");
  if (seen.strange.length > 0) words.push(`unreadable: ${JSON.stringify(seen.strange[0]!.slice(0, 40))}`);
  if (seen.end === "broken") words.push("connection lost");
  else if (seen.end === "late") words.push("still open when the client gave up");
  else if (seen.error === undefined && seen.status < 400) words.push("clean end");
  if (isStream(seen) && seen.status < 400 && seen.done.count !== 1) words.push(`[DONE] ${seen.done.count} times`);
  return words.join(", ");
}

function extent(text: string, expected: string): string {
  if (text === expected) return "the whole text";
  const shown = (part: string) => JSON.stringify(part.length > 30 ? `…${part.slice(-30)}` : part);
  if (expected.startsWith(text)) return `${text.length} of ${expected.length} characters`;
  let same = 0;
  while (same < text.length && text[same] === expected[same]) same += 1;
  return `${same} right characters and then ${shown(text.slice(same, same + 30))}`;
}

function errorName({ error }: Seen): string {
  const { code, message, type } = error ?? {};
  return String(code ?? (typeof type === "string" ? type : undefined) ?? message ?? "without a message").slice(0, 60);
}

function isStream({ headers }: Seen): boolean {
  return /event-stream/.test(headers["content-type"] ?? "");
}

/** The whole text, one finish, a clean end and nothing else. */
export function mustBeWhole(seen: Seen, expected: string): string {
  const { status, text, finishes, error, end, done, strange } = seen;
  const complete = status === 200 && text === expected && error === undefined && end === "clean";
  const finished = finishes.length === 1 && finishes[0] === "stop";
  const closed = !isStream(seen) || (done.count === 1 && done.last && strange.length === 0);
  if (!complete || !finished || !closed) throw new Mismatch(describe(seen, expected), isSilent(seen, expected));
  return "the whole text";
}

/**
 * An answer that can't be finished says so: by an error in the stream, or a connection that is lost and not closed. Without an
 * expected text it is about something else than text.
 */
export function mustBeTold(seen: Seen, expected?: string): string {
  const told = seen.error !== undefined || seen.end === "broken";
  const over = seen.status === 200 && seen.end === "clean";
  if (!told || seen.finishes.length > 0 || seen.end === "late")
    throw new Mismatch(describe(seen, expected), over && !told);
  return describe(seen, expected);
}

/** Either of the two. */
export function mustBeWholeOrTold(seen: Seen, expected: string): string {
  return seen.text === expected && seen.error === undefined ? mustBeWhole(seen, expected) : mustBeTold(seen, expected);
}

/** An HTTP status of these, and a JSON body that says what went wrong. */
export function mustBeRefused(seen: Seen, statuses: (status: number) => boolean): string {
  const message = seen.error?.["message"];
  if (!statuses(seen.status) || seen.end !== "clean" || typeof message !== "string" || message === "") {
    throw new Mismatch(describe(seen));
  }
  return describe(seen);
}

/** Throws unless `holds`. */
export function must(holds: boolean, otherwise: () => string): void {
  if (!holds) throw new Mismatch(otherwise());
}
