/** What clients see of an answer: read back by the official SDK, and by a parser of server-sent events. */
import { validateHeaderValue } from "node:http";
import { createParser, type EventSourceMessage } from "eventsource-parser";
import fc from "fast-check";
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import {
  type Completion,
  type ContentPart,
  FinishReason,
  type Part,
  Role,
  type Served,
  type TokenLogprob,
  type Usage,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import {
  ChunkWriter,
  DONE,
  servedHeaders,
  textOf,
  toUsage,
  writeCompletion,
  writeEmbeddings,
  writeModel,
  writeModels,
  writeShortAnswer,
} from "./openai-response.ts";

const SERVED: Served = {
  id: "answer-1",
  model: "m-2025",
  worker: "w",
  provider: "p",
  createdAtS: 1_700_000_000,
  systemFingerprint: "fp_1",
};
const USAGE: Usage = { inputTokens: 7, outputTokens: 5, cachedInputTokens: 3, reasoningTokens: 2 };

const served = (value: Partial<Served> = {}): Part => ({
  part: { $case: "served", value: { ...SERVED, ...value } },
});
const text = (value: string, choice = 0, logprobs: TokenLogprob[] = []): Part => ({
  part: { $case: "text", value: { text: value, choice, logprobs } },
});
const reasoning = (value: string, choice = 0): Part => ({
  part: { $case: "reasoning", value: { text: value, choice, logprobs: [] } },
});
const refusal = (value: string, choice = 0): Part => ({
  part: { $case: "refusal", value: { text: value, choice, logprobs: [] } },
});
const toolCall = (index: number, argumentsJson: string, names: { id: string; name: string }, choice = 0): Part => ({
  part: { $case: "toolCall", value: { choice, index, argumentsJson, ...names, signature: "" } },
});
const finish = (reason: FinishReason, choice = 0): Part => ({ part: { $case: "finish", value: { choice, reason } } });
const usage = (value: Usage): Part => ({ part: { $case: "usage", value } });

/** The bytes that a client gets for these chunks. */
function streamed(chunks: readonly (readonly Part[])[], includeUsage = false): string {
  const writer = new ChunkWriter(includeUsage);
  return chunks.map((parts) => writer.write(parts)).join("") + writer.end();
}

/** The events of a stream, by a parser that knows nothing of OpenAI. Whatever an event can be besides data is refused. */
function eventsOf(stream: string): string[] {
  const events: EventSourceMessage[] = [];
  const unwanted = (what: unknown) => {
    throw new Error(`unwanted: ${String(what)}`);
  };
  const parser = createParser({
    onEvent: (event) => events.push(event),
    onRetry: unwanted,
    onComment: unwanted,
    onError: unwanted,
  });
  parser.feed(stream);
  for (const event of events) expect(event).toEqual({ id: undefined, event: undefined, data: event.data });
  // Nothing but whole events: one line of data and an empty one each.
  expect(stream).toBe(events.map(({ data }) => `data: ${data}\n\n`).join(""));
  return events.map(({ data }) => data);
}

function chunksOf(stream: string): OpenAI.ChatCompletionChunk[] {
  const events = eventsOf(stream);
  expect(events.at(-1)).toBe("[DONE]");
  return events.slice(0, -1).map((data) => JSON.parse(data) as OpenAI.ChatCompletionChunk);
}

/** A client of the official SDK for whom every answer is this body. */
function clientOf(body: string, contentType: string): OpenAI {
  return new OpenAI({
    apiKey: "any",
    baseURL: "http://gateway.test/v1",
    maxRetries: 0,
    fetch: async () => new Response(body, { headers: { "content-type": contentType } }),
  });
}

/** What the SDK's own helper makes of a stream. */
async function folded(stream: string): Promise<OpenAI.ChatCompletion> {
  const client = clientOf(stream, "text/event-stream; charset=utf-8");
  return client.chat.completions.stream({ model: "m", messages: [] }).finalChatCompletion();
}

describe("a streamed answer", () => {
  it("is a role, the text piece by piece, a finish and [DONE], all under one id", () => {
    const stream = streamed([[served(), text("Hel")], [text("lo")], [finish(FinishReason.STOP)]]);
    const head = {
      id: "answer-1",
      object: "chat.completion.chunk",
      created: 1_700_000_000,
      model: "m-2025",
      system_fingerprint: "fp_1",
    };
    const choice = { index: 0, logprobs: null, finish_reason: null };
    expect(chunksOf(stream)).toEqual([
      { ...head, choices: [{ ...choice, delta: { role: "assistant", content: "", refusal: null } }] },
      { ...head, choices: [{ ...choice, delta: { content: "Hel" } }] },
      { ...head, choices: [{ ...choice, delta: { content: "lo" } }] },
      { ...head, choices: [{ ...choice, delta: {}, finish_reason: "stop" }] },
    ]);
    expect(stream.endsWith(DONE)).toBe(true);
  });

  it("shows nothing before there is something to show", () => {
    const writer = new ChunkWriter(true);
    const warning: Part = { part: { $case: "warning", value: { code: "SIMULATED", message: "m", parameter: "" } } };
    expect(writer.write([served(), warning])).toBe("");
    expect(writer.write([])).toBe("");
    expect(writer.write([usage(USAGE)])).toBe("");
  });

  it("ends with the usage when that was asked for, and only then", () => {
    const parts = [[served(), text("hi"), finish(FinishReason.STOP), usage(USAGE)]];
    const [last, ...before] = chunksOf(streamed(parts, true)).reverse();
    expect(last).toMatchObject({ id: "answer-1", object: "chat.completion.chunk", choices: [], usage: toUsage(USAGE) });
    expect(before.map((chunk) => chunk.usage)).toEqual([null, null, null]);
    for (const chunk of chunksOf(streamed(parts, false))) expect(chunk).not.toHaveProperty("usage");
    // A provider that reported none has none invented for it.
    const without = chunksOf(streamed([[served(), text("hi"), finish(FinishReason.STOP)]], true));
    expect(without.map((chunk) => chunk.usage)).toEqual([null, null, null]);
  });

  it("says in a comment who goes on, and stays one answer with one id", async () => {
    const continued: Part = {
      part: {
        $case: "continued",
        value: { worker: "b\nö", provider: "p", model: "other", reason: "PROVIDER_STREAM_CUT" },
      },
    };
    const again = served({ id: "answer-2", model: "other", worker: "b" });
    const stream = streamed([[served(), text("Hel")], [continued, again, text("lo")], [finish(FinishReason.STOP)]]);
    const [, comment] = /\n\n(: [^\n]*)\n\n/.exec(stream)!;
    expect(comment).toBe(": continued by worker b?? (PROVIDER_STREAM_CUT)");
    const events = eventsOf(stream.replace(`${comment}\n\n`, ""));
    const chunks = events
      .filter((event) => event !== "[DONE]")
      .map((event) => JSON.parse(event) as OpenAI.ChatCompletionChunk);
    expect(new Set(chunks.map(({ id, model }) => `${id} ${model}`))).toEqual(new Set(["answer-1 m-2025"]));
    expect((await folded(stream)).choices[0]?.message.content).toBe("Hello");
  });

  it("tells the id, name and type of a tool call once, even when the provider repeats them", () => {
    const names = { id: "call_1", name: "look" };
    const stream = streamed([
      [served(), toolCall(0, "", names), toolCall(0, '{"a":', names)],
      [toolCall(0, "1}", { id: "", name: "" }), toolCall(1, "{}", { id: "call_2", name: "ask" })],
      [toolCall(0, "{}", { id: "call_3", name: "other" }, 1)],
    ]);
    const calls = chunksOf(stream).flatMap(({ choices }) => choices[0]!.delta.tool_calls ?? []);
    expect(calls).toEqual([
      { index: 0, id: "call_1", type: "function", function: { name: "look", arguments: "" } },
      { index: 0, function: { arguments: '{"a":' } },
      { index: 0, function: { arguments: "1}" } },
      { index: 1, id: "call_2", type: "function", function: { name: "ask", arguments: "{}" } },
      { index: 0, id: "call_3", type: "function", function: { name: "other", arguments: "{}" } },
    ]);
  });

  it("keeps several choices apart, and gives each its role", () => {
    const stream = streamed([
      [served(), text("a", 0), text("b", 2)],
      [refusal("no", 1), finish(FinishReason.LENGTH, 2)],
      [finish(FinishReason.CONTENT_FILTER, 1), finish(FinishReason.STOP, 0)],
    ]);
    const choices = chunksOf(stream).map((chunk) => {
      expect(chunk.choices).toHaveLength(1);
      return chunk.choices[0]!;
    });
    expect(choices.filter(({ delta }) => delta.role === "assistant").map(({ index }) => index)).toEqual([0, 2, 1]);
    expect(choices.flatMap(({ index, finish_reason }) => (finish_reason ? [[index, finish_reason]] : []))).toEqual([
      [2, "length"],
      [1, "content_filter"],
      [0, "stop"],
    ]);
  });

  it("tells a choice that said nothing its role before its end", async () => {
    const { choices } = await folded(streamed([[served(), finish(FinishReason.STOP)]]));
    expect(choices).toMatchObject([{ finish_reason: "stop", message: { role: "assistant", content: "" } }]);
  });

  it("brings log probabilities beside their text", () => {
    const top = { token: "hi", logprob: -1.5, bytes: Buffer.from("hi"), top: [] };
    const token = { token: "é", logprob: -0.25, bytes: Buffer.from("é"), top: [top, { ...top, bytes: Buffer.of() }] };
    const chunks = chunksOf(streamed([[served(), text("é", 0, [token])]]));
    expect(chunks[1]!.choices[0]!.logprobs).toEqual({
      content: [
        {
          token: "é",
          logprob: -0.25,
          bytes: [0xc3, 0xa9],
          top_logprobs: [
            { token: "hi", logprob: -1.5, bytes: [0x68, 0x69] },
            { token: "hi", logprob: -1.5, bytes: null },
          ],
        },
      ],
      refusal: null,
    });
  });
});

/** What one choice says, in the order of the contract. */
interface Said {
  readonly parts: readonly Part[];
  readonly content: string;
  readonly reasoning: string;
  readonly refusal: string;
  readonly calls: readonly { readonly id: string; readonly name: string; readonly arguments: string }[];
  readonly reason: FinishReason;
}

const REASONS = { stop: FinishReason.STOP, length: FinishReason.LENGTH, tool_calls: FinishReason.TOOL_CALLS } as const;
const anyText = fc.string({ unit: "binary", maxLength: 12 });
const pieces = fc.array(anyText, { maxLength: 4 });

function said(choice: number): fc.Arbitrary<Said> {
  const call = fc.record({ id: fc.uuid(), name: fc.stringMatching(/^[\w-]{1,12}$/), fragments: pieces });
  return fc
    .record({
      thoughts: pieces,
      texts: pieces,
      refusals: pieces,
      calls: fc.array(call, { maxLength: 3 }),
      reason: fc.constantFrom(...Object.values(REASONS)),
      // Whether a provider repeats the id and name of a call in each of its pieces.
      repeats: fc.boolean(),
    })
    .map(({ thoughts, texts, refusals, calls, reason, repeats }) => ({
      content: texts.join(""),
      reasoning: thoughts.join(""),
      refusal: refusals.join(""),
      calls: calls.map(({ id, name, fragments }) => ({ id, name, arguments: fragments.join("") })),
      reason,
      parts: [
        ...thoughts.map((piece) => reasoning(piece, choice)),
        ...texts.map((piece) => text(piece, choice)),
        ...refusals.map((piece) => refusal(piece, choice)),
        ...calls.flatMap(({ id, name, fragments }, index) => [
          toolCall(index, fragments[0] ?? "", { id, name }, choice),
          ...fragments
            .slice(1)
            .map((piece) => toolCall(index, piece, repeats ? { id, name } : { id: "", name: "" }, choice)),
        ]),
        finish(reason, choice),
      ],
    }));
}

/** Any stream that keeps the order of the contract: choices interleaved at will, and chunks cut anywhere. */
const anyStream = fc
  .tuple(
    fc.integer({ min: 1, max: 3 }).chain((count) => fc.tuple(...Array.from({ length: count }, (_, i) => said(i)))),
    fc.infiniteStream(fc.nat()),
    fc.option(fc.record({ inputTokens: fc.nat(), outputTokens: fc.nat() }), { nil: undefined }),
    fc.boolean(),
  )
  .map(([choices, numbers, reported, includeUsage]) => {
    const next = () => numbers.next().value as number;
    const queues = choices.map(({ parts }) => [...parts]);
    const parts: Part[] = [served()];
    for (;;) {
      const left = queues.filter((queue) => queue.length > 0);
      if (left.length === 0) break;
      parts.push(left[next() % left.length]!.shift()!);
    }
    if (reported !== undefined) parts.push(usage(reported));
    const chunks: Part[][] = [[]];
    for (const part of parts) {
      if (next() % 2 === 0) chunks.push([]);
      chunks.at(-1)!.push(part);
    }
    return { choices, chunks, reported, includeUsage };
  });

describe("whatever a worker streams", () => {
  it("the SDK folds it to what was said, choice by choice", async () => {
    await fc.assert(
      fc.asyncProperty(anyStream, async ({ choices, chunks, reported, includeUsage }) => {
        const stream = streamed(chunks, includeUsage);
        const completion = await folded(stream);
        expect(completion).toMatchObject({ id: "answer-1", model: "m-2025", created: 1_700_000_000 });
        expect(
          completion.choices.map(({ message, finish_reason }) => ({
            role: message.role,
            content: message.content ?? "",
            refusal: message.refusal ?? "",
            calls: message.tool_calls ?? [],
            reason: finish_reason,
          })),
        ).toMatchObject(
          choices.map(({ content, refusal, calls, reason }) => ({
            role: "assistant",
            content,
            refusal,
            calls: calls.map((call) => ({
              id: call.id,
              type: "function",
              function: { name: call.name, arguments: call.arguments },
            })),
            reason: Object.entries(REASONS).find(([, value]) => value === reason)![0],
          })),
        );
        // The SDK knows no reasoning: it is folded from the events themselves.
        const thoughts = choices.map(() => "");
        for (const chunk of chunksOf(stream)) {
          for (const { index, delta } of chunk.choices) {
            thoughts[index] += (delta as { reasoning_content?: string }).reasoning_content ?? "";
          }
        }
        expect(thoughts).toEqual(choices.map((choice) => choice.reasoning));
        expect(completion.usage ?? undefined).toEqual(
          includeUsage && reported !== undefined ? toUsage(reported) : undefined,
        );
      }),
      { numRuns: 150 },
    );
  });

  it("the whole answer says the same as the stream", async () => {
    await fc.assert(
      fc.asyncProperty(anyStream, async ({ choices, chunks, reported }) => {
        const streamedAnswer = await folded(streamed(chunks, true));
        const completion: Completion = {
          served: SERVED,
          choices: choices.map((choice, index) => ({
            index,
            message: { role: Role.ASSISTANT, name: "", content: contentOf(choice) },
            finishReason: choice.reason,
            logprobs: [],
          })),
          usage: reported,
          warnings: [],
        };
        const whole = await clientOf(writeCompletion(completion), "application/json").chat.completions.create({
          model: "m",
          messages: [],
        });
        const facts = (answer: OpenAI.ChatCompletion) =>
          answer.choices.map(({ message, finish_reason }) => ({
            content: message.content ?? "",
            refusal: message.refusal ?? null,
            calls: message.tool_calls ?? [],
            finish_reason,
          }));
        expect(facts(whole)).toMatchObject(facts(streamedAnswer));
        expect(whole.usage ?? null).toEqual(streamedAnswer.usage ?? null);
        expect([whole.id, whole.model, whole.created]).toEqual([
          streamedAnswer.id,
          streamedAnswer.model,
          streamedAnswer.created,
        ]);
      }),
      { numRuns: 100 },
    );
  });

  function contentOf({ reasoning, content, refusal, calls }: Said): ContentPart[] {
    return [
      ...(reasoning === ""
        ? []
        : [{ part: { $case: "reasoning" as const, value: { text: reasoning, signature: "" } } }]),
      ...(content === "" ? [] : [{ part: { $case: "text" as const, value: content } }]),
      ...(refusal === "" ? [] : [{ part: { $case: "refusal" as const, value: refusal } }]),
      ...calls.map(({ id, name, arguments: argumentsJson }) => ({
        part: { $case: "toolCall" as const, value: { id, name, argumentsJson, signature: "" } },
      })),
    ];
  }
});

describe("a whole answer", () => {
  const choice = (content: ContentPart[], finishReason: FinishReason = FinishReason.STOP): Completion => ({
    served: { ...SERVED, systemFingerprint: "" },
    choices: [{ index: 0, message: { role: Role.ASSISTANT, name: "", content }, finishReason, logprobs: [] }],
    usage: USAGE,
    warnings: [],
  });

  it("has every key that strict clients look for", () => {
    const parts: ContentPart[] = [
      { part: { $case: "reasoning", value: { text: "hm", signature: "s" } } },
      { part: { $case: "text", value: "Hel" } },
      { part: { $case: "text", value: "lo" } },
    ];
    expect(JSON.parse(writeCompletion(choice(parts)))).toEqual({
      id: "answer-1",
      object: "chat.completion",
      created: 1_700_000_000,
      model: "m-2025",
      choices: [
        {
          index: 0,
          message: {
            role: "assistant",
            content: "Hello",
            refusal: null,
            reasoning_content: "hm",
            reasoning_signature: "s",
          },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
      usage: {
        prompt_tokens: 7,
        completion_tokens: 5,
        total_tokens: 12,
        prompt_tokens_details: { cached_tokens: 3 },
        completion_tokens_details: { reasoning_tokens: 2 },
      },
      system_fingerprint: null,
    });
  });

  it("has no content where there are only tool calls or a refusal, as OpenAI has it", () => {
    const message = (part: ContentPart) =>
      (JSON.parse(writeCompletion(choice([part]))) as OpenAI.ChatCompletion).choices[0]!.message;
    const value = { id: "c", name: "f", argumentsJson: "{", signature: "" };
    expect(message({ part: { $case: "toolCall", value } })).toMatchObject({
      content: null,
      tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{" } }],
    });
    expect(message({ part: { $case: "refusal", value: "no" } })).toEqual({
      role: "assistant",
      content: null,
      refusal: "no",
    });
  });

  it("leaves out a usage that nobody reported", () => {
    expect(JSON.parse(writeCompletion({ ...choice([]), usage: undefined }))).not.toHaveProperty("usage");
    expect(toUsage({})).toMatchObject({ prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 });
  });

  it("tells in the usage's details that an answer from the cache has used no tokens this time", () => {
    const inputTokens = USAGE.inputTokens!;
    const outputTokens = USAGE.outputTokens!;
    const plain = toUsage(USAGE) as Record<string, object>;
    const marked = {
      ...plain,
      prompt_tokens_details: { ...plain["prompt_tokens_details"], cortex_cached_tokens: inputTokens },
      completion_tokens_details: { ...plain["completion_tokens_details"], cortex_cached_tokens: outputTokens },
    };
    const completion = choice([{ part: { $case: "text", value: "Hello" } }]);
    expect(JSON.parse(writeCompletion(completion, true)).usage).toEqual(marked);
    expect(JSON.parse(writeShortAnswer(completion, true)).usage).toEqual(marked);
    const writer = new ChunkWriter(true);
    writer.cached = true;
    writer.write([served(), text("Hello"), usage(USAGE)]);
    expect(chunksOf(writer.end()).at(-1)?.usage).toEqual(marked);
  });

  it("is short for who asked for little", () => {
    const completion = choice([{ part: { $case: "text", value: "Hello" } }], FinishReason.LENGTH);
    expect(JSON.parse(writeShortAnswer(completion))).toEqual({
      text: "Hello",
      model: "m-2025",
      worker: "w",
      finish_reason: "length",
      usage: toUsage(USAGE),
    });
    expect(textOf(choice([{ part: { $case: "refusal", value: "no" } }]))).toBe("no");
    expect(textOf({ choices: [], warnings: [] })).toBe("");
  });
});

describe("embeddings", () => {
  const result = (vectors: number[][]) => ({
    served: SERVED,
    embeddings: vectors.map((values) => ({ values })),
    usage: { inputTokens: 4 },
    warnings: [],
  });

  it("are lists of numbers, in the order of the inputs", () => {
    expect(JSON.parse(writeEmbeddings(result([[1, -0.5], [0.25]]), false))).toEqual({
      object: "list",
      data: [
        { object: "embedding", index: 0, embedding: [1, -0.5] },
        { object: "embedding", index: 1, embedding: [0.25] },
      ],
      model: "m-2025",
      usage: { prompt_tokens: 4, total_tokens: 4 },
    });
  });

  it("are little-endian in base64, so that the SDK reads the same numbers", async () => {
    const { data } = JSON.parse(writeEmbeddings(result([[1, -2]]), true)) as { data: { embedding: string }[] };
    expect([...Buffer.from(data[0]!.embedding, "base64")]).toEqual([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    const vectors = fc.array(fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { maxLength: 20 }));
    await fc.assert(
      fc.asyncProperty(vectors, async (given) => {
        const client = clientOf(writeEmbeddings(result(given), true), "application/json");
        const answer = await client.embeddings.create({ model: "m", input: "x" });
        expect(answer.data.map((item) => [...item.embedding])).toEqual(given);
      }),
      { numRuns: 30 },
    );
  });
});

describe("the headers of an answer", () => {
  it("say who served, how many were tried and what was left out", () => {
    const warnings = [
      { code: "SIMULATED", message: "no model wrote this", parameter: "" },
      { code: "UNSUPPORTED_PARAMETER", message: "a simulation calls no tools", parameter: "tools" },
    ];
    expect(servedHeaders(SERVED, 2, warnings)).toEqual({
      "x-cortex-attempts": "2",
      "x-cortex-worker": "w",
      "x-cortex-provider": "p",
      "x-cortex-warnings": "SIMULATED, UNSUPPORTED_PARAMETER tools",
    });
    expect(servedHeaders(undefined, 1, [])).toEqual({ "x-cortex-attempts": "1" });
  });

  it("are printable and of bounded length, whatever a worker calls itself and whatever it warns of", () => {
    const word = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom("a\r\nset-cookie: b=c", "\0", "é".repeat(2_000)),
    );
    fc.assert(
      fc.property(word, word, fc.array(fc.tuple(word, word)), (worker, provider, pairs) => {
        const warnings = pairs.map(([code, parameter]) => ({ code, parameter, message: "" }));
        for (const [name, value] of Object.entries(servedHeaders({ ...SERVED, worker, provider }, 1, warnings))) {
          expect(value).toMatch(/^[\x20-\x7e]{0,1000}$/);
          validateHeaderValue(name, value);
        }
      }),
    );
  });
});

describe("the list of models", () => {
  const models = [
    { id: "m", workers: ["w"], createdAtS: 5, ownedBy: "openai" },
    { id: "w/m", workers: ["w"], createdAtS: 0, ownedBy: "w" },
  ];

  it("has OpenAI's form, and each model can be asked for alone", () => {
    const first = { id: "m", object: "model", created: 5, owned_by: "openai" };
    expect(JSON.parse(writeModels(models))).toEqual({
      object: "list",
      data: [first, { id: "w/m", object: "model", created: 0, owned_by: "w" }],
    });
    expect(JSON.parse(writeModel(models, "m"))).toEqual(first);
  });

  it("has no model that is not in it", () => {
    const missing = () => writeModel(models, `n${"o".repeat(10_000)}`);
    expect(missing).toThrow(RpcError);
    try {
      missing();
    } catch (error) {
      expect(error).toMatchObject({ reason: "MODEL_NOT_FOUND", field: "model" });
      expect((error as RpcError).message.length).toBeLessThan(300);
    }
  });
});
