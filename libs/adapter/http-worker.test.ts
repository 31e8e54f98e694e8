import { describe, expect, it } from "vitest";
import { CompletionRequest, EmbeddingRequest } from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import { ANSWER_BYTES_MAX, ERROR_BYTES_MAX } from "./answer.ts";
import {
  collect,
  complete,
  createTestDialect,
  createTestWorker,
  GOOD,
  kinds,
  REQUEST,
  serveHttp,
  serveTcp,
  startSse,
  startTestCall,
  wire,
} from "./test-provider.ts";

const call = startTestCall();

/** What a stream gives when the provider answers with this body. */
async function streamOf(body: string, type = "text/event-stream", dialect = createTestDialect("sse")) {
  await using server = await serveHttp((request, response) => {
    request.resume();
    response.writeHead(200, { "content-type": type });
    response.end(body);
  });
  await using worker = createTestWorker(server.url, {}, { dialect });
  return await collect(worker.stream(REQUEST, call));
}

async function errorOf(promise: Promise<unknown>): Promise<RpcError> {
  const error = await promise.then(
    () => undefined,
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(RpcError);
  return error;
}

describe("a streamed answer", () => {
  it.each(["sse", "ndjson"] as const)("becomes parts, beginning with who served it (%s)", async (framing) => {
    const events = [{ id: "a-1" }, { text: "Hel" }, { text: "lo" }, { finish: true, usage: 2 }];
    const body = wire(framing, ...events, ...(framing === "sse" ? (["[DONE]"] as const) : []));
    const type = framing === "sse" ? "text/event-stream; charset=utf-8" : "application/x-ndjson";
    const { parts, text, error } = await streamOf(body, type, createTestDialect(framing));
    expect(error).toBeUndefined();
    expect(kinds(parts)).toEqual(["served", "text", "text", "finish", "usage"]);
    expect(parts[0]?.part?.value).toEqual({
      id: "a-1",
      model: "m-1",
      worker: "w",
      provider: "test",
      createdAtS: expect.any(Number),
      systemFingerprint: "",
    });
    expect(text).toBe("Hello");
  });

  it("travels as one chunk as far as it came at once", async () => {
    const { parts, chunks } = await streamOf(GOOD);
    expect(parts).toHaveLength(5);
    expect(chunks).toBe(1);
  });

  it("is the same when every byte comes alone", async () => {
    const bytes = Buffer.from(wire("sse", { id: "a" }, { text: "grüße 🎈" }, { finish: true }, "[DONE]"));
    await using server = await serveHttp(async (request, response) => {
      request.resume();
      startSse(response);
      for (const byte of bytes) {
        response.write(Buffer.from([byte]));
        await new Promise(setImmediate);
      }
      response.end();
    });
    await using worker = createTestWorker(server.url);
    const { parts, text, error } = await collect(worker.stream(REQUEST, call));
    expect(error).toBeUndefined();
    expect(kinds(parts)).toEqual(["served", "text", "finish"]);
    expect(text).toBe("grüße 🎈");
  });

  it("has the request's warnings after who served it", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response).end(GOOD);
    });
    await using worker = createTestWorker(server.url);
    const request = CompletionRequest.fromPartial({ ...REQUEST, user: "u" });
    const { parts } = await collect(worker.stream(request, call));
    expect(kinds(parts)).toEqual(["served", "warning", "text", "text", "finish", "usage"]);
  });

  it("is said to be served by this worker when the provider does not say", async () => {
    const { parts } = await streamOf(wire("sse", { text: "x" }, { finish: true }, "[DONE]"));
    expect(kinds(parts)).toEqual(["served", "text", "finish"]);
    expect(parts[0]?.part?.value).toMatchObject({
      id: expect.stringMatching(/^cortex-[a-z0-9]{16}$/),
      model: "m",
      worker: "w",
    });
  });

  it("is cut when the body ends before all was said, and what came is handed out first", async () => {
    const { text, error } = await streamOf(wire("sse", { id: "a" }, { text: "half" }));
    expect(text).toBe("half");
    expect(error?.reason).toBe("PROVIDER_STREAM_CUT");
  });

  it("is cut when the body ends in the middle of an event", async () => {
    const { error } = await streamOf(`${wire("sse", { id: "a" }, { text: "half" })}data: {"te`);
    expect(error?.reason).toBe("PROVIDER_STREAM_CUT");
  });

  it("is cut when the terminator is missing", async () => {
    const { error } = await streamOf(wire("sse", { id: "a" }, { text: "x" }, { finish: true }));
    expect(error?.reason).toBe("PROVIDER_STREAM_CUT");
  });

  it.each([
    [
      "inside a chunked body",
      "transfer-encoding: chunked\r\n\r\n",
      (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`,
    ],
    ["inside a body of known length", "content-length: 100000\r\n\r\n", (text: string) => text],
  ])("is cut when the connection closes %s", async (_where, header, encode) => {
    await using server = await serveTcp((socket) => {
      socket.once("data", () => {
        socket.end(
          `HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n${header}${encode(wire("sse", { text: "half" }))}`,
        );
      });
    });
    await using worker = createTestWorker(server.url);
    const { text, error } = await collect(worker.stream(REQUEST, call));
    expect(text).toBe("half");
    expect(error?.reason).toBe("PROVIDER_STREAM_CUT");
    expect(error?.message).toBe("the provider broke off its answer (UND_ERR_SOCKET)");
    expect(error?.forLog).toMatch(/^127\.0\.0\.1:\d+ broke off its answer \(UND_ERR_SOCKET\)$/);
  });

  it("is cut when the connection is reset", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response, wire("sse", { text: "half" }));
      setImmediate(() => response.socket?.resetAndDestroy());
    });
    await using worker = createTestWorker(server.url);
    const { error } = await collect(worker.stream(REQUEST, call));
    expect(error?.reason).toBe("PROVIDER_STREAM_CUT");
  });

  it("is complete once all was said, even if the connection dies then", async () => {
    await using server = await serveTcp((socket) => {
      socket.once("data", () => {
        const head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write(`${head}${GOOD.length.toString(16)}\r\n${GOOD}\r\n`, () => socket.resetAndDestroy());
      });
    });
    await using worker = createTestWorker(server.url);
    expect((await collect(worker.stream(REQUEST, call))).error).toBeUndefined();
  });

  it("is complete once all was said, even if the provider never ends the body", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response, GOOD);
    });
    await using worker = createTestWorker(server.url);
    const { text, error } = await collect(worker.stream(REQUEST, call));
    expect(text).toBe("Hello");
    expect(error).toBeUndefined();
  });

  it("ends with the provider's error when one comes inside it, after what came before", async () => {
    const { text, error } = await streamOf(wire("sse", { id: "a" }, { text: "half" }, { error: "overloaded" }));
    expect(text).toBe("half");
    expect(error).toMatchObject({ reason: "PROVIDER_OVERLOADED", message: "overloaded" });
  });

  it("says where a malformed event is wrong, but not what it says", async () => {
    const { text, error } = await streamOf(`${wire("sse", { text: "half" })}data: {"text": canary}\n\n`);
    expect(text).toBe("half");
    expect(error?.reason).toBe("PROVIDER_INVALID_ANSWER");
    expect(error?.message).not.toContain("canary");
  });

  it("is not understood when the dialect stumbles over it", async () => {
    const dialect = createTestDialect("sse", {
      chatEvents: () => ({
        read() {
          throw new TypeError("canary");
        },
        complete: () => false,
      }),
    });
    const { error } = await streamOf(GOOD, "text/event-stream", dialect);
    expect(error?.reason).toBe("PROVIDER_INVALID_ANSWER");
    expect(error?.message).not.toContain("canary");
  });

  it.each(["text/html; charset=utf-8", "image/png"])("is not understood when it is %s", async (type) => {
    const { error } = await streamOf("<html>canary</html>", type);
    expect(error?.reason).toBe("PROVIDER_INVALID_ANSWER");
    expect(error?.message).toContain(type.split(";")[0]);
    expect(error?.message).not.toContain("canary");
  });

  it("is an error when the provider answers with JSON that is one", async () => {
    const { parts, error } = await streamOf('{"error":"overloaded"}', "application/json");
    expect(parts).toEqual([]);
    expect(error).toMatchObject({ reason: "PROVIDER_OVERLOADED", message: "overloaded" });
  });

  it("is converted when the provider answers with one whole JSON document", async () => {
    const { parts, text, error } = await streamOf('{"id":"a-1","text":"Hello"}', "application/json");
    expect(error).toBeUndefined();
    expect(kinds(parts)).toEqual(["served", "text", "finish", "usage"]);
    expect(text).toBe("Hello");
  });

  it("is refused before anything is sent when the request can't be translated", async () => {
    const dialect = createTestDialect("sse", {
      chatRequest() {
        throw new RpcError("UNSUPPORTED_PARAMETER", "no tools", { field: "tools" });
      },
    });
    await using worker = createTestWorker("http://127.0.0.1:1", {}, { dialect });
    const { error } = await collect(worker.stream(REQUEST, call));
    expect(error).toMatchObject({ reason: "UNSUPPORTED_PARAMETER", field: "tools" });
  });
});

describe("a whole answer", () => {
  async function completeOf(body: string | Buffer, status = 200) {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(status, { "content-type": "application/json" });
      response.end(body);
    });
    await using worker = createTestWorker(server.url);
    return await complete(worker, CompletionRequest.fromPartial({ ...REQUEST, user: "u" }), call);
  }

  it("says who served it, and has the request's warnings", async () => {
    const completion = await completeOf('{"id":"a-1","text":"Hello"}');
    expect(completion.served).toMatchObject({ id: "a-1", model: "m-1", worker: "w", provider: "test" });
    expect(completion.warnings).toMatchObject([{ code: "UNSUPPORTED_PARAMETER", parameter: "user" }]);
    expect(completion.choices[0]?.message?.content[0]?.part?.value).toBe("Hello");
  });

  it("may have white space or a byte order mark before it", async () => {
    expect((await completeOf(`\n\n   \r\n{"id":"a-1"}`)).served?.id).toBe("a-1");
    expect((await completeOf(`\ufeff{"id":"a-1"}`)).served?.id).toBe("a-1");
  });

  it("may be an error in disguise", async () => {
    expect(await errorOf(completeOf('{"error":"overloaded"}'))).toMatchObject({ reason: "PROVIDER_OVERLOADED" });
  });

  it.each([
    ["<html>canary</html>", "wrong at position 0 of 19"],
    ['{"text":"canary', "wrong at position 15 of 15"],
    ['{"text": {', "position 10"],
    ["", "it is empty"],
    ['{"text": canary_canary_canary_canary_canary}', "wrong somewhere in 44 characters"],
  ])("that is not JSON says where it is wrong, but not what it says: %s", async (body, where) => {
    const error = await errorOf(completeOf(body));
    expect(error.reason).toBe("PROVIDER_INVALID_ANSWER");
    expect(error.message).toContain(where);
    expect(error.message).not.toContain("canary");
  });

  it("is refused when it is longer than the bound", async () => {
    const error = await errorOf(completeOf(Buffer.alloc(ANSWER_BYTES_MAX + 1, " ")));
    expect(error).toMatchObject({ reason: "PROVIDER_INVALID_ANSWER" });
    expect(error.message).toContain(String(ANSWER_BYTES_MAX));
  });

  it("is cut when the connection closes before its end", async () => {
    await using server = await serveTcp((socket) => {
      socket.once("data", () => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id":'));
    });
    await using worker = createTestWorker(server.url);
    expect(await errorOf(worker.complete(REQUEST, call))).toMatchObject({ reason: "PROVIDER_STREAM_CUT" });
  });
});

describe("an embedding", () => {
  const request = EmbeddingRequest.fromPartial({ model: "e", inputs: ["a"] });

  it("is asked of the provider", async () => {
    await using server = await serveHttp((incoming, response) => {
      incoming.resume();
      response.end("[1, 2]");
    });
    const dialect = createTestDialect("sse", {
      embedding: {
        request: () => ({ method: "POST", path: "/embed", body: "{}" }),
        answer: (body) => ({ embeddings: [{ values: body as number[] }], warnings: [] }),
      },
    });
    await using worker = createTestWorker(server.url, {}, { dialect });
    expect(await worker.embed(request, call)).toMatchObject({
      embedding: { embeddings: [{ values: [1, 2] }], served: { model: "e", worker: "w" } },
    });
  });

  it("is unimplemented where the provider has none", async () => {
    await using worker = createTestWorker("http://127.0.0.1:1");
    expect(await errorOf(worker.embed(request, call))).toMatchObject({ reason: "UNIMPLEMENTED" });
  });
});

describe("an answer that is not 2xx", () => {
  it("becomes the dialect's error, and the connection is used again", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(429).end("slow down");
    });
    await using worker = createTestWorker(server.url);
    for (let count = 0; count < 3; count += 1) {
      const { error } = await collect(worker.stream(REQUEST, call));
      expect(error).toMatchObject({ reason: "PROVIDER_RATE_LIMITED", message: "slow down" });
      expect(await errorOf(worker.complete(REQUEST, call))).toMatchObject({ reason: "PROVIDER_RATE_LIMITED" });
    }
    // undici rests a connection for a turn of the event loop, so that requests in a row take turns between two.
    expect(server.sockets.size).toBeLessThanOrEqual(2);
  });

  it("is read no further than its bound, and the connection is closed", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(500);
      response.write("x".repeat(ERROR_BYTES_MAX + 1));
    });
    await using worker = createTestWorker(server.url);
    const { error } = await collect(worker.stream(REQUEST, call));
    expect(error?.reason).toBe("PROVIDER_ERROR");
    expect(error?.message).toHaveLength(ERROR_BYTES_MAX);
    await expect.poll(() => server.sockets.size).toBe(0);
  });

  it("is an error even if its body is cut or never ends", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(500);
      response.write("so far");
      if (request.headers.accept === "application/json") setImmediate(() => response.destroy());
    });
    await using worker = createTestWorker(server.url, { timeouts: { totalMs: 200 } });
    expect(await errorOf(worker.complete(REQUEST, call))).toMatchObject({ message: "so far" });
    const { error } = await collect(worker.stream(REQUEST, call));
    expect(error).toMatchObject({ reason: "PROVIDER_ERROR", message: "so far" });
  });

  it("is an error even if the dialect stumbles over it", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(503).end("canary");
    });
    const dialect = createTestDialect("sse", {
      error() {
        throw new TypeError("canary");
      },
    });
    await using worker = createTestWorker(server.url, {}, { dialect });
    expect(await errorOf(worker.complete(REQUEST, call))).toMatchObject({
      reason: "PROVIDER_ERROR",
      message: "the provider answered with HTTP status 503",
    });
  });
});

describe("an answer that no server of the provider gives", () => {
  const page = "<html><title>Welcome to canary</title></html>";

  async function answered(status: number, type: string, streamed: boolean) {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(status, { "content-type": type }).end(page);
    });
    const error = () => new RpcError("PROVIDER_INVALID_ANSWER", page);
    await using worker = createTestWorker(server.url, {}, { dialect: createTestDialect("sse", { error }) });
    const failed = streamed
      ? (await collect(worker.stream(REQUEST, call))).error
      : await errorOf(worker.complete(REQUEST, call));
    expect(failed?.reason).toBe("PROVIDER_INVALID_ANSWER");
    expect(failed?.message).not.toContain("canary");
    expect(worker.lines.join()).not.toContain("canary");
    return failed?.message;
  }

  it.each([false, true])("is told by its status and type, not by its words (streamed: %s)", async (streamed) => {
    const message = "the provider answered 404 text/html; is baseUrl right?";
    expect(await answered(404, "text/html; charset=utf-8", streamed)).toBe(message);
  });

  it("is told also when it looks like success", async () => {
    expect(await answered(200, "text/html", true)).toBe(
      "the provider sent no stream (it answered 200 text/html; is baseUrl right?)",
    );
    expect(await answered(200, "text/html", false)).toMatch(
      /^the answer is not JSON: wrong at position 0 of \d+ \(it answered 200 text\/html; is baseUrl right\?\)$/,
    );
    expect(await answered(200, "application/json", false)).toMatch(/ \(it answered 200 application\/json\)$/);
  });
});

describe("an error that echoes a key", () => {
  async function told(key: string, message: string) {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(401).end();
    });
    const error = () => new RpcError("PROVIDER_REFUSED_KEY", message);
    const dialect = createTestDialect("sse", { error });
    await using worker = createTestWorker(server.url, { keys: [key] }, { dialect });
    return (await errorOf(worker.complete(REQUEST, call))).message;
  }

  it("hides a long one wherever it stands", async () => {
    expect(await told("canary-key", "wrong:canary-key-canary-keyx")).toBe("wrong:…-…x");
  });

  it("hides a short one where it stands alone, and leaves words as they are", async () => {
    expect(await told("a", "no answer for key a (a): an 'a' is wrong")).toBe(
      "no answer for key … (…): an '…' is wrong",
    );
    expect(await told("$.*", "key $.* is no key, $x.y* is none either")).toBe("key … is no key, $x.y* is none either");
  });

  it("leaves what Cortex says itself as it is", async () => {
    const { port } = await (async () => {
      await using server = await serveTcp(() => {});
      return server;
    })();
    await using worker = createTestWorker(`http://127.0.0.1:${port}`, { keys: ["answer"] });
    const { message } = await errorOf(worker.complete(REQUEST, call));
    expect(message).toBe("no answer from the provider (ECONNREFUSED)");
  });
});

