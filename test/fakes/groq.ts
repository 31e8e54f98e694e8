/**
 * Groq, simulated to the byte: https://console.groq.com/docs/api-reference. OpenAI's protocol in Groq's flavor: usage in
 * x_groq too, whole tool calls, `event: error` in the middle of a stream, limits of requests by the day and of tokens by the
 * minute, and errors that name no parameter.
 */
import { goDuration } from "./limits.ts";
import { type OpenAiSimulatorOptions, startFlavor } from "./openai.ts";
import { type Fault, FLAVORS, type Flavor } from "./openai-flavors.ts";
import { isJson, type Json } from "./request.ts";
import type { Simulator } from "./simulator.ts";

/** What a simulated Groq can be told. */
export type GroqSimulatorOptions = Omit<OpenAiSimulatorOptions, "flavor">;

/** Starts one; its `url` ends in /openai/v1. The official SDK adds /openai/v1 itself. */
export function startGroqSimulator(options: GroqSimulatorOptions = {}): Promise<Simulator> {
  return startFlavor(groq, options);
}

const INVALID = "invalid_request_error";
const ACCOUNT = "in organization `org_51b0a7e0d51b0a7e0d51b0a7e0` service tier `on_demand`";
const UPGRADE = "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing";

/** Errors that share a status with another, for behaviours: `{ status: 400, body: GROQ_ERRORS.toolUseFailed }`. */
export const GROQ_ERRORS = {
  toolUseFailed: {
    error: {
      message: "Tool choice is required, but model did not call a tool",
      type: INVALID,
      code: "tool_use_failed",
      failed_generation: "maybe",
    },
  },
  jsonValidateFailed: {
    error: {
      message: "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.",
      type: INVALID,
      code: "json_validate_failed",
      failed_generation: "{ maybe",
    },
  },
  contextLength: {
    error: {
      message: "Please reduce the length of the messages or completion.",
      type: INVALID,
      code: "context_length_exceeded",
    },
  },
} as const;

/** What is said inside a stream; only there it has a status_code. */
const TOOL_USE_FAILED = {
  error: {
    message:
      "Tool call validation failed: tool call validation failed: parameters for tool weather did not match schema: errors: [missing properties: 'city']",
    type: INVALID,
    code: "tool_use_failed",
    failed_generation: '{"name": "weather", "arguments": {"town": "text"}}',
    status_code: 400,
  },
};

