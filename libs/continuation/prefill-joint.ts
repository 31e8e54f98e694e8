/**
 * The joint after a prefill, which a model completes by itself. The worker is taken at its word as long as nothing speaks
 * against it; but some providers ignore a prefill and begin again. The rules, each with its reason:
 *
 * 1. Nothing at all is no continuation: an empty answer is how some providers fail.
 * 2. Where nothing stands between the two ("the catThe cat"), what comes is either the rest of a word, or a sign, or a new
 *    beginning. If it repeats an end of the text (or all of it) that is long, of several words, and the only one that fits,
 *    and if words would run into each other otherwise, the repetition is certain and dropped. If it repeats a short one
 *    ("re" + "read"), or several fit ("la la"), or it begins like the text but in other words, or with a capital letter,
 *    nobody can tell: refused.
 * 3. Where a blank stands between, the worker goes on. One repeated word is genuine then ("very very"). Two words or more,
 *    or the whole text, might be either, as some models begin each answer with a blank: refused. So is a beginning that
 *    agrees with the text's own for long.
 * 4. Scripts without blanks have no words that run into each other: no repetition is certain there.
 * 5. Providers refuse a prefill that ends in blanks, so it was sent without them: those that come are taken for them, and if
 *    none come the worker has not gone on from there.
 */
import { CERTAIN_CHARACTERS, isCertain, isSpaceless, Repetitions, wordsCollide, wordsOf } from "./anchor.ts";
import { afterBlanks, afterEnd, BLANKS_MAX, type Joint, mismatch } from "./joint.ts";

/** A beginning that agrees with the text's own for so long is a new beginning. */
const SAME_BEGINNING_CHARACTERS = 24;
const SAME_SPACELESS_BEGINNING_CHARACTERS = 4;
/** How much of a possible new beginning is compared with the text's own, word by word. */
const BEGINNING_WORDS = 8;
const BEGINNING_CHARACTERS = 80;

const FOLDING = { ignoreCase: false };

export class PrefillJoint implements Joint {
  readonly #text: string;
  readonly #blanks: string;
  readonly #repetitions: Repetitions;
  #held = "";
  /** Where in what is held the first word begins; -1 until it has come. */
  #begin = -1;

  constructor(text: string) {
    this.#text = text.trimEnd();
    this.#blanks = text.slice(this.#text.length);
    this.#repetitions = new Repetitions(this.#text, FOLDING);
  }

  push(text: string): string | undefined {
    this.#held += text;
    if (this.#begin !== -1) this.#repetitions.push(text);
    else if (!this.#findBegin()) return undefined;
    return this.#repetitions.open ? undefined : this.#decide(false);
  }

  end(): string {
    // A repetition that is not at its end proves nothing now.
    const decided = this.#begin === -1 ? undefined : this.#decide(true);
    if (decided === undefined) throw mismatch("it said nothing");
    return decided;
  }

  #findBegin(): boolean {
    this.#begin = this.#held.search(/\S/);
    if (this.#begin !== -1) this.#repetitions.push(this.#held.slice(this.#begin));
    else if (this.#held.length > BLANKS_MAX) throw mismatch("it says nothing but blanks");
    return this.#begin !== -1;
  }

  #decide(ended: boolean): string | undefined {
    return this.#begin > 0 ? this.#afterBlank() : this.#withoutBlank(ended);
  }

  /** Rule 3. */
  #afterBlank(): string {
    const { complete, beginningLength } = this.#repetitions;
    const doubtful = complete.some(({ repeated, whole }) => whole || wordsOf(repeated).length > 1);
    if (doubtful) throw mismatch("it may be a repetition");
    if (beginningLength >= SAME_BEGINNING_CHARACTERS) throw mismatch("it begins again");
    return afterBlanks(this.#blanks, this.#held.slice(0, this.#begin)) + this.#held.slice(this.#begin);
  }

  /** Rules 2, 4 and 5. */
  #withoutBlank(ended: boolean): string | undefined {
    const [repetition, another] = this.#repetitions.complete;
    if (repetition !== undefined) {
      const only = another === undefined && !this.#repetitions.open;
      if (only && this.#wordsCollide && isCertain(repetition.repeated)) {
        return afterEnd(this.#held, repetition.end, this.#blanks, ended);
      }
      throw mismatch("it may be a repetition");
    }
    if (this.#blanks !== "") throw mismatch("it leaves out a blank that has been sent");
    if (isUpper(this.#held)) throw mismatch("it begins anew in the middle of a sentence");
    const words = this.#held.split(/\s+/);
    const enough = words.length > BEGINNING_WORDS || this.#held.length > BEGINNING_CHARACTERS;
    if (!enough && !ended) return undefined;
    if (this.#beginsAlike || beginsLike(words, this.#text)) throw mismatch("it begins again in other words");
    return this.#held;
  }

  /** Whether what comes can't be read on from the text without a blank. */
  get #wordsCollide(): boolean {
    if (this.#blanks !== "") return true;
    return wordsCollide(this.#text, this.#held);
  }

  get #beginsAlike(): boolean {
    const least = isSpaceless(this.#text[0]!) ? SAME_SPACELESS_BEGINNING_CHARACTERS : CERTAIN_CHARACTERS;
    return this.#repetitions.beginningLength >= least;
  }
}

/** Whether two texts begin with the same word, or share most of their first words in any order. */
function beginsLike(words: readonly string[], text: string): boolean {
  const first = words.slice(0, BEGINNING_WORDS).map(bare).filter(Boolean);
  const original = text
    .slice(0, 4 * BEGINNING_CHARACTERS)
    .split(/\s+/)
    .slice(0, 2 * BEGINNING_WORDS)
    .map(bare);
  if (first[0] === original[0]) return true;
  const shared = first.filter((word) => original.includes(word)).length;
  return shared >= 3 && shared >= 0.6 * Math.min(first.length, original.length);
}

/** A word without the signs around it. */
function bare(word: string): string {
  return word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "").toLowerCase();
}

/** Whether a text begins with a capital letter. */
function isUpper(text: string): boolean {
  return /^\p{Lu}/u.test(text);
}
