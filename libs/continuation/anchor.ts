/**
 * Comparing what a worker says with what has been said: folding, words, the anchor, and following how far a text repeats the
 * end of another one.
 */

/** Words of the anchor, or characters where words are long. */
const ANCHOR_WORDS = 8;
const ANCHOR_CHARACTERS = 60;
/** A longer anchor no model repeats without a mistake. */
const ANCHOR_CHARACTERS_MAX = 2_000;
/** How far from the end a repetition may begin, unless it is one of the whole text. */
const TAIL_CHARACTERS_MAX = 2_000;

/** Scripts without blanks between words: each of their characters counts as a word. */
const SPACELESS = /[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}]/u;

/** Whether this character belongs to a script that puts no blanks between words. */
export function isSpaceless(character: string): boolean {
  // Punctuation and digits that these scripts share with all others are none of theirs.
  return character > "\u0e00" && SPACELESS.test(character);
}

/** Whether this character is white space. */
export function isBlank(character: string): boolean {
  return character.trim() === "";
}

/** A repetition of fewer characters is no proof. */
export const CERTAIN_CHARACTERS = 12;
const WORD = /[\p{L}\p{N}]/u;

/** Whether what was repeated, folded, is long enough to be no accident, and more than a word. */
export function isCertain(repeated: string): boolean {
  return repeated.length >= CERTAIN_CHARACTERS && wordsOf(repeated).length > 1;
}

/** Whether `next` can't be read on from `text` without a blank. Neither begins or ends with one. */
export function wordsCollide(text: string, next: string): boolean {
  const last = lastCharacter(text);
  return !isSpaceless(last) && !isSpaceless(next[0]!) && (WORD.test(last) || /[.!?]/.test(last));
}

function lastCharacter(text: string): string {
  const unit = text.slice(-2);
  return unit.codePointAt(0)! > 0xffff ? unit : text.slice(-1);
}

/** What counts as the same when texts are compared. */
export interface Folding {
  /** Upper and lower case are the same. */
  readonly ignoreCase: boolean;
}

const QUOTES: Readonly<Record<string, string>> = { "‘": "'", "’": "'", "“": '"', "”": '"' };

/** One UTF-16 unit, folded; all white space is a blank, and quotation marks lose their curls, as models do both. */
function foldUnit(unit: string, { ignoreCase }: Folding): string {
  if (unit < "\u007f" && (!ignoreCase || unit < "A" || unit > "Z")) return unit <= " " && isBlank(unit) ? " " : unit;
  if (isBlank(unit)) return " ";
  const plain = QUOTES[unit] ?? unit;
  if (!ignoreCase) return plain;
  const lower = plain.toLowerCase();
  return lower.length === 1 ? lower : plain;
}

/** A text, folded: each run of white space is one blank. */
export function fold(text: string, folding: Folding): string {
  const spaced = text.replace(/\s+/g, " ");
  let folded = "";
  for (let index = 0; index < spaced.length; index++) folded += foldUnit(spaced[index]!, folding);
  return folded;
}

/** Whether a word begins at `index`. */
function beginsWord(text: string, index: number): boolean {
  const unit = text[index]!;
  if (isBlank(unit)) return false;
  return index === 0 || isBlank(text[index - 1]!) || isSpaceless(unit);
}

/**
 * Where the anchor of `text`, which must not end in a blank, begins: its last few words, and as many more as are needed for
 * them to stand nowhere else in it. Then whoever repeats the anchor, more than the anchor, or the whole text, repeats it
 * once, and its end is the end of the text. `unique` is false for a text that repeats itself over thousands of characters.
 */
export function anchorStart(text: string): { readonly start: number; readonly unique: boolean } {
  const folded = fold(text, { ignoreCase: true });
  let start = text.length;
  for (let words = 1; ; words++) {
    start = previousWord(text, start);
    const length = text.length - start;
    if (start === 0) return { start, unique: true };
    if (words < ANCHOR_WORDS && length < ANCHOR_CHARACTERS) continue;
    const anchor = fold(text.slice(start), { ignoreCase: true });
    if (folded.lastIndexOf(anchor, folded.length - anchor.length - 1) === -1) return { start, unique: true };
    if (length > ANCHOR_CHARACTERS_MAX) return { start, unique: false };
  }
}

/** Where the word before `end` begins; what is longer than an anchor and has no blank is cut anywhere. */
function previousWord(text: string, end: number): number {
  const least = Math.max(0, end - ANCHOR_CHARACTERS);
  for (let index = end - 1; index > least; index--) if (beginsWord(text, index)) return index;
  const insideCharacter = least > 0 && /[\udc00-\udfff]/.test(text[least]!);
  return insideCharacter ? least - 1 : least;
}

/** An end of the text that has been repeated in full. */
export interface Repetition {
  /** What was repeated, folded. */
  readonly repeated: string;
  /** How many units of what was pushed it took. */
  readonly end: number;
  /** It was the whole text. */
  readonly whole: boolean;
}

/** Follows which ends of a text are repeated by what comes, from its first character on. */
export class Repetitions {
  /** Those that were repeated in full, shortest first. */
  readonly complete: Repetition[] = [];
  /** How many folded characters of the text's beginning were repeated. */
  beginningLength = 0;
  readonly #text: string;
  readonly #folding: Folding;
  /** Where the ends begin that agree with all that has come. */
  #starts: number[];
  /** Folded units that have come. */
  #length = 0;
  #afterBlank = false;
  /** Units that have come. */
  #pushed = 0;

  /** `text` must not end in a blank. Ends that begin with a word are followed, the whole text, and the end from `also` on. */
  constructor(text: string, folding: Folding, also = 0) {
    this.#text = fold(text, folding);
    this.#folding = folding;
    const starts = new Set([0, this.#text.length - fold(text.slice(also), folding).length]);
    for (let index = Math.max(0, this.#text.length - TAIL_CHARACTERS_MAX); index < this.#text.length; index++) {
      if (beginsWord(this.#text, index)) starts.add(index);
    }
    this.#starts = [...starts];
  }

  /** Whether what comes may still decide. */
  get open(): boolean {
    return this.#starts.length > 0;
  }

  /** Takes more of what comes, as far as it is needed. */
  push(text: string): void {
    for (let index = 0; index < text.length && this.open; index++) {
      this.#pushed++;
      const unit = foldUnit(text[index]!, this.#folding);
      if (unit === " " && this.#afterBlank) continue;
      this.#afterBlank = unit === " ";
      this.#take(unit);
    }
  }

  #take(unit: string): void {
    const length = this.#length++;
    if (this.#starts[0] === 0 && this.#text[length] === unit) this.beginningLength = length + 1;
    const agrees = (start: number) => this.#text[start + length] === unit;
    // Mostly all of the few that are left agree: a long repetition then costs no allocation for each character.
    if (!this.#starts.every(agrees)) this.#starts = this.#starts.filter(agrees);
    const done = this.#text.length - length - 1;
    const completed = this.#starts.indexOf(done);
    if (completed === -1) return;
    this.#starts.splice(completed, 1);
    this.complete.push({ repeated: this.#text.slice(done), end: this.#pushed, whole: done === 0 });
  }
}

/** The words of a folded text. */
export function wordsOf(folded: string): string[] {
  const words: string[] = [];
  for (const run of folded.split(" ")) {
    if (run === "") continue;
    const characters = [...run];
    if (characters.some(isSpaceless)) words.push(...characters);
    else words.push(run);
  }
  return words;
}
