/** The OpenAI dialect, for OpenAI and for every server that speaks like it: vLLM, llama.cpp, Mistral, OpenRouter, … */
import type { Dialect, DialectDefaults, WorkerSettings } from "../../libs/adapter/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { fromError } from "./errors.ts";
import { OpenAiEventReader } from "./events.ts";
import { type RequestStyle, toChatRequest, toEmbeddingRequest } from "./request.ts";
import { fromChatAnswer, fromEmbeddingAnswer, fromModelsAnswer, PROVIDER } from "./response.ts";

const defaults: DialectDefaults = {
  baseUrl: "https://api.openai.com/v1",
  priority: 100,
  capabilities: [],
  pool: { connections: 100, keepAliveMs: 60_000 },
  timeouts: {
    connectMs: 5_000,
    poolMs: 5_000,
    // OpenAI sends nothing while a model reasons: 140 s were recorded. Its own SDK gives up after 600 s.
    firstTokenMs: 180_000,
    stallMs: 60_000,
    totalMs: 600_000,
  },
};

/** What a worker's settings say about the server behind it. */
export interface OpenAiOptions {
  /** The worker's base URL; absent when it is not known here, and then the model's name alone decides. */
  readonly baseUrl?: string | undefined;
  /** The worker's option `maxTokensField`, for a server that wants the other one. */
  readonly maxTokensField?: RequestStyle["maxTokensField"] | undefined;
}

/**
 * The OpenAI dialect for one server.
 *
 * OpenAI's reasoning models refuse `max_tokens`, many compatible servers ignore `max_completion_tokens` (Ollama's `/v1`
 * does), and OpenAI refuses both together. So `max_completion_tokens` goes to OpenAI and Azure and to models of OpenAI's
 * own names, wherever they are served; `max_tokens` goes to everyone else.
 */
export function createOpenAiDialect(options: OpenAiOptions = {}): Dialect {
  const atOpenAi = options.baseUrl !== undefined && isOpenAiUrl(options.baseUrl);
  const styleOf = (model: string): RequestStyle => {
    const strict = atOpenAi || isOpenAiModel(model);
    return { strict, maxTokensField: options.maxTokensField ?? (strict ? "max_completion_tokens" : "max_tokens") };
  };
  return {
    provider: PROVIDER,
    framing: "sse",
    defaults,
    authorization: (key) => (key === "" ? {} : { authorization: `Bearer ${key}` }),
    chatRequest: (request, stream, context) => toChatRequest(request, context.model, stream, styleOf(context.model)),
    chatAnswer: fromChatAnswer,
    chatEvents: (context) => new OpenAiEventReader(context),
    error: fromError,
    // There is no health route: https://platform.openai.com/docs/api-reference/models/list
    healthRequest: () => ({ method: "GET", path: "/models" }),
    modelsRequest: () => ({ method: "GET", path: "/models" }),
    modelsAnswer: fromModelsAnswer,
    embedding: {
      request: (request, context) => toEmbeddingRequest(request, context.model),
      answer: fromEmbeddingAnswer,
    },
  };
}

/** The dialect for one worker: what its base URL and its option `maxTokensField` say. Throws INVALID_REQUEST. */
export function openAiDialectFor(settings: Pick<WorkerSettings, "baseUrl" | "options">): Dialect {
  const maxTokensField = settings.options?.["maxTokensField"];
  switch (maxTokensField) {
    case undefined:
    case "max_tokens":
    case "max_completion_tokens":
      return createOpenAiDialect({ baseUrl: settings.baseUrl ?? defaults.baseUrl, maxTokensField });
    default: {
      const field = "options.maxTokensField";
      throw new RpcError("INVALID_REQUEST", `${field}: must be max_tokens or max_completion_tokens`, { field });
    }
  }
}

/** The dialect where no worker's settings are known: the model's name alone decides what differs. */
export const openai: Dialect = createOpenAiDialect();

function isOpenAiUrl(baseUrl: string): boolean {
  const host = URL.parse(baseUrl)?.hostname ?? "";
  return host === "api.openai.com" || host.endsWith(".api.openai.com") || host.endsWith(".openai.azure.com");
}

/** gpt-4o, o3-mini, chatgpt-4o-latest, ft:gpt-4o:…, openai/gpt-5; not gpt-oss, which others serve. */
function isOpenAiModel(model: string): boolean {
  return /^(ft:)?(openai\/)?(gpt-(?!oss)|chatgpt-|o\d|codex-)/.test(model);
}
