/** What kind of work a prompt is, guessed from its words: code, translation, reasoning, or a simple question. */

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

/** The kinds that stand out in what the user says last, most certain first; none when nothing does. */
export function classify(prompt: string): Guess[] {
  if (prompt.includes("```")) return [{ kind: "code", confidence: 0.9, why: "a block of code" }];
  if (/\btranslate\b/i.test(prompt))
    return [{ kind: "translation", confidence: 0.6, why: "it asks for a translation" }];
  if (prompt.length < 80 && prompt.trimEnd().endsWith("?")) {
    return [{ kind: "simple", confidence: 0.6, why: "a short question" }];
  }
  return [];
}
