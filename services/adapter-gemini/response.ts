/** What Gemini answers: https://ai.google.dev/api/generate-content#generatecontentresponse */

import {
  type AttemptContext,
  countOf,
  isJson,
  type Json,
  type ListedModel,
  momentSOf,
  notUnderstood,
  objectOf,
  textOf,
  vectorOf,
} from "../../libs/adapter/index.ts";
import {
  type Choice,
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
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { fromDisguisedError } from "./errors.ts";
import { fromOwnSignature } from "./signature.ts";

/** The provider's name in configuration and in what the adapter says. */
export const PROVIDER = "gemini";

/** The whole answer of `:generateContent`. */
export function fromChatAnswer(body: unknown, context: AttemptContext): Completion {
  const answer = fromResponse(body);
  const candidates = answer["candidates"];
  if (!Array.isArray(candidates) || candidates.length === 0) throw notUnderstood("no candidates");
  const choices = candidates.map((candidate, position) => fromCandidate(candidate, position, context));
  choices.sort((a, b) => a.index - b.index);
  return { served: fromServed(answer, context), choices, usage: fromUsage(answer["usageMetadata"]), warnings: [] };
}

/** A GenerateContentResponse, or what stands in its place in a 200: an error, or that the prompt was blocked. */
export function fromResponse(value: unknown): Json {
  const answer = objectOf(value, fromDisguisedError(value));
  const feedback = answer["promptFeedback"];
  const blockReason = isJson(feedback) ? textOf(feedback["blockReason"]) : "";
  if (blockReason !== "") throw blocked(blockReason, answer);
  return answer;
}

function blocked(blockReason: string, answer: Json): RpcError {
  if (Array.isArray(answer["candidates"]) && answer["candidates"].length > 0) {
    return notUnderstood("an answer to a prompt that was blocked");
  }
  const why = /^[A-Z_]{1,60}$/.test(blockReason) ? blockReason : "for a reason of its own";
  return new RpcError("CONTENT_FILTERED", `Gemini blocked the prompt: ${why}`);
}

/** Who answered. `createTime` comes from Vertex AI only. */
export function fromServed(answer: Json, context: AttemptContext, idPrefix = "chatcmpl-"): Served {
  return {
    id: textOf(answer["responseId"]) || context.mintId(idPrefix),
    model: textOf(answer["modelVersion"]) || context.model,
    worker: context.worker,
    provider: PROVIDER,
    createdAtS: momentSOf(answer["createTime"]) || context.nowS,
    systemFingerprint: "",
  };
}

/** What a part of an answer is. */
export type AnswerPart =
  | { readonly kind: "text" | "reasoning"; readonly text: string; readonly signature: string }
  | { readonly kind: "call"; readonly call: Json; readonly signature: string };

/** The parts of a candidate; one that came to nothing has none, or not even a content. */
export function fromParts(candidate: Json): AnswerPart[] {
  const content = candidate["content"] ?? {};
  if (!isJson(content)) throw notUnderstood("a content is not an object");
  const parts = content["parts"] ?? [];
  if (!Array.isArray(parts)) throw notUnderstood("parts is not an array");
  return parts.map(fromPart);
}

function fromPart(part: unknown): AnswerPart {
  if (!isJson(part)) throw notUnderstood("a part is not an object");
  const signature = fromOwnSignature(textOf(part["thoughtSignature"]));
  if (part["functionCall"] !== undefined) {
    if (!isJson(part["functionCall"])) throw notUnderstood("a function call is not an object");
    return { kind: "call", call: part["functionCall"], signature };
  }
  if (part["inlineData"] !== undefined || part["fileData"] !== undefined) {
    throw new RpcError("UNSUPPORTED_PARAMETER", "model: it answers with pictures or sound, which a chat can't hold", {
      field: "model",
    });
  }
  const { text } = part;
  // Of the other kinds of part each belongs to a tool of Google's, and none of those is ever asked for.
  if (text !== undefined && typeof text !== "string") throw notUnderstood("a text is not a string");
  if (text === undefined && signature === "" && Object.keys(part).some((name) => name !== "thought")) {
    throw notUnderstood("an unknown kind of part");
  }
  return { kind: part["thought"] === true ? "reasoning" : "text", text: text ?? "", signature };
}

/** A call that came whole. Before Gemini 3 it has no id. */
export function fromCall(call: Json, signature: string, context: AttemptContext): ToolCall {
  const name = textOf(call["name"]);
  if (name === "") throw notUnderstood("a function call without a name");
  const given = call["args"] ?? {};
  if (!isJson(given)) throw notUnderstood("arguments that are not an object");
  return { id: textOf(call["id"]) || context.mintId("call_"), name, argumentsJson: JSON.stringify(given), signature };
}

function fromCandidate(candidate: unknown, position: number, context: AttemptContext): Choice {
  if (!isJson(candidate)) throw notUnderstood("a candidate is not an object");
  const content = new Content();
  for (const part of fromParts(candidate)) {
    if (part.kind === "call") content.addCall(fromCall(part.call, part.signature, context));
    else content.addText(part.kind, part.text, part.signature);
  }
  const finishReason = fromFinishReason(candidate["finishReason"], {
    toolCalls: content.calls > 0,
    content: content.parts.length > 0,
  });
  if (finishReason === FinishReason.UNSPECIFIED) throw notUnderstood("a candidate without a finish reason");
  return {
    index: countOf(candidate["index"]) ?? position,
    message: Message.fromPartial({ role: Role.ASSISTANT, content: content.parts }),
    finishReason,
    logprobs: fromLogprobs(candidate["logprobsResult"]),
  };
}

/** Gathers an answer: what belongs together is joined, as it would be in a stream. */
class Content {
  readonly parts: ContentPart[] = [];
  calls = 0;

  addCall(value: ToolCall): void {
    this.parts.push({ part: { $case: "toolCall", value } });
    this.calls += 1;
  }

  addText(kind: "text" | "reasoning", text: string, signature: string): void {
    // The signature of a text belongs to the thoughts before it; without any it stands alone.
    if (kind === "reasoning" || signature !== "") this.#addReasoning(kind === "reasoning" ? text : "", signature);
    if (kind === "reasoning" || text === "") return;
    const last = this.parts.at(-1)?.part;
    const joined = last?.$case === "text" ? last.value + text : text;
    this.#put(last?.$case === "text", { $case: "text", value: joined });
  }

  #addReasoning(text: string, signature: string): void {
    if (text === "" && signature === "") return;
    const last = this.parts.at(-1)?.part;
    const open = last?.$case === "reasoning" && last.value.signature === "" ? last.value : undefined;
    const value = { text: (open?.text ?? "") + text, signature };
    this.#put(open !== undefined, { $case: "reasoning", value });
  }

  #put(inPlace: boolean, part: NonNullable<ContentPart["part"]>): void {
    if (inPlace) this.parts.pop();
    this.parts.push({ part });
  }
}

