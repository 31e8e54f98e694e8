/** The dialect of Groq: OpenAI's protocol, with what Groq lacks and has besides. https://console.groq.com/docs/api-reference */
import type { Dialect, DialectDefaults } from "../../libs/adapter/index.ts";
import { createOpenAiDialect, type DialectSettings } from "../../libs/openai-protocol/index.ts";

/** The provider's name in configuration, metrics and traces. */
export const PROVIDER = "groq";

const defaults: DialectDefaults = {
  baseUrl: "https://api.groq.com/openai/v1",
  priority: 50,
  capabilities: [],
  pool: { connections: 100, keepAliveMs: 30_000 },
  timeouts: {
    connectMs: 15_000,
    poolMs: 5_000,
    // The flex tier lets requests wait; 5.6 s in the queue were recorded on demand. JSON modes answer whole.
    firstTokenMs: 60_000,
    stallMs: 30_000,
    totalMs: 300_000,
  },
};

/** The dialect for one worker, at Groq itself or behind a proxy of it. Throws INVALID_REQUEST. */
export function groqDialect(settings: DialectSettings): Dialect {
  const options = { server: PROVIDER, ...settings.options };
  return createOpenAiDialect({ provider: PROVIDER, defaults }, { ...settings, options });
}
