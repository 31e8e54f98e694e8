/** The simulated Cohere, used by Cohere's own SDK. */
import { Cohere, CohereClientV2, CohereError } from "cohere-ai";
import { afterEach, describe, expect, it } from "vitest";
import { type Simulator, startCohereSimulator } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function cohere(options?: Parameters<typeof startCohereSimulator>[0]): Promise<Simulator> {
  const simulator = await startCohereSimulator(options);
  running.push(simulator);
  return simulator;
}

const sdk = (simulator: Simulator, token = "key-test") =>
  new CohereClientV2({ token, environment: simulator.url, maxRetries: 0, timeoutInSeconds: 10 });

const MODEL = "command-a-03-2025";
const THINKER = "command-a-reasoning-08-2025";
const hello = [{ role: "user" as const, content: "hello there" }];
const weather = {
  type: "function" as const,
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const time = { type: "function" as const, function: { name: "time", parameters: { type: "object", properties: {} } } };

type StreamEvent = Cohere.V2ChatStreamResponse;

async function collect(stream: AsyncIterable<StreamEvent>): Promise<StreamEvent[]> {
  const events: StreamEvent[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

function said(events: readonly StreamEvent[], kind: "text" | "thinking"): string {
  const pieces = events.map((event) =>
    event.type === "content-delta" ? (event.delta?.message?.content?.[kind] ?? "") : "",
  );
  return pieces.join("");
}

/** The calls of a stream, put together as a client has to. */
function called(events: readonly StreamEvent[]): { name: string | undefined; arguments: string }[] {
  const calls: { name: string | undefined; arguments: string }[] = [];
  for (const event of events) {
    if (event.type === "tool-call-start") {
      calls.push({ name: event.delta?.message?.toolCalls?.function?.name, arguments: "" });
    }
    const last = calls.at(-1);
    if (event.type === "tool-call-delta" && last !== undefined) {
      last.arguments += event.delta?.message?.toolCalls?.function?.arguments ?? "";
    }
  }
  return calls;
}

describe("Cohere's SDK against the simulated Cohere", () => {
  it("chats", async () => {
    const simulator = await cohere({ apiKeys: ["key-test"] });
    const answer = await sdk(simulator).chat({ model: MODEL, messages: hello });
    expect(answer.message.content).toEqual([{ type: "text", text: "You said: hello there" }]);
    expect(answer.finishReason).toBe("COMPLETE");
    expect(answer.usage).toMatchObject({
      billedUnits: { inputTokens: 2, outputTokens: 4 },
      tokens: { inputTokens: 497, outputTokens: 4 },
      cachedTokens: 448,
    });
    expect(simulator.requests[0]).toMatchObject({ method: "POST", path: "/v2/chat", body: { model: MODEL } });
  });

  it("streams", async () => {
    const stream = await sdk(await cohere()).chatStream({ model: `${MODEL}@tokens:50`, messages: hello });
    const events = await collect(stream);
    expect(said(events, "text")).toMatch(/^You said: hello there and so it goes on/);
    expect([...new Set(events.map(({ type }) => type))]).toEqual([
      "message-start",
      "content-start",
      "content-delta",
      "content-end",
      "message-end",
    ]);
    expect(events.at(-1)).toMatchObject({
      delta: { finishReason: "COMPLETE", usage: { tokens: { outputTokens: 50 } } },
    });
  });

  it("thinks, unless it is told not to", async () => {
    const client = sdk(await cohere());
    const whole = await client.chat({ model: THINKER, messages: hello });
    expect(whole.message.content?.map(({ type }) => type)).toEqual(["thinking", "text"]);
    const events = await collect(await client.chatStream({ model: THINKER, messages: hello }));
    expect(said(events, "thinking")).toBe("Let me think.");
    const quiet = await client.chat({ model: THINKER, messages: hello, thinking: { type: "disabled" } });
    expect(quiet.message.content?.map(({ type }) => type)).toEqual(["text"]);
  });

  it("plans and calls tools, whole and in a stream, and cites their results", async () => {
    const client = sdk(await cohere());
    const asked = { role: "user" as const, content: "call tools" };
    const ask = { model: MODEL, tools: [weather, time], messages: [asked] };
    const whole = await client.chat(ask);
    expect(whole.finishReason).toBe("TOOL_CALL");
    expect(whole.message.toolPlan).toBe("I will use the weather and time tools to find the answer.");
    const calls = whole.message.toolCalls ?? [];
    expect(calls.map((call) => call.function)).toEqual([
      { name: "weather", arguments: '{"city":"text"}' },
      { name: "time", arguments: "{}" },
    ]);
    const events = await collect(await client.chatStream(ask));
    expect(called(events)).toEqual([
      { name: "weather", arguments: '{"city":"text"}' },
      { name: "time", arguments: "" },
    ]);
    const results = calls.map(({ id }) => ({ role: "tool" as const, toolCallId: id, content: "sunny" }));
    const messages = [asked, { role: "assistant" as const, toolCalls: calls }, ...results];
    const after = await client.chat({ ...ask, messages });
    expect(after.message.citations).toMatchObject([{ text: "You" }]);
    const streamed = await collect(await client.chatStream({ ...ask, messages }));
    expect(streamed.filter(({ type }) => type === "citation-start")).toHaveLength(1);
  });

  it("answers in JSON, to a limit, up to a stop sequence, and with log probabilities", async () => {
    const client = sdk(await cohere());
    const schema = { type: "object", properties: { age: { type: "integer" } } };
    const json = await client.chat({
      model: MODEL,
      messages: hello,
      responseFormat: { type: "json_object", jsonSchema: schema },
    });
    const [part] = json.message.content ?? [];
    expect(part?.type === "text" && JSON.parse(part.text)).toEqual({ age: 1 });
    const long = await client.chat({ model: MODEL, messages: hello, maxTokens: 2 });
    expect(long).toMatchObject({ finishReason: "MAX_TOKENS", message: { content: [{ text: "You said:" }] } });
    const stopped = await client.chat({ model: MODEL, messages: hello, stopSequences: ["there"] });
    expect(stopped).toMatchObject({
      finishReason: "STOP_SEQUENCE",
      message: { content: [{ text: "You said: hello " }] },
    });
    const likely = await client.chat({ model: MODEL, messages: hello, logprobs: true });
    expect(likely.logprobs?.map(({ text }) => text)).toEqual(["You", " said:", " hello", " there"]);
    const events = await collect(await client.chatStream({ model: MODEL, messages: hello, logprobs: true }));
    const first = events.find(({ type }) => type === "content-delta");
    expect(first?.type === "content-delta" && first.logprobs).toMatchObject({ text: "You", logprobs: [-0.125] });
  });

  it("embeds, and lists models by the page", async () => {
    const client = sdk(await cohere());
    const ask = { model: "embed-v4.0", texts: ["a", "b"], outputDimension: 4, embeddingTypes: ["float" as const] };
    const { embeddings, meta } = await client.embed({ ...ask, inputType: "search_document" });
    expect(embeddings.float?.map(({ length }) => length)).toEqual([4, 4]);
    expect(meta?.billedUnits?.inputTokens).toBe(2);
    const chatting = await client.models.list({ endpoint: "chat", pageSize: 1 });
    expect(chatting.models.map(({ name }) => name)).toEqual([MODEL]);
    const rest = await client.models.list({ endpoint: "chat", pageToken: chatting.nextPageToken ?? "" });
    expect(rest.models.map(({ name }) => name)).toEqual([THINKER]);
  });

  it("gives the SDK its error classes", async () => {
    const simulator = await cohere({ apiKeys: ["key-right"], models: [MODEL, "embed-v4.0"] });
    const ask = (model: string, more: object = {}, token = "key-right") =>
      sdk(simulator, token).chat({ model, messages: hello, ...more });
    await expect(ask(MODEL, {}, "key-wrong")).rejects.toThrow(Cohere.UnauthorizedError);
    await expect(ask("none")).rejects.toThrow(Cohere.NotFoundError);
    await expect(ask(MODEL, { p: 1 })).rejects.toThrow(Cohere.BadRequestError);
    await expect(ask(MODEL, { frequencyPenalty: -1 })).rejects.toThrow("frequency_penalty must be between");
    await expect(ask(MODEL, { tools: [{ ...time, function: { name: "a-b", parameters: {} } }] })).rejects.toThrow(
      "tool names can only contain",
    );
    await expect(ask(MODEL, { tools: [time], responseFormat: { type: "json_object" } })).rejects.toThrow(
      "response_format is not supported",
    );
    await expect(ask(`${MODEL}@status:429`)).rejects.toThrow(Cohere.TooManyRequestsError);
    await expect(ask(`${MODEL}@status:498`)).rejects.toThrow(Cohere.InvalidTokenError);
    await expect(ask(`${MODEL}@status:503`)).rejects.toThrow(Cohere.ServiceUnavailableError);
    await expect(ask(`${MODEL}@status:502,html`)).rejects.toThrow(CohereError);
    const stream = await sdk(simulator, "key-right").chatStream({ model: `${MODEL}@error:1`, messages: hello });
    expect((await collect(stream)).at(-1)).toMatchObject({
      type: "message-end",
      delta: { finishReason: "ERROR", error: "an unexpected error occurred while generating" },
    });
  });

  it("lets a trial key be used so often in a month", async () => {
    const client = sdk(await cohere({ trialCalls: 1 }));
    await client.chat({ model: MODEL, messages: hello });
    await expect(client.chat({ model: MODEL, messages: hello })).rejects.toThrow("1 API calls / month");
  });
});
