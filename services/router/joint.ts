/** Where one worker's answer goes on after another's: only what follows what has been said comes through. */

import type { Seam } from "../../libs/continuation/index.ts";
import type { Part, Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";

export class Joint {
  readonly #seam: Seam;
  /** What the attempts before have used. */
  readonly #before: Usage;

  constructor(seam: Seam, before: Usage) {
    this.#seam = seam;
    this.#before = before;
  }

  /** What of `parts` the client is to see. Throws CONTINUATION_MISMATCH when the worker does not go on with the answer. */
  join(parts: readonly Part[]): readonly Part[] {
    const joined: Part[] = [];
    for (const part of parts) {
      const { part: kind } = part;
      switch (kind?.$case) {
        case "text": {
          if (!this.#seam.open) joined.push(part);
          else pushText(joined, this.#seam.push(kind.value.text), kind.value.choice);
          break;
        }
        case "toolCall":
        case "finish":
          if (this.#seam.open) pushText(joined, this.#seam.end(), kind.value.choice);
          joined.push(part);
          break;
        case "usage":
          joined.push({ part: { $case: "usage", value: sumOf(this.#before, kind.value) } });
          break;
        // It is told by a part of its own who goes on; and what the worker thinks before that belongs to no answer.
        case "served":
        case "reasoning":
        case "reasoningSignature":
          break;
        default:
          joined.push(part);
      }
    }
    return joined;
  }
}

function pushText(parts: Part[], text: string, choice: number): void {
  if (text !== "") parts.push({ part: { $case: "text", value: { text, choice, logprobs: [] } } });
}

/** Both together; what neither has is absent. */
export function sumOf(a: Usage, b: Usage): Usage {
  const sum = (name: keyof Usage): number | undefined =>
    a[name] === undefined && b[name] === undefined ? undefined : (a[name] ?? 0) + (b[name] ?? 0);
  return {
    inputTokens: sum("inputTokens"),
    outputTokens: sum("outputTokens"),
    cachedInputTokens: sum("cachedInputTokens"),
    reasoningTokens: sum("reasoningTokens"),
    cacheWriteInputTokens: sum("cacheWriteInputTokens"),
  };
}
