/** Reads the stream of `POST /v1/messages`: https://platform.claude.com/docs/en/build-with-claude/streaming */
import {
  type AttemptContext,
  countOf,
  type EventReader,
  isJson,
  type Json,
  notUnderstood,
  type ProviderEvent,
  parseJson,
  textOf,
} from "../../libs/adapter/index.ts";
import { FinishReason, type Part } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { fromDisguisedError } from "./errors.ts";
import { fromServed, fromStopReason, fromToolUse, fromUsage, refusalOf } from "./response.ts";
import { fromOwnSignature, fromRedacted } from "./signature.ts";

/** More of them is no answer but a fault. */
const TOOL_CALLS_MAX = 128;

/** A tool call on its way. */
interface OpenCall {
  readonly index: number;
  /** What it began with; it stands unless pieces of it come. */
  readonly argumentsJson: string;
  begun: boolean;
}

/** Reads one stream. Holds nothing of it but which calls are open. */
export class AnthropicEventReader implements EventReader {
  readonly #context: AttemptContext;
  /** By the number of their block, which counts texts and thoughts as well. */
  readonly #open = new Map<number, OpenCall>();
  #served = false;
  #calls = 0;
  #usage: Json = {};
  #finished = false;
  #stopped = false;

  constructor(context: AttemptContext) {
    this.#context = context;
  }

  read(event: ProviderEvent, parts: Part[]): void {
    const data = event.data.trim();
    if (data === "" || this.#stopped || event.name === "ping") return;
    const value = parseJson(data, "an event");
    const error =
      fromDisguisedError(value) ?? (event.name === "error" ? fromDisguisedError({ error: value }) : undefined);
    if (error !== undefined) throw error;
    if (!isJson(value)) throw notUnderstood("an event that is not an object");
    // Kinds of event that are not known are to be passed over: https://platform.claude.com/docs/en/api/versioning
    switch (value["type"]) {
      case "message_start":
        this.#start(objectIn(value, "message"), parts);
        break;
      case "content_block_start":
        this.#startBlock(blockOf(value), objectIn(value, "content_block"), parts);
        break;
      case "content_block_delta":
        this.#readDelta(blockOf(value), objectIn(value, "delta"), parts);
        break;
      case "content_block_stop":
        this.#endBlock(blockOf(value), parts);
        break;
      case "message_delta":
        this.#readEnd(value, parts);
        break;
      case "message_stop":
        if (!this.#finished) throw notUnderstood("a message without a stop reason");
        this.#stopped = true;
        break;
    }
  }

  complete(): boolean {
    return this.#stopped;
  }

  #start(message: Json, parts: Part[]): void {
    if (this.#served) throw notUnderstood("a second beginning");
    this.#served = true;
    if (isJson(message["usage"])) this.#usage = message["usage"];
    parts.push({ part: { $case: "served", value: fromServed(message, this.#context) } });
  }

  #startBlock(block: number, content: Json, parts: Part[]): void {
    switch (content["type"]) {
      case "text":
        this.#push("text", textOf(content["text"]), parts);
        break;
      case "thinking":
        this.#push("reasoning", textOf(content["thinking"]), parts);
        this.#push("reasoningSignature", fromOwnSignature(textOf(content["signature"])), parts);
        break;
      case "redacted_thinking":
        this.#push("reasoningSignature", fromRedacted(textOf(content["data"])), parts);
        break;
      case "tool_use":
        this.#startCall(block, content, parts);
        break;
    }
  }

  #startCall(block: number, content: Json, parts: Part[]): void {
    if (this.#calls >= TOOL_CALLS_MAX) throw notUnderstood("too many tool calls");
    const { id, name, argumentsJson } = fromToolUse(content, this.#context);
    if (this.#open.has(block)) throw notUnderstood("a block that begins twice");
    this.#open.set(block, { index: this.#calls, argumentsJson, begun: false });
    this.#pushCall({ index: this.#calls, id, name, argumentsJson: "" }, parts);
    this.#calls += 1;
  }

  #readDelta(block: number, delta: Json, parts: Part[]): void {
    switch (delta["type"]) {
      case "text_delta":
        this.#push("text", textOf(delta["text"]), parts);
        break;
      case "thinking_delta":
        this.#push("reasoning", textOf(delta["thinking"]), parts);
        break;
      case "signature_delta":
        this.#push("reasoningSignature", fromOwnSignature(textOf(delta["signature"])), parts);
        break;
      case "input_json_delta": {
        const call = this.#open.get(block);
        const argumentsJson = textOf(delta["partial_json"]);
        // Of a tool of Anthropic's own, or the empty one that begins each call.
        if (call === undefined || argumentsJson === "") break;
        call.begun = true;
        this.#pushCall({ index: call.index, id: "", name: "", argumentsJson }, parts);
        break;
      }
    }
  }

  #endBlock(block: number, parts: Part[]): void {
    const call = this.#open.get(block);
    this.#open.delete(block);
    if (call === undefined || call.begun) return;
    const { index, argumentsJson } = call;
    this.#pushCall({ index, id: "", name: "", argumentsJson }, parts);
  }

  #readEnd(event: Json, parts: Part[]): void {
    const delta = objectIn(event, "delta");
    // Cumulative; older versions have only the output's count here.
    if (isJson(event["usage"])) this.#usage = { ...this.#usage, ...withoutNulls(event["usage"]) };
    const reason = fromStopReason(delta["stop_reason"], this.#calls > 0);
    if (reason === FinishReason.UNSPECIFIED || this.#finished) return;
    this.#push("refusal", refusalOf(delta), parts);
    this.#begin(parts);
    // A call that was cut must not look whole; one whose block was never closed may.
    if (reason !== FinishReason.LENGTH) for (const block of this.#open.keys()) this.#endBlock(block, parts);
    this.#finished = true;
    parts.push({ part: { $case: "finish", value: { choice: 0, reason } } });
    const usage = fromUsage(this.#usage);
    if (usage !== undefined) parts.push({ part: { $case: "usage", value: usage } });
  }

  #push($case: "text" | "reasoning" | "reasoningSignature" | "refusal", text: string, parts: Part[]): void {
    if (text === "") return;
    this.#begin(parts);
    parts.push({ part: { $case, value: { text, choice: 0, logprobs: [] } } });
  }

  #pushCall(
    call: { readonly index: number; readonly id: string; readonly name: string; readonly argumentsJson: string },
    parts: Part[],
  ): void {
    this.#begin(parts);
    // Field by field: it is done for every piece of the arguments, and a spread costs more than all the rest.
    const { index, id, name, argumentsJson } = call;
    parts.push({ part: { $case: "toolCall", value: { choice: 0, index, id, name, argumentsJson, signature: "" } } });
  }

  /** Nothing is said before the message has begun, nor after it has ended. */
  #begin(parts: Part[]): void {
    if (this.#finished) throw notUnderstood("more of a message that had ended");
    if (!this.#served) this.#start({}, parts);
  }
}

function objectIn(event: Json, field: string): Json {
  const value = event[field];
  if (!isJson(value)) throw notUnderstood(`an event without its ${field}`);
  return value;
}

function blockOf(event: Json): number {
  return countOf(event["index"]) ?? 0;
}

function withoutNulls(usage: Json): Json {
  return Object.fromEntries(Object.entries(usage).filter(([, value]) => value !== null && value !== undefined));
}