const groq: Flavor = {
  ...FLAVORS.openai,
  basePath: "/openai/v1",
  models: ["llama-3.1-8b-instant", "llama-3.3-70b-versatile", "openai/gpt-oss-120b", "qwen/qwen3-32b"],
  headers: { "x-groq-region": "fra", "x-request-id": "req_01sim51b0a7e0d51b0a7e0d51b", vary: "Origin" },
  limitHeaders: { requests: "requests", tokens: "tokens", reset: true },
  limits: { requests: { count: 14_400, perMs: 86_400_000 }, tokens: { count: 6_000, perMs: 60_000 } },
  whole: { after: "\n" },
  stream: {
    contentType: "text/event-stream",
    role: "apart",
    finish: "apart",
    finishDelta: {},
    usage: "finish",
    wholeCalls: true,
  },
  id: (serial) => `chatcmpl-51b0a7e0-d51b-4a7e-8d51-${serial.toLowerCase().slice(-12)}`,
  callId: (serial) => `fc_51b0a7e0-d51b-4a7e-8d51-${serial.toLowerCase().slice(-12)}`,
  service: {
    whole: { usage_breakdown: null, system_fingerprint: "fp_51b0a7e0d5", service_tier: "on_demand" },
    chunk: { system_fingerprint: "fp_51b0a7e0d5" },
  },
  extra: (serial, usage) => ({
    x_groq: { id: `req_01${serial.toLowerCase()}`, ...(usage === undefined ? { seed: 17 } : { usage }) },
  }),
  message: {},
  firstDelta: {},
  callContent: {},
  reasoning: "reasoning",
  usage: (input, output, reasoning) => ({
    queue_time: 0.115,
    prompt_tokens: input,
    prompt_time: 0.018,
    completion_tokens: output,
    completion_time: output / 450,
    total_tokens: input + output,
    total_time: 0.018 + output / 450,
    ...(reasoning > 0 && { completion_tokens_details: { reasoning_tokens: reasoning } }),
  }),
  errorBody: ({ message, type, code, more }) => ({ error: { message, type, ...(code && { code }), ...more } }),
  streamError: () => `event: error\ndata: ${JSON.stringify(TOOL_USE_FAILED)}\n\n`,
  failures: {
    400: { message: "'messages' : minimum number of items is 1", type: INVALID },
    401: { message: "Invalid API Key", type: INVALID, code: "invalid_api_key" },
    403: { message: "You do not have permission to use this resource.", type: "permissions_error" },
    404: {
      message: "The model `none` does not exist or you do not have access to it.",
      type: INVALID,
      code: "model_not_found",
    },
    413: {
      message: `Request too large for model \`llama-3.1-8b-instant\` ${ACCOUNT} on tokens per minute (TPM): Limit 6000, Requested 15041, please reduce your message size and try again. ${UPGRADE}`,
      type: "tokens",
      code: "rate_limit_exceeded",
    },
    422: { message: "The request was well-formed but could not be followed.", type: INVALID },
    424: { message: "Failed to retrieve the tools of the remote server.", type: INVALID },
    429: {
      message: `Rate limit reached for model \`llama-3.1-8b-instant\` ${ACCOUNT} on tokens per minute (TPM): Limit 6000, Used 4093, Requested 3531. Please try again in 16.239999999s. ${UPGRADE}`,
      type: "tokens",
      code: "rate_limit_exceeded",
      headers: { "retry-after": "17" },
    },
    498: {
      message: "Flex tier capacity exceeded. Please try again later.",
      type: "capacity_exceeded",
      code: "capacity_exceeded",
    },
    499: { message: "Request was cancelled by the caller.", type: INVALID },
    500: { message: "Internal Server Error", type: "internal_server_error" },
    502: { message: "Bad Gateway", type: "internal_server_error" },
    503: {
      message: "The model is currently over capacity. Please try again and back off exponentially.",
      type: "internal_server_error",
    },
  },
  limited: ({ which, limit, used, asked, waitMs }, model) => {
    const name = which === "requests" ? "requests per day (RPD)" : "tokens per minute (TPM)";
    const about = `model \`${model}\` ${ACCOUNT} on ${name}: Limit ${limit.count}`;
    const fault = { type: which, code: "rate_limit_exceeded" };
    if (!Number.isFinite(waitMs)) {
      const message = `Request too large for ${about}, Requested ${asked}, please reduce your message size and try again. ${UPGRADE}`;
      return { status: 413, ...fault, message };
    }
    const wait = goDuration(waitMs);
    const message = `Rate limit reached for ${about}, Used ${used}, Requested ${asked}. Please try again in ${wait}. ${UPGRADE}`;
    return { status: 429, ...fault, message, headers: { "retry-after": String(Math.ceil(waitMs / 1000)) } };
  },
  refuse: refuseByGroq,
};

/** https://console.groq.com/docs/openai: what is not supported is an error. */
const UNSUPPORTED = ["logprobs", "logit_bias", "top_logprobs"];

function refuseByGroq(body: Json): Fault | undefined {
  const wrong = (message: string): Fault => ({ status: 400, message, type: INVALID });
  const messages = Array.isArray(body["messages"]) ? body["messages"] : [];
  if (messages.length === 0) return wrong("'messages' : minimum number of items is 1");
  const lacking = UNSUPPORTED.find((name) => body[name] !== undefined && body[name] !== null);
  if (lacking !== undefined) return wrong(`\`${lacking}\` is not supported with this model`);
  if (body["top_k"] !== undefined) return wrong("property 'top_k' is unsupported");
  if (Number(body["n"] ?? 1) !== 1) return wrong("'n' : number must be at most 1");
  const named = messages.findIndex((message) => isJson(message) && message["role"] !== "tool" && "name" in message);
  if (named >= 0) {
    const role = messages[named]["role"];
    const why = `('messages.${named}' : property 'name' is unsupported)`;
    return wrong(`'messages.${named}' : for 'role:${role}' the following must be satisfied[${why}]`);
  }
  const format = isJson(body["response_format"]) ? body["response_format"]["type"] : undefined;
  if (format === "json_object" || format === "json_schema") {
    if (body["stream"] === true) return wrong("`response_format` does not support streaming");
    if (Array.isArray(body["tools"])) return wrong("json mode cannot be combined with tool/function calling");
  }
  return undefined;
}
