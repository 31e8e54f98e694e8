/** What is certain of models by their names, for the servers whose models are always the same under the same names. */
import type { ModelFamily } from "../adapter/index.ts";

const SEEING = ["vision", "files", "tools", "json_schema"];

/** Fine-tuned ones, and the day of a version. */
function openAiModels(names: string): RegExp {
  return new RegExp(`^(ft:)?(${names})(-\\d{4}(-\\d\\d-\\d\\d)?)?(:.*)?$`);
}

/** https://platform.openai.com/docs/models */
export const OPENAI_MODELS: readonly ModelFamily[] = [
  // The first of them could not be held to a schema.
  { models: /^gpt-4o-2024-05-13$/, capabilities: ["vision", "tools"], contextTokensMax: 128_000 },
  { models: openAiModels("gpt-4o|gpt-4o-mini"), capabilities: SEEING, contextTokensMax: 128_000 },
  { models: openAiModels("gpt-4\\.1(-mini|-nano)?"), capabilities: SEEING, contextTokensMax: 1_047_576 },
  {
    models: openAiModels("gpt-5(-mini|-nano)?|gpt-5\\.[12]"),
    capabilities: [...SEEING, "reasoning"],
    contextTokensMax: 400_000,
  },
  { models: openAiModels("gpt-5\\.\\d(-mini|-nano)?"), capabilities: [...SEEING, "reasoning"] },
  { models: openAiModels("o1|o3|o4-mini"), capabilities: [...SEEING, "reasoning"], contextTokensMax: 200_000 },
  {
    models: openAiModels("o3-mini"),
    capabilities: ["tools", "json_schema", "reasoning"],
    contextTokensMax: 200_000,
  },
  {
    models: openAiModels("gpt-audio|gpt-audio-mini|gpt-4o-audio-preview|gpt-4o-mini-audio-preview"),
    capabilities: ["audio", "tools"],
    contextTokensMax: 128_000,
  },
  { models: /^gpt-4-turbo(-2024-04-09)?$/, capabilities: ["vision", "tools"], contextTokensMax: 128_000 },
  { models: /^gpt-4-(turbo|0125|1106)-preview$/, capabilities: ["tools"], contextTokensMax: 128_000 },
  { models: /^(ft:)?gpt-4(-0613)?(:.*)?$/, capabilities: ["tools"], contextTokensMax: 8_192 },
  { models: /^(ft:)?gpt-3\.5-turbo(-0125|-1106)?(:.*)?$/, capabilities: ["tools"], contextTokensMax: 16_385 },
];

/**
 * https://console.groq.com/docs/models, which of them hold to a schema: https://console.groq.com/docs/structured-outputs, and
 * that they go on with an answer that has begun: https://console.groq.com/docs/prefilling. Models that think begin with that.
 */
export const GROQ_MODELS: readonly ModelFamily[] = [
  {
    models: /^openai\/gpt-oss-(20b|120b)$/,
    capabilities: ["tools", "json_schema", "reasoning"],
    contextTokensMax: 131_072,
  },
  {
    models: /^meta-llama\/llama-4-(scout|maverick)-/,
    capabilities: ["vision", "tools", "json_schema", "prefill"],
    contextTokensMax: 131_072,
  },
  { models: /^moonshotai\/kimi-k2-instruct/, capabilities: ["tools", "json_schema", "prefill"] },
  {
    models: /^llama-3\.(3-70b-versatile|1-8b-instant)$/,
    capabilities: ["tools", "prefill"],
    contextTokensMax: 131_072,
  },
  { models: /^qwen\/qwen3-32b$/, capabilities: ["tools", "reasoning"], contextTokensMax: 131_072 },
];

/** https://docs.mistral.ai/api: every model that chats takes `prefix`. What else they can do, the list of models says. */
export const MISTRAL_MODELS: readonly ModelFamily[] = [
  { models: /embed|ocr|moderation|voxtral/, capabilities: [] },
  { models: /(?:)/, capabilities: ["prefill"] },
];

/** https://api-docs.deepseek.com. Its answers that have begun are a beta at another address. */
export const DEEPSEEK_MODELS: readonly ModelFamily[] = [
  { models: /^deepseek-chat$/, capabilities: ["tools"] },
  { models: /^deepseek-reasoner$/, capabilities: ["tools", "reasoning"] },
];

/** https://docs.perplexity.ai/getting-started/models */
export const PERPLEXITY_MODELS: readonly ModelFamily[] = [
  { models: /^sonar(-pro)?$/, capabilities: ["vision", "json_schema"] },
  { models: /^sonar-reasoning-pro$/, capabilities: ["vision", "json_schema", "reasoning"] },
];
