/**
 * Gemini, simulated to the byte: https://ai.google.dev/api/generate-content. Whole answers are indented JSON with a line end;
 * events end in CRLF, have blanks after colons only, and no terminator; an error among them is bare JSON. A piece of a stream
 * is one token here, where the real one sends some twenty at once.
 */
import { type Behaviour, splitModel } from "./behaviour.ts";
import { type Exceeded, type Limits, RateLimiter } from "./limits.ts";
import { answer, countWords, embed, type Question, type Said } from "./model.ts";
import { isJson, type Json } from "./request.ts";
import {
  inHalves,
  type Provider,
  type ProviderOptions,
  type Reply,
  type SimulatedRequest,
  type Simulator,
  startSimulator,
} from "./simulator.ts";

/** What a simulated Gemini can be told. */
export interface GeminiSimulatorOptions extends ProviderOptions {
  /** For each key. When absent there are none; no header tells of them. */
  readonly limits?: Limits | undefined;
}

/** Starts one; its `url` ends in /v1beta, which the official SDK adds by itself. */
export function startGeminiSimulator(options: GeminiSimulatorOptions = {}): Promise<Simulator> {
  return startSimulator(new Gemini(options), options);
}

/** Google's own models have more dimensions; a test does not need them. */
const DIMENSIONS = 8;
const MODELS = ["gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-flash-preview", "gemini-embedding-001"];
const METHOD =
  /^\/v1beta\/models\/(.+):(generateContent|streamGenerateContent|embedContent|batchEmbedContents)(\?.*)?$/;

class Gemini implements Provider {
  readonly basePath = "/v1beta";
  readonly waitInBody = true;
  readonly #options: GeminiSimulatorOptions;
  readonly #limiter: RateLimiter | undefined;
  #count = 0;

  constructor(options: GeminiSimulatorOptions) {
    this.#options = options;
    this.#limiter = options.limits && new RateLimiter(options.limits);
  }

  isGeneration(request: SimulatedRequest): boolean {
    return request.method === "POST";
  }

  behaviourOf(request: SimulatedRequest): Behaviour | undefined {
    return splitModel(methodOf(request).model).behaviour;
  }

  failure(status: number, retryAfterS?: number): Reply {
    if (status === 429) return rateLimited(retryAfterS ?? 34.4);
    return failure(status, ...(FAILURES[status] ?? ["An internal error has occurred.", "INTERNAL"]));
  }

  reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    const { apiKeys, models } = this.#options;
    const key = request.headers["x-goog-api-key"] ?? new URL(request.path, "http://x").searchParams.get("key");
    if (apiKeys !== undefined && key === null) return failure(403, ...FAILURES[403]!);
    if (apiKeys !== undefined && !apiKeys.includes(String(key))) return wrongKey();
    if (request.method === "GET") return this.#models(request.path);
    const { model: named, method, query } = methodOf(request);
    const { body } = request;
    if (method === "" || !isJson(body)) return notFound();
    const { model } = splitModel(named);
    if (models !== undefined && !models.includes(model)) return unknownModel(model, method);
    if (method.endsWith("Contents") || method === "embedContent") return embeddings(body, method);
    const wrong = wrongRequest(body, model);
    if (wrong !== undefined) return failure(400, wrong, "INVALID_ARGUMENT");
    const question = toQuestion(body);
    const exceeded = this.#limiter?.take(String(key), question.words);
    if (exceeded !== undefined) return limited(exceeded, model);
    this.#count += 1;
    const generation = new Generation(body, model, this.#count, answer(question, behaviour));
    if (method === "generateContent") return whole(generation.whole());
    // Without it the answer is one array, which no client of ours asks for.
    return query.includes("alt=sse")
      ? generation.stream()
      : failure(400, "Only alt=sse is simulated", "INVALID_ARGUMENT");
  }

