/**
 * In what the servers that speak OpenAI's protocol differ, as far as a client can see it: data for the one simulator that
 * plays them all. Each is as its server was recorded or documents itself; Groq's is in groq.ts.
 */
import { type Exceeded, goDuration, type Limits } from "./limits.ts";
import { isJson, type Json } from "./request.ts";

/** An error in OpenAI's terms; a flavor words it. */
export interface Fault {
  readonly status: number;
  readonly message: string;
  readonly type: string;
  readonly param?: string | null;
  readonly code?: string | null;
  /** Besides: Groq's failed_generation. */
  readonly more?: Json;
  readonly headers?: Readonly<Record<string, string>>;
}

/** How a server answers. */
export interface Flavor {
  /** After host and port: `/v1`. */
  readonly basePath: string;
  /** The models that it lists when the simulator is told none. */
  readonly models: readonly string[];
  readonly keyHeader: "authorization" | "api-key";
  /** The model is its deployment, and stands in the path. */
  readonly modelInPath?: boolean;
  /** A health route of its own, from the root, and the body of its 200. */
  readonly health?: { readonly path: string; readonly body: string };
  readonly headers: Readonly<Record<string, string>>;
  /** The names of the headers that report the limits, without `limit-`, `remaining-` and `reset-`. */
  readonly limitHeaders?: { readonly requests: string; readonly tokens: string; readonly reset: boolean };
  readonly limits?: Limits;
  /** How whole answers are written. */
  readonly whole: {
    readonly indent?: number;
    readonly before?: string;
    readonly after?: string;
    readonly sorted?: boolean;
  };
  readonly stream: {
    readonly contentType: string;
    /** Comments that keep a waiting stream open, or a first event of its own. */
    readonly before?: string;
    /** `apart`: the role comes in a chunk of its own; `everywhere`: in each delta. */
    readonly role: "apart" | "everywhere";
    /** In a chunk of its own, with the last content, or twice. */
    readonly finish: "apart" | "last" | "twice";
    /** The delta of the chunk that finishes. */
    readonly finishDelta: Json;
    /** In a chunk of its own if it is asked for, or with the finish. */
    readonly usage: "asked" | "finish";
    /** On every chunk without usage, asked or not. */
    readonly nullUsage?: boolean;
    /** Tool calls come in one piece. */
    readonly wholeCalls: boolean;
    /** A key whose value is padding. */
    readonly padding?: string;
  };
  id(serial: string): string;
  callId(serial: string): string;
  /** Between the stamp and the choices. */
  readonly service: { readonly whole: Json; readonly chunk: Json };
  /** On the first chunk, and with the finish; `serial` is the request's. */
  extra?(serial: string, usage?: Json): Json;
  readonly message: Json;
  readonly firstDelta: Json;
  /** The content of a message that calls tools. */
  readonly callContent: Json;
  /** Besides index, message and finish_reason. */
  choice(finish: string | null): Json;
  readonly logprobs: boolean;
  /** Where the model's thoughts go. */
  readonly reasoning: "hidden" | "reasoning" | "reasoning_content" | "thinking";
  usage(input: number, output: number, reasoning: number): Json;
  /** The body of an error. */
  errorBody(fault: Fault): Json;
  /** An error inside a stream, of which `stamp` is what its chunks begin with. */
  streamError(body: Json, stamp: Json): string;
  /** What this server words otherwise than OpenAI. */
  readonly failures: Readonly<Record<number, Omit<Fault, "status">>>;
  /** A request that was one too many; what `failures` has for 429 when absent. */
  limited?(exceeded: Exceeded, model: string): Fault;
  /** What this server refuses and another would take. */
  refuse(body: Json): Fault | undefined;
}

const SSE = "text/event-stream; charset=utf-8";

const SERVICE = { service_tier: "default", system_fingerprint: "fp_5imu1a7e0d" };

function counts(input: number, output: number): Json {
  return { prompt_tokens: input, completion_tokens: output, total_tokens: input + output };
}

