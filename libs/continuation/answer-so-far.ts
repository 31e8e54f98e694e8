/** What a client has seen of one streamed answer, and whether another worker could go on with it. */
import { type CompletionRequest, type Part, ResponseFormat_Kind } from "../gen/cortex/llm/v1/llm.ts";

/** In UTF-16 units. More than this is not kept: no model writes so much at once, and memory is bounded. */
const TEXT_LENGTH_MAX = 1_048_576;

/** Follows one stream. {@link add} lies on the path of every token. */
export class AnswerSoFar {
  readonly #obstacleOfRequest: string | undefined;
  readonly #choiceCount: number;
  #obstacleOfAnswer: string | undefined;
  #text = "";
  /** Of all that is not its text. */
  #otherCharacters = 0;
  #reasoningOpen = false;
  #finishedCount = 0;

  constructor(request: CompletionRequest) {
    this.#choiceCount = Math.max(1, request.choiceCount ?? 1);
    this.#obstacleOfRequest = obstacleOf(request);
  }

  /** Takes note of what the client is about to see. */
  add(parts: readonly Part[]): void {
    for (const { part } of parts) {
      switch (part?.$case) {
        case "text":
          this.#addText(part.value.text);
          break;
        case "reasoning":
          if (part.value.text === "") break;
          this.#reasoningOpen = true;
          this.#otherCharacters += part.value.text.length;
          break;
        case "refusal":
          if (part.value.text !== "") this.#obstacleOfAnswer ??= "a refusal has begun";
          this.#otherCharacters += part.value.text.length;
          break;
        case "toolCall":
          this.#obstacleOfAnswer ??= "a tool call has begun";
          this.#otherCharacters += part.value.name.length + part.value.argumentsJson.length;
          break;
        case "finish":
          this.#finishedCount++;
          break;
        default:
      }
    }
  }

  /** The text of the answer; what comes after {@link TEXT_LENGTH_MAX} is not kept. */
  get text(): string {
    return this.#text;
  }

  /** Of everything that the model has written, for estimating tokens. */
  get outputCharacters(): number {
    return this.#text.length + this.#otherCharacters;
  }

  /** Every choice has come to its end: there is nothing to go on with. */
  get finished(): boolean {
    return this.#finishedCount >= this.#choiceCount;
  }

  /** Why nobody can go on, for the error's message; undefined when somebody can. */
  obstacle(): string | undefined {
    if (this.#obstacleOfRequest !== undefined) return this.#obstacleOfRequest;
    if (this.#obstacleOfAnswer !== undefined) return this.#obstacleOfAnswer;
    return this.#reasoningOpen ? "its reasoning was not finished" : undefined;
  }

  #addText(text: string): void {
    if (text === "") return;
    this.#reasoningOpen = false;
    if (this.#text.length + text.length > TEXT_LENGTH_MAX) this.#obstacleOfAnswer ??= "the text is too long";
    else this.#text += text;
  }
}

/** What of the request forbids to go on, whatever has been said. */
function obstacleOf(request: CompletionRequest): string | undefined {
  const kind = request.responseFormat?.kind;
  // Half a JSON document can't be checked, and another model's half of it need not fit.
  if (kind === ResponseFormat_Kind.JSON_OBJECT || kind === ResponseFormat_Kind.JSON_SCHEMA) return "JSON was asked for";
  if ((request.choiceCount ?? 1) > 1) return "more than one choice was asked for";
  // What is repeated at the seam has no place among the probabilities, and those of two models can't be compared.
  return request.logprobs ? "log probabilities were asked for" : undefined;
}