  #models(path: string): Reply {
    const { pathname, searchParams } = new URL(path, "http://x");
    const all = (this.#options.models ?? MODELS).map(describeModel);
    if (pathname === "/v1beta/models") {
      const start = Number(searchParams.get("pageToken") ?? 0);
      const end = start + Number(searchParams.get("pageSize") ?? 50);
      return whole({ models: all.slice(start, end), ...(end < all.length && { nextPageToken: String(end) }) });
    }
    const found = all.find(({ name }) => pathname === `/v1beta/${name}`);
    return found === undefined ? notFound() : whole(found);
  }
}

/** One generation, in both of its forms. */
class Generation {
  readonly #body: Json;
  readonly #model: string;
  readonly #number: number;
  readonly #said: Said;
  readonly #config: Json;
  readonly #indices: readonly number[];
  readonly #newest: boolean;

  constructor(body: Json, model: string, number: number, said: Said) {
    this.#body = body;
    this.#model = model;
    this.#number = number;
    this.#said = said;
    this.#config = isJson(body["generationConfig"]) ? body["generationConfig"] : {};
    this.#indices = Array.from({ length: Number(this.#config["candidateCount"] ?? 1) }, (_, index) => index);
    this.#newest = isNewest(model);
  }

  whole(): Json {
    const { tokens, calls } = this.#said;
    const text = tokens.join("");
    const signed = this.#newest && calls.length === 0 ? { thoughtSignature: signature("text") } : {};
    const parts = [
      ...this.#thoughts(),
      ...(text === "" && signed.thoughtSignature === undefined ? [] : [{ text, ...signed }]),
      ...calls.map((_, index) => this.#call(index)),
    ];
    const candidates = this.#indices.map((index) => ({
      // With nothing to say it has no parts at all.
      content: parts.length > 0 ? { parts, role: "model" } : { role: "model" },
      ...this.#end(index),
      ...this.#logprobs(tokens),
    }));
    return { candidates, usageMetadata: this.#usage(tokens.length), ...this.#stamp() };
  }

  stream(): Reply {
    const { tokens, calls } = this.#said;
    const head = this.#thoughts().map((part) => this.#chunk([part], 0));
    const pieces = tokens.map((token, index) => this.#chunk([{ text: token }], index + 1, this.#logprobs([token])));
    const callPieces = calls.map((_, index) => this.#chunk([this.#call(index)], tokens.length));
    const last = this.#newest && calls.length === 0 ? { thoughtSignature: signature("text") } : {};
    const end = this.#indices.map((index) => ({
      content: { parts: [{ text: "", ...last }], role: "model" },
      ...this.#end(index),
    }));
    return {
      status: 200,
      headers: { "content-type": "text/event-stream", "content-disposition": "attachment", ...GOOGLE_HEADERS },
      head,
      tokens: [...pieces, ...callPieces],
      tail: [this.#event(end, tokens.length)],
      error: indented(UNAVAILABLE),
      malformed: 'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n',
    };
  }

  #chunk(parts: readonly Json[], words: number, more: Json = {}): string {
    const candidates = this.#indices.map((index) => ({ content: { parts, role: "model" }, index, ...more }));
    return this.#event(candidates, words);
  }

  #event(candidates: readonly Json[], words: number): string {
    return `data: ${spaced({ candidates, usageMetadata: this.#usage(words), ...this.#stamp() })}\r\n\r\n`;
  }

  #end(index: number): Json {
    const { reason, calls } = this.#said;
    return {
      finishReason: reason === "length" ? "MAX_TOKENS" : "STOP",
      index,
      ...(calls.length > 0 && { finishMessage: "Model generated function call(s)." }),
    };
  }

  /** The first of several calls is signed. Only the newest models give them ids. */
  #call(index: number): Json {
    const { name, arguments: args } = this.#said.calls[index] ?? { name: "", arguments: {} };
    const id = (this.#number * 131 + index).toString(36).padStart(8, "s");
    return {
      functionCall: { name, args, ...(this.#newest && { id }) },
      ...(index === 0 && { thoughtSignature: signature(name) }),
    };
  }

  get #thinks(): Json | undefined {
    const config = this.#config["thinkingConfig"];
    return isJson(config) && config["thinkingBudget"] !== 0 ? config : undefined;
  }

  #thoughts(): Json[] {
    return this.#thinks?.["includeThoughts"] === true
      ? [{ text: "**Thinking**\n\nLet me think.\n\n\n", thought: true }]
      : [];
  }

  #logprobs(tokens: readonly string[]): Json {
    if (this.#config["responseLogprobs"] !== true || tokens.length === 0) return {};
    const one = (token: string, rank: number) => ({ token, tokenId: 1000 + rank, logProbability: -0.125 * (rank + 1) });
    const top = Number(this.#config["logprobs"] ?? 0);
    const ranked = (token: string) => Array.from({ length: top }, (_, rank) => one(token.slice(rank), rank));
    return {
      logprobsResult: {
        topCandidates: tokens.map((token) => ({ candidates: ranked(token) })),
        chosenCandidates: tokens.map((token) => one(token, 0)),
      },
    };
  }

  /** So far; what is 0 is left out. */
  #usage(words: number): Json {
    const { usage, calls } = this.#said;
    const thoughts = this.#thinks === undefined ? 0 : 20;
    const output = (calls.length > 0 ? usage.output : words) * this.#indices.length;
    return {
      promptTokenCount: usage.input,
      ...(output > 0 && { candidatesTokenCount: output }),
      totalTokenCount: usage.input + output + thoughts,
      promptTokensDetails: [{ modality: "TEXT", tokenCount: usage.input }],
      ...(thoughts > 0 && { thoughtsTokenCount: thoughts }),
      ...(this.#body["cachedContent"] !== undefined && { cachedContentTokenCount: usage.input }),
      serviceTier: "standard",
    };
  }

  #stamp(): Json {
    return { modelVersion: this.#model, responseId: `Sim${this.#number.toString(36).padStart(20, "0")}` };
  }
}