function dataError(body: Json): string {
  return `data: ${JSON.stringify(body)}\n\n`;
}

const openai: Flavor = {
  basePath: "/v1",
  models: ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"],
  keyHeader: "authorization",
  headers: {
    "openai-version": "2020-10-01",
    "openai-processing-ms": "3",
    "x-request-id": "req_51b0a7e0d51b0a7e0d51b0a7e0d51b0a",
  },
  limitHeaders: { requests: "requests", tokens: "tokens", reset: true },
  limits: { requests: { count: 500, perMs: 60_000 }, tokens: { count: 200_000, perMs: 60_000 } },
  whole: { indent: 2, after: "\n" },
  stream: {
    contentType: SSE,
    role: "apart",
    finish: "apart",
    finishDelta: {},
    usage: "asked",
    wholeCalls: false,
    padding: "obfuscation",
  },
  id: (serial) => `chatcmpl-${serial}`,
  callId: (serial) => `call_${serial}`,
  service: { whole: SERVICE, chunk: SERVICE },
  message: { refusal: null, annotations: [] },
  firstDelta: { refusal: null },
  callContent: { content: null },
  choice: () => ({}),
  logprobs: true,
  reasoning: "hidden",
  usage: (input, output, reasoning) => ({
    ...counts(input, output),
    prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
    completion_tokens_details: {
      reasoning_tokens: reasoning,
      audio_tokens: 0,
      accepted_prediction_tokens: 0,
      rejected_prediction_tokens: 0,
    },
  }),
  errorBody: ({ message, type, param = null, code = null }) => ({ error: { message, type, param, code } }),
  streamError: dataError,
  failures: {},
  limited: ({ which, limit, used, asked, waitMs }, model) => {
    const name = which === "requests" ? "requests per min (RPM)" : "tokens per min (TPM)";
    const about = `for ${model} in organization org-51b0a7e0d5 on ${name}: Limit ${limit.count}`;
    const never = !Number.isFinite(waitMs);
    const message = never
      ? `Request too large ${about}, Requested ${asked}. The input or output tokens must be reduced in order to run successfully. Visit https://platform.openai.com/account/rate-limits to learn more.`
      : `Rate limit reached ${about}, Used ${used}, Requested ${asked}. Please try again in ${goDuration(waitMs)}. Visit https://platform.openai.com/account/rate-limits to learn more.`;
    return { status: 429, message, type: which, code: "rate_limit_exceeded" };
  },
  refuse: () => undefined,
};

/** What the filter thinks of harmless text. */
const HARMLESS = Object.fromEntries(
  ["hate", "self_harm", "sexual", "violence"].map((kind) => [kind, { filtered: false, severity: "safe" }]),
);
const PROMPT_FILTER = [{ prompt_index: 0, content_filter_results: HARMLESS }];

const azure: Flavor = {
  ...openai,
  basePath: "",
  keyHeader: "api-key",
  modelInPath: true,
  headers: { "x-ms-region": "East US 2", "apim-request-id": "51b0a7e0-d51b-4a7e-8d51-b0a7e0d51b0a" },
  limitHeaders: { requests: "requests", tokens: "tokens", reset: false },
  limits: { requests: { count: 100, perMs: 60_000 }, tokens: { count: 100_000, perMs: 60_000 } },
  whole: { sorted: true },
  stream: {
    ...openai.stream,
    before: `data: ${JSON.stringify({ choices: [], created: 0, id: "", model: "", object: "", prompt_filter_results: PROMPT_FILTER })}\n\n`,
  },
  service: {
    whole: { prompt_filter_results: PROMPT_FILTER, system_fingerprint: null },
    chunk: { system_fingerprint: null },
  },
  choice: () => ({ content_filter_results: {} }),
  errorBody: (fault) =>
    fault.type === "" ? { error: { code: fault.code, message: fault.message } } : openai.errorBody(fault),
  failures: {
    401: {
      message:
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.",
      type: "",
      code: "401",
    },
    404: { message: "The API deployment for this resource does not exist.", type: "", code: "DeploymentNotFound" },
    429: {
      message: "Requests have exceeded the call rate limit of your current pricing tier. Please retry after 7 seconds.",
      type: "",
      code: "429",
      headers: { "retry-after": "7", "retry-after-ms": "6400" },
    },
  },
};

