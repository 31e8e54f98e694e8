/** What becomes of every field of a request, and of everything that is not right. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ToolChoice_Mode as ChoiceMode,
  CompletionRequest,
  type ContentPart,
  ReasoningOptions_Effort as Effort,
  ResponseFormat_Kind as FormatKind,
  Role,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { readChatRequest, readEmbeddingsRequest, readShortChatRequest } from "./openai-request.ts";

const messages = [{ role: "user", content: "hi" }];
const UINT32_MAX = 4_294_967_295;

/** The canonical form of a chat body that has these fields besides a model and a message. */
function completionOf(fields: object): CompletionRequest {
  return readChatRequest({ model: "m", messages, ...fields }).completion;
}

/** The content of the last of these messages. */
function contentOf(...conversation: object[]): readonly ContentPart["part"][] {
  return completionOf({ messages: conversation })
    .messages.at(-1)!
    .content.map(({ part }) => part);
}

function refusalOf(read: () => unknown): RpcError {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(RpcError);
    expect((error as RpcError).reason).toBe("INVALID_REQUEST");
    return error as RpcError;
  }
  throw new Error("nothing was refused");
}

describe("the body of a chat request", () => {
  it("becomes a request with nothing in it that the client did not say", () => {
    expect(readChatRequest({ model: "m", messages })).toEqual({
      stream: false,
      includeUsage: false,
      completion: {
        model: "m",
        messages: [{ role: Role.USER, name: "", content: [{ part: { $case: "text", value: "hi" } }] }],
        tools: [],
        toolChoice: undefined,
        parallelToolCalls: undefined,
        responseFormat: undefined,
        sampling: {
          temperature: undefined,
          topP: undefined,
          topK: undefined,
          frequencyPenalty: undefined,
          presencePenalty: undefined,
          seed: undefined,
          stop: [],
          logitBias: {},
        },
        reasoning: undefined,
        maxOutputTokens: undefined,
        choiceCount: undefined,
        logprobs: false,
        topLogprobs: undefined,
        user: "",
        extraJson: {},
      },
    });
  });

  const function_ = {
    name: "f",
    description: "does it",
    parameters: { type: "object", required: ["a"] },
    strict: true,
  };
  const schema = { type: "object", properties: { a: { const: 1 } } };
  const translated: [string, object, object][] = [
    ["temperature", { temperature: 0 }, { sampling: { temperature: 0 } }],
    ["top_p", { top_p: 0.25 }, { sampling: { topP: 0.25 } }],
    ["top_k", { top_k: 0 }, { sampling: { topK: 0 } }],
    ["frequency_penalty", { frequency_penalty: -2 }, { sampling: { frequencyPenalty: -2 } }],
    ["presence_penalty", { presence_penalty: 2 }, { sampling: { presencePenalty: 2 } }],
    ["seed", { seed: -7 }, { sampling: { seed: -7 } }],
    ["stop as a text", { stop: "end" }, { sampling: { stop: ["end"] } }],
    ["stop as a list", { stop: ["a", "b"] }, { sampling: { stop: ["a", "b"] } }],
    ["logit_bias", { logit_bias: { 50256: -100 } }, { sampling: { logitBias: { 50256: -100 } } }],
    ["max_tokens", { max_tokens: UINT32_MAX }, { maxOutputTokens: UINT32_MAX }],
    ["max_completion_tokens", { max_completion_tokens: 9 }, { maxOutputTokens: 9 }],
    ["the newer of two limits", { max_tokens: 5, max_completion_tokens: 9 }, { maxOutputTokens: 9 }],
    ["n", { n: 3 }, { choiceCount: 3 }],
    ["logprobs", { logprobs: true }, { logprobs: true }],
    ["top_logprobs", { top_logprobs: 0 }, { topLogprobs: 0 }],
    ["user", { user: "u-1" }, { user: "u-1" }],
    ["parallel_tool_calls", { parallel_tool_calls: false }, { parallelToolCalls: false }],
    ["reasoning_effort none", { reasoning_effort: "none" }, { reasoning: { effort: Effort.NONE } }],
    ["reasoning_effort minimal", { reasoning_effort: "minimal" }, { reasoning: { effort: Effort.MINIMAL } }],
    ["reasoning_effort low", { reasoning_effort: "low" }, { reasoning: { effort: Effort.LOW } }],
    ["reasoning_effort medium", { reasoning_effort: "medium" }, { reasoning: { effort: Effort.MEDIUM } }],
    ["reasoning_effort high", { reasoning_effort: "high" }, { reasoning: { effort: Effort.HIGH } }],
    ["reasoning_effort max", { reasoning_effort: "max" }, { reasoning: { effort: Effort.MAX } }],
    [
      "tools",
      {
        tools: [
          { type: "function", function: function_ },
          { type: "function", function: { name: "g-1_X" } },
        ],
      },
      {
        tools: [
          {
            name: "f",
            description: "does it",
            parametersJsonSchema: '{"type":"object","required":["a"]}',
            strict: true,
          },
          { name: "g-1_X", description: "", parametersJsonSchema: "", strict: false },
        ],
      },
    ],
    ["tool_choice none", { tool_choice: "none" }, { toolChoice: { mode: ChoiceMode.NONE, name: "" } }],
    ["tool_choice auto", { tool_choice: "auto" }, { toolChoice: { mode: ChoiceMode.AUTO, name: "" } }],
    ["tool_choice required", { tool_choice: "required" }, { toolChoice: { mode: ChoiceMode.REQUIRED, name: "" } }],
    [
      "tool_choice of one tool",
      { tool_choice: { type: "function", function: { name: "f" } } },
      { toolChoice: { mode: ChoiceMode.NAMED, name: "f" } },
    ],
    ["response_format text", { response_format: { type: "text" } }, { responseFormat: { kind: FormatKind.TEXT } }],
    [
      "response_format json_object",
      { response_format: { type: "json_object" } },
      { responseFormat: { kind: FormatKind.JSON_OBJECT } },
    ],
    [
      "response_format json_schema",
      { response_format: { type: "json_schema", json_schema: { name: "s", description: "d", schema, strict: true } } },
      {
        responseFormat: {
          kind: FormatKind.JSON_SCHEMA,
          name: "s",
          description: "d",
          jsonSchema: JSON.stringify(schema),
          strict: true,
        },
      },
    ],
  ];
  it.each(translated)("translates %s", (_name, fields, expected) => {
    const completion = completionOf(fields);
    expect(completion).toMatchObject(expected);
    expect(completion.extraJson).toEqual({});
    // It is the same after it has travelled to another node.
    const travelled = CompletionRequest.decode(CompletionRequest.encode(completion).finish());
    expect(travelled).toMatchObject(expected);
  });

  it("says how the client wants the answer", () => {
    expect(readChatRequest({ model: "m", messages, stream: true })).toMatchObject({
      stream: true,
      includeUsage: false,
    });
    const withUsage = { model: "m", messages, stream: true, stream_options: { include_usage: true } };
    expect(readChatRequest(withUsage)).toMatchObject({ stream: true, includeUsage: true });
  });

  it("takes null for every optional field, as clients send it that write out all they know", () => {
    const optional = [
      "stream stream_options temperature top_p top_k frequency_penalty presence_penalty seed stop logit_bias max_tokens",
      "max_completion_tokens n logprobs top_logprobs user parallel_tool_calls reasoning_effort tools tool_choice",
      "response_format functions function_call audio modalities",
    ];
    const nulls = Object.fromEntries(optional.flatMap((line) => line.split(" ")).map((field) => [field, null]));
    expect(readChatRequest({ model: "m", messages, ...nulls })).toEqual(readChatRequest({ model: "m", messages }));
  });

  it("lets parameters that Cortex has no field for travel on untouched", () => {
    const extra = {
      metadata: { ticket: "A-1", nested: [1, { b: null }] },
      store: true,
      min_p: 0.05,
      "X-odd name": "é\u2028",
      constructor: { prototype: { polluted: true } },
      toString: 1,
    };
    const { extraJson } = completionOf(extra);
    expect(Object.keys(extraJson).sort()).toEqual(Object.keys(extra).sort());
    for (const [field, value] of Object.entries(extra)) expect(JSON.parse(extraJson[field]!)).toEqual(value);
  });

  it("translates a conversation, turn by turn", () => {
    const { messages: turns } = completionOf({
      messages: [
        { role: "system", content: "Be brief." },
        {
          role: "developer",
          content: [
            { type: "text", text: "Be " },
            { type: "text", text: "kind." },
          ],
        },
        { role: "user", content: "What is it?", name: "ada" },
        {
          role: "assistant",
          content: "I look.",
          reasoning_content: "hm",
          reasoning_signature: "rs",
          tool_calls: [
            { id: "c1", type: "function", function: { name: "look", arguments: '{"a":' }, signature: "cs" },
            { id: "c2", type: "function", function: { name: "ask", arguments: "{}" } },
          ],
        },
        { role: "tool", tool_call_id: "c2", content: "two" },
        { role: "tool", tool_call_id: "c1", content: [{ type: "text", text: "one" }] },
        {
          role: "assistant",
          content: [
            { type: "text", text: "So" },
            { type: "refusal", refusal: "no" },
          ],
        },
        { role: "assistant", content: null, refusal: "never" },
        { role: "assistant", content: "" },
      ],
    });
    const text = (value: string) => ({ part: { $case: "text", value } });
    const refusal = (value: string) => ({ part: { $case: "refusal", value } });
    const call = (id: string, name: string, argumentsJson: string, signature = "") => ({
      part: { $case: "toolCall", value: { id, name, argumentsJson, signature } },
    });
    const result = (toolCallId: string, name: string, value: string) => ({
      part: { $case: "toolResult", value: { toolCallId, name, content: [text(value)], isError: false } },
    });
    expect(turns).toEqual([
      { role: Role.SYSTEM, name: "", content: [text("Be brief.")] },
      { role: Role.SYSTEM, name: "", content: [text("Be "), text("kind.")] },
      { role: Role.USER, name: "ada", content: [text("What is it?")] },
      {
        role: Role.ASSISTANT,
        name: "",
        content: [
          { part: { $case: "reasoning", value: { text: "hm", signature: "rs" } } },
          text("I look."),
          call("c1", "look", '{"a":', "cs"),
          call("c2", "ask", "{}"),
        ],
      },
      { role: Role.TOOL, name: "", content: [result("c2", "ask", "two")] },
      { role: Role.TOOL, name: "", content: [result("c1", "look", "one")] },
      { role: Role.ASSISTANT, name: "", content: [text("So"), refusal("no")] },
      { role: Role.ASSISTANT, name: "", content: [refusal("never")] },
      { role: Role.ASSISTANT, name: "", content: [] },
    ]);
  });

  it("finds a tool result's name in the call that it answers, and else takes the message's", () => {
    const named = (...conversation: object[]) => contentOf(...conversation)[0];
    const call = { id: "c1", type: "function", function: { name: "look", arguments: "{}" } };
    const answer = { role: "tool", tool_call_id: "c1", content: "x", name: "mine" };
    expect(named({ role: "assistant", tool_calls: [call] }, answer)).toMatchObject({ value: { name: "look" } });
    expect(named(answer)).toMatchObject({ value: { name: "mine" } });
    expect(named({ ...answer, name: undefined })).toMatchObject({ value: { name: "" } });
  });

  const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0xff]);
  const base64 = PNG.toString("base64");
  const parts: [string, object, object][] = [
    [
      "an image by address",
      { type: "image_url", image_url: { url: "https://example.com/a.png", detail: "low" } },
      {
        $case: "image",
        value: { source: { $case: "url", value: "https://example.com/a.png" }, mediaType: "", detail: "low" },
      },
    ],
    [
      "an image by value",
      { type: "image_url", image_url: { url: `data:image/PNG;base64,${base64}` } },
      { $case: "image", value: { source: { $case: "data", value: PNG }, mediaType: "image/png", detail: "" } },
    ],
    [
      "an image whose media type has parameters",
      { type: "image_url", image_url: { url: `data:image/svg+xml;charset=utf-8;base64,${base64}` } },
      { $case: "image", value: { source: { $case: "data", value: PNG }, mediaType: "image/svg+xml", detail: "" } },
    ],
    [
      "recorded sound",
      { type: "input_audio", input_audio: { data: base64, format: "wav" } },
      { $case: "audio", value: { data: PNG, mediaType: "audio/wav" } },
    ],
    [
      "a file by value",
      { type: "file", file: { file_data: `data:application/pdf;base64,${base64}`, filename: "a.pdf" } },
      {
        $case: "file",
        value: { source: { $case: "data", value: PNG }, mediaType: "application/pdf", filename: "a.pdf" },
      },
    ],
    [
      "a file by its id",
      { type: "file", file: { file_id: "file-1" } },
      { $case: "file", value: { source: { $case: "providerFileId", value: "file-1" }, mediaType: "", filename: "" } },
    ],
  ];
  it.each(parts)("translates %s", (_name, part, expected) => {
    const content = contentOf({ role: "user", content: [{ type: "text", text: "look:" }, part] });
    expect(content).toEqual([{ $case: "text", value: "look:" }, expected]);
  });
});

