/**
 * Cohere, simulated to the byte: https://docs.cohere.com/reference/chat. Compact JSON without a line end; every event of a
 * stream has its name, and after the last one comes a `[DONE]` that has none.
 */
import { type Behaviour, splitModel } from "./behaviour.ts";
import { answer, countWords, embed, type Question, type Said } from "./model.ts";
import { bearerOf, functionTools, isJson, type Json, modelOf, textOf, turnsOf } from "./request.ts";
import {
  inHalves,
  type Provider,
  type ProviderOptions,
  type Reply,
  type SimulatedRequest,
  type Simulator,
  startSimulator,
} from "./simulator.ts";

/** What a simulated Cohere can be told. */
export interface CohereSimulatorOptions extends ProviderOptions {
  /** The keys are trial keys: each may be used so often in a month, and the headers say how little that is. */
  readonly trialCalls?: number | undefined;
}

/** Starts one. */
export function startCohereSimulator(options: CohereSimulatorOptions = {}): Promise<Simulator> {
  return startSimulator(new Cohere(options), options);
}

/** Cohere's own models have more dimensions; a test does not need them. */
const DIMENSIONS = 8;
/** What Cohere puts before every prompt, and does not bill. */
const PREAMBLE_TOKENS = 495;
const TEXTS_MAX = 96;
const STOP_SEQUENCES_MAX = 5;
const MODELS = ["command-a-03-2025", "command-a-reasoning-08-2025", "embed-v4.0", "rerank-v3.5"];
/** They think unless they are told not to. */
const THINKING_MODEL = /reasoning|command-a-plus/;

class Cohere implements Provider {
  readonly basePath = "";
  readonly #options: CohereSimulatorOptions;
  readonly #calls = new Map<string, number>();
  #count = 0;

  constructor(options: CohereSimulatorOptions) {
    this.#options = options;
  }

  isGeneration(request: SimulatedRequest): boolean {
    return request.method === "POST";
  }

  behaviourOf(request: SimulatedRequest): Behaviour | undefined {
    return splitModel(modelOf(request)).behaviour;
  }

  failure(status: number): Reply {
    return failure(status, FAILURES[status] ?? INTERNAL);
  }

  reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    const { apiKeys, models } = this.#options;
    const key = bearerOf(request);
    if (apiKeys !== undefined && !key) return failure(401, "no api key supplied");
    if (apiKeys !== undefined && !apiKeys.includes(key ?? "")) return failure(401, WRONG_KEY);
    const { pathname, searchParams } = new URL(request.path, "http://x");
    if (request.method === "GET" && pathname === "/v1/models") return this.#models(searchParams);
    if (request.method !== "POST" || !/^\/v2\/(chat|embed)$/.test(pathname)) return plain(404, "404 page not found");
    if (!isJson(request.body)) return failure(400, "invalid request: the body is not valid JSON");
    const { model } = splitModel(modelOf(request));
    if (model === "") return failure(400, "invalid request: a model parameter is required for this endpoint.");
    if (models !== undefined && !models.includes(model)) return failure(404, unknownModel(model));
    const used = this.#used(key ?? "");
    if (used !== undefined) return used;
    return pathname === "/v2/embed" ? embeddings(request.body) : this.#chat(request.body, model, behaviour);
  }

  #chat(body: Json, model: string, behaviour: Behaviour): Reply {
    const wrong = wrongChat(body);
    if (wrong !== undefined) return failure(400, wrong);
    this.#count += 1;
    const chat = new Chat(body, model, this.#count, behaviour);
    return body["stream"] === true ? chat.stream() : chat.whole();
  }

  /** The answer for a key that has been used too often. */
  #used(key: string): Reply | undefined {
    const { trialCalls } = this.#options;
    if (trialCalls === undefined) return undefined;
    const calls = (this.#calls.get(key) ?? 0) + 1;
    this.#calls.set(key, calls);
    if (calls <= trialCalls) return undefined;
    return failure(429, `You are using a Trial key, which is limited to ${trialCalls} API calls / month.`);
  }

  #models(query: URLSearchParams): Reply {
    const endpoint = query.get("endpoint");
    const all = (this.#options.models ?? MODELS)
      .map(describeModel)
      .filter(({ endpoints }) => endpoint === null || endpoints.includes(endpoint));
    const start = Number(query.get("page_token") ?? 0);
    const end = start + Number(query.get("page_size") ?? 20);
    return whole({ models: all.slice(start, end), ...(end < all.length && { next_page_token: String(end) }) });
  }
}

/** One answer, in both of its forms. */
class Chat {
  readonly #body: Json;
  readonly #number: number;
  readonly #question: Question;
  readonly #said: Said;
  readonly #thinking: readonly string[];
  readonly #plan: readonly string[];
  readonly #reason: string;

