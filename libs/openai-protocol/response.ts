/**
 * What OpenAI, and the servers that speak like it, answer: https://platform.openai.com/docs/api-reference/chat/object
 *
 * The reading is lenient where the servers differ in form and strict about what they mean: what can't be understood is an
 * error, and nothing is made up.
 */

import {
  type AttemptContext,
  countOf,
  isJson,
  type Json,
  type ListedModel,
  notUnderstood,
  readTokenLogprobs,
  textOf,
  vectorOf,
} from "../adapter/index.ts";
import {
  type Choice,
  type Completion,
  type ContentPart,
  type Embedding,
  type EmbeddingResult,
  FinishReason,
  Message,
  Role,
  type Served,
  type TokenLogprob,
  Usage,
} from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import { fromDisguisedError } from "./errors.ts";
import { listedProperties } from "./listed.ts";
import type { Source } from "./server.ts";

/** The whole answer of `POST /chat/completions`. */
export function fromChatAnswer(body: unknown, context: AttemptContext, source: Source): Completion {
  const disguised = fromDisguisedError(body, source.server);
  if (disguised !== undefined) throw disguised;
  if (!isJson(body) || !Array.isArray(body["choices"]) || body["choices"].length === 0)
    throw notUnderstood("no choices");
  const choices = body["choices"].map((choice, position) => fromChoice(choice, position, context, source));
  choices.sort((a, b) => a.index - b.index);
  return { served: fromServed(body, context, source), choices, usage: fromUsage(usageOf(body)), warnings: [] };
}

/** Who answered, as far as the provider says so. */
export function fromServed(body: Json, context: AttemptContext, source: Source, idPrefix = "chatcmpl-"): Served {
  return {
    id: textOf(body["id"]) || context.mintId(idPrefix),
    model: textOf(body["model"]) || context.model,
    worker: context.worker,
    provider: source.provider,
    // Anthropic's compatible endpoint says 0.
    createdAtS: countOf(body["created"]) || context.nowS,
    systemFingerprint: textOf(body["system_fingerprint"]),
  };
}

function fromChoice(choice: unknown, position: number, context: AttemptContext, source: Source): Choice {
  if (!isJson(choice)) throw notUnderstood("a choice is not an object");
  throwChoiceError(choice, source);
  const message = choice["message"];
  if (!isJson(message)) throw notUnderstood("a choice without a message");
  const begun = source.server.begunField === undefined ? undefined : context.begun;
  const content = fromMessage(message, context, begun);
  const finishReason = fromFinishReason(choice["finish_reason"], {
    toolCalls: content.some(({ part }) => part?.$case === "toolCall"),
  });
  if (finishReason === FinishReason.UNSPECIFIED) throw notUnderstood("a choice without a finish reason");
  return {
    index: countOf(choice["index"]) ?? position,
    message: Message.fromPartial({ role: Role.ASSISTANT, content }),
    finishReason,
    logprobs: fromLogprobs(choice["logprobs"]),
  };
}

/** OpenRouter puts an error of the provider behind it into the choice. */
export function throwChoiceError(choice: Json, { server }: Source): void {
  const error = fromDisguisedError({ error: choice["error"], choices: [] }, server);
  if (error !== undefined) throw error;
}

function fromMessage(message: Json, context: AttemptContext, begun = ""): ContentPart[] {
  const content: ContentPart[] = [];
  const add = (part: NonNullable<ContentPart["part"]>) => content.push({ part });
  const said = fromContent(message["content"]);
  const reasoning = reasoningOf(message) + said.reasoning;
  if (reasoning !== "") add({ $case: "reasoning", value: { text: reasoning, signature: "" } });
  const text = said.text.startsWith(begun) ? said.text.slice(begun.length) : said.text;
  if (text !== "") add({ $case: "text", value: text });
  const refusal = textOf(message["refusal"]);
  if (refusal !== "") add({ $case: "refusal", value: refusal });
  const calls = Array.isArray(message["tool_calls"]) ? message["tool_calls"] : [];
  for (const call of calls) add({ $case: "toolCall", value: fromToolCall(call, context) });
  // The form before tools: https://platform.openai.com/docs/api-reference/chat/object, function_call, deprecated.
  if (isJson(message["function_call"])) {
    add({ $case: "toolCall", value: fromToolCall({ function: message["function_call"] }, context) });
  }
  return content;
}

