/** The dialect of Ollama's own API: https://docs.ollama.com/api. Its OpenAI-compatible endpoint loses errors and fields. */
import type { Dialect, DialectDefaults } from "../../libs/adapter/index.ts";
import { fromError } from "./errors.ts";
import { modelProperties } from "./models.ts";
import { toChatRequest, toEmbeddingRequest } from "./request.ts";
import { fromChatAnswer, fromEmbeddingAnswer, fromModelsAnswer, OllamaEventReader, PROVIDER } from "./response.ts";

const defaults: DialectDefaults = {
  baseUrl: "http://localhost:11434",
  // Its tokens cost nothing: before those that do.
  priority: 10,
  capabilities: [],
  pool: { connections: 10, keepAliveMs: 120_000 },
  timeouts: {
    connectMs: 15_000,
    // Requests beyond OLLAMA_NUM_PARALLEL wait at Ollama, not in our pool.
    poolMs: 5_000,
    // A cold model is loaded before the first byte: seconds from an SSD, minutes for a large one from a disk. Ollama itself
    // gives up on a load that makes no progress for 5 minutes (OLLAMA_LOAD_TIMEOUT, https://docs.ollama.com/faq).
    firstTokenMs: 300_000,
    // One token takes a large model on a CPU seconds.
    stallMs: 120_000,
    totalMs: 1_800_000,
  },
};

/** Ollama, on this machine or another, or its cloud. */
export const ollama: Dialect = {
  provider: PROVIDER,
  framing: "ndjson",
  defaults,
  // A server of one's own wants no key; ollama.com does.
  authorization: (key): Readonly<Record<string, string>> => (key === "" ? {} : { authorization: `Bearer ${key}` }),
  chatRequest: (request, stream, context) => toChatRequest(request, context.model, stream),
  chatAnswer: fromChatAnswer,
  chatEvents: (context) => new OllamaEventReader(context),
  error: fromError,
  healthRequest: () => ({ method: "GET", path: "/api/tags" }),
  modelsRequest: () => ({ method: "GET", path: "/api/tags" }),
  modelsAnswer: fromModelsAnswer,
  modelProperties,
  embedding: {
    request: (request, context) => toEmbeddingRequest(request, context.model),
    answer: fromEmbeddingAnswer,
  },
};
