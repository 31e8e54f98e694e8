/** The dialect of OpenAI, and of every server that speaks like it: vLLM, llama.cpp, Mistral, OpenRouter, … */
import type { Dialect, DialectDefaults } from "../../libs/adapter/index.ts";
import { createOpenAiDialect, type DialectSettings } from "../../libs/openai-protocol/index.ts";

/** The provider's name in configuration, metrics and traces. */
export const PROVIDER = "openai";

const defaults: DialectDefaults = {
  baseUrl: "https://api.openai.com/v1",
  priority: 100,
  capabilities: [],
  pool: { connections: 100, keepAliveMs: 60_000 },
  timeouts: {
    connectMs: 15_000,
    poolMs: 5_000,
    // OpenAI sends nothing while a model reasons: 140 s were recorded. Its own SDK gives up after 600 s.
    firstTokenMs: 180_000,
    stallMs: 60_000,
    totalMs: 600_000,
  },
};

/** The dialect for one worker: OpenAI's own, or that of the server that its settings name. Throws INVALID_REQUEST. */
export function openAiDialect(settings: DialectSettings): Dialect {
  return createOpenAiDialect({ provider: PROVIDER, defaults }, settings);
}