describe("a provider that can't be reached", () => {
  it("is named with host and port to the log alone, and with the system's code to everybody", async () => {
    const { port } = await (async () => {
      await using server = await serveTcp(() => {});
      return server;
    })();
    await using worker = createTestWorker(`http://127.0.0.1:${port}`, { keys: ["canary-key"] });
    const { error } = await collect(worker.stream(REQUEST, call));
    expect(error?.reason).toBe("PROVIDER_UNREACHABLE");
    expect(error?.message).toBe("no answer from the provider (ECONNREFUSED)");
    expect(error?.forLog).toBe(`no answer from 127.0.0.1:${port} (ECONNREFUSED)`);
    expect(worker.lines.join()).toContain(`worker is unavailable: no answer from 127.0.0.1:${port} (ECONNREFUSED)`);
    expect(await errorOf(worker.complete(REQUEST, call))).toMatchObject({ reason: "PROVIDER_UNREACHABLE" });
  });

  it("is named when the name has no address", async () => {
    await using worker = createTestWorker("http://no-such-host.invalid:8080");
    const error = await errorOf(worker.complete(REQUEST, call));
    expect(error.reason).toBe("PROVIDER_UNREACHABLE");
    expect(error.message).toMatch(/^no answer from the provider \((ENOTFOUND|EAI_AGAIN)\)$/);
    expect(error.forLog).toMatch(/no-such-host\.invalid:8080 \((ENOTFOUND|EAI_AGAIN)\)/);
  });

  it("is unreachable when it closes the connection without an answer", async () => {
    await using server = await serveTcp((socket) => void socket.once("data", () => socket.destroy()));
    await using worker = createTestWorker(server.url);
    expect(await errorOf(worker.complete(REQUEST, call))).toMatchObject({ reason: "PROVIDER_UNREACHABLE" });
  });

  it("is not understood when it does not speak HTTP", async () => {
    await using server = await serveTcp((socket) => void socket.once("data", () => socket.end("220 smtp ready\r\n")));
    await using worker = createTestWorker(server.url);
    const error = await errorOf(worker.complete(REQUEST, call));
    expect(error.reason).toBe("PROVIDER_INVALID_ANSWER");
    expect(error.message).toContain("does not speak HTTP/1.1 as it should");
    expect(error.cause).toBeUndefined();
  });
});

describe("settings", () => {
  it.each(["ftp://x", "nonsense", "http://user:canary@x", "http://x/?key=canary"])(
    "refuse the address %s without repeating it",
    (baseUrl) => {
      const create = () => createTestWorker(baseUrl);
      expect(create).toThrow(expect.objectContaining({ reason: "INVALID_REQUEST", field: "baseUrl" }));
      expect(create).not.toThrow(/canary/);
    },
  );

  it("refuse a key that can't be in a header without repeating it", () => {
    const create = () => createTestWorker("http://127.0.0.1:1", { keys: ["good", "canary\n"] });
    expect(create).toThrow(expect.objectContaining({ reason: "INVALID_REQUEST", field: "keys[1]" }));
    expect(create).not.toThrow(/canary/);
  });

  it("put the path of the address before the dialect's", async () => {
    const paths: (string | undefined)[] = [];
    await using server = await serveHttp((request, response) => {
      request.resume();
      paths.push(request.url);
      response.end("{}");
    });
    await using worker = createTestWorker(`${server.url}/openai/v1//`);
    await worker.complete(REQUEST, call);
    await worker.checkHealth(call);
    expect(paths).toEqual(["/openai/v1/chat", "/openai/v1/health"]);
  });
});
