/** What applications ask for: chats and vectors, in OpenAI's form and in the short one, whole and as streams. */
import type { IncomingMessage } from "node:http";
import type { CompletionRequest, Part, Served, Warning } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type {
  CacheOptions,
  CacheStatus,
  RoutingOptions,
  StreamResponse,
} from "../../libs/gen/cortex/router/v1/router.ts";
import type { Call } from "../../libs/rpc/index.ts";
import { ATTRIBUTE, SPAN_EVENT, type Span } from "../../libs/telemetry/index.ts";
import { type CachingWish, cacheHeaders, isHit, readCaching } from "./caching-options.ts";
import {
  answerJson,
  decode,
  type Exchange,
  type GatewayDependencies,
  type GatewayResponse,
  header,
  parseJson,
  readJson,
  readText,
} from "./exchange.ts";
import { readChatRequest, readEmbeddingsRequest, readShortChatRequest } from "./openai-request.ts";
import {
  ChunkWriter,
  servedHeaders,
  writeCompletion,
  writeEmbeddings,
  writeModel,
  writeModels,
  writeShortAnswer,
} from "./openai-response.ts";
import { RememberedRequests } from "./remembered-requests.ts";
import { resumableStream } from "./resume.ts";
import { type RoutingWish, readRouting } from "./routing-options.ts";

const SSE_TYPE = "text/event-stream; charset=utf-8";

const CHAT_REQUESTS = new RememberedRequests((text) => readChatRequest(parseJson(text)));

export async function chatCompletions({ request, response, call, span }: Exchange, dependencies: GatewayDependencies) {
  const body = CHAT_REQUESTS.read(await readText(request, dependencies.bodyBytesMax), dependencies.caching());
  const { completion, stream, includeUsage } = body;
  const wishes = readWishes(body, request);
  describeRequest(span, completion, stream);
  if (!stream) {
    const {
      attempts,
      cache,
      completion: whole,
    } = await dependencies.router().complete({ completion, ...wishes }, call);
    answerJson(response, 200, writeCompletion(whole!, isHit(cache)), {
      ...servedHeaders(whole!.served, attempts, whole!.warnings),
      ...cacheHeaders(cache),
    });
    return;
  }
  const writer = new ChunkWriter(includeUsage);
  const chunks = resumableStream({ completion, ...wishes }, call, dependencies);
  await streamOut(chunks, response, call, dependencies.keepAliveMs, {
    contentType: SSE_TYPE,
    paced: isPaced(wishes),
    begin: (cache) => {
      writer.cached = isHit(cache);
      span.event(SPAN_EVENT.firstToken);
    },
    write: (parts) => writer.write(parts),
    end: () => writer.end(),
    keepAlive: ": keep-alive\n\n",
  });
}

export async function shortChat({ request, response, call, span }: Exchange, dependencies: GatewayDependencies) {
  const body = readShortChatRequest(await readJson(request, dependencies.bodyBytesMax));
  const { completion } = body;
  const wishes = readWishes(body, request);
  const wantsJson = /\bapplication\/json\b/.test(header(request, "accept"));
  describeRequest(span, completion, !wantsJson);
  if (wantsJson) {
    const {
      attempts,
      cache,
      completion: whole,
    } = await dependencies.router().complete({ completion, ...wishes }, call);
    answerJson(response, 200, writeShortAnswer(whole!, isHit(cache)), {
      ...servedHeaders(whole!.served, attempts, whole!.warnings),
      ...cacheHeaders(cache),
    });
    return;
  }
  const chunks = resumableStream({ completion, ...wishes }, call, dependencies);
  await streamOut(chunks, response, call, dependencies.keepAliveMs, {
    contentType: "text/plain; charset=utf-8",
    paced: isPaced(wishes),
    begin: () => span.event(SPAN_EVENT.firstToken),
    write: (parts) => {
      let text = "";
      for (const { part } of parts) {
        if (part?.$case === "text" || part?.$case === "refusal") text += part.value.text;
      }
      return text;
    },
    end: () => "",
    keepAlive: "",
  });
}

/** How the client wants it to be routed, and what may come from the cache: the body and the headers together. */
function readWishes(
  body: { readonly routing: RoutingWish; readonly caching: CachingWish },
  request: IncomingMessage,
): { readonly routing: RoutingOptions | undefined; readonly cache: CacheOptions | undefined } {
  const read = (name: string) => header(request, name);
  return { routing: readRouting(body.routing, read), cache: readCaching(body.caching, read) };
}

