/** The dialect of Anthropic's Messages API: https://platform.claude.com/docs/en/api/messages. It has no embeddings. */
import type { Dialect, DialectDefaults, ProviderRequest } from "../../libs/adapter/index.ts";
import { fromError } from "./errors.ts";
import { AnthropicEventReader } from "./events.ts";
import { modelProperties } from "./generation.ts";
import { toChatRequest } from "./request.ts";
import { fromChatAnswer, fromModelsAnswer, PROVIDER } from "./response.ts";
import { VERSION_HEADER } from "./wording.ts";

const defaults: DialectDefaults = {
  // Without /v1, as ANTHROPIC_BASE_URL has it everywhere.
  baseUrl: "https://api.anthropic.com",
  priority: 60,
  capabilities: [],
  pool: { connections: 50, keepAliveMs: 60_000 },
  timeouts: {
    connectMs: 15_000,
    poolMs: 5_000,
    // Pings come while a model thinks, but they are no content.
    firstTokenMs: 180_000,
    stallMs: 60_000,
    totalMs: 600_000,
  },
};

// A page holds 1,000 at most: https://platform.claude.com/docs/en/api/models/list
const models: ProviderRequest = { method: "GET", path: "/v1/models?limit=1000", headers: VERSION_HEADER };

/** Claude. */
export const anthropic: Dialect = {
  provider: PROVIDER,
  framing: "sse",
  defaults,
  authorization: (key): Readonly<Record<string, string>> => (key === "" ? {} : { "x-api-key": key }),
  chatRequest: (request, stream, context) => toChatRequest(request, context.model, stream),
  chatAnswer: fromChatAnswer,
  chatEvents: (context) => new AnthropicEventReader(context),
  error: fromError,
  healthRequest: () => models,
  modelsRequest: () => models,
  modelsAnswer: fromModelsAnswer,
  modelProperties,
};
