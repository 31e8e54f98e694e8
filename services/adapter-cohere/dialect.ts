/** The dialect of Cohere's API, version 2: https://docs.cohere.com/reference/chat */
import type { Dialect, DialectDefaults } from "../../libs/adapter/index.ts";
import { fromError } from "./errors.ts";
import { CohereEventReader } from "./events.ts";
import { modelProperties } from "./models.ts";
import { toChatRequest, toEmbeddingRequest } from "./request.ts";
import { fromChatAnswer, fromEmbeddingAnswer, fromModelsAnswer, PROVIDER } from "./response.ts";

const defaults: DialectDefaults = {
  baseUrl: "https://api.cohere.com",
  priority: 70,
  capabilities: [],
  pool: { connections: 75, keepAliveMs: 45_000 },
  timeouts: {
    connectMs: 15_000,
    poolMs: 5_000,
    // 71 s were recorded. Its own SDK gives up after 300 s.
    firstTokenMs: 120_000,
    stallMs: 60_000,
    totalMs: 600_000,
  },
};

/** Cohere. */
export const cohere: Dialect = {
  provider: PROVIDER,
  framing: "sse",
  defaults,
  authorization: (key): Readonly<Record<string, string>> => (key === "" ? {} : { authorization: `Bearer ${key}` }),
  chatRequest: (request, stream, context) => toChatRequest(request, context.model, stream),
  chatAnswer: fromChatAnswer,
  chatEvents: (context) => new CohereEventReader(context),
  error: fromError,
  healthRequest: () => ({ method: "GET", path: "/v1/models?page_size=1" }),
  // Everything at once: the list has pages of 20 unless it is told otherwise, and of 1000 at most.
  modelsRequest: () => ({ method: "GET", path: "/v1/models?page_size=1000" }),
  modelsAnswer: fromModelsAnswer,
  modelProperties,
  embedding: {
    request: (request, context) => toEmbeddingRequest(request, context.model),
    answer: fromEmbeddingAnswer,
  },
};