function isPaced({ cache }: { readonly cache: CacheOptions | undefined }): boolean {
  return cache?.tokensPerSecond !== undefined;
}

/** How a stream is put into bytes. */
interface StreamFormat {
  readonly contentType: string;
  /** From the cache it comes as slowly as from a provider. */
  readonly paced: boolean;
  /** Called once, before the first part. */
  begin(cache: CacheStatus | undefined): void;
  write(parts: readonly Part[]): string;
  end(): string;
  /** What to send when nothing has been sent for a while; empty where the format has no way to say nothing. */
  readonly keepAlive: string;
}

async function streamOut(
  stream: AsyncIterable<StreamResponse>,
  response: GatewayResponse,
  call: Call,
  keepAliveMs: number,
  format: StreamFormat,
): Promise<void> {
  let keepAlive: NodeJS.Timeout | undefined;
  let headers: Record<string, string> | undefined;
  /** An answer that is there as a whole is sent as a whole. */
  let atOnce = false;
  let whole = "";
  try {
    for await (const { parts, attempts, cache } of stream) {
      if (headers === undefined) {
        format.begin(cache);
        headers = {
          ...headersOf(parts, attempts),
          ...cacheHeaders(cache),
          "content-type": format.contentType,
          "cache-control": "no-cache",
        };
        atOnce = isHit(cache) && !format.paced;
        if (!atOnce) {
          // The headers wait for the first content: until then a failure can still have a status of its own.
          response.writeHead(200, headers);
          response.hasEvents = format.contentType === SSE_TYPE;
          if (format.keepAlive !== "") {
            keepAlive = setInterval(() => response.write(format.keepAlive), keepAliveMs);
          }
        }
      }
      const text = format.write(parts);
      if (atOnce) {
        whole += text;
        continue;
      }
      keepAlive?.refresh();
      if (text !== "" && !response.write(text)) await drained(response, call.signal);
    }
    whole += format.end();
    if (atOnce) response.writeHead(200, { ...headers, "content-length": Buffer.byteLength(whole) });
    response.end(whole);
  } finally {
    clearInterval(keepAlive);
  }
}

function headersOf(parts: readonly Part[], attempts: number): Record<string, string> {
  let served: Served | undefined;
  const warnings: Warning[] = [];
  for (const { part } of parts) {
    if (part?.$case === "served") served = part.value;
    else if (part?.$case === "warning") warnings.push(part.value);
  }
  return servedHeaders(served, attempts, warnings);
}

/** Waits until a slow client has taken what was written, or has gone. */
function drained(response: GatewayResponse, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    response.on("drain", done);
    signal.addEventListener("abort", done, { once: true });
    if (signal.aborted) done();
  });
}

export async function embeddings({ request, response, call, span }: Exchange, dependencies: GatewayDependencies) {
  const body = readEmbeddingsRequest(await readJson(request, dependencies.bodyBytesMax));
  const { embedding, base64 } = body;
  const wishes = readWishes(body, request);
  span.set(ATTRIBUTE.operation, "embeddings");
  span.set(ATTRIBUTE.requestModel, embedding.model);
  const { attempts, cache, embedding: result } = await dependencies.router().embed({ embedding, ...wishes }, call);
  answerJson(response, 200, writeEmbeddings(result!, base64), {
    ...servedHeaders(result!.served, attempts, result!.warnings),
    ...cacheHeaders(cache),
  });
}

export async function models({ response, call }: Exchange, { router }: GatewayDependencies) {
  const answer = await router().listModels({}, call);
  answerJson(response, 200, writeModels(answer.models));
}

export async function model({ response, call, path }: Exchange, { router }: GatewayDependencies) {
  const answer = await router().listModels({}, call);
  answerJson(response, 200, writeModel(answer.models, decode(path.slice("/v1/models/".length))));
}

function describeRequest(span: Span, completion: CompletionRequest, stream: boolean): void {
  if (!span.recording) return;
  const { model, maxOutputTokens, sampling } = completion;
  span.set(ATTRIBUTE.operation, "chat");
  span.set(ATTRIBUTE.requestModel, model);
  span.set(ATTRIBUTE.requestStream, stream);
  span.set(ATTRIBUTE.requestMaxTokens, maxOutputTokens);
  span.set(ATTRIBUTE.requestTemperature, sampling?.temperature);
  span.set(ATTRIBUTE.requestTopP, sampling?.topP);
}
