/** Reads the stream of `POST /chat/completions`: https://platform.openai.com/docs/api-reference/chat/streaming */
import {
  type AttemptContext,
  countOf,
  type EventReader,
  isJson,
  type Json,
  notUnderstood,
  type ProviderEvent,
  parseJson,
  Repetition,
  textOf,
} from "../adapter/index.ts";
import { FinishReason, type Part, type TokenLogprob, type Usage } from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import { fromDisguisedError } from "./errors.ts";
import {
  fromContent,
  fromFinishReason,
  fromLogprobs,
  fromServed,
  fromUsage,
  functionOf,
  reasoningOf,
  throwChoiceError,
  usageOf,
} from "./response.ts";
import type { Source } from "./server.ts";

/** More of either is no answer but a fault: the official SDK stops at 128 of each. */
const CHOICES_MAX = 128;
const TOOL_CALLS_MAX = 128;

/** A tool call on its way. */
interface OpenCall {
  /** Among the choice's calls. */
  readonly index: number;
  id: string;
  name: string;
  /** Arguments that came before the name did. */
  held: string;
}

interface OpenChoice {
  readonly index: number;
  finished: boolean;
  /** In the order in which they began. */
  readonly calls: OpenCall[];
  /** By the provider's own index, where it gives one. */
  readonly callsByIndex: Map<number, OpenCall>;
  /** Of the beginning that the request gave. */
  readonly repetition: Repetition | undefined;
}

/** Reads one stream. Holds nothing of it but which choices and calls are open. */
export class OpenAiEventReader implements EventReader {
  readonly #context: AttemptContext;
  readonly #source: Source;
  readonly #choices = new Map<number, OpenChoice>();
  #served = false;
  #usage: Usage | undefined;
  #usageSent = false;
  #done = false;

  constructor(context: AttemptContext, source: Source) {
    this.#context = context;
    this.#source = source;
  }

  read(event: ProviderEvent, parts: Part[]): void {
    const data = event.data.trim();
    if (this.#done || data === "") return;
    if (data === "[DONE]") {
      this.#done = true;
      this.#sendUsage(parts);
      return;
    }
    const chunk = parseJson(data, "an event");
    // OpenRouter reports "Token limit reached" after a finish by length: what has ended can't fail any more.
    if (!this.complete()) this.#throwError(event.name, chunk);
    if (!isJson(chunk)) throw notUnderstood("an event that is not an object");
    this.#readChunk(event.name, chunk, parts);
  }

  complete(): boolean {
    // Perplexity sends no [DONE]: what counts is that every choice has said why it ended.
    return this.#choices.size > 0 && this.#allFinished();
  }

  #throwError(name: string, chunk: unknown): void {
    const { server } = this.#source;
    const error =
      fromDisguisedError(chunk, server) ??
      (name === "error" ? fromDisguisedError({ error: chunk }, server) : undefined);
    if (error !== undefined) throw error;
    // Groq: "An error string indicating why a stream was stopped early", as its SDK's types say.
    const groq = isJson(chunk) && isJson(chunk["x_groq"]) ? textOf(chunk["x_groq"]["error"]) : "";
    if (groq !== "") throw new RpcError("PROVIDER_ERROR", groq.slice(0, 500).toWellFormed());
  }

