/**
 * The servers that are known to speak OpenAI's protocol, and in what they differ from it. A server that is not here is
 * `compatible`, which works with most. Each fact is from the server's documentation, its source or a recorded exchange.
 */
import { DEEPSEEK_MODELS, GROQ_MODELS, MISTRAL_MODELS, OPENAI_MODELS, PERPLEXITY_MODELS } from "./families.ts";
import type { Effort, Efforts, EffortWord, Server } from "./server.ts";

/**
 * Efforts in the field `reasoning_effort`: `same` are the server's as well, `nearest` are those that it has another word
 * for, which comes nearest.
 */
function efforts(same: readonly EffortWord[], nearest: Partial<Record<EffortWord, string>>, models?: RegExp): Efforts {
  const table: Partial<Record<EffortWord, Effort>> = {};
  for (const word of same) table[word] = { fields: { reasoning_effort: word } };
  // Who has no word for max has none for what comes before it.
  const { max } = nearest;
  for (const [word, near] of Object.entries(max === undefined ? nearest : { xhigh: max, ...nearest })) {
    table[word as EffortWord] = { fields: { reasoning_effort: near }, nearest: near };
  }
  return { efforts: table, ...(models && { models }) };
}

const ALL_EFFORTS: Efforts = efforts(["none", "minimal", "low", "medium", "high", "xhigh", "max"], {});

const PATHS = { chat: "/chat/completions", embeddings: "/embeddings", models: "/models", health: "/models" };
const CHAT_PATHS = { chat: "/chat/completions", models: "/models", health: "/models" };
const HEALTH_PATHS = { ...PATHS, health: "/health", healthBesideVersion: true };

/** OpenAI takes four stop sequences, and so do those who follow it to the letter. */
const FOUR_STOPS = { stop: { max: 4 } };

/** Any server that nothing is known of: it gets what was asked for, in the words that most servers know. */
const compatible: Server = {
  title: "The server",
  hosts: [],
  paths: PATHS,
  // Many ignore max_completion_tokens without a word: Ollama's /v1, older vLLM.
  maxTokensField: "max_tokens",
  usageOnRequest: true,
  parameters: {},
  embeddingParameters: {},
  efforts: [ALL_EFFORTS],
  additions: [],
  messages: ["name", "refusal", "image", "audio", "file"],
  reasoningBack: "reasoning_content",
  jsonSchema: true,
  errors: [],
};

/** https://platform.openai.com/docs/api-reference/chat/create. Unknown fields are refused with 400. */
const openai: Server = {
  title: "OpenAI",
  hosts: ["api.openai.com"],
  paths: PATHS,
  // The reasoning models refuse max_tokens, and all refuse both together.
  maxTokensField: "max_completion_tokens",
  usageOnRequest: true,
  parameters: { top_k: { lacking: "warn" }, ...FOUR_STOPS },
  embeddingParameters: {},
  efforts: [ALL_EFFORTS],
  additions: [],
  messages: ["name", "refusal", "image", "audio", "file"],
  jsonSchema: true,
  // "string too long. Expected a string with maximum length 40"
  toolCallIds: { valid: /^.{1,40}$/s, length: 40 },
  errors: [],
  families: OPENAI_MODELS,
};

/**
 * Azure OpenAI by its deployments: https://learn.microsoft.com/azure/ai-foundry/openai/reference. The base URL is the
 * resource's, `https://NAME.openai.azure.com`, and a model's name is its deployment's.
 */
const azure: Server = {
  ...openai,
  title: "Azure OpenAI",
  telemetryName: "azure.ai.openai",
  hosts: ["openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com", "openai.azure.us"],
  paths: {
    chat: "/openai/deployments/{model}/chat/completions",
    embeddings: "/openai/deployments/{model}/embeddings",
    models: "/openai/models",
    health: "/openai/models",
    apiVersion: "2024-10-21",
  },
  modelsUnknown: true,
  // A deployment may have any name.
  families: [],
  keyHeader: "api-key",
  errors: [{ status: 404, kind: /deploymentnotfound/, reason: "PROVIDER_MODEL_NOT_FOUND" }],
};

