/** What a simulated model says, so that an answer can be held against it to the letter. */
import type { Behaviour } from "../fakes/index.ts";
import { answer } from "../fakes/model.ts";

/** Its whole answer to somebody who has said this and nothing else. */
export function expectedText(said: string, behaviour: Behaviour = {}): string {
  const turns = [{ speaker: "user", text: said }] as const;
  const question = { turns, words: 0, tools: [], toolWanted: false, afterTool: false, json: undefined };
  return answer({ ...question, tokensMax: undefined, stop: [] }, behaviour).tokens.join("");
}