/** Mistral's fields: https://docs.mistral.ai/api. Any other is an error. */
const MISTRAL_FIELDS = new Set(
  (
    "model messages stream temperature top_p max_tokens stop random_seed response_format tools tool_choice n safe_prompt " +
    "presence_penalty frequency_penalty prediction parallel_tool_calls prompt_mode reasoning_effort metadata"
  ).split(" "),
);
const MISTRAL_MESSAGE_FIELDS: Readonly<Record<string, readonly string[]>> = {
  system: ["role", "content"],
  user: ["role", "content"],
  assistant: ["role", "content", "tool_calls", "prefix"],
  tool: ["role", "content", "name", "tool_call_id"],
};

function refuseByMistral(body: Json): Fault | undefined {
  const extra: (string | number)[][] = Object.keys(body).flatMap((field) =>
    MISTRAL_FIELDS.has(field) ? [] : [[field]],
  );
  const ids: unknown[] = [];
  for (const [index, message] of (Array.isArray(body["messages"]) ? body["messages"] : []).entries()) {
    if (!isJson(message)) continue;
    const role = String(message["role"]);
    const known = MISTRAL_MESSAGE_FIELDS[role] ?? [];
    for (const field of Object.keys(message)) if (!known.includes(field)) extra.push(["messages", index, role, field]);
    const calls = Array.isArray(message["tool_calls"]) ? message["tool_calls"] : [];
    ids.push(...calls.map((call) => isJson(call) && call["id"]));
    if (role === "tool") ids.push(message["tool_call_id"]);
  }
  if (extra.length > 0) {
    const detail = extra.map((loc) => ({
      type: "extra_forbidden",
      loc: ["body", ...loc],
      msg: "Extra inputs are not permitted",
      input: null,
    }));
    return { status: 422, message: "", type: "invalid_request_error", more: { message: { detail } } };
  }
  const bad = ids.find((id) => typeof id !== "string" || !/^[a-zA-Z0-9]{9}$/.test(id));
  if (bad === undefined) return undefined;
  const message = `Tool call id was ${bad} but must be a-z, A-Z, 0-9, with a length of 9.`;
  return { status: 400, message, type: "invalid_function_call", code: "3280" };
}

const mistral: Flavor = {
  ...openai,
  models: ["mistral-small-latest", "mistral-embed"],
  headers: { "mistral-correlation-id": "01a051b0-a7e0-7d51-b0a7-e0d51b0a7e0d" },
  limitHeaders: { requests: "req-minute", tokens: "tokens-minute", reset: false },
  limits: { requests: { count: 100, perMs: 60_000 }, tokens: { count: 100_000, perMs: 60_000 } },
  whole: {},
  stream: {
    contentType: SSE,
    role: "apart",
    finish: "last",
    finishDelta: { content: "" },
    usage: "finish",
    wholeCalls: true,
    padding: "p",
  },
  id: (serial) => serial.toLowerCase().padEnd(32, "0"),
  callId: (serial) => serial.slice(-9),
  service: { whole: {}, chunk: {} },
  message: {},
  firstDelta: {},
  callContent: { content: "" },
  logprobs: false,
  reasoning: "thinking",
  usage: (input, output) => ({
    ...counts(input, output),
    prompt_tokens_details: { cached_tokens: 0 },
    service_tier: "standard",
  }),
  errorBody: ({ status, message, type, code = null, more }) =>
    status === 401 ? { detail: message } : { object: "error", message, type, param: null, code, ...more },
  failures: {
    401: { message: "Invalid API Key", type: "" },
    404: { message: "Invalid model: none", type: "invalid_model", code: "1500" },
    429: { message: "Requests rate limit exceeded", type: "rate_limited", code: "1300" },
    503: { message: "Service unavailable.", type: "internal_server_error", code: "1000" },
  },
  refuse: refuseByMistral,
};