const user = (content: unknown) => ({ messages: [{ role: "user", content }] });
const tool = (fields: object) => ({ tools: [{ type: "function", function: fields }] });
const nested = (depth: number) => JSON.parse(`${"[".repeat(depth)}${"]".repeat(depth)}`) as unknown;

/** What is wrong, the field that has to be named, and a word that the message has to have. */
const WRONG: [string, object, string?][] = [
  ["model", { model: "m".repeat(513) }, "512"],
  ["model", { model: undefined }, "missing"],
  ["model", { model: "" }],
  ["model", { model: 7 }],
  ["messages", { messages: undefined }, "missing"],
  ["messages", { messages: [] }],
  ["messages", { messages: "hi" }],
  ["messages[0]", { messages: ["hi"] }],
  ["messages[1].role", { messages: [...messages, {}] }, "'assistant'"],
  ["messages[0].role", { messages: [{ role: "function", name: "f", content: "x" }] }],
  ["messages[0].content", { messages: [{ role: "user" }] }, "a text or a list of parts"],
  ["messages[0].content", user(null)],
  ["messages[0].content", user({})],
  ["messages[0].content", user([])],
  ["messages[0].name", { messages: [{ role: "user", content: "x", name: 1 }] }],
  ["messages[0].content[0]", user(["x"])],
  ["messages[0].content[0].type", user([{}]), "'image_url'"],
  ["messages[0].content[0].type", user([{ type: "video" }])],
  ["messages[0].content[0].text", user([{ type: "text" }])],
  ["messages[0].content[1].image_url", user([{ type: "text", text: "x" }, { type: "image_url" }])],
  ["messages[0].content[0].image_url.url", user([{ type: "image_url", image_url: {} }])],
  ["messages[0].content[0].image_url.url", user([{ type: "image_url", image_url: { url: "file:///etc/passwd" } }])],
  ["messages[0].content[0].image_url.url", user([{ type: "image_url", image_url: { url: "data:image/png,abc" } }])],
  ["messages[0].content[0].image_url.url", user([{ type: "image_url", image_url: { url: "data:image/png;base64," } }])],
  ["messages[0].content[0].image_url.detail", user([{ type: "image_url", image_url: { url: "x", detail: "huge" } }])],
  [
    "messages[0].content[0].input_audio.data",
    user([{ type: "input_audio", input_audio: { data: "!", format: "mp3" } }]),
  ],
  [
    "messages[0].content[0].input_audio.format",
    user([{ type: "input_audio", input_audio: { data: "AAAA", format: "ogg" } }]),
  ],
  ["messages[0].content[0].file", user([{ type: "file", file: {} }]), "file_data or file_id"],
  ["messages[0].content[0].file.file_data", user([{ type: "file", file: { file_data: "plain words" } }])],
  ["messages[0].content[0].type", { messages: [{ role: "system", content: [{ type: "image_url" }] }] }],
  ["messages[0].content", { messages: [{ role: "assistant" }] }, "tool_calls"],
  ["messages[0].content", { messages: [{ role: "assistant", content: 7 }] }],
  ["messages[0].tool_calls[0].id", { messages: [{ role: "assistant", tool_calls: [{}] }] }],
  [
    "messages[0].tool_calls[0].function.arguments",
    {
      messages: [
        { role: "assistant", tool_calls: [{ id: "a", type: "function", function: { name: "f", arguments: {} } }] },
      ],
    },
  ],
  ["messages[0].tool_call_id", { messages: [{ role: "tool", content: "x" }] }, "missing"],
  ["messages[0].content[0].type", { messages: [{ role: "tool", tool_call_id: "a", content: [{ type: "file" }] }] }],
  ["stream", { stream: "yes" }],
  ["stream_options.include_usage", { stream_options: { include_usage: 1 } }],
  ["temperature", { temperature: 2.1 }, "2"],
  ["temperature", { temperature: Number.POSITIVE_INFINITY }],
  ["top_p", { top_p: -0.1 }],
  ["top_k", { top_k: 1.5 }],
  ["top_k", { top_k: UINT32_MAX + 1 }],
  ["frequency_penalty", { frequency_penalty: 3 }],
  ["presence_penalty", { presence_penalty: "1" }],
  ["seed", { seed: 1e300 }],
  ["stop", { stop: 5 }, "a text or a list"],
  ["stop", { stop: Array(17).fill("x") }],
  ["stop[1]", { stop: ["a", 1] }],
  ["logit_bias.50256", { logit_bias: { 50256: 101 } }],
  ["max_tokens", { max_tokens: 0 }],
  // Would travel to another node as 705032704.
  ["max_tokens", { max_tokens: 5_000_000_000 }],
  ["max_completion_tokens", { max_completion_tokens: UINT32_MAX + 1 }],
  ["n", { n: 129 }],
  ["logprobs", { logprobs: 1 }],
  ["top_logprobs", { top_logprobs: 21 }],
  ["user", { user: {} }],
  ["parallel_tool_calls", { parallel_tool_calls: "no" }],
  ["reasoning_effort", { reasoning_effort: "extreme" }, "minimal"],
  ["tools[0].type", { tools: [{ type: "custom", custom: {} }] }],
  ["tools[0].function", { tools: [{ type: "function" }] }],
  ["tools[0].function.name", tool({ name: "two words" }), "letters"],
  ["tools[0].function.parameters", tool({ name: "f", parameters: "none" })],
  ["tools[0].function.parameters", tool({ name: "f", parameters: { deep: nested(1_000) } }), "deep"],
  ["tool_choice", { tool_choice: "maybe" }, "required"],
  ["tool_choice.function", { tool_choice: { type: "function" } }],
  ["response_format.type", { response_format: { type: "xml" } }],
  ["response_format.json_schema", { response_format: { type: "json_schema" } }],
  [
    "response_format.json_schema.schema",
    { response_format: { type: "json_schema", json_schema: { name: "s", schema: { deep: nested(100_000) } } } },
  ],
  ["functions", { functions: [] }, "use tools"],
  ["function_call", { function_call: "auto" }, "use tool_choice"],
  ["audio", { audio: { voice: "ada" } }, "not supported"],
  ["modalities[1]", { modalities: ["text", "audio"] }, "not supported"],
  ["some_new_parameter", { some_new_parameter: nested(100_000) }, "deep"],
  ["some_new_parameter", { some_new_parameter: { a: [1, Number.POSITIVE_INFINITY] } }, "too large"],
];

