/** The simulated providers, used as their clients use them: the official SDK against OpenAI, bare HTTP for what is broken. */
import { once } from "node:events";
import { connect } from "node:net";
import { type APIError, AuthenticationError, InternalServerError, NotFoundError, OpenAI, RateLimitError } from "openai";
import { afterEach, describe, expect, it } from "vitest";
import { parseBehaviour, type Simulator, startOllamaSimulator, startOpenAiSimulator, unusedPort } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function openAi(options?: Parameters<typeof startOpenAiSimulator>[0]): Promise<Simulator> {
  const simulator = await startOpenAiSimulator(options);
  running.push(simulator);
  return simulator;
}

async function ollama(options?: Parameters<typeof startOllamaSimulator>[0]): Promise<Simulator> {
  const simulator = await startOllamaSimulator(options);
  running.push(simulator);
  return simulator;
}

const sdk = (simulator: Simulator, apiKey = "sk-test") =>
  new OpenAI({ baseURL: simulator.url, apiKey, maxRetries: 0, timeout: 10_000 });

const hello = [{ role: "user" as const, content: "hello there" }];
const weather = {
  type: "function" as const,
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const time = { type: "function" as const, function: { name: "time" } };

describe("the official SDK against the simulated OpenAI", () => {
  it("chats", async () => {
    const simulator = await openAi();
    const answer = await sdk(simulator).chat.completions.create({ model: "gpt-4o", messages: hello });
    expect(answer.choices[0]?.message.content).toBe("You said: hello there");
    expect(answer.choices[0]?.finish_reason).toBe("stop");
    expect(answer.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 4, total_tokens: 6 });
    expect(answer._request_id).toMatch(/^req_/);
    const [request] = simulator.requests;
    expect(request).toMatchObject({ method: "POST", path: "/v1/chat/completions", body: { model: "gpt-4o" } });
    expect((await request?.ended)?.how).toBe("answered");
  });

  it("streams, with usage when it is asked for", async () => {
    const client = sdk(await openAi());
    const stream = client.chat.completions.stream({
      model: "gpt-4o@tokens:50",
      messages: hello,
      stream_options: { include_usage: true },
    });
    const whole = await stream.finalChatCompletion();
    expect(whole.choices[0]?.message.content).toMatch(/^You said: hello there and so it goes on/);
    expect(whole.usage?.completion_tokens).toBe(50);
    const chunks = await client.chat.completions.create({ model: "gpt-4o", messages: hello, stream: true });
    for await (const chunk of chunks) {
      expect(chunk.choices).toHaveLength(1);
      expect(chunk).not.toHaveProperty("usage");
    }
  });

  it("calls tools, whole and in a stream, and answers after their results", async () => {
    const client = sdk(await openAi());
    const ask = {
      model: "gpt-4o",
      tools: [weather, time],
      messages: [{ role: "user" as const, content: "call tools" }],
    };
    const { choices } = await client.chat.completions.create(ask);
    expect(choices[0]?.finish_reason).toBe("tool_calls");
    expect(choices[0]?.message.content).toBeNull();
    expect(choices[0]?.message.tool_calls).toMatchObject([
      { type: "function", function: { name: "weather", arguments: '{"city":"text"}' } },
      { type: "function", function: { name: "time", arguments: "{}" } },
    ]);
    const streamed = await client.chat.completions.stream(ask).finalChatCompletion();
    expect(streamed.choices[0]?.message.tool_calls).toMatchObject([
      { function: { name: "weather", arguments: '{"city":"text"}' } },
      { function: { name: "time", arguments: "{}" } },
    ]);
    const [first] = choices[0]?.message.tool_calls ?? [];
    const after = await client.chat.completions.create({
      ...ask,
      messages: [
        ...ask.messages,
        { role: "assistant", tool_calls: [first!] },
        { role: "tool", tool_call_id: first!.id, content: "sunny" },
      ],
    });
    expect(after.choices[0]?.finish_reason).toBe("stop");
  });

  it("answers in JSON, with several choices, to a limit and up to a stop sequence", async () => {
    const client = sdk(await openAi());
    const schema = {
      type: "object",
      properties: { age: { type: "integer" }, tags: { type: "array", items: { enum: ["a"] } } },
    };
    const json = await client.chat.completions.create({
      model: "gpt-4o",
      messages: hello,
      n: 2,
      response_format: { type: "json_schema", json_schema: { name: "person", schema } },
    });
    expect(json.choices.map(({ message }) => JSON.parse(message.content ?? ""))).toEqual([
      { age: 1, tags: ["a"] },
      { age: 1, tags: ["a"] },
    ]);
    const long = await client.chat.completions.create({ model: "gpt-4o", messages: hello, max_completion_tokens: 2 });
    expect(long.choices[0]).toMatchObject({ finish_reason: "length", message: { content: "You said:" } });
    const stopped = await client.chat.completions.create({ model: "gpt-4o", messages: hello, stop: "there" });
    expect(stopped.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: "You said: hello " } });
  });

  it("lists models and embeds, as floats and as the base64 that the SDK asks for", async () => {
    const client = sdk(await openAi({ models: ["tiny", "text-embedding-tiny"] }));
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["tiny", "text-embedding-tiny"]);
    const ask = { model: "text-embedding-tiny", input: ["a", "b"], dimensions: 4 };
    const packed = await client.embeddings.create(ask);
    const floats = await client.embeddings.create({ ...ask, encoding_format: "float" });
    expect(packed.data).toHaveLength(2);
    expect([...packed.data[0]!.embedding]).toEqual(floats.data[0]!.embedding);
  });

  it("gives the SDK its error classes", async () => {
    const simulator = await openAi({ apiKeys: ["sk-right"], models: ["gpt-4o", "gpt-5"] });
    const ask = (model: string, key = "sk-right") =>
      sdk(simulator, key).chat.completions.create({ model, messages: hello, max_tokens: 5 });
    await expect(ask("gpt-4o", "sk-wrong")).rejects.toThrow(AuthenticationError);
    await expect(ask("none")).rejects.toThrow(NotFoundError);
    await expect(ask("gpt-5")).rejects.toMatchObject({
      status: 400,
      code: "unsupported_parameter",
      param: "max_tokens",
    });
    const limited = ask("gpt-4o@status:429,retryAfter:7");
    await expect(limited).rejects.toThrow(RateLimitError);
    await expect(limited).rejects.toSatisfy((error: APIError) => error.headers?.get("retry-after") === "7");
    await expect(ask("gpt-4o@status:502,html")).rejects.toThrow(InternalServerError);
    const stream = await sdk(simulator, "sk-right").chat.completions.create({
      model: "gpt-4o@error:1",
      messages: hello,
      stream: true,
    });
    const read = async () => {
      for await (const chunk of stream) expect(chunk.choices).toHaveLength(1);
    };
    await expect(read()).rejects.toThrow("The server had an error");
  });

  it("does as it is told: in turn, by number, or by the model's name before all", async () => {
    const simulator = await openAi({ behaviour: ["text:one", "status:500"] });
    const ask = async (model = "gpt-4o") => {
      const answer = await sdk(simulator).chat.completions.create({ model, messages: hello });
      return answer.choices[0]?.message.content;
    };
    expect(await ask()).toBe("one");
    await expect(ask()).rejects.toThrow(InternalServerError);
    expect(await ask()).toBe("You said: hello there");
    simulator.behave((index) => ({ text: `number ${index}` }));
    expect(await ask()).toBe("number 0");
    expect(await ask("gpt-4o@text:mine")).toBe("mine");
    expect(await ask()).toBe("number 2");
    simulator.behave("status:503");
    expect((await sdk(simulator).models.list()).data.length).toBeGreaterThan(0);
    simulator.behave("status:503", { everywhere: true });
    await expect(sdk(simulator).models.list()).rejects.toThrow(InternalServerError);
  });
});

