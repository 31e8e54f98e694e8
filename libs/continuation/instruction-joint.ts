/**
 * The joint after an instruction to go on. The rules, each with its reason:
 *
 * 1. The marker has to come, within a bounded distance; what comes before it is dropped ("Sure, here it goes:"). Without it
 *    a text that goes on by repeating itself (a refrain, "la la la") looks the same as one that repeats its last words.
 *    One repetition is certain all the same: of a long end of the text or of all of it, the only one that fits, at once, and
 *    so that words would run into each other if it was none ("…the lazyThe quick brown fox jumps over the lazy").
 * 2. After it has to come the anchor, or a longer end of the text, or the whole text; nothing else, not even a preamble, as
 *    the anchor further on may be a genuine repetition. Case, kind of blanks and curls of quotation marks may differ. An end
 *    that is longer than what was asked for must not begin like a shorter one, which it might be, followed by new text. The
 *    anchor itself is taken for what was asked for: this is where the worker is trusted.
 * 3. What follows is handed out from the first character on. As the anchor stands only once in the text, there is one place
 *    where it can end: inside a word or before a blank, as the worker has it.
 * 4. Blanks at the text's end are not asked to be repeated (models can't see them); those that come are taken for them.
 */
import { anchorStart, fold, isCertain, Repetitions, wordsCollide } from "./anchor.ts";
import { afterEnd, type Joint, mismatch } from "./joint.ts";
import { MARKER } from "./request.ts";

const PREAMBLE_CHARACTERS_MAX = 1_000;
const FOLDING = { ignoreCase: true };

/** Joins what a worker says to `text`, after it was told to go on with it. */
export class InstructionJoint implements Joint {
  readonly #blanks: string;
  readonly #unique: boolean;
  /** Folded. */
  readonly #anchorLength: number;
  readonly #repetitions: Repetitions;
  readonly #text: string;
  /** Follows what comes without a marker. */
  readonly #unmarked: Repetitions;
  #held = "";
  /** Where in what is held the repetition begins; -1 until it has. */
  #begin = -1;

  constructor(text: string) {
    const said = text.trimEnd();
    const { start, unique } = anchorStart(said);
    this.#text = said;
    this.#unmarked = new Repetitions(said, { ignoreCase: false });
    this.#blanks = text.slice(said.length);
    this.#unique = unique;
    this.#repetitions = new Repetitions(said, FOLDING, start);
    this.#anchorLength = fold(said.slice(start), FOLDING).length;
  }

  push(text: string): string | undefined {
    if (!this.#unique) throw mismatch("the answer repeats itself too much to find the place");
    this.#held += text;
    if (this.#begin !== -1) this.#repetitions.push(text);
    else {
      this.#unmarked.push(text);
      if (!this.#findBegin()) return this.#decideUnmarked();
    }
    return this.#decide(false);
  }

  end(): string {
    const decided = this.#begin === -1 ? this.#decideUnmarked() : this.#decide(true);
    if (decided === undefined) throw mismatch("it did not repeat the last words");
    return decided;
  }

  /** Finds the marker and what comes behind it. */
  #findBegin(): boolean {
    const found = this.#held.indexOf(MARKER);
    if (found === -1) {
      const late = this.#held.length > PREAMBLE_CHARACTERS_MAX && !this.#unmarked.open;
      if (late && this.#decideUnmarked() === undefined) throw mismatch("it did not write the marker");
      return false;
    }
    const behind = this.#held.slice(found + MARKER.length);
    const blanks = behind.search(/\S/);
    if (blanks === -1) return false;
    this.#begin = found + MARKER.length + blanks;
    this.#repetitions.push(behind.slice(blanks));
    return true;
  }

  /** The one repetition that is certain without a marker. Where blanks end the text, nothing would run into each other. */
  #decideUnmarked(): string | undefined {
    const { complete, open } = this.#unmarked;
    const [repetition, another] = complete;
    if (repetition === undefined || another !== undefined || open || this.#blanks !== "") return undefined;
    if (!isCertain(repetition.repeated) || !wordsCollide(this.#text, this.#held)) return undefined;
    return this.#held.slice(repetition.end);
  }

  #decide(ended: boolean): string | undefined {
    const { complete, open } = this.#repetitions;
    const repetition = complete.find(({ repeated }) => repeated.length >= this.#anchorLength);
    if (repetition === undefined) {
      if (open && !ended) return undefined;
      throw mismatch("it did not repeat the last words");
    }
    const doubtful = repetition.repeated.length > this.#anchorLength && complete.length > 1;
    if (doubtful) throw mismatch("it may have repeated the last words in two ways");
    return afterEnd(this.#held, this.#begin + repetition.end, this.#blanks, ended);
  }
}
