/** Joins what the next worker says to what has been said. */
import { InstructionJoint } from "./instruction-joint.ts";
import { afterBlanks, type Joint, mismatch } from "./joint.ts";
import { PrefillJoint } from "./prefill-joint.ts";
import type { ContinuationMode } from "./request.ts";

/**
 * The seam of one continuation: give it all text of the worker that takes over, and hand on what it gives. It holds text back
 * until it is sure, which takes a few words, or as long as the worker repeats what has been said. Then it lets all through.
 */
export class Seam {
  #joint: Joint | undefined;

  /** `text` is what the client has seen, as given to continuationRequest. */
  constructor(text: string, mode: ContinuationMode) {
    if (text.trim() === "") this.#joint = new BlankJoint(text);
    else this.#joint = mode === "prefill" ? new PrefillJoint(text) : new InstructionJoint(text);
  }

  /** Still undecided. */
  get open(): boolean {
    return this.#joint !== undefined;
  }

  /** What may be handed out now. Throws CONTINUATION_MISMATCH when the worker does not go on with the text. */
  push(text: string): string {
    if (this.#joint === undefined) return text;
    const decided = this.#joint.push(text);
    if (decided === undefined) return "";
    this.#joint = undefined;
    return decided;
  }

  /** The worker's text has ended: what was held back. Throws as push does. */
  end(): string {
    const rest = this.#joint?.end() ?? "";
    this.#joint = undefined;
    return rest;
  }
}

/** Nothing but blanks has been said, and the question was asked anew: the answer is taken as it comes. */
class BlankJoint implements Joint {
  readonly #said: string;
  #held = "";

  constructor(said: string) {
    this.#said = said;
  }

  push(text: string): string | undefined {
    this.#held += text;
    const begin = this.#held.search(/\S/);
    if (begin === -1) return undefined;
    return afterBlanks(this.#said, this.#held.slice(0, begin)) + this.#held.slice(begin);
  }

  end(): string {
    throw mismatch("it said nothing");
  }
}