/** The body as far as it comes, and how it ended. */
async function post(simulator: Simulator, path: string, body: object, signal?: AbortSignal) {
  let text = "";
  let status = 0;
  try {
    const init = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
    const response = await fetch(simulator.url + path, signal ? { ...init, signal } : init);
    status = response.status;
    const decoder = new TextDecoder();
    for await (const piece of response.body ?? []) text += decoder.decode(piece, { stream: true });
    return { status, text, failed: false, type: response.headers.get("content-type") };
  } catch {
    return { status, text, failed: true, type: null };
  }
}

describe("what goes wrong", () => {
  const stream = (behaviour: string) => ({ model: `gpt-4o@${behaviour}`, messages: hello, stream: true });
  const events = (text: string) => text.split("\n\n").filter((event) => event !== "").length;

  it("happens before the headers, after them, and after some tokens", async () => {
    const simulator = await openAi();
    for (const fault of ["cut", "reset"]) {
      for (const [point, status, count] of [
        ["request", 0, 0],
        ["headers", 200, 0],
        [2, 200, 3],
      ] as const) {
        const result = await post(simulator, "/chat/completions", stream(`${fault}:${point}`));
        expect(result, `${fault}:${point}`).toMatchObject({ status, failed: true });
        // Of what was sent before a reset the system may throw some away.
        if (fault === "cut") expect(events(result.text)).toBe(count);
        const request = simulator.requests.at(-1);
        expect(await request?.ended).toMatchObject({ how: "broken" });
        expect(request?.tokensSent).toBe(typeof point === "number" ? point : 0);
      }
    }
  });

  it("ends clean and short, empty, with an error inside, or with a line that is broken", async () => {
    const simulator = await openAi();
    const ask = (behaviour: string) => post(simulator, "/chat/completions", stream(behaviour));
    expect(events((await ask("end:2")).text)).toBe(3);
    expect(await ask("end:headers")).toMatchObject({ status: 200, text: "", failed: false });
    expect((await ask("error:1")).text).toMatch(/data: \{"error":\{"message":"The server had an error .*\n\n$/);
    const malformed = (await ask("malformed:1")).text;
    expect(malformed).toMatch(/"object":"chat\.comp\n\n/);
    expect(malformed).toMatch(/data: \[DONE\]\n\n$/);
    expect(await ask("garbage:headers")).toMatchObject({ status: 200, failed: false });
    expect(await ask("garbage")).toMatchObject({ status: 0, failed: true });
    expect((await ask("contentType:text/plain")).type).toBe("text/plain");
    const body = { model: "gpt-4o@end:1", messages: hello };
    for (const at of [1, 9]) {
      const half = await post(simulator, "/chat/completions", { ...body, model: `gpt-4o@end:${at}` });
      expect(() => JSON.parse(half.text)).toThrow();
    }
    const whole = await post(simulator, "/chat/completions", { ...body, model: "gpt-4o@crlf" });
    expect(JSON.parse(whole.text)).toMatchObject({ object: "chat.completion" });
    expect((await post(simulator, "/chat/completions", { ...body, model: "gpt-4o@error:headers" })).text).toContain(
      '"error"',
    );
  });

  it("is slow: by token, by byte, with CRLF, and says the same in the end", async () => {
    const simulator = await openAi();
    const ask = (behaviour: string) => post(simulator, "/chat/completions", stream(behaviour));
    const text = async (behaviour: string) =>
      [...(await ask(behaviour)).text.matchAll(/"content":"([^"]*)"/g)].map(([, token]) => token).join("");
    expect(await text("bytes")).toBe("You said: hello there");
    expect(await text("drip:1,text:x")).toBe("x");
    expect((await ask("crlf")).text).toMatch(/\r\n\r\ndata: \[DONE\]\r\n\r\n$/);
    const start = performance.now();
    expect(await text("headersMs:30,firstTokenMs:30,tokenMs:20")).toBe("You said: hello there");
    expect(performance.now() - start).toBeGreaterThan(110);
  });

  it("is noticed when the client leaves, in every kind of silence", async () => {
    const simulator = await openAi();
    for (const [index, point] of (["request", "headers", 2] as const).entries()) {
      const controller = new AbortController();
      const answer = post(simulator, "/chat/completions", stream(`stall:${point}`), controller.signal);
      const request = await simulator.generation(index);
      // Long enough for what comes before the silence.
      await new Promise((resolve) => setTimeout(resolve, 50));
      const leftAtMs = performance.now();
      controller.abort();
      expect(await answer).toMatchObject({ failed: true });
      expect(await request.ended).toMatchObject({ how: "client-closed" });
      expect(request.closedAtMs).toBeGreaterThanOrEqual(leftAtMs);
      expect(request.closedAtMs! - leftAtMs).toBeLessThan(100);
    }
  });

  it("begins with the connection: refused, or reset at once", async () => {
    const simulator = await openAi();
    simulator.accept = "reset";
    expect(await post(simulator, "/models", {})).toMatchObject({ status: 0, failed: true });
    expect(simulator.requests).toHaveLength(0);
    const socket = connect(await unusedPort(), "127.0.0.1");
    const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
    expect(error.code).toBe("ECONNREFUSED");
  });

  it("stops in the middle of everything, and counts its connections", async () => {
    const simulator = await openAi();
    const answer = post(simulator, "/chat/completions", stream("stall:1"));
    const request = await simulator.generation(0);
    expect(simulator.connections).toMatchObject({ opened: 1, open: 1 });
    await simulator.stop();
    expect(await answer).toMatchObject({ failed: true });
    expect(await request.ended).toMatchObject({ how: "broken" });
    expect(simulator.connections.open).toBe(0);
  });

  it("has to be spelt right", () => {
    expect(parseBehaviour("cut:3,tokenMs:20")).toEqual({ fault: "cut", at: 3, tokenMs: 20 });
    expect(() => parseBehaviour("cutt:3")).toThrow("no such behaviour: cutt:3");
    expect(() => parseBehaviour("tokens:many")).toThrow("no number");
  });
});

describe("the simulated Ollama", () => {
  it("answers whole, without a line end", async () => {
    const simulator = await ollama();
    const { text, type } = await post(simulator, "/api/chat", { model: "llama3.2", messages: hello, stream: false });
    expect(type).toBe("application/json; charset=utf-8");
    expect(text).toMatch(
      /^\{"model":"llama3\.2","created_at":"[^"]*","message":\{"role":"assistant","content":"You said: hello there"\},"done":true,"done_reason":"stop","total_duration":\d+,"load_duration":\d+,"prompt_eval_count":2,"prompt_eval_duration":\d+,"eval_count":4,"eval_duration":\d+\}$/,
    );
  });

  it("streams unless told otherwise, a line for each token", async () => {
    const simulator = await ollama();
    const { text, type } = await post(simulator, "/api/chat", { model: "llama3.2", messages: hello, think: true });
    expect(type).toBe("application/x-ndjson");
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map(({ message }) => message.thinking ?? "").join("")).toBe("Let me think.");
    expect(lines.map(({ message }) => message.content).join("")).toBe("You said: hello there");
    expect(lines.at(-1)).toMatchObject({ done: true, done_reason: "stop", eval_count: 4 });
  });

  it("calls tools whole, and says stop all the same", async () => {
    const simulator = await ollama();
    const messages = [{ role: "user", content: "call tools" }];
    const { text } = await post(simulator, "/api/chat", { model: "llama3.2", messages, tools: [weather, time] });
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines[0].message.tool_calls).toMatchObject([
      { function: { index: 0, name: "weather", arguments: { city: "text" } } },
      { function: { index: 1, name: "time", arguments: {} } },
    ]);
    expect(lines.at(-1)).toMatchObject({ done: true, done_reason: "stop" });
  });

  it("embeds, lists its models, says that it runs, and fails in its own words", async () => {
    const simulator = await ollama({ models: ["all-minilm"] });
    const { text } = await post(simulator, "/api/embed", { model: "all-minilm", input: ["a", "b"] });
    expect(JSON.parse(text).embeddings).toHaveLength(2);
    expect(await (await fetch(`${simulator.url}/api/tags`)).json()).toMatchObject({ models: [{ name: "all-minilm" }] });
    expect(await (await fetch(`${simulator.url}/api/version`)).json()).toEqual({ version: "0.13.5" });
    expect(await (await fetch(simulator.url)).text()).toBe("Ollama is running");
    expect((await fetch(simulator.url, { method: "HEAD" })).status).toBe(200);
    const missing = await post(simulator, "/api/chat", { model: "nope", messages: hello });
    expect(missing).toMatchObject({ status: 404, text: '{"error":"model \'nope\' not found"}' });
    simulator.behave("status:503");
    const busy = await post(simulator, "/api/chat", { model: "all-minilm", messages: hello });
    expect(busy.text).toBe('{"error":"server busy, please try again.  maximum pending requests exceeded"}');
    simulator.behave("error:1");
    const broken = await post(simulator, "/api/chat", { model: "all-minilm", messages: hello });
    expect(broken.text.trimEnd().split("\n").at(-1)).toMatch(/^\{"error":"an error was encountered/);
  });
});
