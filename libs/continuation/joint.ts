/** What the ways of joining two texts have in common. */
import { RpcError } from "../rpc/index.ts";

/** A model that is stuck writes blanks without end; they are not held back without end. */
export const BLANKS_MAX = 1_000;

/** Decides, from as little as possible of what a worker says, where it goes on. */
export interface Joint {
  /** What may be handed out of all that has been pushed; undefined while that is undecided. Throws CONTINUATION_MISMATCH. */
  push(text: string): string | undefined;
  /** The same, now that nothing more comes. */
  end(): string;
}

/** What of the blanks that come is to be handed out, when the blanks `said` have been. */
export function afterBlanks(said: string, blanks: string): string {
  if (said === "") return blanks;
  // Other blanks than those are another model's taste in layout: the client keeps what it has.
  return blanks.startsWith(said) ? blanks.slice(said.length) : "";
}

/**
 * What of `held` is to be handed out when all up to `end` has been, followed by the blanks `said`. Undefined while only the
 * next word can tell.
 */
export function afterEnd(held: string, end: number, said: string, ended: boolean): string | undefined {
  const rest = held.slice(end);
  if (said === "") return rest;
  const word = rest.search(/\S/);
  if (word === -1 && rest.length > BLANKS_MAX) throw mismatch("it says nothing but blanks");
  if (word === -1) return ended ? afterBlanks(said, rest) : undefined;
  if (word === 0) throw mismatch("it leaves out a blank that has been sent");
  return afterBlanks(said, rest.slice(0, word)) + rest.slice(word);
}

/** The error for a worker that does not go on. It quotes nothing of the text. */
export function mismatch(why: string): RpcError {
  return new RpcError("CONTINUATION_MISMATCH", `the worker does not go on with the interrupted answer: ${why}`);
}
