/** What Cohere answers: https://docs.cohere.com/reference/chat, https://docs.cohere.com/reference/embed */

import {
  type AttemptContext,
  countOf,
  isJson,
  type Json,
  type ListedModel,
  notUnderstood,
  objectOf,
  textOf,
  vectorOf,
} from "../../libs/adapter/index.ts";
import {
  type Completion,
  type ContentPart,
  type EmbeddingResult,
  FinishReason,
  Message,
  Role,
  type Served,
  type TokenLogprob,
  type ToolCall,
  Usage,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { fromDisguisedError, fromErrorMessage } from "./errors.ts";
import { listedProperties } from "./models.ts";

/** The provider's name in configuration and in what the adapter says. */
export const PROVIDER = "cohere";

/** More of them is no answer but a fault. */
export const TOOL_CALLS_MAX = 128;

/** An answer, or an event of a stream. An error can stand in its place, with the status 200. */
export function fromObject(value: unknown): Json {
  return objectOf(value, fromDisguisedError(value));
}

/** The whole answer of `POST /v2/chat`. */
export function fromChatAnswer(body: unknown, context: AttemptContext): Completion {
  const answer = fromObject(body);
  const message = answer["message"];
  if (!isJson(message)) throw notUnderstood("no message");
  const calls = fromToolCalls(message["tool_calls"], context);
  // A failure is thrown before anything of the answer is looked at.
  const finishReason = fromFinishReason(answer["finish_reason"], answer["error"], calls.length > 0);
  const content: ContentPart[] = [];
  const plan = textOf(message["tool_plan"]);
  if (plan !== "") content.push(reasoning(plan));
  content.push(...fromContent(message["content"]));
  for (const value of calls) content.push({ part: { $case: "toolCall", value } });
  const choice = {
    index: 0,
    message: Message.fromPartial({ role: Role.ASSISTANT, content }),
    finishReason,
    logprobs: fromLogprobs(answer["logprobs"]),
  };
  const cited = Array.isArray(message["citations"]) && message["citations"].length > 0;
  return {
    served: fromServed(answer, context, "chatcmpl-"),
    choices: [choice],
    usage: fromUsage(answer["usage"]),
    warnings: cited ? [CITATIONS] : [],
  };
}

/** The vocabulary has no place for them. */
export const CITATIONS: Warning = {
  code: "CITATIONS_LEFT_OUT",
  message: "Cohere has named the sources of what it says; the citations were left out",
  parameter: "",
};

function reasoning(text: string): ContentPart {
  return { part: { $case: "reasoning", value: { text, signature: "" } } };
}

function fromContent(content: unknown): ContentPart[] {
  if (typeof content === "string") return content === "" ? [] : [{ part: { $case: "text", value: content } }];
  if (content === undefined || content === null) return [];
  if (!Array.isArray(content)) throw notUnderstood("content is not an array");
  return content.filter(isJson).flatMap((block): ContentPart[] => {
    const thinking = textOf(block["thinking"]);
    const text = textOf(block["text"]);
    return [
      ...(thinking === "" ? [] : [reasoning(thinking)]),
      ...(text === "" ? [] : [{ part: { $case: "text" as const, value: text } }]),
    ];
  });
}

function fromToolCalls(calls: unknown, context: AttemptContext): ToolCall[] {
  if (calls === undefined || calls === null) return [];
  if (!Array.isArray(calls)) throw notUnderstood("tool_calls is not an array");
  if (calls.length > TOOL_CALLS_MAX) throw notUnderstood("too many tool calls");
  return calls.map((call) => {
    const { id, name, argumentsJson } = fromToolCall(call, context);
    return { id, name, argumentsJson: isNothing(argumentsJson) ? "{}" : argumentsJson, signature: "" };
  });
}

/** A call, or the beginning of one. */
export function fromToolCall(call: unknown, context: AttemptContext): Omit<ToolCall, "signature"> {
  const called = isJson(call) ? call["function"] : undefined;
  if (!isJson(call) || !isJson(called) || textOf(called["name"]) === "")
    throw notUnderstood("a tool call without a name");
  const id = textOf(call["id"]) || context.mintId("call_");
  return { id, name: textOf(called["name"]), argumentsJson: textOf(called["arguments"]) };
}

/** How Cohere writes the arguments of a tool that has no parameters. */
export function isNothing(argumentsJson: string): boolean {
  return argumentsJson === "" || argumentsJson === "null";
}

/** Throws for the reasons that are failures. `said` is the text of the error that may come with them. */
export function fromFinishReason(reason: unknown, said: unknown, toolCalls: boolean): FinishReason {
  switch (reason) {
    case "COMPLETE":
    case "STOP_SEQUENCE":
      return toolCalls ? FinishReason.TOOL_CALLS : FinishReason.STOP;
    case "TOOL_CALL":
      return FinishReason.TOOL_CALLS;
    case "MAX_TOKENS":
    // Of the API's first version, as is the next.
    case "ERROR_LIMIT":
      return FinishReason.LENGTH;
    case "ERROR_TOXIC":
      return FinishReason.CONTENT_FILTER;
    case "ERROR":
    case "USER_CANCEL":
      throw fromErrorMessage(textOf(said) || "the generation failed");
    case "TIMEOUT":
      throw new RpcError("PROVIDER_TIMEOUT", "the provider gave up the generation, as it took too long");
    default:
      throw notUnderstood(`unknown finish_reason ${JSON.stringify(reason)?.slice(0, 60)}`);
  }
}

/** Cohere says neither which model has answered nor when. */
export function fromServed(answer: Json, context: AttemptContext, idPrefix: string): Served {
  return {
    id: textOf(answer["id"]) || context.mintId(idPrefix),
    model: context.model,
    worker: context.worker,
    provider: PROVIDER,
    createdAtS: context.nowS,
    systemFingerprint: "",
  };
}

/** What the model has read and written; `billed_units` leaves out what Cohere puts before the prompt by itself. */
export function fromUsage(usage: unknown): Usage | undefined {
  if (!isJson(usage)) return undefined;
  const tokens = [usage["tokens"], usage["billed_units"]].find(isJson);
  if (tokens === undefined) return undefined;
  const found = {
    inputTokens: withPictures(tokens),
    outputTokens: countOf(tokens["output_tokens"]),
    cachedInputTokens: countOf(usage["cached_tokens"]),
    reasoningTokens: countOf(tokens["reasoning_tokens"]),
  };
  return Object.values(found).some((count) => count !== undefined) ? Usage.fromPartial(found) : undefined;
}

/** Pictures are counted beside the other tokens: 34 and 259 were recorded, of which 267 were billed. */
function withPictures(tokens: Json): number | undefined {
  const inputTokens = countOf(tokens["input_tokens"]);
  return inputTokens === undefined ? undefined : countOf(inputTokens + (countOf(tokens["image_tokens"]) ?? 0));
}

/** One for each piece of text, which is mostly one token; where it is several, what they have together. */
export function fromLogprobs(logprobs: unknown): TokenLogprob[] {
  const items = Array.isArray(logprobs) ? logprobs : [logprobs];
  return items.filter(isJson).flatMap((item) => {
    const values = Array.isArray(item["logprobs"]) ? item["logprobs"].filter((value) => typeof value === "number") : [];
    if (values.length === 0) return [];
    const logprob = values.reduce((sum, value) => sum + value, 0);
    // What is as good as impossible is minus infinity, which JSON does not have; OpenAI's stand-in for it is -9999.
    return [{ token: textOf(item["text"]), logprob: Math.max(logprob, -9999), bytes: Buffer.alloc(0), top: [] }];
  });
}

/** The answer of `POST /v2/embed`. */
export function fromEmbeddingAnswer(body: unknown, context: AttemptContext): EmbeddingResult {
  const answer = fromObject(body);
  const byType = answer["embeddings"];
  const vectors = isJson(byType) ? byType["float"] : byType;
  if (!Array.isArray(vectors) || vectors.length === 0) throw notUnderstood("no embeddings");
  const embeddings = vectors.map((values) => ({ values: vectorOf(values) }));
  const meta = answer["meta"];
  const units = isJson(meta) ? meta["billed_units"] : undefined;
  const inputTokens = isJson(units) ? withPictures(units) : undefined;
  const usage = inputTokens === undefined ? undefined : Usage.fromPartial({ inputTokens });
  return { served: fromServed(answer, context, "embd-"), embeddings, usage, warnings: [] };
}

/** The answer of `GET /v1/models`, without the models that can neither chat nor embed. */
export function fromModelsAnswer(body: unknown): ListedModel[] {
  const { models } = fromObject(body);
  if (!Array.isArray(models)) throw notUnderstood("no list of models");
  return models.filter(isJson).flatMap((model) => {
    const id = textOf(model["name"]);
    const endpoints = model["endpoints"];
    const chats = !Array.isArray(endpoints) || endpoints.includes("chat");
    if (id === "" || !(chats || endpoints.includes("embed"))) return [];
    const listed = { id, workers: [], createdAtS: 0, ownedBy: PROVIDER };
    const properties = listedProperties(model["features"], countOf(model["context_length"]));
    return [chats ? { ...listed, properties } : listed];
  });
}