function fromToolCall(call: unknown, context: AttemptContext) {
  const { name, argumentsJson } = functionOf(call);
  if (name === "") throw notUnderstood("a tool call without a name");
  const id = (isJson(call) && textOf(call["id"])) || context.mintId("call_");
  return { id, name, argumentsJson: argumentsJson || "{}", signature: "" };
}

/** The function that a tool call, or a piece of one, is about. */
export function functionOf(call: unknown): { readonly name: string; readonly argumentsJson: string } {
  const called = isJson(call) ? call["function"] : undefined;
  if (!isJson(called)) throw notUnderstood("a tool call without a function");
  const given = called["arguments"];
  return {
    name: textOf(called["name"]),
    // Some servers send the object itself instead of its text.
    argumentsJson: isJson(given) ? JSON.stringify(given) : textOf(given),
  };
}

/** DeepSeek, xAI and vLLM say reasoning_content; OpenRouter, Groq, Ollama and newer vLLM say reasoning. Some say both. */
export function reasoningOf(message: Json): string {
  return textOf(message["reasoning_content"]) || textOf(message["reasoning"]);
}

/**
 * The text and the reasoning in `content`: a string, null, or Mistral's array of parts, of which a thinking part has parts
 * of its own: https://docs.mistral.ai/capabilities/reasoning
 */
export function fromContent(content: unknown): { readonly text: string; readonly reasoning: string } {
  if (!Array.isArray(content)) return { text: textOf(content), reasoning: "" };
  let text = "";
  let reasoning = "";
  for (const part of content) {
    if (isJson(part) && part["type"] === "thinking") {
      const thinking = part["thinking"];
      reasoning += Array.isArray(thinking) ? thinking.map(partText).join("") : textOf(thinking);
    } else {
      text += partText(part);
    }
  }
  return { text, reasoning };
}

function partText(part: unknown): string {
  return isJson(part) ? textOf(part["text"]) : textOf(part);
}

/**
 * Why a choice ended; UNSPECIFIED while it goes on. `stop` with tool calls is TOOL_CALLS: OpenAI, with a named tool choice,
 * and vLLM say stop although the caller has to act. `length` stays: a call that was cut must not look whole.
 */
export function fromFinishReason(reason: unknown, seen: { readonly toolCalls: boolean }): FinishReason {
  switch (reason) {
    case undefined:
    case null:
    case "":
      return FinishReason.UNSPECIFIED;
    case "stop":
    // Together: https://docs.together.ai/reference/chat-completions
    case "eos":
      return seen.toolCalls ? FinishReason.TOOL_CALLS : FinishReason.STOP;
    case "length":
    // Mistral: the end of the model's context.
    case "model_length":
      return FinishReason.LENGTH;
    case "tool_calls":
    case "function_call":
      return FinishReason.TOOL_CALLS;
    case "content_filter":
      return FinishReason.CONTENT_FILTER;
    // DeepSeek: https://api-docs.deepseek.com/api/create-chat-completion
    case "insufficient_system_resource":
      throw new RpcError("PROVIDER_OVERLOADED", "the provider had no resources left to finish the answer");
    // Mistral, OpenRouter, vLLM.
    case "error":
    case "abort":
      throw new RpcError("PROVIDER_ERROR", "the provider failed while it answered");
    default:
      throw notUnderstood(`unknown finish reason ${JSON.stringify(reason)?.slice(0, 60)}`);
  }
}

/** Log probabilities of the text, or of the refusal in its place. */
export function fromLogprobs(logprobs: unknown): TokenLogprob[] {
  if (!isJson(logprobs)) return [];
  const tokens = [logprobs["content"], logprobs["refusal"]].find((list) => Array.isArray(list) && list.length > 0);
  return Array.isArray(tokens) ? readTokenLogprobs(tokens) : [];
}

