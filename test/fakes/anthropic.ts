/**
 * Anthropic, simulated to the byte: https://platform.claude.com/docs/en/api/messages. Whole answers are compact JSON without
 * a line end; events have names, and blanks before their last brace so that their length tells nothing; a ping comes after
 * the first block has begun.
 */
import { type Behaviour, splitModel } from "./behaviour.ts";
import { type Exceeded, type Limits, RateLimiter } from "./limits.ts";
import { answer, countWords, type Question, type Said, saidBy } from "./model.ts";
import { bearerOf, isJson, type Json, modelOf } from "./request.ts";
import {
  inHalves,
  type Provider,
  type ProviderOptions,
  type Reply,
  type SimulatedRequest,
  type Simulator,
  startSimulator,
} from "./simulator.ts";

/** What a simulated Anthropic can be told. */
export interface AnthropicSimulatorOptions extends ProviderOptions {
  /** For each key. When absent there are none, and the headers tell of the usual ones. */
  readonly limits?: Limits | undefined;
}

/** Starts one; its `url` has no path, as the official SDK adds /v1 by itself. */
export function startAnthropicSimulator(options: AnthropicSimulatorOptions = {}): Promise<Simulator> {
  return startSimulator(new Anthropic(options), options);
}

const MODELS = ["claude-opus-4-7", "claude-sonnet-4-5", "claude-haiku-4-5", "claude-3-5-haiku-latest"];
const USUAL_LIMITS: Limits = { requests: { count: 4000, perMs: 60_000 }, tokens: { count: 280_000, perMs: 60_000 } };
const REQUEST_ID = "req_011SimAbCdEfGhJkLmNpQrSt";

class Anthropic implements Provider {
  readonly basePath = "";
  readonly #options: AnthropicSimulatorOptions;
  readonly #limiter: RateLimiter;
  #count = 0;

  constructor(options: AnthropicSimulatorOptions) {
    this.#options = options;
    this.#limiter = new RateLimiter(options.limits ?? USUAL_LIMITS);
  }

  isGeneration(request: SimulatedRequest): boolean {
    return request.method === "POST";
  }

  behaviourOf(request: SimulatedRequest): Behaviour | undefined {
    return splitModel(modelOf(request)).behaviour;
  }

  failure(status: number): Reply {
    return failure(status, ...(FAILURES[status] ?? (["api_error", "Internal server error"] as const)));
  }

  reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    const { apiKeys, models } = this.#options;
    const key = keyOf(request);
    if (apiKeys !== undefined && (key === undefined || !apiKeys.includes(key))) {
      return failure(
        401,
        "authentication_error",
        key === undefined ? "x-api-key header is required" : "invalid x-api-key",
      );
    }
    if (request.headers["anthropic-version"] === undefined) return invalid("anthropic-version: header is required");
    const { pathname, searchParams } = new URL(request.path, "http://x");
    if (request.method === "GET") return this.#models(pathname, searchParams);
    if (request.method !== "POST" || pathname !== "/v1/messages") return failure(404, "not_found_error", "Not found");
    const { body } = request;
    if (!isJson(body)) return invalid("The request body is not valid JSON");
    const { model } = splitModel(modelOf(request));
    if (models !== undefined && !models.includes(model)) return failure(404, "not_found_error", `model: ${model}`);
    const wrong = wrongRequest(body, model);
    if (wrong !== undefined) return invalid(wrong);
    const question = toQuestion(body);
    const exceeded = this.#limiter.take(key ?? "", question.words);
    if (exceeded !== undefined && this.#options.limits !== undefined) return this.#limited(exceeded, key ?? "");
    this.#count += 1;
    const message = new Message(body, model, this.#count, answer(question, behaviour));
    const reply = body["stream"] === true ? message.stream() : whole(message.whole());
    return { ...reply, headers: { ...reply.headers, ...this.#limitHeaders(key ?? "") } };
  }

  #models(pathname: string, query: URLSearchParams): Reply {
    const all = (this.#options.models ?? MODELS).map((id) => ({
      type: "model",
      id,
      display_name: id,
      created_at: "2025-09-29T00:00:00Z",
    }));
    if (pathname !== "/v1/models") {
      const found = all.find(({ id }) => pathname === `/v1/models/${id}`);
      return found === undefined ? failure(404, "not_found_error", `model: ${pathname.slice(11)}`) : whole(found);
    }
    const start = all.findIndex(({ id }) => id === query.get("after_id")) + 1;
    const data = all.slice(start, start + Number(query.get("limit") ?? 20));
    const has_more = start + data.length < all.length;
    return whole({ data, has_more, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null });
  }