const GOOGLE_HEADERS = {
  vary: "Origin, X-Origin, Referer",
  server: "scaffolding on HTTPServer2",
  "x-xss-protection": "0",
  "x-frame-options": "SAMEORIGIN",
  "x-gemini-service-tier": "standard",
  "server-timing": "gfet4t7; dur=3",
};

type ErrorFields = readonly [message: string, status: string];

/** As https://ai.google.dev/gemini-api/docs/troubleshooting and public reports give them. */
const FAILURES: Readonly<Record<number, ErrorFields>> = {
  400: ["Request contains an invalid argument.", "INVALID_ARGUMENT"],
  401: ["Request had invalid authentication credentials.", "UNAUTHENTICATED"],
  403: [
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.",
    "PERMISSION_DENIED",
  ],
  404: [
    "models/none is not found for API version v1beta, or is not supported for generateContent. Call ModelService.ListModels to see the list of available models and their supported methods.",
    "NOT_FOUND",
  ],
  499: ["The operation was cancelled.", "CANCELLED"],
  500: [
    "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting",
    "INTERNAL",
  ],
  503: ["The model is overloaded. Please try again later.", "UNAVAILABLE"],
  504: ["The request timed out. Please try again.", "DEADLINE_EXCEEDED"],
};
const UNAVAILABLE = errorBody(503, ...FAILURES[503]!);

function errorBody(code: number, message: string, status: string, details?: readonly Json[]): Json {
  return { error: { code, message, status, ...(details && { details }) } };
}

function failure(code: number, message: string, status: string, details?: readonly Json[]): Reply {
  return { ...whole(errorBody(code, message, status, details)), status: code };
}

const QUOTA_HELP = "https://ai.google.dev/gemini-api/docs/rate-limits";

interface Quota {
  readonly metric: string;
  readonly id: string;
  readonly value: number;
  readonly model: string;
}

