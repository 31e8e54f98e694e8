/** Deciding what an exchange is: whose dialect reads it, as what, or why it is none of ours. */
import type { Dialect } from "../../libs/adapter/index.ts";
import type { ServiceEntry } from "../../libs/host/index.ts";
import type { Exchange } from "./exchanges.ts";
import {
  documentsOf,
  guessProvider,
  listedModels,
  objectOf,
  type Recorded,
  recordedIn,
  textOf,
  UNKNOWN,
  vectorLengths,
} from "./recorded.ts";

/** What an exchange is read as. */
export type Kind = "whole" | "stream" | "embeddings" | "models" | "error";

/** How an exchange is to be read. */
export interface Reading {
  readonly kind: Kind;
  readonly dialect: Dialect;
  readonly model: string;
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  readonly documents: readonly unknown[];
  readonly recorded: Recorded;
}

/** An exchange that no dialect reads. */
export interface Skipped {
  readonly skipped: string;
}

/** Folders, and beginnings of file names, that are not called like the adapter that reads them. */
const ALSO_KNOWN_AS: Readonly<Record<string, string>> = {
  google: "gemini",
  vertex: "gemini",
  claude: "anthropic",
  azure: "openai",
  "azure-openai": "openai",
  compatible: "openai",
  cerebras: "openai",
  deepseek: "openai",
  fireworks: "openai",
  huggingface: "openai",
  llamacpp: "openai",
  lmstudio: "openai",
  mistral: "openai",
  moonshot: "openai",
  nvidia: "openai",
  openrouter: "openai",
  perplexity: "openai",
  sambanova: "openai",
  together: "openai",
  vllm: "openai",
  xai: "openai",
};

/** An endpoint: whose it is and what is read of it, or what it is besides. */
type Endpoint = { readonly provider?: string; readonly kind: "chat" | "embeddings" | "models" } | Skipped;

/** By the end of the path, the first that fits. */
const ENDPOINTS: readonly (readonly [RegExp, Endpoint])[] = [
  [/\/chat\/completions$/, { provider: "openai", kind: "chat" }],
  [/\/completions$/, { skipped: "legacy completions" }],
  [/\/v2\/chat$/, { provider: "cohere", kind: "chat" }],
  [/\/api\/chat$/, { provider: "ollama", kind: "chat" }],
  [/:(generateContent|streamGenerateContent)$/, { provider: "gemini", kind: "chat" }],
  [/\/(v1\/)?messages$/, { provider: "anthropic", kind: "chat" }],
  [/\/count_?tokens$|:countTokens$|\/(de)?tokenize$/i, { skipped: "counting tokens" }],
  [/\/batches(\/|$)/, { skipped: "batch" }],
  [/\/responses(\/|$)/, { skipped: "Responses API" }],
  [/\/api\/embed$/, { provider: "ollama", kind: "embeddings" }],
  [/\/api\/embeddings$/, { skipped: "Ollama's older embeddings" }],
  [/\/api\/generate$/, { skipped: "Ollama's generate" }],
  [/\/api\/tags$/, { provider: "ollama", kind: "models" }],
  [/\/api\/(ps|version|show|pull|push|create|copy|delete|blobs)\b/, { skipped: "Ollama's housekeeping" }],
  [/\/v2\/embed$/, { provider: "cohere", kind: "embeddings" }],
  [/:batchEmbedContents$/, { provider: "gemini", kind: "embeddings" }],
  [/:(embedContent|predict|generateAnswer)$/, { skipped: "a method of Gemini that Cortex does not use" }],
  [/\/embeddings$/, { provider: "openai", kind: "embeddings" }],
  [/\/models$/, { kind: "models" }],
  [/\/models\/[^/:]+$/, { skipped: "a single model" }],
  [/\/re-?rank$/, { skipped: "rerank" }],
  [
    /\/(files|uploads|audio|images|videos|moderations|assistants|threads|vector_stores|fine_tuning|evals|realtime|cachedContents|operations|classify|connectors|datasets|parse)(\/|$)/,
    { skipped: "files, pictures, sound and other services" },
  ],
];

/** The adapters of the composition, by provider. */
export type Adapters = ReadonlyMap<string, NonNullable<NonNullable<ServiceEntry["adapter"]>["createDialect"]>>;