  #limited({ which, limit, waitMs }: Exceeded, key: string): Reply {
    const what = which === "requests" ? "requests" : "input tokens";
    const message = `This request would exceed the rate limit for your organization (0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0) of ${limit.count.toLocaleString("en")} ${what} per minute. For details, refer to: https://docs.claude.com/en/api/rate-limits.`;
    const reply = failure(429, "rate_limit_error", message);
    const wait = { "retry-after": String(Math.ceil(Math.min(waitMs, 60_000) / 1000)), "x-should-retry": "true" };
    return { ...reply, headers: { ...reply.headers, ...wait, ...this.#limitHeaders(key) } };
  }

  #limitHeaders(key: string): Record<string, string> {
    const headers: Record<string, string> = {};
    for (const name of ["requests", "tokens", "input-tokens", "output-tokens"] as const) {
      const { limit, remaining, resetMs } = this.#limiter.state(key, name === "requests" ? "requests" : "tokens");
      headers[`anthropic-ratelimit-${name}-limit`] = String(limit);
      headers[`anthropic-ratelimit-${name}-remaining`] = String(Math.max(0, remaining));
      const reset = new Date(Date.now() + resetMs).toISOString();
      headers[`anthropic-ratelimit-${name}-reset`] = reset.replace(/\.\d+Z$/, "Z");
    }
    return headers;
  }
}

/** One message, in both of its forms. */
class Message {
  readonly #body: Json;
  readonly #model: string;
  readonly #number: number;
  readonly #said: Said;
  #events = 0;

  constructor(body: Json, model: string, number: number, said: Said) {
    this.#body = body;
    this.#model = model;
    this.#number = number;
    this.#said = said;
  }

