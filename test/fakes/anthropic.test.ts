/** The simulated Anthropic, used by its own SDK. */
import {
  Anthropic,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from "@anthropic-ai/sdk";
import { afterEach, describe, expect, it } from "vitest";
import { type Simulator, startAnthropicSimulator } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function anthropic(options?: Parameters<typeof startAnthropicSimulator>[0]): Promise<Simulator> {
  const simulator = await startAnthropicSimulator(options);
  running.push(simulator);
  return simulator;
}

const sdk = (simulator: Simulator, apiKey = "key-test") =>
  new Anthropic({ baseURL: simulator.url, apiKey, authToken: null, maxRetries: 0, timeout: 10_000 });

const MODEL = "claude-haiku-4-5";
const hello = [{ role: "user" as const, content: "hello there" }];
const weather = {
  name: "weather",
  input_schema: { type: "object" as const, properties: { city: { type: "string" } } },
};
const time = { name: "time", input_schema: { type: "object" as const } };

describe("Anthropic's SDK against the simulated Anthropic", () => {
  it("answers, with a system prompt", async () => {
    const simulator = await anthropic({ apiKeys: ["key-test"] });
    const message = await sdk(simulator).messages.create({
      model: MODEL,
      max_tokens: 100,
      system: "be brief",
      messages: hello,
    });
    expect(message.content).toEqual([{ type: "text", text: "You said: hello there" }]);
    expect(message).toMatchObject({ stop_reason: "end_turn", usage: { input_tokens: 4, output_tokens: 4 } });
    expect(message._request_id).toMatch(/^req_/);
    expect(simulator.requests[0]).toMatchObject({ path: "/v1/messages", body: { model: MODEL } });
  });

  it("streams", async () => {
    const stream = sdk(await anthropic()).messages.stream({
      model: `${MODEL}@tokens:50`,
      max_tokens: 100,
      messages: hello,
    });
    let text = "";
    stream.on("text", (delta) => {
      text += delta;
    });
    const message = await stream.finalMessage();
    expect(message.content).toEqual([{ type: "text", text }]);
    expect(text).toMatch(/^You said: hello there and so it goes on/);
    expect(message.usage.output_tokens).toBe(50);
  });

  it("calls tools in parallel, whole and in a stream, and answers after their results", async () => {
    const client = sdk(await anthropic());
    const ask = {
      model: MODEL,
      max_tokens: 100,
      tools: [weather, time],
      messages: [{ role: "user" as const, content: "call tools" }],
    };
    const message = await client.messages.create(ask);
    expect(message).toMatchObject({
      stop_reason: "tool_use",
      content: [
        { type: "tool_use", name: "weather", input: { city: "text" } },
        { type: "tool_use", name: "time", input: {} },
      ],
    });
    const streamed = await client.messages.stream(ask).finalMessage();
    expect(streamed.content).toMatchObject([
      { name: "weather", input: { city: "text" } },
      { name: "time", input: {} },
    ]);
    const results = message.content.flatMap((block) =>
      block.type === "tool_use" ? [{ type: "tool_result" as const, tool_use_id: block.id, content: "fine" }] : [],
    );
    const said = { role: "assistant" as const, content: message.content };
    const after = await client.messages.create({
      ...ask,
      messages: [...ask.messages, said, { role: "user", content: results }],
    });
    expect(after.content).toEqual([{ type: "text", text: "You said: call tools" }]);
    const one = client.messages.create({
      ...ask,
      messages: [...ask.messages, said, { role: "user", content: results.slice(1) }],
    });
    await expect(one).rejects.toThrow("without `tool_result` blocks");
    const named = await client.messages.create({
      ...ask,
      messages: hello,
      tool_choice: { type: "tool", name: "time" },
    });
    expect(named.content).toMatchObject([{ name: "time" }]);
  });

  it("thinks, signs its thoughts, and takes back only its own", async () => {
    const client = sdk(await anthropic());
    const ask = {
      model: MODEL,
      max_tokens: 4096,
      thinking: { type: "enabled" as const, budget_tokens: 1024 },
      messages: hello,
    };
    const message = await client.messages.create(ask);
    expect(message.content).toMatchObject([{ type: "thinking", thinking: "Let me think." }, { type: "text" }]);
    expect(message.usage.output_tokens_details?.thinking_tokens).toBe(20);
    expect((await client.messages.stream(ask).finalMessage()).content).toEqual(message.content);
    const again = (signature: string) =>
      client.messages.create({
        ...ask,
        messages: [
          ...hello,
          {
            role: "assistant",
            content: [
              { type: "thinking", thinking: "Let me think.", signature },
              { type: "text", text: "yes" },
            ],
          },
          ...hello,
        ],
      });
    const [thought] = message.content;
    await expect(again(thought?.type === "thinking" ? thought.signature : "")).resolves.toBeDefined();
    await expect(again("c2ln")).rejects.toThrow("Invalid `signature`");
    const newest = { model: "claude-opus-4-7", max_tokens: 100, messages: hello };
    await expect(client.messages.create({ ...newest, thinking: ask.thinking })).rejects.toThrow(
      "thinking.type.enabled",
    );
    const silent = await client.messages.create({ ...newest, thinking: { type: "adaptive" } });
    expect(silent.content[0]).toMatchObject({ type: "thinking", thinking: "" });
  });

  it("answers to a schema, to a limit, up to a stop sequence, and about pictures and documents", async () => {
    const client = sdk(await anthropic());
    const ask = (more: object) => client.messages.create({ model: MODEL, max_tokens: 100, messages: hello, ...more });
    const schema = { type: "object", properties: { age: { type: "integer" } }, additionalProperties: false };
    const json = await ask({ output_config: { format: { type: "json_schema", schema } } });
    expect(json.content[0]?.type === "text" && JSON.parse(json.content[0].text)).toEqual({ age: 1 });
    const open = ask({ output_config: { format: { type: "json_schema", schema: { type: "object" } } } });
    await expect(open).rejects.toThrow("additionalProperties");
    expect(await ask({ max_tokens: 2 })).toMatchObject({ stop_reason: "max_tokens", content: [{ text: "You said:" }] });
    expect(await ask({ stop_sequences: ["there"] })).toMatchObject({
      stop_reason: "stop_sequence",
      stop_sequence: "there",
      content: [{ text: "You said: hello " }],
    });
    const content = [
      { type: "image", source: { type: "base64", media_type: "image/png", data: "iVBORw0KGgo=" } },
      { type: "image", source: { type: "url", url: "https://example.com/a.png" } },
      { type: "document", source: { type: "base64", media_type: "application/pdf", data: "JVBERg==" } },
      { type: "text", text: "look" },
    ];
    expect((await ask({ messages: [{ role: "user", content }] })).content).toMatchObject([{ text: "You said: look" }]);
  });

  it("refuses what Anthropic refuses", async () => {
    const client = sdk(await anthropic());
    const ask = (more: object) => client.messages.create({ model: MODEL, max_tokens: 100, messages: hello, ...more });
    await expect(ask({ temperature: 1.5 })).rejects.toThrow("range: 0..1");
    await expect(ask({ temperature: 0.5, top_p: 0.5 })).rejects.toThrow("cannot both be specified");
    await expect(ask({ model: "claude-opus-4-7", temperature: 0.5 })).rejects.toThrow("deprecated");
    await expect(ask({ seed: 1 })).rejects.toThrow("seed: Extra inputs");
    await expect(ask({ stop_sequences: ["\n"] })).rejects.toThrow("non-whitespace");
    await expect(ask({ max_tokens: undefined })).rejects.toThrow("max_tokens: Field required");
    await expect(ask({ messages: [{ role: "assistant", content: "hi" }] })).rejects.toThrow("first message");
    await expect(ask({ messages: [{ role: "system", content: "hi" }, ...hello] })).rejects.toThrow(BadRequestError);
    await expect(ask({ messages: [{ role: "user", content: [{ type: "text", text: "" }] }] })).rejects.toThrow(
      "non-empty",
    );
  });

  it("lists models, page by page", async () => {
    const simulator = await anthropic({ models: ["claude-a", "claude-b", "claude-c"] });
    const ids: string[] = [];
    for await (const model of sdk(simulator).models.list({ limit: 2 })) ids.push(model.id);
    expect(ids).toEqual(["claude-a", "claude-b", "claude-c"]);
    expect((await sdk(simulator).models.retrieve("claude-b")).id).toBe("claude-b");
  });

  it("gives the SDK its error classes, and waits", async () => {
    const simulator = await anthropic({ apiKeys: ["right"], models: [MODEL] });
    const ask = (model: string, key = "right") =>
      sdk(simulator, key).messages.create({ model, max_tokens: 9, messages: hello });
    await expect(ask(MODEL, "wrong")).rejects.toThrow(AuthenticationError);
    await expect(ask("none")).rejects.toThrow(NotFoundError);
    await expect(ask(`${MODEL}@status:529`)).rejects.toMatchObject({ status: 529, type: "overloaded_error" });
    await expect(ask(`${MODEL}@status:413`)).rejects.toMatchObject({ status: 413, type: "request_too_large" });
    await expect(ask(`${MODEL}@status:502,html`)).rejects.toThrow(InternalServerError);
    const limited = await ask(`${MODEL}@status:429,retryAfter:7`).catch((error: unknown) => error);
    expect(limited).toBeInstanceOf(RateLimitError);
    expect(limited instanceof RateLimitError && limited.headers.get("retry-after")).toBe("7");
  });

  it("keeps to its rate limits, key by key, and tells of them", async () => {
    const minute = 60_000;
    const simulator = await anthropic({
      limits: { requests: { count: 1, perMs: minute }, tokens: { count: 1000, perMs: minute } },
    });
    const ask = (key: string) =>
      sdk(simulator, key).messages.create({ model: MODEL, max_tokens: 9, messages: hello }).withResponse();
    const { headers } = (await ask("a")).response;
    expect(headers.get("anthropic-ratelimit-requests-remaining")).toBe("0");
    expect(headers.get("anthropic-ratelimit-input-tokens-limit")).toBe("1000");
    expect(headers.get("anthropic-ratelimit-requests-reset")).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    const refused = await ask("a").catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(RateLimitError);
    expect(refused instanceof RateLimitError && Number(refused.headers.get("retry-after"))).toBeGreaterThan(50);
    await expect(ask("b")).resolves.toBeDefined();
  });

  it("reports an error in a stream, and cuts without a stop reason", async () => {
    const client = sdk(await anthropic());
    const ask = (behaviour: string) =>
      client.messages.stream({ model: `${MODEL}@${behaviour}`, max_tokens: 100, messages: hello }).finalMessage();
    await expect(ask("error:2")).rejects.toThrow("Overloaded");
    await expect(ask("error:headers")).rejects.toThrow("Overloaded");
    await expect(ask("end:2")).rejects.toThrow();
    await expect(ask("cut:2")).rejects.toThrow();
  });
});

describe("the bytes of the simulated Anthropic", () => {
  const post = async (simulator: Simulator, stream: boolean) => {
    const response = await fetch(`${simulator.url}/v1/messages`, {
      method: "POST",
      headers: { "anthropic-version": "2023-06-01" },
      body: JSON.stringify({ model: MODEL, max_tokens: 9, messages: hello, stream }),
    });
    return { text: await response.text(), headers: response.headers };
  };

  it("are named events, padded before the last brace, with a ping after the first block has begun", async () => {
    const { text, headers } = await post(await anthropic(), true);
    expect(headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect(headers.get("request-id")).toMatch(/^req_/);
    const names = [...text.matchAll(/^event: (.*)$/gm)].map(([, name]) => name);
    expect(names.slice(0, 4)).toEqual(["message_start", "content_block_start", "ping", "content_block_delta"]);
    expect(names.slice(-3)).toEqual(["content_block_stop", "message_delta", "message_stop"]);
    expect(text).toMatch(/"text":"You"\} +\}\n\n/);
    expect(text).toMatch(/event: message_stop\ndata: \{"type":"message_stop" *\}\n\n$/);
  });

  it("are compact JSON without a line end otherwise", async () => {
    const { text } = await post(await anthropic(), false);
    expect(text).toMatch(/^\{"model":"claude-haiku-4-5","id":"msg_01Sim\w+","type":"message",.*"not_available"\}\}$/);
  });
});