  constructor(body: Json, model: string, number: number, behaviour: Behaviour) {
    this.#body = body;
    this.#number = number;
    this.#question = toQuestion(body);
    this.#said = answer(this.#question, behaviour);
    const wish = isJson(body["thinking"]) ? body["thinking"]["type"] : undefined;
    const thinks = wish === "enabled" || (wish !== "disabled" && THINKING_MODEL.test(model));
    this.#thinking = thinks ? ["Let", " me", " think", "."] : [];
    this.#plan = this.#said.calls.length > 0 && !thinks ? toPlan(this.#said, body["tool_choice"] === "REQUIRED") : [];
    this.#reason = this.#finishReason(behaviour);
  }

  whole(): Reply {
    const { tokens, calls } = this.#said;
    const text = tokens.join("");
    const content = [
      ...(this.#thinking.length > 0 ? [{ type: "thinking", thinking: this.#thinking.join("") }] : []),
      ...(calls.length > 0 ? [] : [{ type: "text", text }]),
    ];
    const citation = this.#citation();
    const message = {
      role: "assistant",
      ...(this.#plan.length > 0 && { tool_plan: this.#plan.join("") }),
      ...(calls.length > 0 && { tool_calls: calls.map((_, index) => this.#call(index)) }),
      ...(content.length > 0 && { content }),
      ...(citation !== undefined && { citations: [citation] }),
    };
    const logprobs = this.#body["logprobs"] === true ? { logprobs: tokens.map(toLogprobs) } : {};
    return whole({ id: this.#id(), message, finish_reason: this.#reason, usage: this.#usage(), ...logprobs });
  }

  stream(): Reply {
    const { tokens, calls } = this.#said;
    const start = { role: "assistant", content: [], tool_plan: "", tool_calls: [], citations: [] };
    const plan = this.#plan.map((piece) => event("tool-plan-delta", {}, { tool_plan: piece }));
    const thought = this.#thinking.length > 0;
    const blocks = [
      ...(thought ? this.#block("thinking", this.#thinking, 0) : []),
      ...(calls.length > 0 ? [] : this.#block("text", tokens, thought ? 1 : 0)),
    ];
    const called = calls.flatMap((_, index) => this.#callPieces(index));
    const end = { finish_reason: this.#reason, usage: this.#usage() };
    const error = {
      error: "an unexpected error occurred while generating",
      finish_reason: "ERROR",
      usage: this.#usage(),
    };
    return {
      status: 200,
      headers: { ...HEADERS, "content-type": "text/event-stream" },
      head: [
        `event: message-start\ndata: ${JSON.stringify({ id: this.#id(), type: "message-start", delta: { message: start } })}\n\n`,
      ],
      tokens: [...plan, ...blocks, ...called],
      tail: [named("message-end", { type: "message-end", delta: end }), DONE],
      error: `${named("message-end", { type: "message-end", delta: error })}${DONE}`,
      malformed: 'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"mess\n\n',
    };
  }

  /** One piece for each token; the first comes with the block's beginning, the last with its end. */
  #block(kind: "text" | "thinking", tokens: readonly string[], index: number): string[] {
    const content = (piece: Json) => ({ content: piece });
    const begin = event("content-start", { index }, content({ type: kind, [kind]: "" }));
    const end = named("content-end", { type: "content-end", index });
    const logprobs = (token: string) =>
      kind === "text" && this.#body["logprobs"] === true ? { logprobs: toLogprobs(token) } : {};
    const deltas = tokens.map((token) =>
      event("content-delta", { index }, content({ [kind]: token }), logprobs(token)),
    );
    const citation = kind === "text" ? this.#citation() : undefined;
    if (citation !== undefined && deltas.length > 0) deltas[0] += cited({ ...citation, content_index: index });
    if (deltas.length === 0) return [`${begin}${end}`];
    return deltas.map((delta, at) => `${at === 0 ? begin : ""}${delta}${at === deltas.length - 1 ? end : ""}`);
  }

  /** First the name, then the arguments a few characters at a time; a tool without parameters gets none. */
  #callPieces(index: number): string[] {
    const { id, type, function: called } = this.#call(index);
    const begin = event(
      "tool-call-start",
      { index },
      { tool_calls: { id, type, function: { ...called, arguments: "" } } },
    );
    const given = called.arguments === "{}" ? [] : (called.arguments.match(/.{1,4}/gs) ?? []);
    const deltas = given.map((piece) =>
      event("tool-call-delta", { index }, { tool_calls: { function: { arguments: piece } } }),
    );
    return [begin, ...deltas, named("tool-call-end", { type: "tool-call-end", index })];
  }

  #call(index: number): { id: string; type: string; function: { name: string; arguments: string } } {
    const { name, arguments: given } = this.#said.calls[index] ?? { name: "", arguments: {} };
    const id = `${name}_${(this.#number * 1296 + index).toString(36).padStart(12, "s")}`;
    return { id, type: "function", function: { name, arguments: JSON.stringify(given) } };
  }

  /** What comes of a tool's result is cited. */
  #citation(): Json | undefined {
    const [token] = this.#said.tokens;
    const options = this.#body["citation_options"];
    const off = isJson(options) && /^(OFF|DISABLED)$/.test(String(options["mode"]));
    if (!this.#question.afterTool || off || token === undefined) return undefined;
    const source = { type: "tool", id: "tool:0", tool_output: { content: "the tool's result" } };
    return { start: 0, end: token.length, text: token, sources: [source], type: "TEXT_CONTENT" };
  }

  #finishReason(behaviour: Behaviour): string {
    if (this.#said.reason === "tool_calls") return "TOOL_CALL";
    if (this.#said.reason === "length") return "MAX_TOKENS";
    const unstopped = answer({ ...this.#question, stop: [] }, behaviour);
    return unstopped.tokens.join("") === this.#said.tokens.join("") ? "COMPLETE" : "STOP_SEQUENCE";
  }

  #usage(): Json {
    const { input, output } = this.#said.usage;
    const reasoning = this.#thinking.length;
    return {
      billed_units: { input_tokens: input, output_tokens: output + reasoning },
      tokens: {
        input_tokens: input + PREAMBLE_TOKENS,
        output_tokens: output + reasoning,
        ...(reasoning > 0 && { reasoning_tokens: reasoning }),
      },
      cached_tokens: 448,
    };
  }

  #id(): string {
    return uuid(this.#number);
  }
}

const DONE = "data: [DONE]\n\n";

function event(type: string, position: Json, message: Json, rest: Json = {}): string {
  return named(type, { type, ...position, delta: { message }, ...rest });
}

function named(type: string, data: Json): string {
  return `event: ${type}\ndata: ${JSON.stringify(data)}\n\n`;
}

function cited(citation: Json): string {
  const begin = event("citation-start", { index: 0 }, { citations: citation });
  return `${begin}${named("citation-end", { type: "citation-end", index: 0 })}`;
}

function toPlan({ calls }: Said, required: boolean): string[] {
  const names = calls.map(({ name }) => name).join(" and ");
  const tools = calls.length > 1 ? "tools" : "tool";
  const plan = required
    ? "I will use one or more of the available tools to find the answer"
    : `I will use the ${names} ${tools} to find the answer.`;
  return plan.match(/\s*\S+/g) ?? [];
}

function toLogprobs(token: string): Json {
  return { text: token, token_ids: [countWords(token) + token.length], logprobs: [-0.125] };
}

function uuid(number: number): string {
  return `51b0a7e0-d51b-4a7e-8d51-${number.toString(16).padStart(12, "0")}`;
}

const HEADERS = {
  "access-control-expose-headers": "X-Debug-Trace-ID",
  "cache-control": "no-cache, no-store, no-transform, must-revalidate, private, max-age=0",
  expires: "Thu, 01 Jan 1970 00:00:00 GMT",
  pragma: "no-cache",
  vary: "Origin,Accept-Encoding",
  "x-accel-expires": "0",
  "x-debug-trace-id": "51b0a7e0d51b0a7e0d51b0a7e0d51b0a",
  "x-envoy-upstream-service-time": "21",
  server: "envoy",
  via: "1.1 google",
};

const WRONG_KEY =
  "Incorrect API key provided: ***********. You can find your API key at https://dashboard.cohere.com/api-keys.";
const INTERNAL = "internal server error, this has been reported to our developers";

/** As they were recorded, or as https://docs.cohere.com/reference/errors gives them. */
const FAILURES: Readonly<Record<number, string>> = {
  400: "invalid request: message must be at least 1 token long or tool results must be specified.",
  401: WRONG_KEY,
  402: "Please add or update your payment method at https://dashboard.cohere.com/billing?tab=payment to continue",
  404: unknownModel("none"),
  422: "invalid generation: the model produced output that could not be parsed",
  429: "You are using a Trial key, which is limited to 20 API calls / minute. You can continue to use the Trial key for free or upgrade to a Production key with higher rate limits at 'https://dashboard.cohere.com/api-keys'. Contact us on 'https://discord.gg/XW44jPfYJu' or email us at support@cohere.com with any questions",
  498: "invalid token",
  499: "request cancelled",
  500: INTERNAL,
  503: "service temporarily unavailable, please try again later",
  504: "the request timed out",
};

function unknownModel(model: string): string {
  return `model '${model}' not found, make sure the correct model ID was used and that you have access to the model.`;
}

function failure(status: number, message: string): Reply {
  const text = JSON.stringify({ id: uuid(0), message });
  return { ...whole({}), status, tokens: [text], tail: [] };
}

function plain(status: number, text: string): Reply {
  return { ...whole({}), status, headers: { ...HEADERS, "content-type": "text/plain" }, tokens: [text], tail: [] };
}

/** Cut in the middle where it can go wrong. */
function whole(body: Json): Reply {
  return {
    status: 200,
    headers: { ...HEADERS, "content-type": "application/json" },
    ...inHalves(JSON.stringify(body)),
    error: JSON.stringify({ id: uuid(0), message: INTERNAL }),
    malformed: "}{",
  };
}

const BOUNDS: readonly (readonly [name: string, min: number, max: number])[] = [
  ["p", 0.01, 0.99],
  ["k", 0, 500],
  ["frequency_penalty", 0, 1],
  ["presence_penalty", 0, 1],
];

/** What Cohere refuses, as far as an adapter could get it wrong. */
function wrongChat(body: Json): string | undefined {
  const { messages, tools, response_format: format, stop_sequences: stop } = body;
  if (!Array.isArray(messages) || messages.length === 0) return "invalid request: messages must not be empty.";
  for (const [name, min, max] of BOUNDS) {
    const value = body[name];
    if (value !== undefined && !(typeof value === "number" && value >= min && value <= max)) {
      return `invalid request: ${name} must be between ${min} and ${max} inclusive.`;
    }
  }
  if (Array.isArray(stop) && stop.length > STOP_SEQUENCES_MAX) {
    return `invalid request: stop_sequences must have at most ${STOP_SEQUENCES_MAX} elements - received ${stop.length}.`;
  }
  const names = functionTools(tools).map(({ name }) => name);
  const odd = names.find((name) => !/^[A-Za-z_]\w*$/.test(name));
  if (odd !== undefined) {
    return `invalid request: tool names can only contain certain characters (A-Za-z0-9_) and can't begin with a digit (provided name was '${odd}').`;
  }
  if (names.length === 0 && body["tool_choice"] !== undefined) {
    return "invalid request: tool_choice can only be specified together with tools.";
  }
  if (names.length > 0 && isJson(format) && format["type"] === "json_object") {
    return "invalid request: response_format is not supported with tools.";
  }
  return undefined;
}

function embeddings(body: Json): Reply {
  const texts = (Array.isArray(body["texts"]) ? body["texts"] : []).map(String);
  if (typeof body["input_type"] !== "string") {
    return failure(400, "invalid request: valid input_type must be provided with the provided model");
  }
  if (texts.length > TEXTS_MAX) {
    return failure(
      400,
      `invalid request: total number of texts must be at most ${TEXTS_MAX} - received ${texts.length}.`,
    );
  }
  const dimensions = Number(body["output_dimension"] ?? DIMENSIONS);
  const tokens = texts.reduce((sum, text) => sum + countWords(text), 0);
  const meta = { api_version: { version: "2" }, billed_units: { input_tokens: tokens, image_tokens: 0 } };
  const vectors = texts.map((text) => embed(text, dimensions));
  return whole({ id: uuid(0), texts, embeddings: { float: vectors }, meta, response_type: "embeddings_by_type" });
}

function describeModel(name: string): { name: string; endpoints: string[] } & Json {
  const endpoints = /embed/.test(name)
    ? ["embed", "classify"]
    : /rerank/.test(name)
      ? ["rerank"]
      : ["generate", "chat"];
  return {
    name,
    endpoints,
    finetuned: false,
    context_length: 288_000,
    tokenizer_url: `https://storage.googleapis.com/cohere-public/tokenizers/${name}.json`,
    default_endpoints: [],
    features: endpoints.includes("chat") ? ["json_mode", "json_schema", "strict_tools", "tools"] : null,
  };
}

function toQuestion(body: Json): Question {
  const messages = (Array.isArray(body["messages"]) ? body["messages"] : []).filter(isJson);
  const format = body["response_format"];
  const max = body["max_tokens"];
  const choice = body["tool_choice"];
  return {
    turns: turnsOf(messages),
    words: messages.reduce((sum, message) => sum + countWords(textOf(message["content"])), 0),
    tools: choice === "NONE" ? [] : functionTools(body["tools"]),
    toolWanted: choice === "REQUIRED",
    afterTool: messages.at(-1)?.["role"] === "tool",
    json: isJson(format) && format["type"] === "json_object" ? { schema: format["json_schema"] } : undefined,
    tokensMax: typeof max === "number" ? max : undefined,
    stop: Array.isArray(body["stop_sequences"]) ? body["stop_sequences"].map(String) : [],
  };
}
