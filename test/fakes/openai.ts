/**
 * OpenAI, simulated to the byte: https://platform.openai.com/docs/api-reference/chat. Whole answers are indented JSON with
 * a line end, streams are compact JSON behind `data: `, with the padding that OpenAI calls obfuscation.
 */
import { type Behaviour, splitModel } from "./behaviour.ts";
import { answer, countWords, embed, type Question, type Said } from "./model.ts";
import {
  type Provider,
  type Reply,
  type SimulatedRequest,
  type Simulator,
  type SimulatorOptions,
  startSimulator,
} from "./simulator.ts";

/** What a simulated OpenAI can be told. */
export interface OpenAiSimulatorOptions extends SimulatorOptions {
  /** Any key, or none, is taken when absent. */
  readonly apiKeys?: readonly string[] | undefined;
  /** Requests for others get 404. When absent every model is there. */
  readonly models?: readonly string[] | undefined;
}

/** Starts one; its `url` ends in /v1. */
export function startOpenAiSimulator(options: OpenAiSimulatorOptions = {}): Promise<Simulator> {
  return startSimulator(new OpenAi(options), options);
}

type Json = Record<string, unknown>;

/** OpenAI's own models have more dimensions; a test does not need them. */
const DIMENSIONS = 8;
/** They refuse max_tokens. */
const REASONING_MODEL = /^(o\d|gpt-5)/;

class OpenAi implements Provider {
  readonly basePath = "/v1";
  readonly #options: OpenAiSimulatorOptions;
  #count = 0;

  constructor(options: OpenAiSimulatorOptions) {
    this.#options = options;
  }

  isGeneration(request: SimulatedRequest): boolean {
    return request.method === "POST";
  }

  behaviourOf(request: SimulatedRequest): Behaviour | undefined {
    return splitModel(modelOf(request)).behaviour;
  }

  failure(status: number): Reply {
    return failure(status, ...(FAILURES[status] ?? ["The server had an error.", "server_error", null, null]));
  }

  reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    const { apiKeys, models } = this.#options;
    const key = /^Bearer (.*)$/.exec(request.headers.authorization ?? "")?.[1];
    if (apiKeys !== undefined && (key === undefined || !apiKeys.includes(key))) return wrongKey(key);
    const path = request.path.split("?")[0];
    if (request.method === "GET" && path === "/v1/models") return this.#models();
    if (request.method !== "POST" || !isJson(request.body)) return unknownUrl(request);
    const { model } = splitModel(modelOf(request));
    if (models !== undefined && !models.includes(model)) return unknownModel(model);
    if (path === "/v1/chat/completions") return this.#chat(request.body, model, behaviour);
    if (path === "/v1/embeddings") return embeddings(request.body, model);
    return unknownUrl(request);
  }

  #models(): Reply {
    const ids = this.#options.models ?? ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];
    const data = ids.map((id) => ({ id, object: "model", created: 1_715_367_049, owned_by: "system" }));
    return whole({ object: "list", data });
  }

  #chat(body: Json, model: string, behaviour: Behaviour): Reply {
    const wrong = wrongChat(body, model);
    if (wrong !== undefined) return wrong;
    this.#count += 1;
    const said = answer(toQuestion(body), behaviour);
    const chat = new Chat(body, model, this.#count, said);
    return body["stream"] === true ? chat.stream() : whole(chat.whole());
  }
}

/** One chat completion, in both of its forms. */
class Chat {
  readonly #body: Json;
  readonly #number: number;
  readonly #said: Said;
  readonly #stamp: Json;
  readonly #choices: readonly number[];

  constructor(body: Json, model: string, number: number, said: Said) {
    this.#body = body;
    this.#number = number;
    this.#said = said;
    this.#choices = Array.from({ length: Number(body["n"] ?? 1) }, (_, index) => index);
    this.#stamp = { id: `chatcmpl-${this.#id(0)}`, created: Math.floor(Date.now() / 1000), model: dated(model) };
  }

  whole(): Json {
    const { tokens, calls, reason } = this.#said;
    const { id, created, model } = this.#stamp;
    const choices = this.#choices.map((index) => ({
      index,
      message: {
        role: "assistant",
        content: calls.length > 0 ? null : tokens.join(""),
        ...(calls.length > 0 && { tool_calls: calls.map((_, call) => this.#call(index, call)) }),
        refusal: null,
        annotations: [],
      },
      logprobs: this.#logprobs(tokens),
      finish_reason: reason,
    }));
    const usage = this.#usage();
    return { id, object: "chat.completion", created, model, choices, usage, ...SERVICE };
  }

