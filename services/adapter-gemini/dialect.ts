/** The dialect of Google's Gemini API, which is also that of AI Studio: https://ai.google.dev/api/generate-content */
import type { Dialect, DialectDefaults } from "../../libs/adapter/index.ts";
import { fromError } from "./errors.ts";
import { GeminiEventReader } from "./events.ts";
import { modelProperties } from "./models.ts";
import { toChatRequest, toEmbeddingRequest } from "./request.ts";
import { fromChatAnswer, fromEmbeddingAnswer, fromModelsAnswer, PROVIDER } from "./response.ts";

const defaults: DialectDefaults = {
  baseUrl: "https://generativelanguage.googleapis.com/v1beta",
  priority: 50,
  capabilities: [],
  pool: { connections: 50, keepAliveMs: 60_000 },
  timeouts: {
    connectMs: 15_000,
    poolMs: 5_000,
    // Nothing comes while a model thinks, unless its thoughts are asked for.
    firstTokenMs: 180_000,
    stallMs: 60_000,
    totalMs: 600_000,
  },
};

/** Gemini, by its own API rather than the OpenAI-compatible one: that loses thought signatures and errors in streams. */
export const gemini: Dialect = {
  provider: PROVIDER,
  telemetryName: "gcp.gemini",
  framing: "sse",
  defaults,
  authorization: (key): Readonly<Record<string, string>> => (key === "" ? {} : { "x-goog-api-key": key }),
  chatRequest: (request, stream, context) => toChatRequest(request, context.model, stream),
  chatAnswer: fromChatAnswer,
  chatEvents: (context) => new GeminiEventReader(context),
  error: fromError,
  // A page holds 1,000 at most, some twenty times what there is: https://ai.google.dev/api/models#method:-models.list
  healthRequest: () => ({ method: "GET", path: "/models?pageSize=1000" }),
  modelsRequest: () => ({ method: "GET", path: "/models?pageSize=1000" }),
  modelsAnswer: fromModelsAnswer,
  modelProperties,
  embedding: {
    request: (request, context) => toEmbeddingRequest(request, context.model),
    answer: fromEmbeddingAnswer,
  },
};