/** The wait stands in the details and, with more digits, in the message; there is no retry-after. */
function rateLimited(waitS: number, quota: Quota = FREE_REQUESTS): Reply {
  const metric = `generativelanguage.googleapis.com/${quota.metric}`;
  const message = `You exceeded your current quota, please check your plan and billing details. For more information on this error, head to: ${QUOTA_HELP}. \n* Quota exceeded for metric: ${metric}, limit: ${quota.value}, model: ${quota.model}\nPlease retry in ${waitS}s.`;
  const violation = {
    quotaMetric: metric,
    quotaId: quota.id,
    quotaDimensions: { location: "global", model: quota.model },
    quotaValue: String(quota.value),
  };
  return failure(429, message, "RESOURCE_EXHAUSTED", [
    {
      "@type": "type.googleapis.com/google.rpc.Help",
      links: [{ description: "Learn more about Gemini API quotas", url: QUOTA_HELP }],
    },
    { "@type": "type.googleapis.com/google.rpc.QuotaFailure", violations: [violation] },
    { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: `${Math.floor(waitS)}s` },
  ]);
}

const FREE_REQUESTS: Quota = {
  metric: "generate_content_free_tier_requests",
  id: "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
  value: 15,
  model: "gemini-2.5-flash-lite",
};

function limited({ which, limit, waitMs }: Exceeded, model: string): Reply {
  const period = limit.perMs >= 86_400_000 ? "PerDay" : "PerMinute";
  const requests = which === "requests";
  return rateLimited(Math.min(waitMs, limit.perMs) / 1000, {
    metric: requests ? FREE_REQUESTS.metric : "generate_content_paid_tier_input_token_count",
    id: requests
      ? `GenerateRequests${period}PerProjectPerModel-FreeTier`
      : `GenerateContentPaidTierInputTokensPerModel${period}`,
    value: limit.count,
    model,
  });
}

function wrongKey(): Reply {
  const message = "API key not valid. Please pass a valid API key.";
  return failure(400, message, "INVALID_ARGUMENT", [
    {
      "@type": "type.googleapis.com/google.rpc.ErrorInfo",
      reason: "API_KEY_INVALID",
      domain: "googleapis.com",
      metadata: { service: "generativelanguage.googleapis.com" },
    },
    { "@type": "type.googleapis.com/google.rpc.LocalizedMessage", locale: "en-US", message },
  ]);
}

function unknownModel(model: string, method: string): Reply {
  const message = `models/${model} is not found for API version v1beta, or is not supported for ${method}. Call ModelService.ListModels to see the list of available models and their supported methods.`;
  return failure(404, message, "NOT_FOUND");
}

/** A path that leads nowhere is answered by Google's front end. */
function notFound(): Reply {
  const page = "<!DOCTYPE html>\n<html lang=en>\n  <title>Error 404 (Not Found)!!1</title>\n  <p><b>404.</b>\n";
  return {
    ...whole({}),
    status: 404,
    headers: { "content-type": "text/html; charset=UTF-8" },
    tokens: [page],
    tail: [],
  };
}

function indented(body: Json): string {
  return `${JSON.stringify(body, null, 2)}\n`;
}

/** On one line, with a blank after each colon and none after commas. */
function spaced(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(spaced).join(",")}]`;
  if (!isJson(value)) return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([name, field]) => `${JSON.stringify(name)}: ${spaced(field)}`)
    .join(",")}}`;
}

/** Indented, with a line end, and cut in the middle where it can go wrong. */
function whole(body: Json): Reply {
  return {
    status: 200,
    headers: { "content-type": "application/json; charset=UTF-8", ...GOOGLE_HEADERS },
    ...inHalves(indented(body)),
    error: indented(UNAVAILABLE),
    malformed: "\n}{",
  };
}

const REQUEST_FIELDS =
  /^(contents|system_?instruction|tools|tool_?config|generation_?config|safety_?settings|cached_?content|service_?tier|store)$/i;
const CONFIG_FIELDS =
  /^(temperature|top_?p|top_?k|max_?output_?tokens|stop_?sequences|candidate_?count|seed|presence_?penalty|frequency_?penalty|response_?mime_?type|response_?schema|response_?json_?schema|response_?logprobs|logprobs|response_?modalities|thinking_?config|media_?resolution)$/i;