  stream(): Reply {
    const { tokens, calls } = this.#said;
    const content = calls.length > 0 ? null : "";
    const head = this.#choices.map((index) => this.#chunk(index, { role: "assistant", content, refusal: null }));
    const pieces = tokens.map((token) =>
      this.#choices.map((index) => this.#chunk(index, { content: token }, this.#logprobs([token]))).join(""),
    );
    const callPieces = calls.flatMap((_, call) =>
      this.#choices.flatMap((index) => this.#callDeltas(index, call).map((delta) => this.#chunk(index, delta))),
    );
    const finish = this.#choices.map((index) => this.#chunk(index, {}, null, this.#said.reason));
    const usage = this.#wantsUsage ? [this.#event([], this.#usage())] : [];
    return {
      status: 200,
      headers: { "content-type": "text/event-stream; charset=utf-8", ...OPENAI_HEADERS },
      head,
      tokens: [...pieces, ...callPieces],
      tail: [...finish, ...usage, "data: [DONE]\n\n"],
      error: `data: ${JSON.stringify(SERVER_ERROR)}\n\n`,
      malformed: `data: {"id":"${this.#stamp["id"]}","object":"chat.comp\n\n`,
    };
  }

  get #wantsUsage(): boolean {
    const options = this.#body["stream_options"];
    return isJson(options) && options["include_usage"] === true;
  }

  #chunk(index: number, delta: Json, logprobs: unknown = null, finish: string | null = null): string {
    return this.#event([{ index, delta, logprobs, finish_reason: finish }], null);
  }

  #event(choices: readonly unknown[], usage: unknown): string {
    const { id, created, model } = this.#stamp;
    const chunk = {
      ...{ id, object: "chat.completion.chunk", created, model, ...SERVICE, choices },
      ...(this.#wantsUsage && { usage }),
      obfuscation: "k3Jx9Qm2".slice(0, 1 + (this.#number % 8)),
    };
    return `data: ${JSON.stringify(chunk)}\n\n`;
  }

  #call(choice: number, index: number): Json {
    const { name, arguments: given } = this.#said.calls[index] ?? { name: "", arguments: {} };
    const id = `call_${this.#id(1 + choice * 128 + index)}`;
    return { id, type: "function", function: { name, arguments: JSON.stringify(given) } };
  }

  /** First the name with empty arguments, then the arguments a few characters at a time. */
  #callDeltas(choice: number, index: number): Json[] {
    const call = this.#call(choice, index);
    const { name, arguments: given } = call["function"] as { name: string; arguments: string };
    const first = { index, ...call, function: { name, arguments: "" } };
    const rest = given.match(/.{1,4}/gs) ?? [];
    return [first, ...rest.map((piece) => ({ index, function: { arguments: piece } }))].map((delta) => ({
      tool_calls: [delta],
    }));
  }

  #logprobs(tokens: readonly string[]): unknown {
    if (this.#body["logprobs"] !== true) return null;
    const top = Number(this.#body["top_logprobs"] ?? 0);
    const one = (token: string, logprob: number) => ({ token, logprob, bytes: [...Buffer.from(token)] });
    const content = tokens.map((token) => ({
      ...one(token, -0.125),
      top_logprobs: Array.from({ length: top }, (_, rank) => one(token.slice(rank), -0.125 * (rank + 1))),
    }));
    return { content, refusal: null };
  }

  #usage(): Json {
    const { input, output } = this.#said.usage;
    return {
      prompt_tokens: input,
      completion_tokens: output * this.#choices.length,
      total_tokens: input + output * this.#choices.length,
      prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
      completion_tokens_details: {
        reasoning_tokens: 0,
        audio_tokens: 0,
        accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
      },
    };
  }

  #id(salt: number): string {
    return `Sim${(this.#number * 131071 + salt).toString(36).padStart(21, "0")}`;
  }
}

const SERVICE = { service_tier: "default", system_fingerprint: "fp_5imu1a7e0d" };
const OPENAI_HEADERS = {
  "openai-version": "2020-10-01",
  "openai-processing-ms": "3",
  "x-ratelimit-limit-requests": "500",
  "x-ratelimit-limit-tokens": "200000",
  "x-ratelimit-remaining-requests": "499",
  "x-ratelimit-remaining-tokens": "199992",
  "x-ratelimit-reset-requests": "120ms",
  "x-ratelimit-reset-tokens": "2ms",
  "x-request-id": "req_51b0a7e0d51b0a7e0d51b0a7e0d51b0a",
};

type ErrorFields = [message: string, type: string, param: string | null, code: string | null];

/** As they were recorded, or as https://platform.openai.com/docs/guides/error-codes gives them. */
const FAILURES: Readonly<Record<number, ErrorFields>> = {
  400: ["Invalid value for 'temperature'.", "invalid_request_error", "temperature", "invalid_value"],
  401: ["Incorrect API key provided.", "invalid_request_error", null, "invalid_api_key"],
  403: [
    "Country, region, or territory not supported",
    "request_forbidden",
    null,
    "unsupported_country_region_territory",
  ],
  404: [
    "The model `none` does not exist or you do not have access to it.",
    "invalid_request_error",
    null,
    "model_not_found",
  ],
  429: ["Rate limit reached for requests.", "requests", null, "rate_limit_exceeded"],
  500: ["The server had an error while processing your request. Sorry about that!", "server_error", null, null],
  503: [
    "Our servers are currently overloaded. Please try again later.",
    "service_unavailable_error",
    null,
    "server_is_overloaded",
  ],
};
const SERVER_ERROR = errorBody(...(FAILURES[500] ?? ["", "server_error", null, null]));