const deepseek: Flavor = {
  ...openai,
  basePath: "",
  models: ["deepseek-v4-flash", "deepseek-reasoner"],
  headers: { "x-ds-trace-id": "51b0a7e0d51b0a7e0d51b0a7e0d51b0a" },
  whole: { before: "\n\n" },
  stream: {
    contentType: SSE,
    before: ": keep-alive\n\n",
    role: "apart",
    finish: "apart",
    finishDelta: { content: "" },
    usage: "finish",
    nullUsage: true,
    wholeCalls: false,
  },
  id: (serial) => `51b0a7e0-d51b-4a7e-8d51-${serial.toLowerCase().slice(-12)}`,
  callId: (serial) => `call_00_${serial}`,
  service: { whole: { system_fingerprint: "fp_51b0a7e0d5" }, chunk: { system_fingerprint: "fp_51b0a7e0d5" } },
  message: {},
  firstDelta: {},
  callContent: { content: "" },
  reasoning: "reasoning_content",
  usage: (input, output, reasoning) => ({
    ...counts(input, output),
    prompt_tokens_details: { cached_tokens: 0 },
    ...(reasoning > 0 && { completion_tokens_details: { reasoning_tokens: reasoning } }),
    prompt_cache_hit_tokens: 0,
    prompt_cache_miss_tokens: input,
  }),
  failures: {
    400: {
      message:
        "This model's maximum context length is 65536 tokens. However, you requested 250025 tokens (250025 in the messages, 0 in the completion). Please reduce the length of the messages or completion.",
      type: "invalid_request_error",
      code: "invalid_request_error",
      headers: { "content-type": "application/octet-stream" },
    },
    401: {
      message: "Authentication Fails, Your api key: ****-key is invalid",
      type: "authentication_error",
      code: "invalid_request_error",
    },
    402: { message: "Insufficient Balance", type: "unknown_error", code: "invalid_request_error" },
    404: { message: "Model Not Exist", type: "invalid_request_error", code: "invalid_request_error" },
  },
  refuse: ({ response_format: format }) =>
    isJson(format) && format["type"] === "json_schema"
      ? { status: 400, message: "This response_format type is unavailable now", type: "invalid_request_error" }
      : undefined,
};

const openrouter: Flavor = {
  ...openai,
  basePath: "/api/v1",
  models: ["anthropic/claude-4.5-haiku", "meta-llama/llama-3.3-70b-instruct:free"],
  headers: { "x-generation-id": "gen-1764000000-51b0a7e0d51b0a7e0d51" },
  whole: { before: "\n         \n\n         \n" },
  stream: {
    contentType: "text/event-stream",
    before: ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n",
    role: "everywhere",
    finish: "twice",
    finishDelta: { content: "" },
    usage: "finish",
    wholeCalls: false,
  },
  id: (serial) => `gen-1764000000-${serial.slice(-20)}`,
  callId: (serial) => `toolu_bdrk_01${serial}`,
  service: { whole: { provider: "Fx", system_fingerprint: null }, chunk: { provider: "Fx" } },
  message: { refusal: null },
  firstDelta: {},
  choice: (finish) => ({ native_finish_reason: finish }),
  logprobs: false,
  reasoning: "reasoning",
  usage: (input, output, reasoning) => ({
    ...counts(input, output),
    cost: 0.00006,
    is_byok: false,
    prompt_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: reasoning },
  }),
  errorBody: ({ status, message, more }) => ({ error: { message, code: status, ...more }, user_id: "user_51b0a7e0d5" }),
  streamError: ({ error }, stamp) =>
    `data: ${JSON.stringify({ ...stamp, error, choices: [{ index: 0, delta: { content: "" }, finish_reason: "error" }] })}\n\ndata: [DONE]\n\n`,
  failures: {
    401: { message: "No auth credentials found", type: "" },
    402: { message: "This request requires more credits, or fewer max_tokens.", type: "" },
    403: { message: 'Fx requires moderation on this model. Your input was flagged for "violence".', type: "" },
    404: { message: "No endpoints found for none.", type: "" },
    429: {
      message: "Provider returned error",
      type: "",
      more: { metadata: { provider_name: "Fx", raw: "fx/one:free is temporarily rate-limited upstream." } },
    },
    502: { message: "Provider returned error", type: "", more: { metadata: { provider_name: "Fx", raw: "ERROR" } } },
    503: { message: "No provider is available that meets your routing requirements.", type: "" },
  },
};

