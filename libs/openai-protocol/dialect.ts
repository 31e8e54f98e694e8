/** The dialect of one server that speaks OpenAI's protocol. */
import {
  type Dialect,
  type DialectDefaults,
  knownOf,
  type ProviderRequest,
  type WorkerSettings,
} from "../adapter/index.ts";
import { RpcError } from "../rpc/index.ts";
import { fromError } from "./errors.ts";
import { OpenAiEventReader } from "./events.ts";
import { toChatRequest, toEmbeddingRequest } from "./request.ts";
import { fromChatAnswer, fromEmbeddingAnswer, fromModelsAnswer } from "./response.ts";
import type { Server, Source } from "./server.ts";
import { isServerName, SERVERS, serverAt, serverFor } from "./servers.ts";

/** What a worker's settings say that its dialect has to know. */
export type DialectSettings = Pick<WorkerSettings, "baseUrl" | "models" | "options">;

/** What an adapter says about itself. */
export interface Identity {
  readonly provider: string;
  readonly defaults: DialectDefaults;
}

/**
 * The dialect for one worker. Which server it talks to, the option `server` says or the host of its base URL; the option
 * `maxTokensField` names the field that bounds the answer, for a server that wants the other one, and `apiVersion` Azure's
 * version. Throws INVALID_REQUEST, naming the field, for settings that can't work.
 */
export function createOpenAiDialect(identity: Identity, settings: DialectSettings): Dialect {
  const baseUrl = settings.baseUrl ?? identity.defaults.baseUrl;
  const server = withOptions(chooseServer(settings, baseUrl), settings);
  if (server.modelsUnknown && settings.models === undefined) {
    throw wrong("models", `${server.title} can't list what an account may ask for: name the models`);
  }
  if (
    server.paths.chat.startsWith("/openai/") &&
    /\/(openai|deployments)(\/|$)/.test(URL.parse(baseUrl)?.pathname ?? "")
  ) {
    throw wrong("baseUrl", `${server.title} wants the resource's address alone; the deployment is the model's name`);
  }
  return createServerDialect(identity, server, baseUrl);
}

function createServerDialect(identity: Identity, server: Server, baseUrl: string): Dialect {
  const { provider, defaults } = identity;
  const { paths, telemetryName, keyHeader } = server;
  const source: Source = { provider, server };
  const of = (model: string) => serverFor(server, model);
  const get = (path: string): ProviderRequest => ({ method: "GET", path: withVersion(path, server) });
  const post = (request: ProviderRequest): ProviderRequest =>
    paths.apiVersion === undefined ? request : { ...request, path: withVersion(request.path, server) };
  const { embeddings } = paths;
  return {
    provider,
    ...(telemetryName !== undefined && { telemetryName }),
    framing: "sse",
    defaults,
    authorization: (key): Readonly<Record<string, string>> => {
      if (key === "") return {};
      return keyHeader === undefined ? { authorization: `Bearer ${key}` } : { [keyHeader]: key };
    },
    chatRequest: (request, stream, { model }) => post(toChatRequest(request, model, stream, of(model))),
    chatAnswer: (body, context) => fromChatAnswer(body, context, source),
    chatEvents: (context) => new OpenAiEventReader(context, source),
    error: (status, headers, body) => fromError(status, headers, body, server),
    healthRequest: () =>
      paths.healthBesideVersion
        ? { method: "GET", path: `${parentPath(baseUrl)}${paths.health}`, fromRoot: true }
        : get(paths.health),
    modelsRequest: () => get(paths.models),
    modelsAnswer: (body) => fromModelsAnswer(body, source),
    modelProperties: (model) => knownOf(server.families ?? [], model),
    ...(embeddings !== undefined && {
      embedding: {
        request: (request, { model }) => post(toEmbeddingRequest(request, model, of(model), embeddings)),
        answer: (body, context) => fromEmbeddingAnswer(body, context, source),
      },
    }),
  };
}

function chooseServer({ options }: DialectSettings, baseUrl: string): Server {
  const name = options?.["server"];
  if (name === undefined) return serverAt(baseUrl);
  if (isServerName(name)) return SERVERS[name];
  throw wrong("options.server", `must be one of ${Object.keys(SERVERS).join(", ")}`);
}

function withOptions(server: Server, { options }: DialectSettings): Server {
  const { maxTokensField = server.maxTokensField, apiVersion = server.paths.apiVersion } = options ?? {};
  if (maxTokensField !== "max_tokens" && maxTokensField !== "max_completion_tokens") {
    throw wrong("options.maxTokensField", "must be max_tokens or max_completion_tokens");
  }
  if (apiVersion !== undefined && (typeof apiVersion !== "string" || !/^[\w.-]+$/.test(apiVersion))) {
    throw wrong("options.apiVersion", "must be a version such as 2024-10-21");
  }
  if (options?.["maxTokensField"] === undefined && apiVersion === server.paths.apiVersion) return server;
  return { ...server, maxTokensField, paths: { ...server.paths, ...(apiVersion !== undefined && { apiVersion }) } };
}

function withVersion(path: string, { paths }: Server): string {
  return paths.apiVersion === undefined ? path : `${path}?api-version=${paths.apiVersion}`;
}

/** The base URL's path without the version of the API at its end. */
function parentPath(baseUrl: string): string {
  return (URL.parse(baseUrl)?.pathname ?? "").replace(/\/+$/, "").replace(/\/v\d+$/, "");
}

function wrong(field: string, message: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: ${message}`, { field });
}
