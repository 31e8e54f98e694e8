import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  assistant,
  look,
  type PartialMessage,
  reasoning,
  text,
  user,
} from "../../libs/adapter/testing/conversation.ts";
import { testDialect } from "../../libs/adapter/testing/index.ts";
import { contextFor, createSend, refusal } from "../../libs/adapter/testing/sending.ts";
import {
  CompletionRequest,
  type DeepPartial,
  ReasoningOptions_Effort as Effort,
  EmbeddingRequest,
  type Message,
  ResponseFormat_Kind,
  Role,
  ToolChoice_Mode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { gemini } from "./dialect.ts";

testDialect(gemini, { folder: join(import.meta.dirname, "fixtures"), model: "gemini-2.5-flash" });

const image = (url: string) => ({
  part: { $case: "image" as const, value: { source: { $case: "url" as const, value: url } } },
});
const result = (value: DeepPartial<Extract<Message["content"][number]["part"], { $case: "toolResult" }>["value"]>) => ({
  role: Role.TOOL,
  content: [{ part: { $case: "toolResult" as const, value } }],
});

const send = createSend(gemini, "gemini-2.5-flash");
const refused = (request: DeepPartial<CompletionRequest>, name?: string) => refusal(() => send(request, name).body);

describe("how much a model of Gemini is to think", () => {
  const thinking = (name: string, effort: Effort, budgetTokens?: number) => {
    const { body, warned } = send({ reasoning: { effort, budgetTokens } }, name);
    const { includeThoughts, ...config } = body.generationConfig?.thinkingConfig ?? {};
    return [config, includeThoughts === true, warned.length];
  };

  it("is a number of tokens for Gemini 2.5", () => {
    expect(thinking("gemini-2.5-flash", Effort.NONE)).toEqual([{ thinkingBudget: 0 }, false, 0]);
    expect(thinking("gemini-2.5-pro", Effort.NONE)).toEqual([{ thinkingBudget: 128 }, false, 1]);
    expect(thinking("gemini-2.5-flash-lite", Effort.MINIMAL)).toEqual([{ thinkingBudget: 1024 }, true, 0]);
    expect(thinking("gemini-2.5-flash", Effort.MEDIUM)).toEqual([{ thinkingBudget: 8192 }, true, 0]);
    expect(thinking("gemini-2.5-flash", Effort.HIGH)).toEqual([{ thinkingBudget: 24_576 }, true, 0]);
    expect(thinking("gemini-2.5-flash", Effort.MAX)).toEqual([{ thinkingBudget: 24_576 }, true, 0]);
    expect(thinking("gemini-2.5-pro", Effort.MAX)).toEqual([{ thinkingBudget: 32_768 }, true, 0]);
    expect(thinking("gemini-2.5-flash", Effort.HIGH, 500)).toEqual([{ thinkingBudget: 500 }, true, 0]);
  });

  it("is a level from Gemini 3 on, and for names without a number", () => {
    expect(thinking("gemini-3-flash-preview", Effort.NONE)).toEqual([{ thinkingLevel: "minimal" }, false, 1]);
    expect(thinking("gemini-flash-latest", Effort.MINIMAL)).toEqual([{ thinkingLevel: "minimal" }, true, 0]);
    expect(thinking("gemini-3.1-pro-preview", Effort.NONE)).toEqual([{ thinkingLevel: "low" }, false, 1]);
    expect(thinking("gemini-3-pro-preview", Effort.MINIMAL)).toEqual([{ thinkingLevel: "low" }, true, 1]);
    expect(thinking("gemini-3-pro-preview", Effort.MEDIUM)).toEqual([{ thinkingLevel: "high" }, true, 1]);
    expect(thinking("gemini-3.1-pro-preview", Effort.MEDIUM)).toEqual([{ thinkingLevel: "medium" }, true, 0]);
    expect(thinking("gemini-4-argon", Effort.LOW)).toEqual([{ thinkingLevel: "low" }, true, 0]);
    expect(thinking("gemini-3-flash", Effort.MAX)).toEqual([{ thinkingLevel: "high" }, true, 1]);
    expect(thinking("gemini-3-flash", Effort.HIGH, 500)).toEqual([{ thinkingLevel: "high" }, true, 1]);
    expect(thinking("gemini-3-flash", Effort.UNSPECIFIED, 500)).toEqual([{ thinkingBudget: 500 }, true, 0]);
  });

  it("is nothing for those that do not think", () => {
    expect(thinking("gemini-2.0-flash", Effort.NONE)).toEqual([{}, false, 0]);
    expect(thinking("gemini-2.0-flash", Effort.HIGH)).toEqual([{}, false, 1]);
    expect(thinking("gemma-3-27b-it", Effort.UNSPECIFIED, 9)).toEqual([{}, false, 1]);
  });
});

describe("thought signatures", () => {
  const parts = (name: string, ...content: NonNullable<PartialMessage["content"]>) =>
    send({ messages: [user(text("hi")), assistant(...content)] }, name).body.contents[1].parts;

  it("go back where they came from", () => {
    expect(parts("gemini-2.5-flash", reasoning("hm", "gemini:c2ln"), text("391"))).toEqual([
      { text: "hm", thought: true },
      { text: "391", thoughtSignature: "c2ln" },
    ]);
    expect(parts("gemini-2.5-flash", text("391"), reasoning("", "gemini:c2ln"))).toEqual([
      { text: "391" },
      { text: "", thoughtSignature: "c2ln" },
    ]);
    expect(parts("gemini-3-pro", reasoning("", "gemini:dGV4dA=="), look("a", "gemini:c2ln"), look("b"))).toEqual([
      { text: "", thoughtSignature: "dGV4dA==" },
      { functionCall: { id: "a", name: "look", args: {} }, thoughtSignature: "c2ln" },
      { functionCall: { id: "b", name: "look", args: {} } },
    ]);
  });

  it("of other providers stay away, and a model that insists on one is told that there is none", () => {
    const foreign = [reasoning("hm", "anthropic:c2ln"), look("a", "anthropic:c2ln"), look("b")];
    const calls = (name: string) => parts(name, ...foreign).map((part: object) => Object.keys(part).sort());
    expect(calls("gemini-2.5-flash")).toEqual([["text", "thought"], ["functionCall"], ["functionCall"]]);
    expect(calls("gemini-3-pro")).toEqual([
      ["text", "thought"],
      ["functionCall", "thoughtSignature"],
      ["functionCall"],
    ]);
    expect(parts("gemini-3-pro", ...foreign)[1].thoughtSignature).toBe("skip_thought_signature_validator");
  });
});

describe("what Gemini is sent", () => {
  it("is the model by a path that leads nowhere else", () => {
    expect(send({}, "models/gemini-2.5-pro").path).toBe("/models/gemini-2.5-pro:generateContent");
    expect(send({}, "tunedModels/mine").path).toBe("/tunedModels/mine:generateContent");
    expect(send({}, "../v1/files?key=x#").path).toBe("/models/..%2Fv1%2Ffiles%3Fkey%3Dx%23:generateContent");
    const { path } = gemini.embedding!.request(EmbeddingRequest.fromPartial({ inputs: ["a"] }), contextFor("a b"));
    expect(path).toBe("/models/a%20b:batchEmbedContents");
  });

  it("has the system's words in one place, and says when that moved them", () => {
    const system = (value: string): PartialMessage => ({ role: Role.SYSTEM, content: [text(value)] });
    const messages = [system("one"), user(text("hi")), system("two"), user(text("ho"))];
    const { body, warned } = send({ messages });
    expect(body.systemInstruction).toEqual({ parts: [{ text: "one" }, { text: "two" }] });
    expect(body.contents).toEqual([{ role: "user", parts: [{ text: "hi" }, { text: "ho" }] }]);
    expect(warned).toEqual(["messages[2]"]);
    const gemma = send({ messages: messages.slice(0, 2) }, "gemma-3-27b-it").body;
    expect(gemma).toEqual({ contents: [{ role: "user", parts: [{ text: "one" }, { text: "hi" }] }] });
    expect(refused({ messages: [system("one")] })).toBe("UNSUPPORTED_PARAMETER messages");
  });

  it("has the results of tools together, under names, apart from what the user says", () => {
    const picture = {
      part: {
        $case: "image" as const,
        value: { source: { $case: "data" as const, value: Buffer.from("x") }, mediaType: "image/png" },
      },
    };
    const messages = (content: NonNullable<PartialMessage["content"]>) => [
      user(text("hi")),
      assistant(look("a"), look("b")),
      result({ toolCallId: "a", content }),
      result({ toolCallId: "b", name: "seek", content: [text("[1, 9007199254740993]")] }),
      user(text("so?")),
    ];
    const full = CompletionRequest.fromPartial({ messages: messages([text("[not JSON")]) });
    const body = gemini.chatRequest(full, false, contextFor("gemini-2.5-flash")).body ?? "";
    expect(body).toContain('"response":{"output":[1, 9007199254740993]}');
    expect(JSON.parse(body).contents.slice(2)).toMatchObject([
      {
        role: "user",
        parts: [
          { functionResponse: { id: "a", name: "look", response: { output: "[not JSON" } } },
          { functionResponse: { id: "b", name: "seek" } },
        ],
      },
      { role: "user", parts: [{ text: "so?" }] },
    ]);
    expect(refused({ messages: messages([picture]) })).toBe("UNSUPPORTED_PARAMETER messages[2].content[0]");
    expect(refused({ messages: messages([picture]) }, "gemini-3-flash")).toMatchObject({
      contents: { 2: { parts: { 0: { functionResponse: { parts: [{ inlineData: { mimeType: "image/png" } }] } } } } },
    });
    expect(refused({ messages: [user(text("hi")), result({ toolCallId: "c" })] })).toBe(
      "INVALID_REQUEST messages[1].tool_call_id",
    );
  });

  it("has pictures and files by an address that Google can fetch", () => {
    const sent = (url: string, name?: string) => refused({ messages: [user(image(url))] }, name);
    expect(sent("https://example.com/a.PNG?size=1")).toMatchObject({
      contents: [{ parts: [{ fileData: { mimeType: "image/png", fileUri: "https://example.com/a.PNG?size=1" } }] }],
    });
    expect(sent("https://example.com/picture")).toEqual({
      contents: [{ role: "user", parts: [{ fileData: { fileUri: "https://example.com/picture" } }] }],
    });
    const field = "messages[0].content[0].image_url.url";
    expect(sent("http://example.com/a.png")).toBe(`UNSUPPORTED_PARAMETER ${field}`);
    expect(sent("https://example.com/a.png", "gemini-2.0-flash")).toBe(`UNSUPPORTED_PARAMETER ${field}`);
    const file = (value: string) => ({
      part: { $case: "file" as const, value: { source: { $case: "providerFileId" as const, value } } },
    });
    expect(refused({ messages: [user(file("files/abc-1"))] })).toMatchObject({
      contents: [
        { parts: [{ fileData: { fileUri: "https://generativelanguage.googleapis.com/v1beta/files/abc-1" } }] },
      ],
    });
    expect(refused({ messages: [user(file("file-abc"))] })).toBe(
      "UNSUPPORTED_PARAMETER messages[0].content[0].file.file_id",
    );
  });

  it("says how tools are to be called", () => {
    const tools = [{ name: "look", strict: true }, { name: "seek" }];
    const mode = (choice: ToolChoice_Mode, name?: string) =>
      send({ tools, toolChoice: { mode: choice } }, name).body.toolConfig?.functionCallingConfig.mode;
    expect(mode(ToolChoice_Mode.AUTO)).toBe("VALIDATED");
    expect(mode(ToolChoice_Mode.AUTO, "gemini-2.0-flash")).toBe("AUTO");
    expect(mode(ToolChoice_Mode.REQUIRED)).toBe("ANY");
    expect(send({ tools: [{ name: "seek" }] }).body.toolConfig).toBeUndefined();
    expect(send({ toolChoice: { mode: ToolChoice_Mode.NONE } }).body.toolConfig).toBeUndefined();
  });

  it("is refused where it would come to something else", () => {
    const json = { kind: ResponseFormat_Kind.JSON_OBJECT };
    const tools = [{ name: "look" }];
    expect(refused({ responseFormat: json, tools })).toBe("UNSUPPORTED_PARAMETER response_format");
    expect(refused({ responseFormat: json, tools }, "gemini-3-flash")).toHaveProperty("tools");
    expect(refused({ sampling: { stop: ["a", "b", "c", "d", "e", "f"] } })).toBe("UNSUPPORTED_PARAMETER stop");
    expect(refused({ sampling: { seed: 2 ** 31 } })).toBe("UNSUPPORTED_PARAMETER seed");
    expect(refused({ tools: [{ name: "t", parametersJsonSchema: "[]" }] })).toBe(
      "INVALID_REQUEST tools[0].function.parameters",
    );
  });

  it("has its key in a header alone, and none when there is none", () => {
    expect(gemini.authorization("k")).toEqual({ "x-goog-api-key": "k" });
    expect(gemini.authorization("")).toEqual({});
  });
});

describe("arguments in pieces", () => {
  const read = (...pieces: object[]) => {
    const reader = gemini.chatEvents(contextFor("gemini-3-pro"));
    for (const functionCall of [{ name: "f", willContinue: true }, ...pieces]) {
      const candidates = [{ content: { parts: [{ functionCall }] } }];
      reader.read({ name: "", data: JSON.stringify({ candidates }) }, []);
    }
  };
  const piece = (jsonPath: string) => ({ partialArgs: [{ jsonPath, numberValue: 1 }], willContinue: true });

  it("make no array with holes, and nothing that was not asked for", () => {
    for (const path of ["$.a[4294967290]", "$.a[1]", "$", "", "a.b", "$.a[", `$${".a".repeat(100)}`]) {
      expect(() => read(piece(path)), path).toThrow(expect.objectContaining({ reason: "PROVIDER_INVALID_ANSWER" }));
    }
    read(piece("$.__proto__.polluted"), piece("$.constructor.prototype.polluted"));
    expect(Object.hasOwn(Object.prototype, "polluted")).toBe(false);
  });
});
