/**
 * OpenAI, simulated to the byte, https://platform.openai.com/docs/api-reference/chat, and the servers that speak its
 * protocol, each in its flavor. The model, the requests and the course of an answer are the same; the rest is data.
 */
import { type Behaviour, splitModel } from "./behaviour.ts";
import { goDuration, type Limits, RateLimiter } from "./limits.ts";
import { answer, countWords, embed, type Question, type Said } from "./model.ts";
import { type Fault, FLAVORS, type Flavor, type FlavorName } from "./openai-flavors.ts";
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

/** What a simulated OpenAI, or one that speaks like it, can be told. */
export interface OpenAiSimulatorOptions extends ProviderOptions {
  /** Whom it plays; OpenAI when absent. */
  readonly flavor?: FlavorName | undefined;
  /** Limits that hold, for each key. When absent the headers speak of the server's usual ones, but all are served. */
  readonly limits?: Limits | undefined;
}

/** Starts one. OpenAI's `url` ends in /v1. */
export function startOpenAiSimulator(options: OpenAiSimulatorOptions = {}): Promise<Simulator> {
  return startFlavor(FLAVORS[options.flavor ?? "openai"], options);
}

/** Starts one that answers as `flavor` says. */
export function startFlavor(flavor: Flavor, options: OpenAiSimulatorOptions): Promise<Simulator> {
  return startSimulator(new Server(flavor, options), options);
}

/** OpenAI's own models have more dimensions; a test does not need them. */
const DIMENSIONS = 8;
/** They refuse max_tokens. */
const REASONING_MODEL = /^(o\d|gpt-5)/;
const THOUGHTS = ["Let", " me", " think."];

class Server implements Provider {
  readonly basePath: string;
  readonly #flavor: Flavor;
  readonly #options: OpenAiSimulatorOptions;
  readonly #limiter: RateLimiter | undefined;
  #count = 0;
  /** Of the latest request. */
  #key = "";

  constructor(flavor: Flavor, options: OpenAiSimulatorOptions) {
    this.basePath = flavor.basePath;
    this.#flavor = flavor;
    this.#options = options;
    const limits = options.limits ?? flavor.limits;
    this.#limiter = limits && new RateLimiter(limits);
  }

  isGeneration(request: SimulatedRequest): boolean {
    this.#key = this.#keyOf(request) ?? "";
    return request.method === "POST";
  }

  behaviourOf(request: SimulatedRequest): Behaviour | undefined {
    return splitModel(this.#modelOf(request)).behaviour;
  }

  failure(status: number, retryAfterS?: number): Reply {
    const fallback = FAILURES[status] ?? { message: "The server had an error.", type: "server_error" };
    const fault = this.#flavor.failures[status] ?? fallback;
    const message =
      retryAfterS === undefined
        ? fault.message
        : fault.message.replace(/try again in [\d.]+s/, `try again in ${retryAfterS}s`);
    return this.#fail({ status, ...fault, message });
  }

  reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    const { apiKeys, models } = this.#options;
    const { health } = this.#flavor;
    if (health !== undefined && request.path === health.path) return plain(health.body);
    const key = this.#keyOf(request);
    if (apiKeys !== undefined && (key === undefined || !apiKeys.includes(key))) return this.#wrongKey(key);
    const path = request.path.split("?")[0]!.slice(this.basePath.length);
    if (request.method === "GET" && /^(\/openai)?\/models$/.test(path)) return this.#models();
    if (request.method !== "POST" || !isJson(request.body)) return this.#unknownUrl(request);
    const { model } = splitModel(this.#modelOf(request));
    if (models !== undefined && !models.includes(model)) return this.#unknownModel(model);
    if (path.endsWith("/chat/completions")) return this.#chat(request.body, model, behaviour);
    if (path.endsWith("/embeddings")) return this.#embeddings(request.body, model);
    return this.#unknownUrl(request);
  }

  #keyOf(request: SimulatedRequest): string | undefined {
    const { keyHeader } = this.#flavor;
    return keyHeader === "authorization" ? bearerOf(request) : request.headers[keyHeader]?.toString();
  }