/** What Gemini refuses, as far as an adapter could get it wrong: the message, or undefined. */
function wrongRequest(body: Json, model: string): string | undefined {
  const config = isJson(body["generationConfig"]) ? body["generationConfig"] : {};
  const unknown =
    Object.keys(body).find((name) => !REQUEST_FIELDS.test(name)) ??
    Object.keys(config).find((name) => !CONFIG_FIELDS.test(name));
  if (unknown !== undefined) return `Invalid JSON payload received. Unknown name "${unknown}": Cannot find field.`;
  const contents = Array.isArray(body["contents"]) ? body["contents"].filter(isJson) : [];
  if (contents.length === 0) return "* GenerateContentRequest.contents: contents is not specified\n";
  const tools = toolsOf(body);
  if (body["toolConfig"] !== undefined && tools.length === 0) {
    return "Function calling config is set without function_declarations.";
  }
  const json = config["responseMimeType"] === "application/json";
  if (json && tools.length > 0 && !isNewest(model)) {
    return "Function calling with a response mime type: 'application/json' is unsupported";
  }
  if (Array.isArray(config["stopSequences"]) && config["stopSequences"].length > 5) {
    return "* GenerateContentRequest.generation_config.stop_sequences: the number of stop_sequences must be at most 5\n";
  }
  if (tools.some(({ parameters }) => JSON.stringify(parameters ?? {}).includes('"additionalProperties"'))) {
    return "Invalid JSON payload received. Unknown name \"additionalProperties\" at 'tools[0].function_declarations[0].parameters': Cannot find field.";
  }
  return wrongContents(contents, model);
}