describe("a mistake in a chat request", () => {
  it.each(WRONG)("is refused by its name: %s (case %#)", (field, fields, word = "") => {
    const error = refusalOf(() => readChatRequest({ model: "m", messages, ...fields }));
    expect(error.field).toBe(field);
    expect(error.message.startsWith(field)).toBe(true);
    expect(error.message).toContain(word);
  });

  it.each([[null], [[]], ["text"], [7], [true]])("is refused when the body is %j", (body) => {
    const error = refusalOf(() => readChatRequest(body));
    expect(error.field).toBeUndefined();
    expect(error.message).toContain("the body: has to be an object");
  });

  it("is told without what the client wrote", () => {
    const secret = "my-secret-prompt";
    for (const fields of [
      user([{ type: "text", text: [secret] }]),
      user([{ type: secret }]),
      user([{ type: "image_url", image_url: { url: secret } }]),
      { tool_choice: secret },
      { reasoning_effort: secret },
      { stop: { [secret]: 1 } },
    ]) {
      expect(refusalOf(() => readChatRequest({ model: "m", messages, ...fields })).message).not.toContain(secret);
    }
  });

  it("does not grow with the body: one mistake is looked for, and names are cut", () => {
    let read = 0;
    const wrong = new Proxy(Array(10_000).fill(0) as unknown[], {
      get(target, property, receiver) {
        if (typeof property === "string" && /^\d+$/.test(property)) read++;
        return Reflect.get(target, property, receiver);
      },
    });
    expect(refusalOf(() => readChatRequest({ model: "m", messages: wrong })).field).toBe("messages[0]");
    expect(refusalOf(() => readChatRequest({ model: "m", messages: user(wrong).messages })).field).toContain("content");
    expect(read).toBeLessThan(10);
    const long = refusalOf(() => completionOf({ logit_bias: { ["9".repeat(1_000_000)]: "x" } }));
    expect(long.field!.length).toBeLessThanOrEqual(200);
    expect(long.message.length).toBeLessThan(500);
  });
});

