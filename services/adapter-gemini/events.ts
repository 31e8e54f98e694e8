/** Reads the stream of `:streamGenerateContent?alt=sse`: each event is a GenerateContentResponse with what is new. */
import {
  type AttemptContext,
  countOf,
  type EventReader,
  isJson,
  type Json,
  notUnderstood,
  type ProviderEvent,
  parseJson,
} from "../../libs/adapter/index.ts";
import { FinishReason, type Part, type ToolCall, type Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { fromDisguisedError } from "./errors.ts";
import { PartialCall } from "./partial-call.ts";
import {
  type AnswerPart,
  fromCall,
  fromFinishReason,
  fromLogprobs,
  fromParts,
  fromResponse,
  fromServed,
  fromUsage,
} from "./response.ts";

/** More of either is no answer but a fault. */
const CANDIDATES_MAX = 128;
const TOOL_CALLS_MAX = 128;

interface Candidate {
  readonly index: number;
  finished: boolean;
  content: boolean;
  calls: number;
  open: PartialCall | undefined;
}

/** Reads one stream. There is no terminator: it is whole when every candidate has said why it ended. */
export class GeminiEventReader implements EventReader {
  readonly #context: AttemptContext;
  readonly #candidates = new Map<number, Candidate>();
  #served = false;
  /** Each event has all that was used so far. */
  #usage: Usage | undefined;
  #usageSent = false;

  constructor(context: AttemptContext) {
    this.#context = context;
  }

  read(event: ProviderEvent, parts: Part[]): void {
    const data = event.data.trim();
    if (data === "") return;
    const chunk = fromResponse(parseJson(data, "an event"));
    const candidates = chunk["candidates"] ?? [];
    if (!Array.isArray(candidates)) throw notUnderstood("candidates is not an array");
    const usage = fromUsage(chunk["usageMetadata"]);
    if (chunk["candidates"] === undefined && chunk["usageMetadata"] === undefined)
      throw notUnderstood("an unknown event");
    if (!this.#served) {
      this.#served = true;
      parts.push({ part: { $case: "served", value: fromServed(chunk, this.#context) } });
    }
    for (const [position, candidate] of candidates.entries()) {
      if (!isJson(candidate)) throw notUnderstood("a candidate is not an object");
      this.#readCandidate(candidate, position, parts);
    }
    this.#usage = usage ?? this.#usage;
    if (this.#usage !== undefined && !this.#usageSent && this.complete()) {
      this.#usageSent = true;
      parts.push({ part: { $case: "usage", value: this.#usage } });
    }
  }

  /** Gemini writes an error as bare JSON, and closes: the official SDK looks for it, but no document tells of it. */
  readStray(text: string): void {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return;
    }
    const error = fromDisguisedError(value);
    if (error !== undefined) throw error;
  }

  complete(): boolean {
    for (const candidate of this.#candidates.values()) if (!candidate.finished) return false;
    return this.#candidates.size > 0;
  }

  #readCandidate(raw: Json, position: number, parts: Part[]): void {
    const candidate = this.#open(countOf(raw["index"]) ?? position);
    // What a candidate says after its end is read only to be sure that it is nothing.
    const said = candidate.finished ? [] : parts;
    const before = said.length;
    for (const part of fromParts(raw)) this.#readPart(candidate, part, said);
    const logprobs = fromLogprobs(raw["logprobsResult"]);
    if (logprobs.length > 0) this.#readLogprobs(candidate, logprobs, said, before);
    if (candidate.finished && said.length > 0) throw notUnderstood("more of a candidate that had ended");
    candidate.content ||= said.length > before;
    this.#readFinish(candidate, raw["finishReason"], parts);
  }

  #open(index: number): Candidate {
    let candidate = this.#candidates.get(index);
    if (candidate === undefined) {
      if (this.#candidates.size >= CANDIDATES_MAX) throw notUnderstood("too many candidates");
      candidate = { index, finished: false, content: false, calls: 0, open: undefined };
      this.#candidates.set(index, candidate);
    }
    return candidate;
  }

  #readPart(candidate: Candidate, part: AnswerPart, parts: Part[]): void {
    if (part.kind === "call") {
      this.#readCall(candidate, part.call, part.signature, parts);
      return;
    }
    const value = (text: string) => ({ text, choice: candidate.index, logprobs: [] });
    if (part.text !== "") parts.push({ part: { $case: part.kind, value: value(part.text) } });
    if (part.signature !== "") parts.push({ part: { $case: "reasoningSignature", value: value(part.signature) } });
  }

  #readCall(candidate: Candidate, call: Json, signature: string, parts: Part[]): void {
    const { open } = candidate;
    if (open === undefined && call["willContinue"] !== true && call["partialArgs"] === undefined) {
      this.#pushCall(candidate, fromCall(call, signature, this.#context), parts);
      return;
    }
    const partial = open ?? new PartialCall(call, signature);
    candidate.open = partial;
    if (partial.add(call)) return;
    candidate.open = undefined;
    this.#pushCall(candidate, fromCall({ ...partial, args: partial.args }, partial.signature, this.#context), parts);
  }

  #pushCall(candidate: Candidate, call: ToolCall, parts: Part[]): void {
    if (candidate.calls >= TOOL_CALLS_MAX) throw notUnderstood("too many tool calls");
    const value = { choice: candidate.index, index: candidate.calls, ...call };
    parts.push({ part: { $case: "toolCall", value } });
    candidate.calls += 1;
  }

  /** They go with the text of their event, if it has one. */
  #readLogprobs(candidate: Candidate, logprobs: ReturnType<typeof fromLogprobs>, parts: Part[], from: number): void {
    for (let index = from; index < parts.length; index += 1) {
      const part = parts[index]?.part;
      if (part?.$case !== "text") continue;
      parts[index] = { part: { $case: "text", value: { ...part.value, logprobs } } };
      return;
    }
    parts.push({ part: { $case: "text", value: { text: "", choice: candidate.index, logprobs } } });
  }

  #readFinish(candidate: Candidate, raw: unknown, parts: Part[]): void {
    if (candidate.finished) return;
    const { content, calls } = candidate;
    const reason = fromFinishReason(raw, { content, toolCalls: calls > 0 });
    if (reason === FinishReason.UNSPECIFIED) return;
    if (candidate.open !== undefined && reason !== FinishReason.LENGTH)
      throw notUnderstood("a function call without end");
    candidate.finished = true;
    parts.push({ part: { $case: "finish", value: { choice: candidate.index, reason } } });
  }
}
