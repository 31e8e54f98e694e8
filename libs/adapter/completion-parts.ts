/** A whole completion as the parts of a stream: some providers answer a stream request with one, and the cache replays one. */
import type { Choice, Completion, Part, TextDelta } from "../gen/cortex/llm/v1/llm.ts";
import { failure } from "./failures.ts";

/** The parts in the order that a stream has. Throws PROVIDER_INVALID_ANSWER for content that no part can hold. */
export function completionParts(completion: Completion): Part[] {
  const parts: Part[] = [];
  if (completion.served !== undefined) parts.push({ part: { $case: "served", value: completion.served } });
  for (const value of completion.warnings) parts.push({ part: { $case: "warning", value } });
  for (const choice of completion.choices) choiceParts(choice, parts);
  if (completion.usage !== undefined) parts.push({ part: { $case: "usage", value: completion.usage } });
  return parts;
}

function choiceParts(choice: Choice, parts: Part[]): void {
  let { logprobs } = choice;
  let index = 0;
  const delta = (text: string): TextDelta => ({ text, choice: choice.index, logprobs: [] });
  for (const { part } of choice.message?.content ?? []) {
    switch (part?.$case) {
      case "text":
        // The whole answer has its log probabilities in one list; they go with its first text.
        parts.push({ part: { $case: "text", value: { ...delta(part.value), logprobs } } });
        logprobs = [];
        break;
      case "reasoning":
        parts.push({ part: { $case: "reasoning", value: delta(part.value.text) } });
        if (part.value.signature !== "") {
          parts.push({ part: { $case: "reasoningSignature", value: delta(part.value.signature) } });
        }
        break;
      case "refusal":
        parts.push({ part: { $case: "refusal", value: delta(part.value) } });
        break;
      case "toolCall":
        parts.push({ part: { $case: "toolCall", value: { ...part.value, choice: choice.index, index } } });
        index += 1;
        break;
      default:
        throw failure(
          "PROVIDER_INVALID_ANSWER",
          `a streamed answer can't hold ${part?.$case ?? "an empty content part"}`,
        );
    }
  }
  // A tool call has tokens as well.
  if (logprobs.length > 0) parts.push({ part: { $case: "text", value: { ...delta(""), logprobs } } });
  parts.push({ part: { $case: "finish", value: { choice: choice.index, reason: choice.finishReason } } });
}