describe("the body of a short chat request", () => {
  it("is a conversation and little else", () => {
    const { completion } = readShortChatRequest({ messages, temperature: 0.5, max_tokens: 9 });
    expect(completion).toEqual(completionOf({ model: "auto", temperature: 0.5, max_tokens: 9 }));
    expect(readShortChatRequest({ messages, model: "m" }).completion.model).toBe("m");
  });

  it.each([
    ["messages", {}],
    ["messages[0].content", user(7)],
    ["temperature", { messages, temperature: "hot" }],
    ["max_tokens", { messages, max_tokens: 0 }],
    ["top_p", { messages, top_p: 1 }],
    ["model", { messages, model: "" }],
  ])("names the wrong field %s", (field, body) => {
    expect(refusalOf(() => readShortChatRequest(body)).field).toBe(field);
  });
});

describe("the body of an embeddings request", () => {
  it("is translated", () => {
    expect(readEmbeddingsRequest({ model: "m", input: "one" })).toEqual({
      base64: false,
      embedding: { model: "m", inputs: ["one"], dimensions: undefined, user: "", extraJson: {} },
    });
    const all = {
      model: "m",
      input: ["one", "two"],
      encoding_format: "base64",
      dimensions: 64,
      user: "u",
      task: ["x"],
    };
    expect(readEmbeddingsRequest(all)).toEqual({
      base64: true,
      embedding: { model: "m", inputs: ["one", "two"], dimensions: 64, user: "u", extraJson: { task: '["x"]' } },
    });
  });

  it.each([
    ["model", { input: "a" }],
    ["input", { model: "m" }],
    ["input", { model: "m", input: "" }],
    ["input", { model: "m", input: [] }],
    ["input", { model: "m", input: Array(2_049).fill("a") }],
    ["input[1]", { model: "m", input: ["a", ""] }],
    ["input[0]", { model: "m", input: [1, 2] }],
    ["encoding_format", { model: "m", input: "a", encoding_format: "hex" }],
    ["dimensions", { model: "m", input: "a", dimensions: 0 }],
    ["dimensions", { model: "m", input: "a", dimensions: UINT32_MAX + 1 }],
  ])("names the wrong field %s", (field, body) => {
    expect(refusalOf(() => readEmbeddingsRequest(body)).field).toBe(field);
  });
});

