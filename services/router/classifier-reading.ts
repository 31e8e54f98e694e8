/** One walk over a bounded part of a text, which finds the words and marks that give away what the text is about. */
import { BRANDS, type Cue, SOURCE_ENDINGS, UNSPACED, WORDS } from "./classifier-words.ts";

/** What was found in a text. */
export interface Reading {
  /** The part of the text that is likely to say what is asked, in small letters. */
  readonly asked: string;
  /** Characters of the whole text. */
  readonly characters: number;
  /** Words of {@link asked}; in scripts that don't set words apart, about as many as a translation would have. */
  readonly words: number;
  /** By cue: how many words tell it. */
  readonly counts: Readonly<Record<Cue, number>>;
  /** By cue: how many words stand before the first that tells it. */
  readonly first: Readonly<Record<Cue, number>>;
  /** Something is to be made or mended, and a part of programs is named right after. */
  readonly makesProgram: boolean;
  /** "into" stands right before a language. */
  readonly intoTongue: boolean;
  /** And a text follows. */
  readonly textIntoTongue: boolean;
  /** A colon stands right after the word that asks for a translation. */
  readonly colonAfterTranslate: boolean;
  readonly numbers: number;
  /** Words such as `userName`, `user_name`. */
  readonly identifiers: number;
  /** Words such as `main.py`. */
  readonly files: number;
  /** Words with a pair of parentheses right behind them. */
  readonly calls: number;
  /** How many scripts it is written in. */
  readonly scripts: number;
  /** It is written without spaces between words. */
  readonly unspaced: boolean;
}

/** What is asked stands at the beginning or at the end of a long text; between them lies what it is about. */
const HEAD_CHARACTERS = 800;
const TAIL_CHARACTERS = 400;

/** How many words may stand between a verb of making and what is made. */
const MAKE_WORDS = 5;
/** Between "in" and "Polish", as in "in formal Polish". */
const INTO_WORDS = 2;
/** And between the word that asks for a translation and the colon before the text. */
const COLON_WORDS = 4;
/** So much has to follow the name of a language to be a text to translate. */
const FOLLOWING_CHARACTERS_MIN = 12;

interface Term {
  readonly cue: Cue;
  readonly text: string;
  /** Any ending may follow. */
  readonly open: boolean;
}

/** Terms that begin a word, by their first two characters, or the only one. */
const SPACED_TERMS = new Map<number, Term[]>();
const UNSPACED_TERMS: Term[] = [];
const CUES = Object.keys(WORDS) as Cue[];

for (const cue of CUES) {
  const known = new Set<string>();
  for (const [language, terms] of Object.entries(WORDS[cue] as Readonly<Record<string, string>>)) {
    const unspaced = (UNSPACED as readonly string[]).includes(language);
    for (const written of terms.split(" ")) {
      if (known.has(written)) continue;
      known.add(written);
      const open = written.endsWith("*");
      const term = { cue, open, text: (open ? written.slice(0, -1) : written).replaceAll("_", " ") };
      if (unspaced) UNSPACED_TERMS.push(term);
      else {
        const key = keyOf(term.text, 0);
        const others = SPACED_TERMS.get(key);
        if (others === undefined) SPACED_TERMS.set(key, [term]);
        else others.push(term);
      }
    }
  }
}

const NO_TERMS: readonly Term[] = [];
const NONE = Object.fromEntries(CUES.map((cue) => [cue, 0])) as Readonly<Record<Cue, number>>;
const NEVER = Object.fromEntries(CUES.map((cue) => [cue, Number.NEGATIVE_INFINITY])) as Readonly<Record<Cue, number>>;
const NOWHERE = Object.fromEntries(CUES.map((cue) => [cue, Number.POSITIVE_INFINITY])) as Readonly<Record<Cue, number>>;

/** Reads the beginning and the end of `text`. */
export function read(text: string): Reading {
  const bounded =
    text.length <= HEAD_CHARACTERS + TAIL_CHARACTERS
      ? text
      : `${text.slice(0, HEAD_CHARACTERS)}\n${text.slice(-TAIL_CHARACTERS)}`;
  // The one letter that becomes longer in small letters, and would put places in the two texts apart.
  const original = bounded.includes("İ") ? bounded.replaceAll("İ", "i") : bounded;
  const asked = original.toLowerCase();
  const counts = { ...NONE };
  const first = { ...NOWHERE };
  const last = { ...NEVER };
  let words = 0;
  let numbers = 0;
  let identifiers = 0;
  let files = 0;
  let calls = 0;
  let makesProgram = false;
  let intoTongue = false;
  let textIntoTongue = false;
  let colonAfterTranslate = false;
  let scripts = 0;

  const { length } = asked;
  for (let at = 0; at < length; ) {
    const code = asked.charCodeAt(at);
    if (!isWordCharacter(code)) {
      if ((code === COLON || code === WIDE_COLON) && words - last.translate <= COLON_WORDS) colonAfterTranslate = true;
      at++;
      continue;
    }
    let end = at + 1;
    while (end < length && !isBoundary(code, asked.charCodeAt(end))) end++;
    for (const { cue, text: term, open } of termsAt(asked, at)) {
      if (last[cue] === words || !asked.startsWith(term, at)) continue;
      if (!open && !isBoundary(code, asked.charCodeAt(at + term.length))) continue;
      if (cue === "program" && words - last.make <= MAKE_WORDS) makesProgram = true;
      if (cue === "tongue" && words - last.into <= INTO_WORDS) {
        intoTongue = true;
        if (isTextAfter(asked, end)) textIntoTongue = true;
      }
      counts[cue]++;
      first[cue] = Math.min(first[cue], words);
      last[cue] = words;
    }
    scripts |= scriptOf(code);
    if (code >= 0x30 && code <= 0x39) numbers++;
    else if (isIdentifier(original, at, end)) identifiers++;
    const next = asked.charCodeAt(end);
    if (next === OPENING && end - at >= 3 && !asked.startsWith("(s)", end)) calls++;
    if (next === STOP && isSourceEnding(asked, end + 1)) files++;
    words++;
    at = end;
  }

  const unspaced = (scripts & (SCRIPT.cjk | SCRIPT.arabic)) !== 0;
  if (unspaced) {
    for (const { cue, text: term } of UNSPACED_TERMS) {
      const at = asked.indexOf(term);
      if (at < 0) continue;
      counts[cue]++;
      first[cue] = Math.min(first[cue], Math.floor(at / CJK_CHARACTERS_PER_WORD));
    }
    if (counts.make > 0 && counts.program > 0) makesProgram = true;
    if (counts.translate > 0 && /[:：]/.test(asked)) colonAfterTranslate = true;
    if ((scripts & SCRIPT.cjk) !== 0) words = Math.max(words, Math.ceil(length / CJK_CHARACTERS_PER_WORD));
  }
  return {
    asked,
    characters: text.length,
    words,
    counts,
    first,
    makesProgram,
    intoTongue,
    textIntoTongue,
    colonAfterTranslate,
    numbers,
    identifiers,
    files,
    calls,
    scripts: bits(scripts),
    unspaced,
  };
}