/** Azure's newer API, which is OpenAI's but for the key: the base URL ends in `/openai/v1`. */
const azureV1: Server = { ...azure, pathEnd: "/openai/v1", paths: PATHS };

/** https://console.groq.com/docs/api-reference, and which parameters it lacks: https://console.groq.com/docs/openai */
const groq: Server = {
  ...compatible,
  title: "Groq",
  hosts: ["api.groq.com"],
  maxTokensField: "max_completion_tokens",
  parameters: {
    top_k: { lacking: "warn" },
    frequency_penalty: { lacking: "warn" },
    presence_penalty: { lacking: "warn" },
    logit_bias: { lacking: "warn" },
    logprobs: { lacking: "warn" },
    top_logprobs: { lacking: "warn" },
    n: { lacking: "refuse" },
    ...FOUR_STOPS,
  },
  embeddingParameters: { dimensions: { lacking: "refuse" } },
  // https://console.groq.com/docs/reasoning; other models do not reason, and Groq says so when they are asked to.
  efforts: [
    efforts(["low", "medium", "high"], { none: "low", minimal: "low", max: "high" }, /gpt-oss/),
    efforts(
      ["none"],
      { minimal: "default", low: "default", medium: "default", high: "default", max: "default" },
      /qwen/i,
    ),
    ALL_EFFORTS,
  ],
  // Left to themselves these put what they think between <think> and </think> into the answer.
  additions: [
    {
      models: /qwen-?3|qwq|deepseek-r1/i,
      fields: { reasoning_format: "parsed" },
      unless: ["reasoning_format", "include_reasoning"],
    },
  ],
  messages: ["image"],
  reasoningBack: "reasoning",
  // https://console.groq.com/docs/structured-outputs
  jsonAlone: true,
  errors: [
    // A dependency of the request, such as a remote tool, has failed.
    { status: 424, reason: "PROVIDER_ERROR" },
    // The organization or the project may not use the model; the key is good.
    { status: 403, kind: /model_permission_blocked/, reason: "PROVIDER_MODEL_NOT_FOUND" },
    { status: 400, kind: /model_terms_required|model_not_active/, reason: "PROVIDER_MODEL_NOT_FOUND" },
    // Groq names no field but in its words.
    {
      status: 400,
      message: /(?:`(?<field>\w+)`|property '(?<field>\w+)') is (?:not supported|unsupported)/,
      reason: "UNSUPPORTED_PARAMETER",
    },
    {
      status: 400,
      message: /does not support response format|response_format` does not support|json mode cannot be combined/,
      reason: "UNSUPPORTED_PARAMETER",
      field: "response_format",
    },
    { status: 400, message: /`tool calling` is not supported/, reason: "UNSUPPORTED_PARAMETER", field: "tools" },
    { status: 400, kind: /^invalid_request_error $/, message: /^'(?<field>[\w.]+)'/, reason: "INVALID_REQUEST" },
  ],
  families: GROQ_MODELS,
};

/** https://docs.mistral.ai/api. It refuses every field that it does not know, with 422 and "Extra inputs…". */
const mistral: Server = {
  ...compatible,
  title: "Mistral",
  telemetryName: "mistral_ai",
  hosts: ["api.mistral.ai", "codestral.mistral.ai"],
  // Comes with the last content, whether it is asked for or not.
  usageOnRequest: false,
  parameters: {
    seed: { as: "random_seed" },
    tool_choice: { words: { required: "any" } },
    top_k: { lacking: "warn" },
    logit_bias: { lacking: "warn" },
    user: { lacking: "warn" },
    logprobs: { lacking: "warn" },
    top_logprobs: { lacking: "warn" },
  },
  embeddingParameters: { dimensions: { as: "output_dimension" }, user: { lacking: "warn" } },
  // https://docs.mistral.ai/capabilities/reasoning
  efforts: [efforts(["none", "high"], { minimal: "none", low: "high", medium: "high", max: "high" })],
  messages: ["image"],
  // https://docs.mistral.ai/capabilities/completion/prefix
  begunField: "prefix",
  reasoningBack: "thinking",
  toolCallIds: { valid: /^[a-zA-Z0-9]{9}$/, length: 9 },
  families: MISTRAL_MODELS,
};

const THINKING = { thinking: { type: "enabled" } };

/** https://api-docs.deepseek.com/api/create-chat-completion */
const deepseek: Server = {
  ...compatible,
  title: "DeepSeek",
  telemetryName: "deepseek",
  hosts: ["api.deepseek.com"],
  paths: CHAT_PATHS,
  parameters: {
    top_k: { lacking: "warn" },
    seed: { lacking: "warn" },
    logit_bias: { lacking: "warn" },
    user: { lacking: "warn" },
    parallel_tool_calls: { lacking: "warn" },
    n: { lacking: "refuse" },
    stop: { max: 16 },
  },
  // https://api-docs.deepseek.com/guides/thinking_mode
  efforts: [
    {
      efforts: {
        none: { fields: { thinking: { type: "disabled" } } },
        minimal: { fields: { ...THINKING, reasoning_effort: "low" }, nearest: "low" },
        low: { fields: { ...THINKING, reasoning_effort: "low" } },
        medium: { fields: { ...THINKING, reasoning_effort: "high" }, nearest: "high" },
        high: { fields: { ...THINKING, reasoning_effort: "high" } },
        max: { fields: { ...THINKING, reasoning_effort: "max" } },
      },
    },
  ],
  messages: ["name"],
  jsonSchema: false,
  families: DEEPSEEK_MODELS,
};

const OPENROUTER_EFFORTS = ["none", "minimal", "low", "medium", "high"] as const;

/** https://openrouter.ai/docs/api-reference/parameters */
const openrouter: Server = {
  ...compatible,
  title: "OpenRouter",
  hosts: ["openrouter.ai"],
  parameters: { n: { lacking: "refuse" } },
  // https://openrouter.ai/docs/use-cases/reasoning-tokens
  efforts: [
    {
      efforts: {
        ...Object.fromEntries(OPENROUTER_EFFORTS.map((effort) => [effort, { fields: { reasoning: { effort } } }])),
        xhigh: { fields: { reasoning: { effort: "xhigh" } } },
        max: { fields: { reasoning: { effort: "xhigh" } } },
      },
    },
  ],
  budget: { object: "reasoning", field: "max_tokens" },
  messages: ["name", "image", "audio", "file"],
  reasoningBack: "reasoning",
  errors: [
    // "No endpoints found that support …", "No endpoints found for …": the model, or not with what was asked.
    { status: 404, message: /no (allowed )?(endpoints|providers)/i, reason: "PROVIDER_MODEL_NOT_FOUND" },
  ],
  resetAtMsHeader: "x-ratelimit-reset",
};

/** https://docs.x.ai/docs/api-reference */
const xai: Server = {
  ...compatible,
  title: "xAI",
  telemetryName: "x_ai",
  hosts: ["api.x.ai"],
  paths: CHAT_PATHS,
  maxTokensField: "max_completion_tokens",
  parameters: {
    top_k: { lacking: "warn" },
    logit_bias: { lacking: "warn" },
    // https://docs.x.ai/docs/guides/reasoning: an error with its reasoning models, which are all but these.
    frequency_penalty: { lacking: "warn", models: /grok-(code|4(?!.*non-reasoning)|3-mini)/ },
    presence_penalty: { lacking: "warn", models: /grok-(code|4(?!.*non-reasoning)|3-mini)/ },
    stop: { lacking: "refuse", models: /grok-(code|4(?!.*non-reasoning)|3-mini)/ },
  },
  efforts: [efforts(["none", "low", "medium", "high"], { minimal: "low", max: "high" })],
  messages: ["name", "image"],
  errors: [
    { status: 400, message: /does not support parameter/i, reason: "UNSUPPORTED_PARAMETER" },
    // "Your newly created team doesn't have any credits yet."
    { status: 403, message: /credits|spending limit/i, reason: "PROVIDER_QUOTA_EXHAUSTED" },
  ],
};

/** https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html */
const vllm: Server = {
  ...compatible,
  title: "vLLM",
  hosts: [],
  paths: HEALTH_PATHS,
  messages: ["name", "refusal", "image", "audio"],
};

/** https://github.com/ggml-org/llama.cpp/tree/master/tools/server */
const llamaCpp: Server = {
  ...compatible,
  title: "llama.cpp",
  hosts: [],
  paths: HEALTH_PATHS,
  messages: ["name", "image", "audio"],
  errors: [{ kind: /not_supported_error/, reason: "UNSUPPORTED_PARAMETER" }],
};

/** https://docs.perplexity.ai/api-reference/chat-completions-post */
const perplexity: Server = {
  ...compatible,
  title: "Perplexity",
  telemetryName: "perplexity",
  hosts: ["api.perplexity.ai"],
  paths: CHAT_PATHS,
  usageOnRequest: false,
  parameters: {
    seed: { lacking: "warn" },
    logit_bias: { lacking: "warn" },
    user: { lacking: "warn" },
    logprobs: { lacking: "warn" },
    top_logprobs: { lacking: "warn" },
    n: { lacking: "refuse" },
    stop: { lacking: "refuse" },
    tools: { lacking: "refuse" },
    tool_choice: { lacking: "warn" },
    parallel_tool_calls: { lacking: "warn" },
  },
  efforts: [efforts(["minimal", "low", "medium", "high"], { none: "minimal", max: "high" })],
  messages: ["image"],
  errors: [],
  families: PERPLEXITY_MODELS,
};

/** https://docs.together.ai/reference/chat-completions-1 */
const together: Server = {
  ...compatible,
  title: "Together",
  hosts: ["api.together.xyz", "api.together.ai"],
  parameters: {
    // A number here, and an answer of another form.
    logprobs: { lacking: "warn" },
    top_logprobs: { lacking: "warn" },
    user: { lacking: "warn" },
    parallel_tool_calls: { lacking: "warn" },
  },
  embeddingParameters: { dimensions: { lacking: "refuse" }, user: { lacking: "warn" } },
  messages: ["name", "image"],
};

/** By the name that a worker's option `server` gives. */
export const SERVERS = {
  compatible,
  openai,
  azure,
  "azure-v1": azureV1,
  groq,
  mistral,
  deepseek,
  openrouter,
  xai,
  vllm,
  "llama.cpp": llamaCpp,
  perplexity,
  together,
} as const satisfies Readonly<Record<string, Server>>;

/** A name of {@link SERVERS}. */
export type ServerName = keyof typeof SERVERS;

/** Whether `name` is a server's. */
export function isServerName(name: unknown): name is ServerName {
  return typeof name === "string" && Object.hasOwn(SERVERS, name);
}

/** The server at a base URL, as far as its host and the end of its path tell. */
export function serverAt(baseUrl: string): Server {
  const url = URL.parse(baseUrl);
  if (url === null) return compatible;
  const path = url.pathname.replace(/\/+$/, "");
  const found = Object.values<Server>(SERVERS).filter(
    ({ hosts, pathEnd = "" }) =>
      path.endsWith(pathEnd) && hosts.some((host) => url.hostname === host || url.hostname.endsWith(`.${host}`)),
  );
  // The one that looks at the path as well knows more.
  return found.find(({ pathEnd }) => pathEnd !== undefined) ?? found[0] ?? compatible;
}

/**
 * The server that a request for `model` is written for. OpenAI's own models are served under their names by many, who pass
 * the request on to OpenAI or follow it to the letter: `gpt-4o`, `o3-mini`, `ft:gpt-4o:…`, `openai/gpt-5`; not `gpt-oss`.
 */
export function serverFor(server: Server, model: string): Server {
  const openAiModel = /^(ft:)?(openai\/)?(gpt-(?!oss)|chatgpt-|o\d|codex-)/.test(model);
  return server === compatible && openAiModel ? openai : server;
}