/** What a candidate had when it ended. */
interface Seen {
  readonly toolCalls: boolean;
  readonly content: boolean;
}

/**
 * Why a candidate ended; UNSPECIFIED while it goes on. https://ai.google.dev/api/generate-content#FinishReason
 * STOP comes after calls too. MAX_TOKENS stays: a call that was cut must not look whole.
 */
export function fromFinishReason(reason: unknown, seen: Seen): FinishReason {
  switch (reason) {
    case undefined:
    case null:
    case "":
      return FinishReason.UNSPECIFIED;
    case "STOP":
      return seen.toolCalls ? FinishReason.TOOL_CALLS : FinishReason.STOP;
    case "MAX_TOKENS":
      return FinishReason.LENGTH;
    case "SAFETY":
    case "RECITATION":
    case "BLOCKLIST":
    case "PROHIBITED_CONTENT":
    case "SPII":
    case "MODEL_ARMOR":
    case "IMAGE_SAFETY":
    case "IMAGE_PROHIBITED_CONTENT":
    case "IMAGE_RECITATION":
      return FinishReason.CONTENT_FILTER;
    // "Unknown reason", and a language that the model does not speak. With nothing said it is no answer.
    case "FINISH_REASON_UNSPECIFIED":
    case "OTHER":
    case "LANGUAGE":
      if (!seen.content) throw new RpcError("PROVIDER_ERROR", `Gemini gave no answer (${reason})`);
      return seen.toolCalls ? FinishReason.TOOL_CALLS : FinishReason.STOP;
    // What the model wrote could not be used: another try may go well.
    case "MALFORMED_FUNCTION_CALL":
    case "MALFORMED_RESPONSE":
    case "UNEXPECTED_TOOL_CALL":
    case "TOO_MANY_TOOL_CALLS":
    case "MISSING_THOUGHT_SIGNATURE":
    case "IMAGE_OTHER":
    case "NO_IMAGE":
      throw new RpcError("MODEL_OUTPUT_INVALID", `Gemini could not finish its answer (${reason})`);
    default:
      throw notUnderstood(`unknown finish reason ${JSON.stringify(reason)?.slice(0, 60)}`);
  }
}

