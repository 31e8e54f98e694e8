/** What a dialect does with each thing that a request can ask for, found by asking it. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ProviderRequest } from "../../libs/adapter/index.ts";
import { toCompletionRequest, toEmbeddingRequest } from "../../libs/adapter/testing/notation.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import type { Speaker, Subject } from "./subjects.ts";

type Json = Readonly<Record<string, unknown>>;

const CASES = new URL("../../libs/adapter/testing/cases/", import.meta.url).pathname;

function readCase(name: string): Json {
  return JSON.parse(readFileSync(join(CASES, `${name}.json`), "utf8"));
}

const TEXT = readCase("text");
const SAMPLING = readCase("sampling")["sampling"] as Json;
const TOOLS = (readCase("tools")["tools"] as Json[]).map(({ strict: _, ...tool }) => tool);
const SCHEMA = readCase("json-schema")["responseFormat"] as Json;

function parts(name: string): Json[] {
  return (readCase(name)["messages"] as Json[]).flatMap((message) => message["content"] as Json[]);
}

/** A message of the user with the part of this kind from a case, without some of its fields. */
function withPart(name: string, kind: string, ...without: readonly string[]): Json {
  const part = parts(name).find((each) => kind in each)![kind] as Json;
  const fields = Object.entries(part).filter(([field]) => !without.includes(field));
  return said([{ text: "Look." }, { [kind]: Object.fromEntries(fields) }]);
}

function said(content: readonly Json[], fields: Json = {}): Json {
  return { ...TEXT, messages: [{ role: "USER", content, ...fields }] };
}

function sampled(field: string, value: unknown = SAMPLING[field]): Json {
  return { ...TEXT, sampling: { [field]: value } };
}

const TURNS = [
  { role: "SYSTEM", content: [{ text: "You are brief." }] },
  { role: "USER", content: [{ text: "Hi" }] },
  { role: "ASSISTANT", content: [{ text: "Hello!" }] },
  { role: "USER", content: [{ text: "How are you?" }] },
];

/** A call of a tool and its result. */
function results(fields: Json): Json {
  const call = { id: "call_1", name: "get_time", argumentsJson: "{}" };
  const result = { toolCallId: "call_1", name: "get_time", content: [{ text: "12:00" }], ...fields };
  const messages = [
    { role: "USER", content: [{ text: "What time is it?" }] },
    { role: "ASSISTANT", content: [{ toolCall: call }] },
    { role: "TOOL", content: [{ toolResult: result }] },
  ];
  return { ...TEXT, tools: TOOLS, messages };
}

/** One thing at a time, in the words of OpenAI's API where it has one. */
const WISHES: readonly (readonly [name: string, notation: Json])[] = [
  ["text, streamed or not", TEXT],
  ["instructions and turns", { ...TEXT, messages: TURNS }],
  ["`name` of a speaker", said([{ text: "Hi" }], { name: "Ada" })],
  ["an image in the request", withPart("image", "image", "detail")],
  ["an image by its URL", withPart("image-url", "image", "detail")],
  ["`detail` of an image", withPart("image", "image")],
  ["audio", withPart("media", "audio")],
  ["a file (PDF)", withPart("media", "file", "filename")],
  ["`tools`", { ...TEXT, tools: TOOLS }],
  ["`strict` of a tool", { ...TEXT, tools: readCase("tools")["tools"] }],
  ['`tool_choice` "none"', { ...TEXT, tools: TOOLS, toolChoice: { mode: "NONE" } }],
  ['`tool_choice` "required"', { ...TEXT, tools: TOOLS, toolChoice: { mode: "REQUIRED" } }],
  ["`tool_choice`, a tool's name", { ...TEXT, tools: TOOLS, toolChoice: { mode: "NAMED", name: "get_time" } }],
  ["`parallel_tool_calls` false", { ...TEXT, tools: TOOLS, parallelToolCalls: false }],
  ["results of tools", results({})],
  ["results of tools, as errors", results({ isError: true })],
  ["`response_format` json_object", readCase("json-object")],
  ["`response_format` json_schema", { ...TEXT, responseFormat: { ...SCHEMA, description: "" } }],
  ["`reasoning_effort`", { ...TEXT, reasoning: { effort: "HIGH" }, maxOutputTokens: 4096 }],
  ["a bound for the reasoning", { ...TEXT, reasoning: { budgetTokens: 2048 }, maxOutputTokens: 4096 }],
  ["reasoning of earlier turns", { ...TEXT, messages: readCase("reasoning")["messages"] }],
  ["`max_completion_tokens`", { ...TEXT, maxOutputTokens: 100 }],
  ["`temperature`", sampled("temperature")],
  ["`top_p`", sampled("topP")],
  ["`top_k`", sampled("topK")],
  ["`frequency_penalty`", sampled("frequencyPenalty")],
  ["`presence_penalty`", sampled("presencePenalty", 0.5)],
  ["`seed`", sampled("seed")],
  ["`stop`", sampled("stop", ["END"])],
  ["`logit_bias`", sampled("logitBias")],
  ["`logprobs`", { ...TEXT, logprobs: true }],
  ["`n` above 1", readCase("choices")],
  ["`user`", { ...TEXT, user: "user-17" }],
];