function errorBody(...[message, type, param, code]: ErrorFields): Json {
  return { error: { message, type, param, code } };
}

function failure(status: number, ...fields: ErrorFields): Reply {
  return { ...whole(errorBody(...fields)), status };
}

/** Indented, with a line end, and cut in the middle where it can go wrong. */
function whole(body: Json): Reply {
  const text = `${JSON.stringify(body, null, 2)}\n`;
  const middle = Math.floor(text.length / 2);
  return {
    status: 200,
    headers: { "content-type": "application/json", ...OPENAI_HEADERS },
    head: [],
    tokens: [text.slice(0, middle)],
    tail: [text.slice(middle)],
    error: `${JSON.stringify(SERVER_ERROR, null, 2)}\n`,
    malformed: "\n}{",
  };
}

function wrongKey(key: string | undefined): Reply {
  const message =
    key === undefined
      ? "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."
      : `Incorrect API key provided: ${key}. You can find your API key at https://platform.openai.com/account/api-keys.`;
  return failure(401, message, "invalid_request_error", null, key === undefined ? null : "invalid_api_key");
}

function unknownModel(model: string): Reply {
  const message = `The model \`${model}\` does not exist or you do not have access to it.`;
  return failure(404, message, "invalid_request_error", null, "model_not_found");
}

function unknownUrl(request: SimulatedRequest): Reply {
  return failure(404, `Invalid URL (${request.method} ${request.path})`, "invalid_request_error", null, null);
}

/** What OpenAI refuses, as far as an adapter could get it wrong. */
function wrongChat(body: Json, model: string): Reply | undefined {
  if (!Array.isArray(body["messages"]) || body["messages"].length === 0) {
    const message =
      "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
    return failure(400, message, "invalid_request_error", "messages", "empty_array");
  }
  if (body["max_tokens"] !== undefined && body["max_completion_tokens"] !== undefined) {
    const message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
    return failure(400, message, "invalid_request_error", "max_tokens", "invalid_parameter_combination");
  }
  if (body["max_tokens"] !== undefined && REASONING_MODEL.test(model)) {
    const message =
      "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    return failure(400, message, "invalid_request_error", "max_tokens", "unsupported_parameter");
  }
  return undefined;
}

function embeddings(body: Json, model: string): Reply {
  const inputs = Array.isArray(body["input"]) ? body["input"] : [body["input"]];
  const dimensions = Number(body["dimensions"] ?? DIMENSIONS);
  const data = inputs.map((input, index) => {
    const values = embed(String(input), dimensions);
    const packed = () => Buffer.from(Float32Array.from(values).buffer).toString("base64");
    return { object: "embedding", index, embedding: body["encoding_format"] === "base64" ? packed() : values };
  });
  const tokens = inputs.reduce((sum, input) => sum + countWords(String(input)), 0);
  return whole({ object: "list", data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } });
}

function toQuestion(body: Json): Question {
  const messages = (Array.isArray(body["messages"]) ? body["messages"] : []).filter(isJson);
  const tools = (Array.isArray(body["tools"]) ? body["tools"] : []).filter(isJson).map((tool) => {
    const { name, parameters } = isJson(tool["function"]) ? tool["function"] : {};
    return { name: String(name), parameters };
  });
  const choice = body["tool_choice"];
  const named = isJson(choice) && isJson(choice["function"]) ? String(choice["function"]["name"]) : false;
  const max = body["max_completion_tokens"] ?? body["max_tokens"];
  const stop = body["stop"] ?? [];
  return {
    said: textOf(messages.findLast((message) => message["role"] === "user")?.["content"]),
    words: messages.reduce((sum, message) => sum + countWords(textOf(message["content"])), 0),
    tools: choice === "none" ? [] : tools,
    toolWanted: choice === "required" ? true : named,
    afterTool: messages.at(-1)?.["role"] === "tool",
    json: toJsonWish(body["response_format"]),
    tokensMax: typeof max === "number" ? max : undefined,
    stop: Array.isArray(stop) ? stop.map(String) : [String(stop)],
  };
}

function toJsonWish(format: unknown): Question["json"] {
  if (!isJson(format)) return undefined;
  if (format["type"] === "json_object") return { schema: undefined };
  return isJson(format["json_schema"]) ? { schema: format["json_schema"]["schema"] } : undefined;
}

function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (isJson(part) && typeof part["text"] === "string" ? part["text"] : "")).join("");
}

function modelOf(request: SimulatedRequest): string {
  return isJson(request.body) && typeof request.body["model"] === "string" ? request.body["model"] : "";
}

/** OpenAI answers with the snapshot behind a name. */
function dated(model: string): string {
  return model === "gpt-4o" ? "gpt-4o-2024-08-06" : model;
}

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