  #modelOf(request: SimulatedRequest): string {
    const inPath = /\/deployments\/([^/]+)\//.exec(request.path)?.[1];
    if (this.#flavor.modelInPath && inPath !== undefined) return decodeURIComponent(inPath);
    return modelOf(request);
  }

  #models(): Reply {
    const ids = this.#options.models ?? this.#flavor.models;
    const data = ids.map((id) => ({ id, object: "model", created: 1_715_367_049, owned_by: "system" }));
    return this.#whole({ object: "list", data });
  }

  #chat(body: Json, model: string, behaviour: Behaviour): Reply {
    const question = toQuestion(body);
    const wrong =
      this.#flavor.refuse(body) ??
      wrongChat(body, model) ??
      this.#overLimit(model, question.words + (question.tokensMax ?? 0));
    if (wrong !== undefined) return this.#fail(wrong);
    this.#count += 1;
    const chat = new Chat(this.#flavor, { body, model, number: this.#count, said: answer(question, behaviour) });
    return body["stream"] === true
      ? { ...chat.stream(this.#serverError()), headers: this.#headers(this.#flavor.stream.contentType) }
      : this.#whole(chat.whole());
  }

  #embeddings(body: Json, model: string): Reply {
    const inputs = Array.isArray(body["input"]) ? body["input"] : [body["input"]];
    const dimensions = Number(body["dimensions"] ?? DIMENSIONS);
    const data = inputs.map((input, index) => {
      const values = embed(String(input), dimensions);
      const packed = () => Buffer.from(Float32Array.from(values).buffer).toString("base64");
      return { object: "embedding", index, embedding: body["encoding_format"] === "base64" ? packed() : values };
    });
    const tokens = inputs.reduce((sum, input) => sum + countWords(String(input)), 0);
    const wrong = this.#overLimit(model, tokens);
    if (wrong !== undefined) return this.#fail(wrong);
    return this.#whole({ object: "list", data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } });
  }

  /** The limits hold when the simulator was told of some; else the headers only speak of them. */
  #overLimit(model: string, tokens: number): Fault | undefined {
    const exceeded = this.#limiter?.take(this.#key, tokens);
    if (exceeded === undefined || this.#options.limits === undefined) return undefined;
    const { limited, failures } = this.#flavor;
    return limited?.(exceeded, model) ?? { status: 429, ...(failures[429] ?? FAILURES[429]!) };
  }

  #headers(contentType: string): Record<string, string> {
    const headers: Record<string, string> = { "content-type": contentType, ...this.#flavor.headers };
    const names = this.#flavor.limitHeaders;
    if (names === undefined || this.#limiter === undefined) return headers;
    for (const which of ["requests", "tokens"] as const) {
      const { limit, remaining, resetMs } = this.#limiter.state(this.#key, which);
      headers[`x-ratelimit-limit-${names[which]}`] = String(limit);
      const least = this.#options.limits === undefined ? 1 : 0;
      headers[`x-ratelimit-remaining-${names[which]}`] = String(Math.max(least, remaining));
      if (names.reset) headers[`x-ratelimit-reset-${names[which]}`] = goDuration(resetMs);
    }
    return headers;
  }

  #serverError(): Json {
    const fault = this.#flavor.failures[500] ?? FAILURES[500]!;
    return this.#flavor.errorBody({ status: 500, ...fault });
  }

  #fail(fault: Fault): Reply {
    const reply = this.#whole(this.#flavor.errorBody(fault));
    return { ...reply, status: fault.status, headers: { ...reply.headers, ...fault.headers }, head: [] };
  }

  /** As the server writes JSON. */
  #whole(body: Json): Reply {
    const { before, after = "", indent, sorted } = this.#flavor.whole;
    const write = (value: unknown) => JSON.stringify(sorted ? sortedKeys(value) : value, null, indent) + after;
    return {
      status: 200,
      headers: this.#headers("application/json"),
      ...inHalves(write(body)),
      ...(before !== undefined && { head: [before] }),
      error: write(this.#serverError()),
      malformed: "\n}{",
    };
  }

  #wrongKey(key: string | undefined): Reply {
    const own = this.#flavor.failures[401];
    if (own !== undefined) return this.#fail({ status: 401, ...own });
    const message =
      key === undefined
        ? "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."
        : `Incorrect API key provided: ${key}. You can find your API key at https://platform.openai.com/account/api-keys.`;
    const code = key === undefined ? null : "invalid_api_key";
    return this.#fail({ status: 401, message, type: "invalid_request_error", code });
  }

  #unknownModel(model: string): Reply {
    const own = this.#flavor.failures[404];
    if (own !== undefined) return this.#fail({ status: 404, ...own, message: own.message.replace("none", model) });
    const message = `The model \`${model}\` does not exist or you do not have access to it.`;
    return this.#fail({ status: 404, message, type: "invalid_request_error", code: "model_not_found" });
  }

  #unknownUrl(request: SimulatedRequest): Reply {
    const message = `Invalid URL (${request.method} ${request.path})`;
    return this.#fail({ status: 404, message, type: "invalid_request_error" });
  }
}

