/** The simulated Gemini, used by Google's own SDK. */
import { ApiError, FunctionCallingConfigMode, type GenerateContentResponse, GoogleGenAI } from "@google/genai";
import { afterEach, describe, expect, it } from "vitest";
import { type Simulator, startGeminiSimulator } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function gemini(options?: Parameters<typeof startGeminiSimulator>[0]): Promise<Simulator> {
  const simulator = await startGeminiSimulator(options);
  running.push(simulator);
  return simulator;
}

/** Given explicitly, as the SDK looks for keys and addresses in the environment. */
const sdk = (simulator: Simulator, apiKey = "key-test") =>
  new GoogleGenAI({ apiKey, vertexai: false, httpOptions: { baseUrl: new URL(simulator.url).origin } });

const MODEL = "gemini-2.5-flash";
const weather = {
  name: "weather",
  parametersJsonSchema: { type: "object", properties: { city: { type: "string" } }, additionalProperties: false },
};
const time = { name: "time" };

async function collect(stream: AsyncIterable<GenerateContentResponse>): Promise<GenerateContentResponse[]> {
  const chunks: GenerateContentResponse[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

describe("Google's SDK against the simulated Gemini", () => {
  it("generates, with a system instruction, its key in a header alone", async () => {
    const simulator = await gemini({ apiKeys: ["key-test"] });
    const answer = await sdk(simulator).models.generateContent({
      model: MODEL,
      contents: "hello there",
      config: { systemInstruction: "be brief", temperature: 0.5 },
    });
    expect(answer.text).toBe("You said: hello there");
    expect(answer.candidates?.[0]?.finishReason).toBe("STOP");
    expect(answer.usageMetadata).toMatchObject({ promptTokenCount: 4, candidatesTokenCount: 4, totalTokenCount: 8 });
    expect(answer.modelVersion).toBe(MODEL);
    const [request] = simulator.requests;
    expect(request).toMatchObject({ path: `/v1beta/models/${MODEL}:generateContent` });
    expect(request?.headers["x-goog-api-key"]).toBe("key-test");
  });

  it("streams, with usage that grows", async () => {
    const stream = await sdk(await gemini()).models.generateContentStream({
      model: `${MODEL}@tokens:50`,
      contents: "hello there",
    });
    const chunks = await collect(stream);
    expect(chunks.map((chunk) => chunk.text ?? "").join("")).toMatch(/^You said: hello there and so it goes on/);
    expect(chunks[0]?.usageMetadata?.candidatesTokenCount).toBe(1);
    expect(chunks.at(-1)?.usageMetadata?.candidatesTokenCount).toBe(50);
    expect(chunks.map((chunk) => chunk.candidates?.[0]?.finishReason).filter(Boolean)).toEqual(["STOP"]);
  });

  it.each([MODEL, "gemini-3-flash-preview"])(
    "calls tools of %s in parallel, and answers after results",
    async (model) => {
      const client = sdk(await gemini());
      const config = { tools: [{ functionDeclarations: [weather, time] }] };
      const ask = { role: "user", parts: [{ text: "call tools" }] };
      const answer = await client.models.generateContent({ model, contents: [ask], config });
      const calls = answer.functionCalls ?? [];
      expect(calls).toMatchObject([
        { name: "weather", args: { city: "text" } },
        { name: "time", args: {} },
      ]);
      expect(calls.every(({ id }) => (id !== undefined) === (model !== MODEL))).toBe(true);
      expect(answer.candidates?.[0]?.content?.parts?.map((part) => part.thoughtSignature !== undefined)).toEqual([
        true,
        false,
      ]);
      const streamed = await collect(await client.models.generateContentStream({ model, contents: [ask], config }));
      expect(streamed.flatMap((chunk) => chunk.functionCalls ?? [])).toMatchObject([
        { name: "weather" },
        { name: "time" },
      ]);
      const said = answer.candidates![0]!.content!;
      const results = calls.map(({ name = "" }) => ({ functionResponse: { name, response: { output: "fine" } } }));
      const after = await client.models.generateContent({
        model,
        contents: [ask, said, { role: "user", parts: results }],
        config,
      });
      expect(after.text).toBe("You said: call tools");
      const one = client.models.generateContent({
        model,
        contents: [ask, said, { role: "user", parts: results.slice(1) }],
        config,
      });
      await expect(one).rejects.toThrow("number of function response parts is equal");
      const forced = await client.models.generateContent({
        model,
        contents: "hello",
        config: {
          ...config,
          toolConfig: {
            functionCallingConfig: { mode: FunctionCallingConfigMode.ANY, allowedFunctionNames: ["time"] },
          },
        },
      });
      expect(forced.functionCalls).toMatchObject([{ name: "time" }]);
    },
  );

  it("insists on signatures from the third generation on, and knows its own", async () => {
    const client = sdk(await gemini());
    const ask = (model: string, thoughtSignature?: string) =>
      client.models.generateContent({
        model,
        contents: [
          { role: "user", parts: [{ text: "hello" }] },
          {
            role: "model",
            parts: [{ functionCall: { name: "time", args: {} }, ...(thoughtSignature && { thoughtSignature }) }],
          },
          { role: "user", parts: [{ functionResponse: { name: "time", response: { output: "noon" } } }] },
        ],
      });
    await expect(ask("gemini-3-flash-preview")).rejects.toThrow("missing a thought_signature");
    await expect(ask("gemini-3-flash-preview", "skip_thought_signature_validator")).resolves.toBeDefined();
    await expect(ask(MODEL)).resolves.toBeDefined();
    await expect(ask(MODEL, "c29tZW9uZSBlbHNl")).rejects.toThrow("Corrupted thought signature");
  });

  it("answers in JSON, with several candidates, to a limit, up to a stop sequence, with thoughts and log probabilities", async () => {
    const client = sdk(await gemini());
    const ask = (config: object) => client.models.generateContent({ model: MODEL, contents: "hello there", config });
    const responseJsonSchema = {
      type: "object",
      properties: { age: { type: "integer" } },
      additionalProperties: false,
    };
    const json = await ask({ responseMimeType: "application/json", responseJsonSchema, candidateCount: 2 });
    expect(json.candidates?.map(({ content }) => JSON.parse(content?.parts?.[0]?.text ?? ""))).toEqual([
      { age: 1 },
      { age: 1 },
    ]);
    const long = await ask({ maxOutputTokens: 2 });
    expect([long.text, long.candidates?.[0]?.finishReason]).toEqual(["You said:", "MAX_TOKENS"]);
    const none = await ask({ maxOutputTokens: 0 });
    expect(none.candidates?.[0]?.content).toEqual({ role: "model" });
    expect((await ask({ stopSequences: ["there"] })).text).toBe("You said: hello ");
    const thought = await ask({ thinkingConfig: { includeThoughts: true, thinkingBudget: 1024 } });
    expect(thought.candidates?.[0]?.content?.parts).toMatchObject([
      { thought: true },
      { text: "You said: hello there" },
    ]);
    expect(thought.usageMetadata?.thoughtsTokenCount).toBe(20);
    const logprobs = (await ask({ responseLogprobs: true, logprobs: 2 })).candidates?.[0]?.logprobsResult;
    expect(logprobs?.chosenCandidates?.[0]).toMatchObject({ token: "You" });
    expect(logprobs?.topCandidates?.[0]?.candidates).toHaveLength(2);
    await expect(
      ask({ responseMimeType: "application/json", tools: [{ functionDeclarations: [time] }] }),
    ).rejects.toThrow("response mime type");
  });

  it("takes pictures as data and by address", async () => {
    const client = sdk(await gemini());
    const ask = (part: object) =>
      client.models.generateContent({ model: MODEL, contents: [{ role: "user", parts: [part, { text: "look" }] }] });
    expect((await ask({ inlineData: { mimeType: "image/png", data: "iVBORw0KGgo=" } })).text).toBe("You said: look");
    expect((await ask({ fileData: { fileUri: "https://example.com/a.png" } })).text).toBe("You said: look");
    await expect(ask({ inlineData: { mimeType: "image/png", data: "no, this is not" } })).rejects.toThrow("Base64");
  });

  it("lists models, page by page, and embeds", async () => {
    const simulator = await gemini({ models: ["gemini-a", "gemini-b", "gemini-embedding-c"] });
    const names: (string | undefined)[] = [];
    for await (const model of await sdk(simulator).models.list({ config: { pageSize: 2 } })) names.push(model.name);
    expect(names).toEqual(["models/gemini-a", "models/gemini-b", "models/gemini-embedding-c"]);
    expect((await sdk(simulator).models.get({ model: "gemini-b" })).name).toBe("models/gemini-b");
    const embedded = await sdk(simulator).models.embedContent({
      model: "gemini-embedding-c",
      contents: ["a", "b"],
      config: { outputDimensionality: 4 },
    });
    expect(embedded.embeddings?.map(({ values }) => values?.length)).toEqual([4, 4]);
  });

  it("gives the SDK its errors, with the wait in the body", async () => {
    const simulator = await gemini({ apiKeys: ["right"], models: [MODEL] });
    const ask = (model: string, key = "right") =>
      sdk(simulator, key).models.generateContent({ model, contents: "hello" });
    const failed = async (answer: Promise<unknown>) => {
      const error = await answer.catch((thrown: unknown) => thrown);
      if (!(error instanceof ApiError)) throw new Error("it should have failed");
      return { status: error.status, ...JSON.parse(error.message).error };
    };
    expect(await failed(ask(MODEL, "wrong"))).toMatchObject({
      status: "INVALID_ARGUMENT",
      code: 400,
      details: [{ reason: "API_KEY_INVALID" }, {}],
    });
    expect(await failed(ask("none"))).toMatchObject({ code: 404, status: "NOT_FOUND" });
    expect(await failed(ask(`${MODEL}@status:503`))).toMatchObject({ code: 503, status: "UNAVAILABLE" });
    const limited = await failed(ask(`${MODEL}@status:429,retryAfter:7`));
    expect(limited.message).toMatch(/Please retry in 7s\.$/);
    expect(limited.details.at(-1)).toMatchObject({ retryDelay: "7s" });
    await expect(ask(`${MODEL}@status:502,html`)).rejects.toThrow("502");
  });

  it("keeps to its rate limits, key by key, and names the one that was hit", async () => {
    const simulator = await gemini({
      limits: { requests: { count: 1, perMs: 86_400_000 }, tokens: { count: 1000, perMs: 60_000 } },
    });
    const ask = (key: string) => sdk(simulator, key).models.generateContent({ model: MODEL, contents: "hello" });
    await expect(ask("a")).resolves.toBeDefined();
    await expect(ask("a")).rejects.toThrow("GenerateRequestsPerDayPerProjectPerModel-FreeTier");
    await expect(ask("b")).resolves.toBeDefined();
  });

  it("reports an error in a stream as bare JSON, and cuts without a finish reason", async () => {
    const client = sdk(await gemini());
    const ask = async (behaviour: string) =>
      collect(await client.models.generateContentStream({ model: `${MODEL}@${behaviour}`, contents: "hello there" }));
    await expect(ask("error:2")).rejects.toThrow("The model is overloaded");
    await expect(ask("error:headers")).rejects.toThrow("The model is overloaded");
    const short = await ask("end:2");
    expect(short).toHaveLength(2);
    expect(short.at(-1)?.candidates?.[0]?.finishReason).toBeUndefined();
    await expect(ask("cut:2")).rejects.toThrow();
  });
});

describe("the bytes of the simulated Gemini", () => {
  const post = async (simulator: Simulator, method: string) => {
    const body = JSON.stringify({ contents: [{ role: "user", parts: [{ text: "hi" }] }] });
    const response = await fetch(`${simulator.url}/models/${MODEL}${method}`, { method: "POST", body });
    return { text: await response.text(), headers: response.headers };
  };

  it("are events with CRLF and blanks after colons, and no terminator", async () => {
    const { text, headers } = await post(await gemini(), ":streamGenerateContent?alt=sse");
    expect(headers.get("content-type")).toBe("text/event-stream");
    expect(text).toMatch(
      /^data: \{"candidates": \[\{"content": \{"parts": \[\{"text": "You"\}\],"role": "model"\},"index": 0\}\],"usageMetadata": \{"promptTokenCount": 1,/,
    );
    expect(text).toMatch(/"finishReason": "STOP",.*"responseId": "Sim\w+"\}\r\n\r\n$/);
    expect(text.replaceAll("\r\n", "")).not.toMatch(/[\r\n]/);
  });

  it("are indented JSON otherwise, and an error between events has no data:", async () => {
    const whole = await post(await gemini(), ":generateContent");
    expect(whole.text).toMatch(/^\{\n {2}"candidates": \[\n.*\}\n$/s);
    const { text } = await post(await gemini({ behaviour: "error:1" }), ":streamGenerateContent?alt=sse");
    expect(text).toMatch(/\r\n\r\n\{\n {2}"error": \{\n {4}"code": 503,\n.*\n\}\n$/s);
  });
});
