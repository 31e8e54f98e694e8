/**
 * What kind of work a prompt is, guessed from its words and its punctuation: code, translation, reasoning, or a simple
 * question. It takes tens of microseconds: no model, a bounded part of the text, and no pattern that could run wild.
 * docs/classification.md shows how well it does.
 */
import { type Reading, read } from "./classifier-reading.ts";

/** A kind of work that some models do better than others. */
export type Kind = "code" | "translation" | "reasoning" | "simple";

/** A kind that stands out. */
export interface Guess {
  readonly kind: Kind;
  /** How sure it is, from 0 to 1. */
  readonly confidence: number;
  /** What says so, without quoting the prompt. */
  readonly why: string;
}

/** A kind stands out from here on. */
const CONFIDENCE_MIN = 0.5;
/** What was said before counts for less than what is asked now. */
const CONTEXT_SHARE = 0.65;

/**
 * The kinds that stand out in what the user says last, most certain first; none when nothing does. `context` is what was
 * said before: it adds what the prompt leaves unsaid ("now make it faster").
 */
export function classify(prompt: string, context: readonly string[] = []): Guess[] {
  const reading = read(prompt);
  const guesses = stated(prompt, reading);
  for (const earlier of context) {
    for (const { kind, confidence, why } of stated(earlier, read(earlier))) {
      const weighed = { kind, confidence: confidence * CONTEXT_SHARE, why: `${why}, earlier in the conversation` };
      const known = guesses.findIndex((guess) => guess.kind === kind);
      if (known < 0) guesses.push(weighed);
      else if (guesses[known]!.confidence < weighed.confidence) guesses[known] = weighed;
    }
  }
  const standing = guesses.filter(({ confidence }) => confidence >= CONFIDENCE_MIN);
  if (standing.length === 0) {
    const simple = simplicity(reading);
    return simple === undefined ? [] : [simple];
  }
  return standing
    .map((guess) => ({ ...guess, confidence: Math.round(guess.confidence * 100) / 100 }))
    .sort((a, b) => b.confidence - a.confidence);
}

function stated(text: string, reading: Reading): Guess[] {
  const translation = translationIn(reading);
  const code = codeIn(text, reading);
  const reasoning = reasoningIn(reading);
  // What is to be translated may be about anything.
  if (translation.confidence >= TRANSLATION_SURE) {
    code.weaken(0.5);
    reasoning.weaken(0.5);
  }
  return [code.guess("code"), translation.guess("translation"), reasoning.guess("reasoning")];
}

const TRANSLATION_SURE = 0.7;

/** Evidence for one kind: each piece makes it more likely, none makes it certain. */
class Evidence {
  #doubt = 1;
  #strongest = 0;
  #why = "";