/** Sent to everybody; only who is known to go on with it has it. */
const BEGUN = "an answer that has begun, known to be gone on with (`prefill`)";

const EMBEDDING_WISHES: readonly (readonly [name: string, notation: Json])[] = [
  ["embeddings", { model: "any", inputs: ["first text", "second text"] }],
  ["embeddings, `dimensions`", { model: "any", inputs: ["first text"], dimensions: 256 }],
];

/** What becomes of one wish. */
interface Fulfilment {
  readonly wish: string;
  readonly outcome: "yes" | "warns" | "refuses" | "no";
  /** What the caller is told. */
  readonly notes: readonly string[];
}

/** What becomes of every wish, in the same order for every dialect. */
export function abilitiesOf({ dialect, model }: Speaker): Fulfilment[] {
  const context = { worker: "worker", model, nowS: 1_764_000_000, mintId: (prefix: string) => `${prefix}1` };
  const chat = (notation: Json) => (stream: boolean) =>
    dialect.chatRequest(toCompletionRequest(notation), stream, context);
  // What is told of the barest request says nothing about anything else.
  const always = fulfil("", chat(TEXT)).notes;
  const chats = WISHES.map(([wish, notation]) => fulfil(wish, chat(notation), notation === TEXT ? [] : always));
  const goesOn = dialect.modelProperties?.(model)?.capabilities?.includes("prefill") ?? false;
  const begun = fulfil(BEGUN, chat(readCase("begun")), always);
  chats.push(goesOn ? begun : { wish: BEGUN, outcome: "no", notes: [] });
  const { embedding } = dialect;
  const embeddings = EMBEDDING_WISHES.map(([wish, notation]): Fulfilment => {
    if (embedding === undefined) return { wish, outcome: "no", notes: [] };
    return fulfil(wish, () => embedding.request(toEmbeddingRequest(notation), context));
  });
  return [...chats, ...embeddings];
}

/** What both forms of a request come to, whole and streamed; what is told of the second alone says so. */
function fulfil(
  wish: string,
  translate: (stream: boolean) => ProviderRequest,
  known: readonly string[] = [],
): Fulfilment {
  const [whole, streamed] = [tell(() => translate(false)), tell(() => translate(true))];
  const onlyStreamed = streamed.notes.filter((note) => !whole.notes.includes(note));
  const notes = [...whole.notes, ...onlyStreamed.map((note) => `${note} (streamed)`)];
  const news = notes.filter((note) => !known.includes(note));
  const outcome = whole.refused || streamed.refused ? "refuses" : news.length > 0 ? "warns" : "yes";
  return { wish, outcome, notes: news };
}

function tell(translate: () => ProviderRequest): { readonly refused: boolean; readonly notes: readonly string[] } {
  try {
    return { refused: false, notes: (translate().warnings ?? []).map(({ message }) => message) };
  } catch (thrown) {
    if (thrown instanceof RpcError) return { refused: true, notes: [thrown.message] };
    throw thrown;
  }
}

/** What an answer can have besides text and its end, and how it is known from a golden. */
const CONTENTS: readonly (readonly [name: string, sign: RegExp])[] = [
  ["tool calls", /"toolCall":/],
  ["several tool calls", /"toolCall":[\s\S]*"toolCall":(?! ?\{"choice":0,"index":0)/],
  ["reasoning", /"reasoning":/],
  ["reasoning with a signature, to be sent back", /"signature":/],
  ["a refusal", /"refusal":/],
  ["log probabilities", /"logprobs":/],
  ["usage", /"usage":/],
  ["cached tokens", /"cachedInputTokens": ?[1-9]/],
  ["reasoning tokens", /"reasoningTokens": ?[1-9]/],
];

/** What its recorded answers have, by what the dialect made of them: whole, streamed, both or neither. */
export function contentsOf({ fixtures }: Subject): { readonly content: string; readonly forms: string }[] {
  const files = readdirSync(fixtures);
  const read = (end: string) =>
    files.filter((file) => file.endsWith(end)).map((file) => readFileSync(join(fixtures, file), "utf8"));
  const [whole, streamed] = [read(".completion.json"), read(".parts.json")];
  return CONTENTS.map(([content, sign]) => {
    const inWhole = whole.some((text) => sign.test(text));
    const inStream = streamed.some((text) => sign.test(text));
    return { content, forms: inWhole && inStream ? "yes" : inWhole ? "whole" : inStream ? "streamed" : "no" };
  });
}
