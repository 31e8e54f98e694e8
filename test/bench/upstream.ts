/**
 * The fake provider all targets share: OpenAI's chat completions over node:http, JSON at once, streams as real SSE with
 * one chunk of about 290 bytes per token. Each stream keeps its own clock, started by its own request, so that tokens of
 * different streams are not batched by accident. Runs as its own process; its CPU is not counted.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { answerText, COUNT_PATH, MODEL, RELEASE_PATH, readWish, type Wish, word } from "./exchange.ts";
import { announce, endWithParent } from "./processes.ts";

/** A request body beyond this is refused: the bench never sends one. */
const MAX_BODY_BYTES = 64 * 1024;

const CREATED = 1_764_000_000;
const held = new Set<() => void>();
let asked = 0;

async function readBody(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > MAX_BODY_BYTES) throw new Error("request body too large");
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

function usage(wish: Wish) {
  return { prompt_tokens: 96, completion_tokens: wish.tokens, total_tokens: 96 + wish.tokens };
}

function answerJson(response: ServerResponse, wish: Wish): void {
  const body = JSON.stringify({
    id: `chatcmpl-${wish.id}`,
    object: "chat.completion",
    created: CREATED,
    model: MODEL,
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: answerText(wish), refusal: null, annotations: [] },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: usage(wish),
    service_tier: "default",
    system_fingerprint: "fp_0123456789",
  });
  response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  response.end(body);
}

/** One SSE event in the shape and size that OpenAI sends. */
function event(wish: Wish, fields: { choices: unknown[]; usage: unknown }): string {
  const chunk = {
    id: `chatcmpl-${wish.id.padEnd(29, "0")}`,
    object: "chat.completion.chunk",
    created: CREATED,
    model: MODEL,
    service_tier: "default",
    system_fingerprint: "fp_0123456789",
    ...fields,
  };
  return `data: ${JSON.stringify(chunk)}\n\n`;
}

function choice(delta: object, finish: string | null): unknown[] {
  return [{ index: 0, delta, logprobs: null, finish_reason: finish }];
}

function answerStream(response: ServerResponse, wish: Wish, options: { usage: boolean }): void {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" });
  const started = performance.now() + wish.firstMs;
  let sent = 0;
  let timer: NodeJS.Timeout | undefined;

  const sendToken = (): void => {
    const delta = { ...(sent === 0 ? { role: "assistant" } : {}), content: word(wish, sent) };
    response.write(event(wish, { choices: choice(delta, null), usage: null }));
    sent++;
  };
  const finish = (): void => {
    response.write(event(wish, { choices: choice({}, "stop"), usage: null }));
    if (options.usage) response.write(event(wish, { choices: [], usage: usage(wish) }));
    response.end("data: [DONE]\n\n");
  };
  const step = (): void => {
    if (sent >= wish.tokens) {
      finish();
      return;
    }
    sendToken();
    // Due by the stream's own clock, not by the last token, so that late timers do not add up.
    timer = setTimeout(step, Math.max(0, started + sent * wish.everyMs - performance.now()));
  };
  const release = (): void => {
    held.delete(release);
    while (sent < wish.tokens) sendToken();
    finish();
  };
  response.on("close", () => {
    clearTimeout(timer);
    held.delete(release);
  });

  if (wish.hold) {
    sendToken();
    held.add(release);
  } else if (wish.firstMs > 0) {
    response.flushHeaders();
    timer = setTimeout(step, wish.firstMs);
  } else {
    step();
  }
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.url === RELEASE_PATH) {
    for (const release of [...held]) release();
    response.end("released");
    return;
  }
  if (request.url === COUNT_PATH) {
    const body = String(asked);
    response.writeHead(200, { "content-type": "text/plain", "content-length": body.length }).end(body);
    return;
  }
  if (request.url === "/v1/models") {
    const list = { object: "list", data: [{ id: MODEL, object: "model", created: CREATED, owned_by: "bench" }] };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(list));
    return;
  }
  const body = await readBody(request);
  const wish = readWish(body);
  if (request.url !== "/v1/chat/completions" || !wish) {
    const error = { message: `the bench has no answer to ${request.method} ${request.url}`, type: "bench" };
    response.writeHead(400, { "content-type": "application/json" }).end(JSON.stringify({ error }));
    return;
  }
  asked++;
  const options = JSON.parse(body) as { stream?: boolean; stream_options?: { include_usage?: boolean } };
  if (options.stream) answerStream(response, wish, { usage: options.stream_options?.include_usage === true });
  else answerJson(response, wish);
}

endWithParent();
const server = createServer((request, response) => {
  answer(request, response).catch((error: unknown) => {
    console.error("upstream:", error);
    response.destroy();
  });
});
server.keepAliveTimeout = 120_000;
server.listen(0, "127.0.0.1", 4096, () => announce(server));