describe("whatever JSON comes", () => {
  /** Names that are fields, and names that mean something to JavaScript. */
  const NAMES = [
    "model messages role content type text image_url url file file_data input_audio data format tool_calls id function",
    "name arguments tool_call_id stream temperature stop logit_bias n tools tool_choice response_format json_schema schema",
    "input user __proto__ constructor prototype toString valueOf toJSON then length hasOwnProperty",
  ].flatMap((line) => line.split(" "));
  const key = fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...NAMES) }, fc.string({ unit: "binary" }));
  const WORDS = ["user", "assistant", "tool", "text", "function", "file", "image_url", "data:;base64,", "json_schema"];
  const { json } = fc.letrec<{ json: unknown }>((tie) => ({
    json: fc.oneof(
      { depthSize: "medium", withCrossShrink: true },
      fc.constantFrom(...WORDS),
      // Lone surrogates too.
      fc.string({ unit: "binary" }),
      fc.double(),
      fc.constantFrom(null, true, false, 0, -0, 1e308, 5e-324, 2 ** 53, -(2 ** 63), Number.POSITIVE_INFINITY),
      fc.array(tie("json"), { maxLength: 5 }),
      fc.array(fc.tuple(key, tie("json")), { maxLength: 6 }).map(toObject),
    ),
  }));

  /** As JSON.parse makes them: `__proto__` is a field like any other. */
  function toObject(entries: readonly (readonly [string, unknown])[]): object {
    const object = {};
    for (const [name, value] of entries) {
      Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
    }
    return object;
  }

  const nearly = fc
    .tuple(json, json, fc.array(fc.tuple(key, json), { maxLength: 4 }))
    .map(([content, other, fields]) =>
      toObject([["model", "m"], ["input", content], ["messages", [{ role: "user", content }, other]], ...fields]),
    );

  it.each([
    ["chat", readChatRequest],
    ["short chat", readShortChatRequest],
    ["embeddings", readEmbeddingsRequest],
  ])("a %s request is read or refused, and nothing else happens", (_name, read) => {
    fc.assert(
      fc.property(fc.oneof(json, nearly), (body) => {
        const before = Object.getOwnPropertyNames(Object.prototype);
        try {
          read(body);
        } catch (error) {
          expect(error).toBeInstanceOf(RpcError);
          expect((error as RpcError).reason).toBe("INVALID_REQUEST");
        }
        expect(Object.getOwnPropertyNames(Object.prototype)).toEqual(before);
      }),
      { numRuns: 1_000 },
    );
  });

  it("an object with a length that is no number is refused where a text or a list is expected", () => {
    const length = [{ toString: "user" }];
    for (const read of [readChatRequest, readShortChatRequest, readEmbeddingsRequest]) {
      expect(() => read({ model: "m", input: { length }, messages: [{ role: "user", content: { length } }] })).toThrow(
        RpcError,
      );
    }
  });

  it("cannot change what objects are through __proto__", () => {
    const attack = (field: string) =>
      JSON.parse(`{"model":"m","messages":[{"role":"user","content":"hi"}],${field}}`) as unknown;
    const { completion } = readChatRequest(attack('"__proto__":{"temperature":2,"user":"root","polluted":1}'));
    expect(completion).toEqual(completionOf({}));
    const deeper = readChatRequest(
      attack('"x":{"__proto__":{"polluted":1}},"logit_bias":{"__proto__":1},"tool_choice":null'),
    );
    expect(deeper.completion.extraJson).toEqual({ x: '{"__proto__":{"polluted":1}}' });
    expect(Object.keys(deeper.completion.sampling!.logitBias)).toEqual([]);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
    const hollow = JSON.parse('{"__proto__":{"model":"m","messages":[{"role":"user","content":"hi"}]}}') as unknown;
    expect(refusalOf(() => readChatRequest(hollow)).field).toBe("model");
  });

  it("a valid conversation keeps every character of its texts and of its extra parameters", () => {
    const anyText = fc.string({ unit: "binary", maxLength: 40 });
    const turn = fc.oneof(
      anyText.map((content) => ({ role: "system", content })),
      anyText.map((content) => ({ role: "user", content })),
      fc
        .array(anyText, { minLength: 1, maxLength: 4 })
        .map((texts) => ({ role: "user", content: texts.map((text) => ({ type: "text", text })) })),
      anyText.map((content) => ({ role: "assistant", content })),
      anyText.map((content) => ({ role: "tool", tool_call_id: "c", content })),
    );
    const extra = fc.dictionary(
      fc.string().filter((name) => name !== "__proto__" && !/^[a-z_]+$/.test(name)),
      fc.jsonValue({ maxDepth: 3 }),
      { maxKeys: 3 },
    );
    const textsSent = (content: string | readonly { text: string }[]) =>
      typeof content === "string" ? [content] : content.map(({ text }) => text);
    const textsRead = ({ part }: ContentPart): string[] =>
      part?.$case === "text" ? [part.value] : part?.$case === "toolResult" ? part.value.content.flatMap(textsRead) : [];
    fc.assert(
      fc.property(fc.array(turn, { minLength: 1, maxLength: 5 }), extra, (conversation, fields) => {
        const body = JSON.parse(JSON.stringify({ ...fields, model: "m", messages: conversation })) as object;
        const { completion } = readChatRequest(body);
        expect(completion.messages.map(({ content }) => content.flatMap(textsRead))).toEqual(
          // An assistant's empty text is nothing said.
          conversation.map(({ role, content }) => (role === "assistant" && content === "" ? [] : textsSent(content))),
        );
        const read = Object.fromEntries(
          Object.entries(completion.extraJson).map(([name, text]) => [name, JSON.parse(text) as unknown]),
        );
        expect(read).toEqual(JSON.parse(JSON.stringify(fields)));
      }),
    );
  });
});