const CJK_CHARACTERS_PER_WORD = 2;
const OPENING = 0x28;
const STOP = 0x2e;
const COLON = 0x3a;
const WIDE_COLON = 0xff1a;

const SCRIPT = { latin: 1, cyrillic: 2, arabic: 4, devanagari: 8, hangul: 16, cjk: 32, other: 64 } as const;

function scriptOf(code: number): number {
  if (code < 0x41) return 0;
  if (code < 0x370) return SCRIPT.latin;
  if (code >= 0x400 && code < 0x530) return SCRIPT.cyrillic;
  if (code >= 0x600 && code < 0x780) return SCRIPT.arabic;
  if (code >= 0x900 && code < 0x980) return SCRIPT.devanagari;
  if (code >= 0xac00 && code < 0xd7b0) return SCRIPT.hangul;
  if (code >= 0x3040 && code < 0xa000) return SCRIPT.cjk;
  return code < 0x1e00 ? SCRIPT.other : 0;
}

function bits(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++;
  return count;
}

function termsAt(text: string, at: number): readonly Term[] {
  const two = SPACED_TERMS.get(keyOf(text, at));
  const one = SPACED_TERMS.get(text.charCodeAt(at) * 0x1_0000);
  if (one === undefined) return two ?? NO_TERMS;
  return two === undefined || two === one ? one : [...two, ...one];
}

/** Two characters as one number. */
function keyOf(text: string, at: number): number {
  return text.charCodeAt(at) * 0x1_0000 + (at + 1 < text.length ? text.charCodeAt(at + 1) : 0);
}

/** Letters, digits, marks on letters, and `_`. */
function isWordCharacter(code: number): boolean {
  if (code < 0x80) {
    return (
      (code >= 0x61 && code <= 0x7a) ||
      (code >= 0x30 && code <= 0x39) ||
      code === 0x5f ||
      (code >= 0x41 && code <= 0x5a)
    );
  }
  // Everything but the blocks of punctuation and symbols; NaN, the end of the text, is in none of these ranges.
  return (
    (code >= 0xc0 && code < 0x2000 && code !== 0xd7 && code !== 0xf7 && !PUNCTUATION.has(code)) ||
    (code >= 0x3040 && code < 0xfe00 && code !== 0x30fb)
  );
}

/** Whether a word that `code` belongs to ends before `next`; words of East Asia follow Latin ones without a space. */
function isBoundary(code: number, next: number): boolean {
  return !isWordCharacter(next) || code < EAST_ASIAN !== next < EAST_ASIAN;
}

const EAST_ASIAN = 0x2e80;

/** Arabic comma, semicolon and question mark; danda. */
const PUNCTUATION: ReadonlySet<number> = new Set([0x60c, 0x61b, 0x61f, 0x6d4, 0x964, 0x965]);

/** Whether the word has a capital behind a small letter, capitals before small letters, or `_` between letters. */
function isIdentifier(text: string, from: number, to: number): boolean {
  let wasSmall = false;
  let capitals = 0;
  for (let at = from; at < to; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x5f && at > from && at + 1 < to) return true;
    const capital = code >= 0x41 && code <= 0x5a;
    const small = code >= 0x61 && code <= 0x7a;
    if (capital) capitals++;
    // "PHPUnit", but not "DVDs".
    else if (!small || capitals < 3 || to - at < 2) capitals = 0;
    if ((capital && wasSmall) || (small && capitals >= 3)) return !BRANDS.has(text.slice(from, to));
    wasSmall = small;
  }
  return false;
}

function isSourceEnding(text: string, from: number): boolean {
  let to = from;
  while (to < from + 6 && isWordCharacter(text.charCodeAt(to))) to++;
  return to > from && SOURCE_ENDINGS.has(text.slice(from, to));
}

/** Whether a sentence ends soon, and another begins behind it. */
function isTextAfter(text: string, from: number): boolean {
  const limit = Math.min(text.length - FOLLOWING_CHARACTERS_MIN, from + 40);
  for (let at = from; at < limit; at++) if (".:?!\n".includes(text[at]!)) return true;
  return false;
}