function wrongContents(contents: readonly Json[], model: string): string | undefined {
  for (const [index, content] of contents.entries()) {
    if (content["role"] !== undefined && content["role"] !== "user" && content["role"] !== "model") {
      return "Please use a valid role: user, model.";
    }
    const parts = partsOf(content);
    if (parts.length === 0)
      return `* GenerateContentRequest.contents[${index}].parts: contents.parts must not be empty.\n`;
    const before = index > 0 ? partsOf(contents[index - 1] ?? {}).filter((part) => isJson(part["functionCall"])) : [];
    const answers = parts.filter((part) => isJson(part["functionResponse"]));
    if (before.length !== answers.length) {
      return "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.";
    }
    const wrong = wrongPart(parts, index, model);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

function wrongPart(parts: readonly Json[], content: number, model: string): string | undefined {
  const calls = parts.filter((part) => isJson(part["functionCall"]));
  for (const [index, part] of parts.entries()) {
    const { functionCall: call, functionResponse: response, inlineData: data, fileData: file, text } = part;
    const at = `contents[${content}].parts[${index}]`;
    if (isJson(call) && !isJson(call["args"] ?? {})) return `Invalid value at '${at}.function_call.args'`;
    if (isJson(response) && (!isJson(response["response"]) || typeof response["name"] !== "string")) {
      return `* GenerateContentRequest.${at}.function_response.name: Name cannot be empty.\n`;
    }
    if (isJson(data) && (typeof data["mimeType"] !== "string" || !/^[\w+/=-]+$/.test(String(data["data"])))) {
      return `Invalid value at '${at}.inline_data.data' (TYPE_BYTES), Base64 decoding failed`;
    }
    if (
      call === undefined &&
      response === undefined &&
      data === undefined &&
      file === undefined &&
      text === undefined
    ) {
      return `* GenerateContentRequest.${at}.data: required oneof field 'data' must have one initialized field\n`;
    }
    const signed = part["thoughtSignature"];
    if (signed !== undefined && !isSignature(signed)) return "Corrupted thought signature.";
    if (isNewest(model) && part === calls[0] && signed === undefined) {
      const name = isJson(call) ? String(call["name"]) : "";
      return `Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and missing thought_signature may lead to degraded model performance. Additional data, function call \`default_api:${name}\` , position ${index + 1}.`;
    }
  }
  return undefined;
}

/** From the third generation on. */
function isNewest(model: string): boolean {
  return Number(/gemini-(\d+)/.exec(model)?.[1] ?? 9) >= 3;
}

const SIGNED = "simulated thoughts about ";

function signature(what: string): string {
  return Buffer.from(SIGNED + what).toString("base64");
}

function isSignature(value: unknown): boolean {
  if (value === "skip_thought_signature_validator") return true;
  return Buffer.from(String(value), "base64").toString().startsWith(SIGNED);
}

function embeddings(body: Json, method: string): Reply {
  const requests = method === "embedContent" ? [body] : Array.isArray(body["requests"]) ? body["requests"] : [];
  const vectors = requests.filter(isJson).map((request) => {
    const text = isJson(request["content"]) ? partsOf(request["content"]).map(textOf).join("") : "";
    return { values: embed(text, Number(request["outputDimensionality"] ?? DIMENSIONS)) };
  });
  return whole(method === "embedContent" ? { embedding: vectors[0] } : { embeddings: vectors });
}

function describeModel(id: string) {
  const embeds = id.includes("embedding");
  return {
    name: `models/${id}`,
    version: "001",
    displayName: id,
    description: `Simulated ${id}`,
    inputTokenLimit: embeds ? 2048 : 1_048_576,
    outputTokenLimit: embeds ? 1 : 65_536,
    supportedGenerationMethods: embeds
      ? ["embedContent", "countTextTokens", "countTokens", "asyncBatchEmbedContent"]
      : ["generateContent", "countTokens", "createCachedContent", "batchGenerateContent"],
    ...(!embeds && { temperature: 1, topP: 0.95, topK: 64, maxTemperature: 2, thinking: true }),
  };
}

function toQuestion(body: Json): Question {
  const contents = (Array.isArray(body["contents"]) ? body["contents"] : []).filter(isJson);
  const system = isJson(body["systemInstruction"]) ? [body["systemInstruction"]] : [];
  const calling = isJson(body["toolConfig"]) ? body["toolConfig"]["functionCallingConfig"] : undefined;
  const { mode, allowedFunctionNames: allowed } = isJson(calling) ? calling : {};
  const config = isJson(body["generationConfig"]) ? body["generationConfig"] : {};
  const max = config["maxOutputTokens"];
  return {
    turns: contents.map((content) => {
      const text = partsOf(content).map(textOf).join("");
      return { speaker: content["role"] === "model" ? "assistant" : text === "" ? "other" : "user", text };
    }),
    words: [...system, ...contents].flatMap(partsOf).reduce((sum, part) => sum + countWords(textOf(part)), 0),
    tools: mode === "NONE" ? [] : toolsOf(body).map(toTool),
    toolWanted: mode === "ANY" && (Array.isArray(allowed) && allowed.length === 1 ? String(allowed[0]) : true),
    afterTool: partsOf(contents.at(-1) ?? {}).some((part) => isJson(part["functionResponse"])),
    json:
      config["responseMimeType"] === "application/json"
        ? { schema: config["responseJsonSchema"] ?? lowered(config["responseSchema"]) }
        : undefined,
    tokensMax: typeof max === "number" ? max : undefined,
    stop: Array.isArray(config["stopSequences"]) ? config["stopSequences"].map(String) : [],
  };
}

function toTool(tool: Json): Question["tools"][number] {
  return { name: String(tool["name"]), parameters: tool["parametersJsonSchema"] ?? lowered(tool["parameters"]) };
}

/** OpenAPI's types may be in capitals. */
function lowered(schema: unknown): unknown {
  if (schema === undefined) return undefined;
  return JSON.parse(JSON.stringify(schema), (name, value) =>
    name === "type" && typeof value === "string" ? value.toLowerCase() : value,
  );
}

function toolsOf(body: Json): Json[] {
  const tools = Array.isArray(body["tools"]) ? body["tools"].filter(isJson) : [];
  return tools.flatMap((tool) => {
    const declared = tool["functionDeclarations"];
    return Array.isArray(declared) ? declared.filter(isJson) : [];
  });
}

function partsOf(content: Json): Json[] {
  return Array.isArray(content["parts"]) ? content["parts"].filter(isJson) : [];
}

function textOf(part: Json): string {
  return typeof part["text"] === "string" ? part["text"] : "";
}

/** The model, the method and the query in a path. */
function methodOf(request: SimulatedRequest): { model: string; method: string; query: string } {
  const [, model = "", method = "", query = ""] = METHOD.exec(request.path) ?? [];
  return { model: decodeURIComponent(model), method, query };
}
