/** The stream of `POST /v2/chat`: https://docs.cohere.com/docs/streaming */
import {
  type AttemptContext,
  type EventReader,
  isJson,
  type Json,
  notUnderstood,
  type ProviderEvent,
  parseJson,
  textOf,
} from "../../libs/adapter/index.ts";
import type { Part } from "../../libs/gen/cortex/llm/v1/llm.ts";
import {
  CITATIONS,
  fromFinishReason,
  fromLogprobs,
  fromObject,
  fromServed,
  fromToolCall,
  fromUsage,
  isNothing,
  TOOL_CALLS_MAX,
} from "./response.ts";

/** A tool call of which not all has come. */
interface OpenCall {
  readonly index: number;
  /** Arguments that may still turn out to be nothing: `null`, or the beginning of it. */
  held: string | undefined;
}

/** Reads one stream: text, plan, thinking and tool calls by the token, and `message-end` with everything else. */
export class CohereEventReader implements EventReader {
  readonly #context: AttemptContext;
  /** By Cohere's number of the call. */
  readonly #calls = new Map<unknown, OpenCall>();
  #callCount = 0;
  #served = false;
  #cited = false;
  #done = false;

  constructor(context: AttemptContext) {
    this.#context = context;
  }

  read(event: ProviderEvent, parts: Part[]): void {
    // After `message-end` comes `[DONE]`, which says nothing new.
    if (this.#done || event.data === "" || event.data === "[DONE]") return;
    const json = fromObject(parseJson(event.data, "an event"));
    this.#serve(json, parts);
    const delta = isJson(json["delta"]) ? json["delta"] : {};
    const message = isJson(delta["message"]) ? delta["message"] : {};
    switch (textOf(json["type"]) || event.name) {
      case "content-start":
      case "content-delta":
        this.#readContent(message["content"], json["logprobs"], parts);
        break;
      case "tool-plan-delta":
        pushReasoning(parts, textOf(message["tool_plan"]));
        break;
      case "tool-call-start":
        this.#beginCall(json["index"], only(message["tool_calls"]), parts);
        break;
      case "tool-call-delta":
        this.#continueCall(json["index"], only(message["tool_calls"]), parts);
        break;
      case "tool-call-end":
        this.#endCall(json["index"], parts);
        break;
      case "citation-start":
        if (!this.#cited) parts.push({ part: { $case: "warning", value: CITATIONS } });
        this.#cited = true;
        break;
      case "message-end":
        this.#finish(delta, parts);
        break;
    }
  }

  complete(): boolean {
    return this.#done;
  }

  #serve(json: Json, parts: Part[]): void {
    if (this.#served) return;
    this.#served = true;
    parts.push({ part: { $case: "served", value: fromServed(json, this.#context, "chatcmpl-") } });
  }

  #readContent(content: unknown, logprobs: unknown, parts: Part[]): void {
    if (!isJson(content)) return;
    pushReasoning(parts, textOf(content["thinking"]));
    const text = textOf(content["text"]);
    const tokens = fromLogprobs(logprobs);
    if (text === "" && tokens.length === 0) return;
    parts.push({ part: { $case: "text", value: { text, choice: 0, logprobs: tokens } } });
  }

  #beginCall(number: unknown, call: unknown, parts: Part[]): void {
    if (this.#callCount >= TOOL_CALLS_MAX) throw notUnderstood("too many tool calls");
    const { id, name, argumentsJson } = fromToolCall(call, this.#context);
    const open: OpenCall = { index: this.#callCount, held: "" };
    this.#callCount += 1;
    this.#calls.set(number, open);
    const value = { choice: 0, index: open.index, id, name, argumentsJson: "", signature: "" };
    parts.push({ part: { $case: "toolCall", value } });
    this.#addArguments(open, argumentsJson, parts);
  }

  #continueCall(number: unknown, call: unknown, parts: Part[]): void {
    const open = this.#calls.get(number);
    if (open === undefined) throw notUnderstood("more of a tool call that has not begun");
    const called = isJson(call) ? call["function"] : undefined;
    this.#addArguments(open, isJson(called) ? textOf(called["arguments"]) : "", parts);
  }

  #addArguments(open: OpenCall, piece: string, parts: Part[]): void {
    if (piece === "") return;
    const argumentsJson = `${open.held ?? ""}${piece}`;
    if (open.held !== undefined && "null".startsWith(argumentsJson)) {
      open.held = argumentsJson;
      return;
    }
    open.held = undefined;
    pushArguments(parts, open, argumentsJson);
  }

  #endCall(number: unknown, parts: Part[]): void {
    const open = this.#calls.get(number);
    this.#calls.delete(number);
    if (open?.held === undefined) return;
    pushArguments(parts, open, isNothing(open.held) ? "{}" : open.held);
  }

  #finish(delta: Json, parts: Part[]): void {
    const reason = fromFinishReason(delta["finish_reason"], delta["error"], this.#callCount > 0);
    this.#done = true;
    // A call without its end was cut by the bound of tokens, and must not look whole.
    for (const open of this.#calls.values()) if (open.held) pushArguments(parts, open, open.held);
    parts.push({ part: { $case: "finish", value: { choice: 0, reason } } });
    const usage = fromUsage(delta["usage"]);
    if (usage !== undefined) parts.push({ part: { $case: "usage", value: usage } });
  }
}

/** Unlike in whole answers there is one object, and no array. */
function only(calls: unknown): unknown {
  return Array.isArray(calls) ? calls[0] : calls;
}

function pushReasoning(parts: Part[], text: string): void {
  if (text !== "") parts.push({ part: { $case: "reasoning", value: { text, choice: 0, logprobs: [] } } });
}

function pushArguments(parts: Part[], { index }: OpenCall, argumentsJson: string): void {
  const value = { choice: 0, index, id: "", name: "", argumentsJson, signature: "" };
  parts.push({ part: { $case: "toolCall", value } });
}