/** https://ai.google.dev/api/generate-content#LogprobsResult */
export function fromLogprobs(result: unknown): TokenLogprob[] {
  if (!isJson(result) || !Array.isArray(result["chosenCandidates"])) return [];
  const steps = Array.isArray(result["topCandidates"]) ? result["topCandidates"] : [];
  return result["chosenCandidates"].filter(isJson).map((chosen, index) => {
    const step: unknown = steps[index];
    const top = isJson(step) && Array.isArray(step["candidates"]) ? step["candidates"].filter(isJson) : [];
    return { ...fromTokenLogprob(chosen), top: top.map(fromTokenLogprob) };
  });
}

function fromTokenLogprob(token: Json): TokenLogprob {
  const { logProbability } = token;
  return {
    token: textOf(token["token"]),
    // A field that is 0 is left out; JSON has no infinity, and OpenAI's stand-in for it is -9999.
    logprob: typeof logProbability === "number" ? logProbability : logProbability === undefined ? 0 : -9999,
    bytes: Buffer.alloc(0),
    top: [],
  };
}

/** What was used. Counts that are 0 are left out; a usage without even the prompt's count says nothing. */
export function fromUsage(usage: unknown): Usage | undefined {
  if (!isJson(usage)) return undefined;
  const prompt = countOf(usage["promptTokenCount"]);
  if (prompt === undefined) return undefined;
  const thoughts = countOf(usage["thoughtsTokenCount"]);
  return Usage.fromPartial({
    inputTokens: countOf(prompt + (countOf(usage["toolUsePromptTokenCount"]) ?? 0)),
    outputTokens: countOf((countOf(usage["candidatesTokenCount"]) ?? 0) + (thoughts ?? 0)),
    cachedInputTokens: countOf(usage["cachedContentTokenCount"]),
    reasoningTokens: thoughts,
  });
}

/** The answer of `:batchEmbedContents`. Only newer models report the usage. */
export function fromEmbeddingAnswer(body: unknown, context: AttemptContext): EmbeddingResult {
  const answer = fromResponse(body);
  const list = answer["embeddings"];
  if (!Array.isArray(list) || list.length === 0) throw notUnderstood("no embeddings");
  const embeddings = list.map((embedding: unknown) => {
    const values = isJson(embedding) ? embedding["values"] : undefined;
    return { values: vectorOf(values) };
  });
  const inputTokens = isJson(answer["usageMetadata"])
    ? countOf(answer["usageMetadata"]["promptTokenCount"])
    : undefined;
  const usage = inputTokens === undefined ? undefined : Usage.fromPartial({ inputTokens });
  return { served: fromServed(answer, context, "embd-"), embeddings, usage, warnings: [] };
}

/** What this adapter asks of models. */
const METHODS = ["generateContent", "embedContent", "batchEmbedContents"];

/** The answer of `GET /models`, without the models that only make pictures, video or speech, or answer live. */
export function fromModelsAnswer(body: unknown): ListedModel[] {
  const { models } = fromResponse(body);
  if (!Array.isArray(models)) throw notUnderstood("no list of models");
  return models.filter(isJson).flatMap((model) => {
    const id = textOf(model["name"]).replace(/^models\//, "");
    const methods = model["supportedGenerationMethods"];
    if (id === "" || !Array.isArray(methods) || !METHODS.some((method) => methods.includes(method))) return [];
    const [inputTokens, outputTokens] = [countOf(model["inputTokenLimit"]), countOf(model["outputTokenLimit"])];
    const listed = { id, workers: [], createdAtS: 0, ownedBy: "google" };
    if (inputTokens === undefined || outputTokens === undefined) return [listed];
    return [{ ...listed, properties: { contextTokensMax: inputTokens + outputTokens } }];
  });
}