  whole(): Json {
    const { tokens, calls } = this.#said;
    const content = [
      ...(this.#thinks ? [{ type: "thinking", thinking: this.#thoughts.join(""), signature: SIGNATURE }] : []),
      ...(tokens.length > 0 ? [{ type: "text", text: tokens.join("") }] : []),
      ...calls.map((_, index) => this.#call(index)),
    ];
    return this.#message(content, this.#stopReason, this.#usage(this.#output));
  }

  stream(): Reply {
    const { tokens, calls } = this.#said;
    const head = [this.#event({ type: "message_start", message: this.#message([], null, this.#usage(1)) })];
    let block = 0;
    if (this.#thinks) {
      const deltas: Json[] = this.#thoughts.map((thinking) => ({ type: "thinking_delta", thinking }));
      deltas.push({ type: "signature_delta", signature: SIGNATURE });
      head.push(...this.#block(block, { type: "thinking", thinking: "", signature: "" }, deltas));
      block += 1;
    }
    if (calls.length === 0 && tokens.length > 0) {
      head.push(this.#start(block, { type: "text", text: "" }), PING);
    }
    const pieces = tokens.map((text) => this.#delta(block, { type: "text_delta", text }));
    const callPieces = calls.flatMap((_, index) => {
      const call = this.#call(index);
      const fragments = JSON.stringify(call["input"]).match(/.{1,8}/gs) ?? [];
      // A call without arguments has no piece but the empty one.
      const pieces = ["", ...(fragments[0] === "{}" ? [] : fragments)];
      const deltas = pieces.map((partial_json) => ({ type: "input_json_delta", partial_json }));
      return this.#block(block + index, { ...call, input: {} }, deltas);
    });
    const usage = this.#usage(this.#output);
    const end = { stop_reason: this.#stopReason, stop_sequence: this.#stopSequence, stop_details: null };
    return {
      status: 200,
      headers: {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        ...ANTHROPIC_HEADERS,
      },
      head,
      tokens: [...pieces, ...callPieces],
      tail: [
        ...(pieces.length > 0 ? [this.#event({ type: "content_block_stop", index: block })] : []),
        this.#event({ type: "message_delta", delta: end, usage }),
        this.#event({ type: "message_stop" }),
      ],
      error: event({ type: "error", error: { details: null, type: "overloaded_error", message: "Overloaded" } }, 15),
      malformed: 'event: content_block_delta\ndata: {"type":"content_block_del\n\n',
    };
  }

  get #thinks(): boolean {
    const thinking = this.#body["thinking"];
    return isJson(thinking) && thinking["type"] !== "disabled";
  }

  /** Newer models keep them to themselves unless asked for a summary. */
  get #thoughts(): readonly string[] {
    const thinking = isJson(this.#body["thinking"]) ? this.#body["thinking"] : {};
    const shown = thinking["display"] ?? (generationOf(this.#model) >= 4.7 ? "omitted" : "summarized");
    return shown === "summarized" ? ["Let me", " think."] : [];
  }

  get #output(): number {
    return this.#said.usage.output + (this.#thinks ? 20 : 0);
  }

  get #stopReason(): string {
    if (this.#stopSequence !== null) return "stop_sequence";
    return { stop: "end_turn", length: "max_tokens", tool_calls: "tool_use" }[this.#said.reason];
  }

  get #stopSequence(): string | null {
    const sequences = Array.isArray(this.#body["stop_sequences"]) ? this.#body["stop_sequences"].map(String) : [];
    const full = `You said: ${saidBy(toQuestion(this.#body).turns)}`;
    const met = this.#said.reason === "stop" && this.#said.tokens.join("") !== full;
    return (met && sequences.find((sequence) => full.includes(sequence))) || null;
  }

  #message(content: readonly Json[], stopReason: string | null, usage: Json): Json {
    return {
      model: this.#model,
      id: `msg_01Sim${this.#number.toString(36).padStart(19, "0")}`,
      type: "message",
      role: "assistant",
      content,
      stop_reason: stopReason,
      stop_sequence: stopReason === null ? null : this.#stopSequence,
      stop_details: null,
      usage,
    };
  }

  #call(index: number): Json {
    const { name, arguments: input } = this.#said.calls[index] ?? { name: "", arguments: {} };
    const id = `toolu_01Sim${(this.#number * 131 + index).toString(36).padStart(17, "0")}`;
    return { type: "tool_use", id, name, input, caller: { type: "direct" } };
  }

  #block(index: number, block: Json, deltas: readonly Json[]): string[] {
    const pieces = [this.#start(index, block), ...deltas.map((delta) => this.#delta(index, delta))];
    return [...pieces, this.#event({ type: "content_block_stop", index })];
  }

  #start(index: number, content_block: Json): string {
    return this.#event({ type: "content_block_start", index, content_block });
  }

  #delta(index: number, delta: Json): string {
    return this.#event({ type: "content_block_delta", index, delta });
  }

  #event(data: Json): string {
    this.#events += 1;
    return event(data, (this.#events * 7) % 16);
  }

  #usage(output: number): Json {
    return {
      input_tokens: this.#said.usage.input,
      cache_creation_input_tokens: 0,
      cache_read_input_tokens: 0,
      cache_creation: { ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 0 },
      output_tokens: output,
      ...(this.#thinks && output > 1 && { output_tokens_details: { thinking_tokens: 20 } }),
      service_tier: "standard",
      inference_geo: "not_available",
    };
  }
}

const SIGNATURE = Buffer.from("simulated thoughts, signed").toString("base64");
const PING = 'event: ping\ndata: {"type": "ping"}\n\n';
const ANTHROPIC_HEADERS = {
  "request-id": REQUEST_ID,
  server: "cloudflare",
  "x-robots-tag": "none",
  "cf-cache-status": "DYNAMIC",
};

/** As https://platform.claude.com/docs/en/api/errors and public reports give them. */
const FAILURES: Readonly<Record<number, readonly [type: string, message: string]>> = {
  400: ["invalid_request_error", "messages: at least one message is required"],
  401: ["authentication_error", "invalid x-api-key"],
  402: ["billing_error", "There is an issue with your billing."],
  403: ["permission_error", "Your API key does not have permission to use the specified resource."],
  404: ["not_found_error", "model: none"],
  409: ["conflict_error", "There was a conflict."],
  413: ["request_too_large", "Request exceeds the maximum allowed number of bytes. The maximum request size is 32 MB."],
  429: ["rate_limit_error", "This request would exceed your account's rate limit. Please try again later."],
  500: ["api_error", "Internal server error"],
  504: ["timeout_error", "The request timed out."],
  529: ["overloaded_error", "Overloaded"],
};

function errorBody(type: string, message: string): Json {
  return { type: "error", error: { type, message }, request_id: REQUEST_ID };
}

function failure(status: number, type: string, message: string): Reply {
  return { ...whole(errorBody(type, message)), status };
}

function invalid(message: string): Reply {
  return failure(400, "invalid_request_error", message);
}

function event(data: Json, padding: number): string {
  return `event: ${data["type"]}\ndata: ${JSON.stringify(data).slice(0, -1)}${" ".repeat(padding)}}\n\n`;
}

/** Compact, without a line end, and cut in the middle where it can go wrong. */
function whole(body: Json): Reply {
  return {
    status: 200,
    headers: { "content-type": "application/json", ...ANTHROPIC_HEADERS },
    ...inHalves(JSON.stringify(body)),
    error: JSON.stringify(errorBody("overloaded_error", "Overloaded")),
    malformed: "\n}{",
  };
}

/** 4.5 for `claude-sonnet-4-5`, 3.5 for `claude-3-5-haiku-latest`. */
function generationOf(model: string): number {
  const [, major, minor = "0"] = /claude-(?:[a-z]+-)*(\d+)(?:-(\d{1,2})(?!\d))?/.exec(model) ?? [];
  return Number(`${major ?? 9}.${minor}`);
}

const FIELDS =
  /^(model|max_tokens|messages|system|stop_sequences|stream|temperature|top_k|top_p|tools|tool_choice|thinking|output_config|metadata|service_tier|cache_control|container|inference_geo)$/;

/** What Anthropic refuses, as far as an adapter could get it wrong: the message, or undefined. */
function wrongRequest(body: Json, model: string): string | undefined {
  const unknown = Object.keys(body).find((name) => !FIELDS.test(name));
  if (unknown !== undefined) return `${unknown}: Extra inputs are not permitted`;
  if (typeof body["max_tokens"] !== "number") return "max_tokens: Field required";
  const stop = Array.isArray(body["stop_sequences"]) ? body["stop_sequences"] : [];
  if (stop.some((sequence) => String(sequence).trim() === "")) {
    return "stop_sequences: each stop sequence must contain non-whitespace";
  }
  return (
    wrongSampling(body, model) ??
    wrongThinking(body, model) ??
    wrongSchema(body, model) ??
    wrongMessages(body) ??
    wrongPrefill(body, model)
  );
}

/** The conversation ends in the beginning of the answer, which the newer models take no more. */
function wrongPrefill(body: Json, model: string): string | undefined {
  const last = messagesOf(body).at(-1);
  if (last?.["role"] !== "assistant") return undefined;
  if (generationOf(model) >= 4.6) {
    return "This model does not support assistant message prefill. The conversation must end with a user message.";
  }
  return /\s$/.test(textOf(last)) ? "messages: final assistant content cannot end with trailing whitespace" : undefined;
}

function wrongSampling(body: Json, model: string): string | undefined {
  const { temperature, top_p: topP, top_k: topK } = body;
  if (typeof temperature === "number" && temperature > 1) return "temperature: range: 0..1";
  const generation = generationOf(model);
  if (generation > 4 && temperature !== undefined && topP !== undefined) {
    return "`temperature` and `top_p` cannot both be specified for this model. Please use only one.";
  }
  const given = [temperature, topP].some((value) => value !== undefined && value !== 1) || topK !== undefined;
  if (generation >= 4.7 && given) return "`temperature` is deprecated for this model.";
  return undefined;
}

function wrongThinking(body: Json, model: string): string | undefined {
  const { thinking, tool_choice: choice } = body;
  if (!isJson(thinking) || thinking["type"] === "disabled") return undefined;
  const generation = generationOf(model);
  if (isJson(choice) && (choice["type"] === "any" || choice["type"] === "tool")) {
    return "Thinking may not be enabled when tool_choice forces tool use.";
  }
  if (thinking["type"] === "adaptive") {
    return generation < 4.6 ? "adaptive thinking is not supported on this model" : undefined;
  }
  if (generation >= 4.7) {
    return '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.';
  }
  const budget = Number(thinking["budget_tokens"]);
  if (!(budget >= 1024)) return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024";
  if (budget >= Number(body["max_tokens"])) return "`max_tokens` must be greater than `thinking.budget_tokens`.";
  if (body["temperature"] !== undefined && body["temperature"] !== 1) {
    return "`temperature` may only be set to 1 when thinking is enabled.";
  }
  const messages = messagesOf(body);
  const index = messages.findLastIndex(({ role }) => role === "assistant");
  const [first] = blocksOf(messages[index] ?? {});
  const looping = index === messages.length - 2 && first !== undefined && hasBlock(messages[index + 1], "tool_result");
  if (looping && !/thinking$/.test(String(first["type"]))) {
    return `messages.${index}.content.0.type: Expected \`thinking\` or \`redacted_thinking\`, but found \`${first["type"]}\`. When \`thinking\` is enabled, a final \`assistant\` message must start with a thinking block.`;
  }
  return undefined;
}

function wrongSchema(body: Json, model: string): string | undefined {
  const format = isJson(body["output_config"]) ? body["output_config"]["format"] : undefined;
  if (!isJson(format)) return undefined;
  if (generationOf(model) < 4.1) return `'${model}' does not support output format.`;
  const schema = isJson(format["schema"]) ? format["schema"] : {};
  if (schema["type"] === "object" && schema["additionalProperties"] !== false) {
    return "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false";
  }
  return undefined;
}

function wrongMessages(body: Json): string | undefined {
  const messages = messagesOf(body);
  if (messages.length === 0) return "messages: at least one message is required";
  if (messages[0]?.["role"] !== "user") return 'messages: first message must use the "user" role';
  for (const [index, message] of messages.entries()) {
    const { role, content } = message;
    if (role !== "user" && role !== "assistant") {
      return `messages: Unexpected role "${role}". The Messages API accepts a top-level \`system\` parameter, not "system" as an input message role.`;
    }
    if (blocksOf(message).length === 0 && content !== undefined) {
      return `messages.${index}: all messages must have non-empty content except for the optional final assistant message`;
    }
    for (const [position, block] of blocksOf(message).entries()) {
      const wrong = wrongBlock(block, `messages.${index}.content.${position}`);
      if (wrong !== undefined) return wrong;
    }
    const wrong = wrongResults(messages[index - 1], message, index);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

function wrongBlock(block: Json, at: string): string | undefined {
  switch (block["type"]) {
    case "text":
      return block["text"] === "" ? "messages: text content blocks must be non-empty" : undefined;
    case "tool_use":
      if (!/^[a-zA-Z0-9_-]+$/.test(String(block["id"]))) {
        return `${at}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'`;
      }
      return isJson(block["input"]) ? undefined : `${at}.tool_use.input: Input should be a valid dictionary`;
    case "thinking":
      return block["signature"] === SIGNATURE ? undefined : `${at}: Invalid \`signature\` in \`thinking\` block`;
    case "image":
    case "document": {
      const source = isJson(block["source"]) ? block["source"] : {};
      if (source["type"] !== "base64" || /^[\w+/=-]+$/.test(String(source["data"]))) return undefined;
      return `${at}.${block["type"]}.source.base64: The image was specified using the image/png media type, but could not be decoded`;
    }
    case "tool_result":
    case "redacted_thinking":
      return undefined;
    default:
      return `${at}: Input tag '${block["type"]}' found using 'type' does not match any of the expected tags`;
  }
}

/** Each call has its result in the next message, at its beginning. */
function wrongResults(before: Json | undefined, message: Json, index: number): string | undefined {
  const called = blocksOf(before ?? {}).filter(({ type }) => type === "tool_use");
  const results = blocksOf(message).filter(({ type }) => type === "tool_result");
  const missing = called.find(({ id }) => !results.some(({ tool_use_id }) => tool_use_id === id));
  if (missing !== undefined) {
    return `messages.${index - 1}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${missing["id"]}. Each \`tool_use\` block must have a corresponding \`tool_result\` block in the next message.`;
  }
  const stray = results.find(({ tool_use_id }) => !called.some(({ id }) => id === tool_use_id));
  if (stray !== undefined) {
    return `messages.${index}.content.0: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${stray["tool_use_id"]}. Each \`tool_result\` block must have a corresponding \`tool_use\` block in the previous message.`;
  }
  return undefined;
}

function toQuestion(body: Json): Question {
  const messages = messagesOf(body);
  const choice = isJson(body["tool_choice"]) ? body["tool_choice"] : {};
  const tools = (Array.isArray(body["tools"]) ? body["tools"] : []).filter(isJson);
  const format = isJson(body["output_config"]) ? body["output_config"]["format"] : undefined;
  const texts = [{ content: body["system"] ?? [] }, ...messages].map(textOf);
  const max = body["max_tokens"];
  return {
    turns: messages.map((message) => ({
      speaker: message["role"] === "assistant" ? "assistant" : hasBlock(message, "text") ? "user" : "other",
      text: textOf(message),
    })),
    words: texts.reduce((sum, text) => sum + countWords(text), 0),
    tools:
      choice["type"] === "none"
        ? []
        : tools.map((tool) => ({ name: String(tool["name"]), parameters: tool["input_schema"] })),
    toolWanted: choice["type"] === "tool" ? String(choice["name"]) : choice["type"] === "any",
    afterTool: hasBlock(messages.at(-1), "tool_result"),
    json: isJson(format) ? { schema: format["schema"] } : undefined,
    tokensMax: typeof max === "number" ? max : undefined,
    stop: Array.isArray(body["stop_sequences"]) ? body["stop_sequences"].map(String) : [],
  };
}

function messagesOf(body: Json): Json[] {
  return Array.isArray(body["messages"]) ? body["messages"].filter(isJson) : [];
}

/** A text alone stands for a block of text. */
function blocksOf(message: Json): Json[] {
  const { content } = message;
  if (typeof content === "string") return content === "" ? [] : [{ type: "text", text: content }];
  return Array.isArray(content) ? content.filter(isJson) : [];
}

function hasBlock(message: Json | undefined, type: string): boolean {
  return blocksOf(message ?? {}).some((block) => block["type"] === type);
}

function textOf(message: Json): string {
  return blocksOf(message)
    .map(({ text }) => (typeof text === "string" ? text : ""))
    .join("");
}

/** The newest SDKs send it as a bearer token, all others and the documentation in a header of its own. */
function keyOf(request: SimulatedRequest): string | undefined {
  const own = request.headers["x-api-key"];
  return typeof own === "string" ? own : bearerOf(request);
}