/** Decides how `exchange` is read. */
export function judge(exchange: Exchange, adapters: Adapters): Reading | Skipped {
  const { body, head } = exchange;
  if (body === undefined) return { skipped: "no answer was recorded" };
  const endpoint = endpointOf(exchange);
  const streamed = isStream(exchange, body);
  const { documents, broken } = documentsOf(body, streamed);
  const recorded = recordedIn(documents, broken, body);
  // An error without a status, in a stream: it stands where an answer would.
  const status = streamed && head.status === undefined ? 200 : statusOf(exchange, recorded, documents);
  const kind = kindOf(exchange, { endpoint, streamed, recorded, documents, status });
  if (typeof kind !== "string") return kind;
  const provider = providerOf(exchange, endpoint, recorded, adapters) ?? guessProvider(documents[0]);
  if (provider === undefined) return { skipped: "nothing tells whose it is" };
  const create = adapters.get(provider);
  if (create === undefined) return { skipped: `there is no adapter for ${provider}` };
  const model = modelOf(exchange, documents);
  const dialect = createDialect(exchange, provider, model, create);
  if (dialect === undefined) return { skipped: `the adapter for ${provider} can't be set up for it` };
  if (kind === "embeddings" && dialect.embedding === undefined)
    return { skipped: `${provider} has no embeddings here` };
  const type = head.headers["content-type"] ?? contentType(kind, exchange, dialect);
  const headers = { ...head.headers, "content-type": type };
  return { kind, dialect, model, status, headers, body, documents, recorded };
}