const vllm: Flavor = {
  ...openai,
  models: ["facebook/opt-125m"],
  health: { path: "/health", body: "" },
  headers: { server: "uvicorn" },
  whole: {},
  stream: {
    contentType: SSE,
    role: "apart",
    finish: "apart",
    finishDelta: { content: "" },
    usage: "asked",
    wholeCalls: false,
  },
  id: (serial) => `chatcmpl-${serial.toLowerCase().padEnd(32, "0")}`,
  callId: (serial) => `chatcmpl-tool-${serial.toLowerCase()}`,
  service: { whole: {}, chunk: {} },
  message: { refusal: null },
  firstDelta: {},
  choice: (finish) => (finish === null ? {} : { stop_reason: null }),
  reasoning: "reasoning_content",
  usage: (input, output) => ({ ...counts(input, output), prompt_tokens_details: null }),
  errorBody: ({ status, message, type, param = null }) => ({ error: { message, type, param, code: status } }),
  streamError: (body) => `${dataError(body)}data: [DONE]\n\n`,
  failures: {
    400: {
      message: "This model's maximum context length is 2048 tokens. However, you requested 9001 tokens.",
      type: "BadRequestError",
    },
    401: { message: "Unauthorized", type: "AuthenticationError" },
    404: { message: "The model `none` does not exist.", type: "NotFoundError", param: "model" },
    500: { message: "EngineCore encountered an issue.", type: "InternalServerError" },
  },
};

const llamaCpp: Flavor = {
  ...openai,
  models: ["gemma-3-4b-it-Q4_K_M.gguf"],
  health: { path: "/health", body: '{"status":"ok"}' },
  headers: { server: "llama.cpp" },
  whole: {},
  stream: {
    contentType: "text/event-stream",
    role: "apart",
    finish: "apart",
    finishDelta: {},
    usage: "asked",
    wholeCalls: false,
  },
  callId: (serial) => serial,
  service: { whole: { system_fingerprint: "b7012-51b0a7e0" }, chunk: { system_fingerprint: "b7012-51b0a7e0" } },
  message: {},
  firstDelta: {},
  reasoning: "reasoning_content",
  usage: counts,
  errorBody: ({ status, message, type, more }) => ({ error: { code: status, message, type, ...more } }),
  failures: {
    400: {
      message: "request (13392 tokens) exceeds the available context size (8192 tokens), try increasing it",
      type: "exceed_context_size_error",
      more: { n_prompt_tokens: 13392, n_ctx: 8192 },
    },
    401: { message: "Invalid API Key", type: "authentication_error" },
    404: { message: "model 'none' not found", type: "not_found_error" },
    500: { message: "Failed to decode.", type: "server_error" },
    501: { message: "This server does not support embeddings.", type: "not_supported_error" },
    503: { message: "Loading model", type: "unavailable_error" },
  },
};

/** All but Groq's. */
export const FLAVORS = { openai, azure, mistral, deepseek, openrouter, vllm, "llama.cpp": llamaCpp } as const;

export type FlavorName = keyof typeof FLAVORS;