  add(weight: number, why: string): void {
    this.#doubt *= 1 - weight;
    if (weight <= this.#strongest) return;
    this.#strongest = weight;
    this.#why = why;
  }

  weaken(share: number): void {
    this.#doubt = 1 - this.confidence * share;
  }

  get confidence(): number {
    return 1 - this.#doubt;
  }

  guess(kind: Kind): Guess {
    return { kind, confidence: this.confidence, why: this.#why };
  }
}

function codeIn(text: string, reading: Reading): Evidence {
  const { counts, identifiers, files, calls, makesProgram } = reading;
  const evidence = new Evidence();
  const marks = marksOf(text);
  if (marks.fenced) evidence.add(0.85, "a block of code");
  if (marks.trace) evidence.add(0.8, "an error of a program");
  if (marks.lines >= 2) evidence.add(0.85, "lines of code");
  else if (marks.lines === 1) evidence.add(0.55, "a line of code");
  if (marks.quoted) evidence.add(0.4, "code in backticks");
  if (marks.dense) evidence.add(0.35, "the punctuation of code");
  if (files > 0) evidence.add(0.4, "the name of a source file");
  if (calls > 0) evidence.add(0.4, "a call of a function");
  if (identifiers > 0) evidence.add(identifiers === 1 ? 0.3 : 0.55, "identifiers");
  if (counts.technology > 0) evidence.add(counts.technology === 1 ? 0.6 : 0.75, "the name of a technology");
  const parts = counts.program - counts.notCode;
  if (parts > 0) {
    if (counts.language > 0) evidence.add(0.6, "a programming language and parts of programs");
    if (makesProgram) evidence.add(0.35, "a part of a program is asked for");
    evidence.add(parts === 1 ? 0.3 : 0.5, "words of programmers");
  } else if (counts.language > 0)
    evidence.add(counts.programLike > 0 ? 0.5 : 0.3, "the name of a programming language");
  if (counts.programLike > 0) evidence.add(counts.programLike === 1 ? 0.1 : 0.2, "words that programmers use");
  if (counts.compose > 0 && !marks.fenced && marks.lines === 0) evidence.weaken(0.7);
  return evidence;
}

function translationIn({ counts, first, words, scripts, asked, ...found }: Reading): Evidence {
  const evidence = new Evidence();
  const quoted = QUOTE.test(asked);
  if (counts.translate > 0) {
    if (counts.tongue > 0)
      evidence.add(first.translate <= FAR_WORDS ? 0.85 : 0.5, "it asks for a translation into a language");
    else evidence.add(0.3, "it speaks of translating");
    if (quoted) evidence.add(0.4, "a text to translate in quotes");
    if (found.colonAfterTranslate) evidence.add(0.5, "a text to translate follows");
    if (scripts > 1) evidence.add(0.5, "it is written in two scripts");
  } else if (counts.tongue > 0 && scripts > 1) evidence.add(0.3, "it is written in two scripts");
  const following = quoted || asked.includes(":") || asked.includes("：");
  if (counts.tongue > 0 && counts.translate === 0) {
    if (found.intoTongue) evidence.add(0.25, "it names a language that something is to be in");
    if (counts.speak > 0) evidence.add(0.3, "it asks how to say something");
    if (following) evidence.add(0.35, "a language and a text");
    if (quoted && words <= SHORT_WORDS && first.fact > 0) evidence.add(0.3, "a short text in quotes, and a language");
  }
  if (counts.say > 0 && counts.tongue > 0)
    evidence.add(words <= SHORT_WORDS || quoted ? 0.85 : 0.4, "it asks how to say something");
  if (counts.meaning > 0 && counts.tongue > 0 && quoted)
    evidence.add(0.75, "it asks for a meaning in another language");
  if (found.textIntoTongue) evidence.add(0.6, "a text that is to be in another language");
  if (LANGUAGE_PAIR.test(asked)) evidence.add(0.7, "a pair of languages");
  return evidence;
}

/** Further from the beginning a word that asks for a translation may belong to what the text is about. */
const FAR_WORDS = 25;
const SHORT_WORDS = 14;
const QUOTE = /["“”„«»「」『』]/;
const LANGUAGE_PAIR =
  /\b(?:en|de|fr|es|it|pt|nl|pl|ru|zh|ja|ko|ar|tr|hi|sv|da|no|cs|uk|el) ?(?:->|→|=>|⇒|>) ?(?:en|de|fr|es|it|pt|nl|pl|ru|zh|ja|ko|ar|tr|hi|sv|da|no|cs|uk|el)\b/;

function reasoningIn({ counts, asked, words, numbers }: Reading): Evidence {
  const evidence = new Evidence();
  const { mathematics } = counts;
  const equation = EQUATION.test(asked);
  if (counts.prove > 0) {
    evidence.add(0.45, "it asks for a proof");
    if (mathematics > 0 || equation) evidence.add(0.5, "it asks for a mathematical proof");
  }
  if (counts.steps > 0) evidence.add(0.5, "it asks for each step");
  if (counts.solve > 0) {
    evidence.add(0.2, "something is to be worked out");
    if (mathematics > 0 || equation) evidence.add(0.4, "something mathematical is to be worked out");
  }
  if (mathematics > 0) evidence.add(mathematics === 1 ? 0.35 : 0.55, "words of mathematics");
  if (equation) evidence.add(0.45, "an equation");
  if (counts.puzzle > 0) evidence.add(counts.puzzle === 1 ? 0.4 : 0.65, "words of puzzles");
  if (numbers >= 2 && words >= WORD_PROBLEM_WORDS && counts.fact > 0 && counts.compose === 0) {
    evidence.add(0.25, "a question about several numbers");
  }
  if (numbers >= 2 && counts.quantity > 0 && counts.compose === 0) {
    evidence.add(0.5, "numbers, and a question for another one");
  } else if (numbers >= 3 && QUESTION_MARK.test(asked) && counts.compose === 0)
    evidence.add(0.3, "a question about several numbers");
  if (counts.compose > 0 && counts.steps + mathematics === 0 && !equation) evidence.weaken(0.5);
  return evidence;
}

const WORD_PROBLEM_WORDS = 14;
/** `3x + 2 = 5`, `x^2`, `√3`: something with a letter or a digit on both sides. */
const EQUATION = /[0-9a-z)²³] ?[=≤≥] ?[-(]?[0-9a-z√]|[0-9a-z)]\^[0-9a-z(]|[√∫∑²³]/;

/** Whether it is a question that one sentence answers. */
function simplicity({ counts, first, words, characters, numbers, asked, unspaced }: Reading): Guess | undefined {
  if (
    characters > SIMPLE_CHARACTERS_MAX ||
    words > SIMPLE_WORDS_MAX ||
    counts.compose > 0 ||
    asked.trim().includes("\n")
  ) {
    return undefined;
  }
  if (counts.greeting > 0 && first.greeting === 0 && words <= GREETING_WORDS_MAX) {
    return { kind: "simple", confidence: 0.8, why: "a greeting" };
  }
  if (counts.make + counts.translate + counts.personal > 0 || numbers > 2) return undefined;
  const asks = QUESTION_MARK.test(asked) || first.fact === 0;
  if (counts.fact === 0 || !asks || (!unspaced && first.fact > QUESTION_WORDS_BEFORE && !QUESTION_MARK.test(asked)))
    return undefined;
  return { kind: "simple", confidence: words <= SHORT_WORDS / 2 ? 0.75 : 0.6, why: "a short question" };
}

const SIMPLE_CHARACTERS_MAX = 90;
const SIMPLE_WORDS_MAX = 14;
const GREETING_WORDS_MAX = 6;
const QUESTION_WORDS_BEFORE = 2;
const QUESTION_MARK = /[?？؟]/;

/** The marks of code in a text. */
interface Marks {
  readonly fenced: boolean;
  readonly quoted: boolean;
  /** How many lines look like code, as far as it matters. */
  readonly lines: number;
  readonly trace: boolean;
  readonly dense: boolean;
}

/** Of a long text, so much is searched for the marks of code. */
const MARKED_CHARACTERS = 3_000;
const LINE_CHARACTERS_MAX = 240;
const DENSITY_MIN = 0.08;
const DENSE_CHARACTERS_MIN = 12;

function marksOf(text: string): Marks {
  const bounded = text.slice(0, MARKED_CHARACTERS);
  let symbols = 0;
  for (let at = 0; at < bounded.length; at++) if (SYMBOLS[bounded.charCodeAt(at)] === 1) symbols++;
  const dense = symbols >= DENSE_CHARACTERS_MIN && symbols / bounded.length >= DENSITY_MIN;
  if (symbols === 0) return { fenced: false, quoted: false, lines: 0, trace: TRACE.test(bounded), dense };
  let lines = 0;
  for (const line of bounded.split("\n")) {
    if (line.length > LINE_CHARACTERS_MAX || !CODE_LINES.some((pattern) => pattern.test(line))) continue;
    lines++;
    if (lines === 2) break;
  }
  return { fenced: bounded.includes("```"), quoted: QUOTED.test(bounded), lines, trace: TRACE.test(bounded), dense };
}

/** By character code: 1 for punctuation that programs have more of than other texts. */
const SYMBOLS = new Uint8Array(0x1_0000);
for (const symbol of "{}()[];=<>_|&$\\`#@+*/") SYMBOLS[symbol.charCodeAt(0)] = 1;

const QUOTED = /`[^`\n]{2,80}`/;
/** `TypeError`, `NullPointerException`, `Traceback (most recent call last)`, `error[E0502]`, `error:`. */
const TRACE =
  /[a-z](?:Error|Exception)\b|Traceback \(most|\berror\[|\berror:|\bpanic:|Exception in thread|\(core dumped\)|Undefined (?:index|variable|reference)/;

/** What lines of code look like, in many languages. Each is tried on one line, and looks at a bounded part of it. */
const CODE_LINES: readonly RegExp[] = [
  // A statement ends, or a block begins or ends.
  /[)\]}\w"'] ?;\s*$/,
  /[)\w>] ?\{\s*$/,
  /^\s*[})\]]+[;,]?\s*$/,
  // Definitions, declarations, assignments.
  /^\s*(?:async )?(?:def|func|fn|function|fun)\b[^()]{0,60}\(/,
  /^\s*(?:export |public |private |protected |static |final |abstract )*(?:class|interface|struct|enum|trait) \w+[^.?!]{0,60}[:{]/,
  /^\s*(?:const|let|var|val|auto|int|float|double|char|string|bool|String) \*?\w+(?:: ?\w+)? ?=/,
  /^\s*[\w.[\]'"]+ ?(?:[-+*/|]|:)?= ?\S/,
  // Control flow.
  /^\s*(?:if|for|while|switch|catch|elif|else if) ?\(.{1,120}\)/,
  /^\s*(?:for|if|while|with|elif|except|else|try)\b.{0,120}:\s*$/,
  /^\s*(?:import \w+(?:\.\w+)*;?$|from [\w.]+ import |#include|using \w+(?:\.\w+)*;|package \w+|require\()/,
  // Calls, queries, differences, frames of a stack, shells.
  /^\s*(?:print|printf|console\.\w+|System\.out|echo|return)\b ?[("$].{0,120}/,
  /\b(?:SELECT\b.{1,160}\bFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE|ALTER TABLE)\b/,
  /^@@ |^\s*at [\w.$<>]+ ?\(|^\s*File "[^"]{1,120}", line \d|^\s*--> \S+:\d/,
  /^\s*\$ \w|\b(?:curl|find|grep|sed|awk|tar|ssh|docker|kubectl|git|npm|pip|sudo) -{1,2}\w/,
];