/** The usage in an answer or a chunk; Groq has it in x_groq as well, and at times only there. */
export function usageOf(body: Json): unknown {
  if (isJson(body["usage"])) return body["usage"];
  return isJson(body["x_groq"]) ? body["x_groq"]["usage"] : undefined;
}

/** What was used; undefined when `usage` is none. */
export function fromUsage(usage: unknown): Usage | undefined {
  if (!isJson(usage)) return undefined;
  const input = isJson(usage["prompt_tokens_details"]) ? usage["prompt_tokens_details"] : {};
  const output = isJson(usage["completion_tokens_details"]) ? usage["completion_tokens_details"] : {};
  const inputTokens = countOf(usage["prompt_tokens"]);
  // Perplexity and some others have the details beside the counts.
  const reasoningTokens = countOf(output["reasoning_tokens"]) ?? countOf(usage["reasoning_tokens"]);
  let outputTokens = countOf(usage["completion_tokens"]);
  // xAI leaves the reasoning out of completion_tokens and counts it in the total only.
  const sum = (inputTokens ?? 0) + (outputTokens ?? 0) + (reasoningTokens ?? 0);
  if (outputTokens !== undefined && reasoningTokens && usage["total_tokens"] === sum) outputTokens += reasoningTokens;
  return Usage.fromPartial({
    inputTokens,
    outputTokens,
    // DeepSeek: prompt_cache_hit_tokens; Hugging Face's router: cached_tokens.
    cachedInputTokens:
      countOf(input["cached_tokens"]) ?? countOf(usage["prompt_cache_hit_tokens"]) ?? countOf(usage["cached_tokens"]),
    reasoningTokens,
    cacheWriteInputTokens: countOf(input["cache_write_tokens"]),
  });
}

/** The answer of `POST /embeddings`. */
export function fromEmbeddingAnswer(body: unknown, context: AttemptContext, source: Source): EmbeddingResult {
  const disguised = fromDisguisedError(body, source.server);
  if (disguised !== undefined) throw disguised;
  if (!isJson(body) || !Array.isArray(body["data"]) || body["data"].length === 0) throw notUnderstood("no embeddings");
  const embeddings: Embedding[] = new Array(body["data"].length);
  for (const [position, item] of body["data"].entries()) {
    if (!isJson(item)) throw notUnderstood("an embedding is not an object");
    embeddings[countOf(item["index"]) ?? position] = { values: fromVector(item["embedding"]) };
  }
  if (embeddings.length !== body["data"].length || embeddings.includes(undefined as never)) {
    throw notUnderstood("an embedding is missing");
  }
  return {
    served: fromServed(body, context, source, "embd-"),
    embeddings,
    usage: fromUsage(body["usage"]),
    warnings: [],
  };
}

/** Numbers, or little-endian 32-bit floats in base64 from a server that prefers those. */
function fromVector(vector: unknown): number[] {
  if (typeof vector === "string") {
    const bytes = Buffer.from(vector, "base64");
    if (bytes.length > 0 && bytes.length % 4 === 0) {
      return Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readFloatLE(index * 4));
    }
  }
  return vectorOf(vector);
}

/** The answer of `GET /models`: OpenAI's list, or Together's bare array. */
export function fromModelsAnswer(body: unknown, source: Source): ListedModel[] {
  const disguised = fromDisguisedError(body, source.server);
  if (disguised !== undefined) throw disguised;
  const list = isJson(body) ? body["data"] : body;
  if (!Array.isArray(list)) throw notUnderstood("no list of models");
  return list.filter(isJson).flatMap((model) => {
    const id = textOf(model["id"]);
    const ownedBy = textOf(model["owned_by"]);
    if (id === "") return [];
    const listed = { id, workers: [], createdAtS: countOf(model["created"]) ?? 0, ownedBy };
    const properties = listedProperties(model);
    return [properties === undefined ? listed : { ...listed, properties }];
  });
}