function pathOf({ head }: Exchange): string | undefined {
  if (head.url === undefined) return undefined;
  return URL.parse(head.url)?.pathname ?? head.url.replace(/[?#].*$/, "");
}

function endpointOf(exchange: Exchange): Endpoint | undefined {
  const path = pathOf(exchange)?.replace(/\/+$/, "");
  return path === undefined ? undefined : ENDPOINTS.find(([pattern]) => pattern.test(path))?.[1];
}

function isStream(exchange: Exchange, body: Buffer): boolean {
  const type = exchange.head.headers["content-type"] ?? "";
  const start = body.subarray(0, 200).toString("utf8");
  if (/event-stream|ndjson|jsonl/.test(type) || /^(\ufeff?)(data|event|id|retry)?:/.test(start)) return true;
  if (/^(sse|ndjson|jsonl)$/.test(exchange.extension)) return true;
  // Several lines that are each a document of their own.
  const lines = body.toString("utf8").trim().split(/\r?\n/);
  return lines.length > 1 && lines.every((line) => /^\{.*\}$/.test(line.trim()));
}

function statusOf({ name, head }: Exchange, recorded: Recorded, documents: readonly unknown[]): number {
  if (head.status !== undefined) return head.status;
  if (recorded.shape !== "error" && (recorded.shape !== "other" || documents.length > 0)) return 200;
  const named = /(?:^|[-_.])([45]\d\d)(?=[-_.]|$)/.exec(name)?.[1];
  if (named !== undefined) return Number(named);
  const first = objectOf(Array.isArray(documents[0]) ? documents[0][0] : documents[0]);
  const error = objectOf(first["error"]);
  const codes = [error["code"], error["status_code"], first["code"], first["status"]].map(Number);
  const code = codes.find((each) => Number.isInteger(each) && each >= 400 && each <= 599);
  return code ?? (recorded.shape === "error" ? 500 : 200);
}

interface Clues {
  readonly endpoint: Endpoint | undefined;
  readonly streamed: boolean;
  readonly recorded: Recorded;
  readonly documents: readonly unknown[];
  readonly status: number;
}

function kindOf(exchange: Exchange, { endpoint, streamed, recorded, documents, status }: Clues): Kind | Skipped {
  const { head, request, body } = exchange;
  if (status >= 300) return "error";
  if (endpoint !== undefined && "skipped" in endpoint) return endpoint;
  if (endpoint?.kind === "embeddings" || endpoint?.kind === "models") return endpoint.kind;
  if (endpoint === undefined) {
    if (head.url !== undefined && recorded.shape === "other") return { skipped: `the path ${pathOf(exchange)}` };
    if (body?.length === 0) return { skipped: "an empty answer of which nothing is known" };
    if (recorded.shape === "other") return kindOfOther(documents, recorded);
  } else if (recorded.what === "Responses API" || recorded.what === "batch") return { skipped: recorded.what };
  const wanted = objectOf(request)["stream"] === true || /:streamGenerateContent/.test(head.url ?? "");
  if (wanted && Array.isArray(documents[0]) && !streamed) return { skipped: "a stream that is one array (no alt=sse)" };
  return streamed || wanted ? "stream" : "whole";
}

/** What is no chat, and has no path to tell. */
function kindOfOther(documents: readonly unknown[], recorded: Recorded): Kind | Skipped {
  const [document] = documents;
  if (recorded.what !== UNKNOWN) return { skipped: recorded.what };
  if ("embedding" in objectOf(document)) return { skipped: "a single vector, which no adapter asks for" };
  if (listedModels(document) !== undefined && vectorLengths(document).length === 0) {
    const [first] = [objectOf(document)["models"], objectOf(document)["data"]].find(Array.isArray) ?? [];
    // Ollama's list of the models that are loaded looks much the same.
    if ("expires_at" in objectOf(first)) return { skipped: "Ollama's housekeeping" };
    return "models";
  }
  if (vectorLengths(document).length > 0) return "embeddings";
  return { skipped: UNKNOWN };
}

/** The path knows best, then the host, the folder, the file's name, and at last the answer itself. */
function providerOf(
  { folder, name, head }: Exchange,
  endpoint: Endpoint | undefined,
  { shape }: Recorded,
  adapters: Adapters,
): string | undefined {
  const byPath = endpoint !== undefined && "provider" in endpoint ? endpoint.provider : undefined;
  const byHost = adapterAt(head.url, adapters);
  const byName = knownAs(folder, adapters) ?? knownAs(name, adapters);
  // Many speak OpenAI's protocol; some of them have an adapter of their own that speaks it too.
  if (byPath === "openai") return [byHost, byName].find((each) => each === "groq") ?? byPath;
  const byShape = shape === "error" || shape === "other" ? undefined : shape;
  if (byPath !== undefined) return byPath;
  const known = byHost ?? byName;
  if (byShape === "openai" && known !== "groq") return byShape;
  return known ?? byShape;
}

/** The adapter whose provider is at the host of `url`. */
function adapterAt(url: string | undefined, adapters: Adapters): string | undefined {
  const host = url === undefined ? undefined : URL.parse(url)?.hostname;
  if (host === undefined || host === "localhost") return undefined;
  return [...adapters].find(([provider, create]) => {
    const dialect = attempt(() => create({ name: "replay", provider, keys: [] }));
    return dialect !== undefined && URL.parse(dialect.defaults.baseUrl)?.hostname === host;
  })?.[0];
}

/** Whose name stands in `text`, the first if there are several: `groq`, `groq-2026`, `azure-openai`, `error-openai-500`. */
function knownAs(text: string, adapters: Adapters): string | undefined {
  const names = [...adapters.keys(), ...Object.keys(ALSO_KNOWN_AS)].sort((one, other) => other.length - one.length);
  const found = new RegExp(`(?<![a-z0-9])(?:${names.join("|")})(?![a-z0-9])`, "i").exec(text)?.[0];
  const name = found?.toLowerCase();
  return name === undefined ? undefined : (ALSO_KNOWN_AS[name] ?? name);
}

function modelOf({ request, head }: Exchange, documents: readonly unknown[]): string {
  const inPath = /\/models\/([^/:?]+)/.exec(head.url ?? "")?.[1];
  return textOf(objectOf(request)["model"]) || inPath || textOf(objectOf(documents[0])["model"]) || "recorded";
}

/** A worker's settings may decide which server a dialect speaks to: as much as the exchange tells of it, and less if need be. */
function createDialect(
  { folder, name, head }: Exchange,
  provider: string,
  model: string,
  create: NonNullable<ReturnType<Adapters["get"]>>,
): Dialect | undefined {
  const settings = { name: "replay", provider, keys: [], models: [model] };
  const url = head.url === undefined ? null : URL.parse(head.url);
  const prefix = url?.pathname.replace(/\/(chat\/completions|embeddings|models)$/, "") ?? "";
  const servers = [folder, name].flatMap((text) => text.toLowerCase().split(/[-_.]/));
  const candidates = [
    ...(url === null
      ? []
      : [
          { ...settings, baseUrl: `${url.origin}${prefix}` },
          { ...settings, baseUrl: url.origin },
        ]),
    ...servers.map((server) => ({ ...settings, options: { server } })),
    settings,
  ];
  for (const candidate of candidates) {
    const dialect = attempt(() => create(candidate));
    if (dialect !== undefined) return dialect;
  }
  return undefined;
}

function attempt<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch {
    return undefined;
  }
}

/** What a server would have said of a body that was recorded without its head. */
function contentType(kind: Kind, { extension, body }: Exchange, { framing }: Dialect): string {
  if (/^html?$/.test(extension) || /^\s*</.test(body?.toString("utf8") ?? "")) return "text/html";
  if (kind !== "stream") return "application/json";
  return framing === "sse" ? "text/event-stream" : "application/x-ndjson";
}