  #readChunk(name: string, chunk: Json, parts: Part[]): void {
    const choices = chunk["choices"] ?? [];
    const usage = fromUsage(usageOf(chunk));
    if (!Array.isArray(choices)) throw notUnderstood("choices is not an array");
    // An event with a name of its own is an extension that does not concern us.
    if (chunk["choices"] === undefined && usage === undefined && name === "") throw notUnderstood("an unknown event");
    // Azure begins with a chunk that has neither id nor choices, only what its filter thinks of the prompt.
    if (!this.#served && (choices.length > 0 || usage !== undefined)) {
      this.#served = true;
      parts.push({ part: { $case: "served", value: fromServed(chunk, this.#context, this.#source) } });
    }
    for (const [position, choice] of choices.entries()) {
      if (!isJson(choice)) throw notUnderstood("a choice is not an object");
      this.#readChoice(choice, position, parts);
    }
    if (usage !== undefined) this.#usage = usage;
    // Usage can stand on any chunk; Perplexity has it, growing, on each. It is final when all has been said.
    if (usage !== undefined && this.complete()) this.#sendUsage(parts);
  }

  #sendUsage(parts: Part[]): void {
    if (this.#usage === undefined || this.#usageSent) return;
    this.#usageSent = true;
    parts.push({ part: { $case: "usage", value: this.#usage } });
  }

  #allFinished(): boolean {
    for (const choice of this.#choices.values()) if (!choice.finished) return false;
    return true;
  }

  #readChoice(raw: Json, position: number, parts: Part[]): void {
    throwChoiceError(raw, this.#source);
    const choice = this.#open(countOf(raw["index"]) ?? position);
    // Perplexity has the whole message beside the delta; a server that can't stream has only the message.
    const delta = raw["delta"] ?? raw["message"] ?? {};
    if (!isJson(delta)) throw notUnderstood("a delta is not an object");
    // What a choice says after its end is read only to be sure that it is nothing.
    const said = choice.finished ? [] : parts;
    this.#readText(choice, delta, fromLogprobs(raw["logprobs"]), said);
    this.#readCalls(choice, delta, said);
    if (choice.finished && said.length > 0) throw notUnderstood("more of a choice that had ended");
    this.#readFinish(choice, raw["finish_reason"], parts);
  }

  #open(index: number): OpenChoice {
    let choice = this.#choices.get(index);
    if (choice === undefined) {
      if (this.#choices.size >= CHOICES_MAX) throw notUnderstood("too many choices");
      const { begun } = this.#context;
      const again = begun !== undefined && this.#source.server.begunField !== undefined;
      const repetition = again ? new Repetition(begun) : undefined;
      choice = { index, finished: false, calls: [], callsByIndex: new Map(), repetition };
      this.#choices.set(index, choice);
    }
    return choice;
  }

  #readText(choice: OpenChoice, delta: Json, logprobs: TokenLogprob[], parts: Part[]): void {
    const said = fromContent(delta["content"]);
    const reasoning = reasoningOf(delta) + said.reasoning;
    const refusal = textOf(delta["refusal"]);
    const value = (text: string, probs: readonly TokenLogprob[] = []) => ({
      text,
      choice: choice.index,
      logprobs: probs,
    });
    if (reasoning !== "") parts.push({ part: { $case: "reasoning", value: value(reasoning) } });
    if (refusal !== "") parts.push({ part: { $case: "refusal", value: value(refusal, said.text ? [] : logprobs) } });
    // A token that is only a piece of a character has log probabilities but no text yet.
    const text = choice.repetition === undefined ? said.text : choice.repetition.push(said.text);
    if (text !== "" || (refusal === "" && logprobs.length > 0)) {
      parts.push({ part: { $case: "text", value: value(text, logprobs) } });
    }
  }

  #readCalls(choice: OpenChoice, delta: Json, parts: Part[]): void {
    const calls = delta["tool_calls"] ?? [];
    if (!Array.isArray(calls)) throw notUnderstood("tool_calls is not an array");
    for (const call of calls) this.#readCall(choice, call, parts);
    // The form before tools, deprecated: at most one call, in pieces.
    if (isJson(delta["function_call"])) this.#readCall(choice, { index: 0, function: delta["function_call"] }, parts);
  }

  #readCall(choice: OpenChoice, raw: unknown, parts: Part[]): void {
    const { name, argumentsJson } = functionOf(raw);
    const id = isJson(raw) ? textOf(raw["id"]) : "";
    const call = this.#openCall(choice, isJson(raw) ? countOf(raw["index"]) : undefined, id, name);
    const first = call.name === "";
    call.name ||= name;
    call.id ||= id;
    if (call.name === "") {
      call.held += argumentsJson;
      return;
    }
    if (first) call.id ||= this.#context.mintId("call_");
    const more = call.held + argumentsJson;
    call.held = "";
    if (!first && more === "") return;
    const value = {
      choice: choice.index,
      index: call.index,
      id: first ? call.id : "",
      name: first ? call.name : "",
      argumentsJson: more,
      signature: "",
    };
    parts.push({ part: { $case: "toolCall", value } });
  }

  /** The call that a piece belongs to: known, or new. */
  #openCall(choice: OpenChoice, index: number | undefined, id: string, name: string): OpenCall {
    // Google's compatible endpoint gives no index: a new id begins a call, no id goes on with the last one.
    const last = choice.calls.at(-1);
    const known = index !== undefined ? choice.callsByIndex.get(index) : choice.calls.find((call) => call.id === id);
    const found = known ?? (index === undefined && id === "" && name === "" ? last : undefined);
    // Older Ollama says index 0 for each of several calls: another id and a name begin another call.
    const another = found !== undefined && id !== "" && name !== "" && found.name !== "" && found.id !== id;
    if (found !== undefined && !another) return found;
    if (choice.calls.length >= TOOL_CALLS_MAX) throw notUnderstood("too many tool calls");
    const call = { index: choice.calls.length, id: "", name: "", held: "" };
    choice.calls.push(call);
    if (index !== undefined) choice.callsByIndex.set(index, call);
    return call;
  }

  #readFinish(choice: OpenChoice, raw: unknown, parts: Part[]): void {
    // OpenRouter sends the finish twice, the second time with the usage.
    if (choice.finished) return;
    const reason = fromFinishReason(raw, { toolCalls: choice.calls.length > 0 });
    if (reason === FinishReason.UNSPECIFIED) return;
    if (choice.calls.some((call) => call.name === "")) throw notUnderstood("a tool call without a name");
    choice.finished = true;
    const text = choice.repetition?.end() ?? "";
    if (text !== "") parts.push({ part: { $case: "text", value: { text, choice: choice.index, logprobs: [] } } });
    parts.push({ part: { $case: "finish", value: { choice: choice.index, reason } } });
  }
}