/** What one chat is about. */
interface ChatRequest {
  readonly body: Json;
  readonly model: string;
  readonly number: number;
  readonly said: Said;
}

/** One chat completion, in both of its forms. */
class Chat {
  readonly #flavor: Flavor;
  readonly #body: Json;
  readonly #number: number;
  readonly #said: Said;
  readonly #thoughts: readonly string[];
  readonly #stamp: { readonly id: string; readonly created: number; readonly model: string };
  readonly #choices: readonly number[];

  constructor(flavor: Flavor, { body, model, number, said }: ChatRequest) {
    this.#flavor = flavor;
    this.#body = body;
    this.#number = number;
    this.#said = said;
    this.#thoughts = wantsThoughts(body) ? THOUGHTS : [];
    this.#choices = Array.from({ length: Number(body["n"] ?? 1) }, (_, index) => index);
    this.#stamp = { id: flavor.id(this.#serial(0)), created: Math.floor(Date.now() / 1000), model: dated(model) };
  }

  whole(): Json {
    const { tokens, calls, reason } = this.#said;
    const { message, callContent, logprobs, choice, service, extra } = this.#flavor;
    const { id, created, model } = this.#stamp;
    const text = tokens.join("");
    const choices = this.#choices.map((index) => ({
      index,
      message: {
        role: "assistant",
        ...(calls.length > 0 ? callContent : { content: text }),
        ...this.#thought(this.#thoughts.join(""), calls.length > 0 ? "" : text),
        ...(calls.length > 0 && { tool_calls: calls.map((_, call) => this.#call(index, call)) }),
        ...message,
      },
      ...(logprobs && { logprobs: this.#logprobs(tokens) }),
      finish_reason: reason,
      ...choice(reason),
    }));
    const usage = this.#usage();
    return {
      ...{ id, object: "chat.completion", created, model, choices, usage },
      ...service.whole,
      ...extra?.(this.#serial(0)),
    };
  }

  stream(serverError: Json): Reply {
    const { stream, streamError, firstDelta, callContent } = this.#flavor;
    const { tokens, calls, reason } = this.#said;
    const first = { role: "assistant", ...(calls.length > 0 ? callContent : { content: "" }), ...firstDelta };
    const thoughts = this.#thoughts
      .map((token) => this.#thought(token))
      .filter((delta) => Object.keys(delta).length > 0);
    // Each piece of the answer: its delta for each choice, and its log probabilities.
    const pieces: [(choice: number) => Json, unknown][] = [
      ...thoughts.map((delta): [() => Json, null] => [() => delta, null]),
      ...tokens.map((token): [() => Json, unknown] => [() => ({ content: token }), this.#logprobs([token])]),
      ...calls.flatMap((_, call) =>
        this.#callDeltas(0, call).map((_delta, at): [(choice: number) => Json, null] => [
          (choice) => this.#callDeltas(choice, call)[at]!,
          null,
        ]),
      ),
    ];
    const end = (delta: (choice: number) => Json) =>
      this.#choices.map((choice) => this.#chunk(choice, delta(choice), null, reason, this.#finishFields())).join("");
    const bare = () => stream.finishDelta;
    const last = stream.finish === "last" ? pieces.pop() : undefined;
    const firstFinish = stream.finish === "twice" ? [this.#chunk(0, stream.finishDelta, null, reason)] : [];
    const usage = stream.usage === "asked" && this.#wantsUsage ? [this.#event([], { usage: this.#usage() })] : [];
    return {
      status: 200,
      headers: {},
      head: [
        ...(stream.before === undefined ? [] : [stream.before]),
        ...(stream.role === "apart"
          ? this.#choices.map((choice) => this.#chunk(choice, first, null, null, this.#flavor.extra?.(this.#serial(0))))
          : []),
      ],
      tokens: pieces.map(([delta, logprobs]) =>
        this.#choices.map((choice) => this.#chunk(choice, delta(choice), logprobs)).join(""),
      ),
      tail: [...firstFinish, end(last?.[0] ?? bare), ...usage, "data: [DONE]\n\n"],
      error: streamError(serverError, this.#head()),
      malformed: `data: {"id":"${this.#stamp.id}","object":"chat.comp\n\n`,
    };
  }

  get #wantsUsage(): boolean {
    const options = this.#body["stream_options"];
    return isJson(options) && options["include_usage"] === true;
  }

  #finishFields(): Json {
    const { stream, extra } = this.#flavor;
    const usage = stream.usage === "finish" ? this.#usage() : undefined;
    return { ...extra?.(this.#serial(0), usage), ...(usage && { usage }) };
  }

  #chunk(index: number, delta: Json, logprobs: unknown, finish: string | null = null, fields: Json = {}): string {
    const { stream, choice } = this.#flavor;
    const spoken = stream.role === "everywhere" ? { role: "assistant", ...delta } : delta;
    const one = {
      ...{ index, delta: spoken },
      ...(this.#flavor.logprobs && { logprobs }),
      finish_reason: finish,
      ...choice(finish),
    };
    return this.#event([one], fields);
  }

  #event(choices: readonly unknown[], fields: Json): string {
    const { stream } = this.#flavor;
    const nothing = (stream.usage === "asked" && this.#wantsUsage) || stream.nullUsage === true;
    const chunk = {
      ...this.#head(),
      choices,
      ...(nothing && { usage: null }),
      ...fields,
      ...(stream.padding !== undefined && { [stream.padding]: "k3Jx9Qm2".slice(0, 1 + (this.#number % 8)) }),
    };
    return `data: ${JSON.stringify(this.#flavor.whole.sorted ? sortedKeys(chunk) : chunk)}\n\n`;
  }

  /** What every chunk begins with. */
  #head(): Json {
    const { id, created, model } = this.#stamp;
    return { id, object: "chat.completion.chunk", created, model, ...this.#flavor.service.chunk };
  }

  #call(choice: number, index: number): Json {
    const { name, arguments: given } = this.#said.calls[index] ?? { name: "", arguments: {} };
    const id = this.#flavor.callId(this.#serial(1 + choice * 128 + index));
    return { id, type: "function", function: { name, arguments: JSON.stringify(given) } };
  }

  /** The call in one piece, or first the name with empty arguments, then the arguments a few characters at a time. */
  #callDeltas(choice: number, index: number): Json[] {
    const call = this.#call(choice, index);
    if (this.#flavor.stream.wholeCalls) return [{ tool_calls: [{ ...call, index }] }];
    const { name, arguments: given } = call["function"] as { name: string; arguments: string };
    const first = { index, ...call, function: { name, arguments: "" } };
    const rest = given.match(/.{1,4}/gs) ?? [];
    return [first, ...rest.map((piece) => ({ index, function: { arguments: piece } }))].map((delta) => ({
      tool_calls: [delta],
    }));
  }

  /** What the model thinks, where this server says it; `text` is the answer that a whole message goes on with. */
  #thought(thought: string, text?: string): Json {
    if (thought === "") return {};
    const { reasoning } = this.#flavor;
    switch (reasoning) {
      case "hidden":
        return {};
      case "thinking": {
        const thinking = { type: "thinking", thinking: [{ type: "text", text: thought }] };
        return { content: text ? [thinking, { type: "text", text }] : [thinking] };
      }
      default:
        return { [reasoning]: thought };
    }
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
    const thought = this.#thoughts.length;
    return this.#flavor.usage(input, (output + thought) * this.#choices.length, thought * this.#choices.length);
  }

  #serial(salt: number): string {
    return `Sim${(this.#number * 131071 + salt).toString(36).padStart(21, "0")}`;
  }
}

/** Whether the client has asked the model to think. */
function wantsThoughts(body: Json): boolean {
  const { reasoning_effort: effort, reasoning, thinking } = body;
  if (isJson(thinking)) return thinking["type"] === "enabled";
  if (isJson(reasoning)) return reasoning["effort"] !== "none";
  return typeof effort === "string" && effort !== "none";
}

/** As they were recorded, or as https://platform.openai.com/docs/guides/error-codes gives them. */
const FAILURES: Readonly<Record<number, Omit<Fault, "status">>> = {
  400: {
    message: "Invalid value for 'temperature'.",
    type: "invalid_request_error",
    param: "temperature",
    code: "invalid_value",
  },
  401: { message: "Incorrect API key provided.", type: "invalid_request_error", code: "invalid_api_key" },
  403: {
    message: "Country, region, or territory not supported",
    type: "request_forbidden",
    code: "unsupported_country_region_territory",
  },
  404: {
    message: "The model `none` does not exist or you do not have access to it.",
    type: "invalid_request_error",
    code: "model_not_found",
  },
  429: { message: "Rate limit reached for requests.", type: "requests", code: "rate_limit_exceeded" },
  500: {
    message: "The server had an error while processing your request. Sorry about that!",
    type: "server_error",
  },
  503: {
    message: "Our servers are currently overloaded. Please try again later.",
    type: "service_unavailable_error",
    code: "server_is_overloaded",
  },
};

function plain(body: string): Reply {
  const headers = { "content-type": body === "" ? "text/plain" : "application/json" };
  return { status: 200, headers, head: [], tokens: [], tail: [body], error: "", malformed: "}{" };
}

function sortedKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortedKeys);
  if (!isJson(value)) return value;
  const names = Object.keys(value).sort();
  return Object.fromEntries(names.map((name) => [name, sortedKeys(value[name])]));
}

/** What OpenAI refuses and everyone else with it, as far as an adapter could get it wrong. */
function wrongChat(body: Json, model: string): Fault | undefined {
  const refusal = { status: 400, type: "invalid_request_error" };
  if (!Array.isArray(body["messages"]) || body["messages"].length === 0) {
    const message =
      "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
    return { ...refusal, message, param: "messages", code: "empty_array" };
  }
  if (body["max_tokens"] !== undefined && body["max_completion_tokens"] !== undefined) {
    const message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
    return { ...refusal, message, param: "max_tokens", code: "invalid_parameter_combination" };
  }
  if (body["max_tokens"] !== undefined && REASONING_MODEL.test(model)) {
    const message =
      "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    return { ...refusal, message, param: "max_tokens", code: "unsupported_parameter" };
  }
  return undefined;
}

function toQuestion(body: Json): Question {
  const messages = (Array.isArray(body["messages"]) ? body["messages"] : []).filter(isJson);
  const choice = body["tool_choice"];
  const named = isJson(choice) && isJson(choice["function"]) ? String(choice["function"]["name"]) : false;
  const max = body["max_completion_tokens"] ?? body["max_tokens"];
  const stop = body["stop"] ?? [];
  return {
    turns: turnsOf(messages),
    words: messages.reduce((sum, message) => sum + countWords(textOf(message["content"])), 0),
    tools: choice === "none" ? [] : functionTools(body["tools"]),
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

/** OpenAI answers with the snapshot behind a name. */
function dated(model: string): string {
  return model === "gpt-4o" ? "gpt-4o-2024-08-06" : model;
}
