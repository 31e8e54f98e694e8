/** Requests that end in the beginning of their answer, for the model to go on with. */
import { type ContentPart, type Message, Role } from "../gen/cortex/llm/v1/llm.ts";

/** What the answer begins with already: the text of an assistant's message at the end that calls no tools. */
export function begunAnswer(messages: readonly Message[]): string | undefined {
  const last = messages.at(-1);
  if (last?.role !== Role.ASSISTANT || last.content.some(({ part }) => part?.$case === "toolCall")) return undefined;
  return last.content.map(textOf).join("");
}

function textOf({ part }: ContentPart): string {
  return part?.$case === "text" ? part.value : "";
}

/** Takes the beginning off an answer whose provider says it again, in whatever pieces it comes. */
export class Repetition {
  #expected: string;
  /** As much as has come of the beginning; it is said after all if something else follows. */
  #held = "";

  constructor(begun: string) {
    this.#expected = begun;
  }

  /** What of `text` is to be said now. */
  push(text: string): string {
    if (this.#expected === "") return text;
    const all = this.#held + text;
    if (all.length < this.#expected.length && this.#expected.startsWith(all)) {
      this.#held = all;
      return "";
    }
    const rest = all.startsWith(this.#expected) ? all.slice(this.#expected.length) : all;
    this.#held = "";
    this.#expected = "";
    return rest;
  }

  /** What is left to be said when nothing more comes. */
  end(): string {
    const held = this.#held;
    this.#held = "";
    this.#expected = "";
    return held;
  }
}
