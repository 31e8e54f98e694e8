import { describe, expect, it } from "vitest";
import {
  type CompletionRequest,
  type ContentPart,
  ReasoningOptions_Effort as Effort,
  ResponseFormat_Kind as FormatKind,
  type Message,
  Role,
  ToolChoice_Mode as ToolMode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { ModelProperties } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { CAPABILITIES, misfit, needsOf, refusal, whyFit } from "./needs.ts";
import { estimateTokens } from "./token-estimate.ts";

const text = (value: string): ContentPart => ({ part: { $case: "text", value } });
const image: ContentPart = {
  part: {
    $case: "image",
    value: { source: { $case: "url", value: "https://example.com/a.png" }, mediaType: "", detail: "" },
  },
};
const audio: ContentPart = { part: { $case: "audio", value: { data: Buffer.alloc(10_000), mediaType: "audio/wav" } } };
const file: ContentPart = {
  part: {
    $case: "file",
    value: { source: { $case: "data", value: Buffer.alloc(9) }, mediaType: "application/pdf", filename: "" },
  },
};
const message = (role: Role, ...content: ContentPart[]): Message => ({ role, name: "", content });
const tool = { name: "weather", description: "", parametersJsonSchema: "{}", strict: false };

function request(content: string | Message[], fields: Partial<CompletionRequest> = {}): CompletionRequest {
  const messages = typeof content === "string" ? [message(Role.USER, text(content))] : content;
  return { model: "auto", messages, tools: [], logprobs: false, user: "", extraJson: {}, ...fields };
}

function candidate(capabilities: readonly string[], properties?: Partial<ModelProperties>) {
  return {
    capabilities: new Set(capabilities),
    properties: properties === undefined ? undefined : { capabilities: [], ...properties },
  };
}

const schema = { kind: FormatKind.JSON_SCHEMA, name: "", description: "", jsonSchema: "{}", strict: true };

describe("what is certain", () => {
  const certain = (asked: CompletionRequest) => needsOf(asked).certain.map(({ capability }) => capability);

  it("is seen in the messages, the tools and the response format", () => {
    expect(certain(request("hi"))).toEqual([]);
    expect(certain(request([message(Role.USER, text("what is it?"), image)]))).toEqual(["vision"]);
    expect(certain(request([message(Role.USER, audio)]))).toEqual(["audio"]);
    expect(certain(request([message(Role.USER, file)]))).toEqual(["files"]);
    expect(certain(request("hi", { tools: [tool] }))).toEqual(["tools"]);
    expect(certain(request("hi", { responseFormat: schema }))).toEqual(["json_schema"]);
    expect(certain(request([message(Role.USER, image, audio)], { tools: [tool], responseFormat: schema }))).toEqual([
      "vision",
      "audio",
      "tools",
      "json_schema",
    ]);
  });

  it("is seen in the result of a tool, and in earlier messages", () => {
    const result = { toolCallId: "1", name: "photo", content: [text("here"), image], isError: false };
    const messages = [
      message(Role.TOOL, { part: { $case: "toolResult", value: result } }),
      message(Role.USER, text("and now?")),
    ];
    expect(needsOf(request(messages)).certain).toEqual([
      { capability: "vision", certain: true, confidence: 1, why: "1 picture" },
    ]);
  });

  it("is not what may be left out: tools that must not be called, any JSON", () => {
    expect(certain(request("hi", { tools: [tool], toolChoice: { mode: ToolMode.NONE, name: "" } }))).toEqual([]);
    expect(certain(request("hi", { responseFormat: { ...schema, kind: FormatKind.JSON_OBJECT } }))).toEqual([]);
  });
});

describe("a worker is refused", () => {
  const picture = needsOf(request([message(Role.USER, image)]));

  it("when it declares some of the certain capabilities, and not the one that is needed", () => {
    expect(refusal(picture, candidate(["tools", "code"]))).toEqual({
      reason: "UNSUPPORTED_PARAMETER",
      message: "lacks the capability vision",
      field: "messages",
    });
    expect(refusal(needsOf(request("hi", { tools: [tool] })), candidate(["vision"]))).toMatchObject({ field: "tools" });
    expect(refusal(needsOf(request("hi", { responseFormat: schema })), candidate(["vision"]))).toMatchObject({
      field: "response_format",
    });
  });

  it("never when nothing is known of it, nor for a guess", () => {
    expect(refusal(picture, candidate([]))).toBeUndefined();
    expect(refusal(picture, candidate(["code", "fast"]))).toBeUndefined();
    expect(refusal(picture, candidate(["vision", "tools"]))).toBeUndefined();
    const code = needsOf(request("Write a Python function that adds two numbers."));
    expect(code.guessed[0]).toMatchObject({ capability: "code", certain: false });
    expect(refusal(code, candidate(["translation", "vision"]))).toBeUndefined();
  });

  it("for length when the prompt surely does not fit, with the room that the answer asks for", () => {
    const long = needsOf(request("a few words of English prose ".repeat(1_000)));
    expect(long.inputTokens).toBeGreaterThan(5_000);
    expect(refusal(long, candidate([], { contextTokensMax: 2_048 }))).toMatchObject({
      reason: "CONTEXT_LENGTH_EXCEEDED",
      field: "messages",
      message: expect.stringMatching(/^takes 2048 tokens, and the prompt has about \d+$/),
    });
    // It may be that the estimate is too high.
    expect(refusal(long, candidate([], { contextTokensMax: 6_000 }))).toBeUndefined();
    expect(refusal(long, candidate([], {}))).toBeUndefined();
    expect(refusal(long, candidate([]))).toBeUndefined();
    const room = needsOf(request("hi", { maxOutputTokens: 5_000 }));
    expect(refusal(room, candidate([], { contextTokensMax: 4_096 }))).toMatchObject({
      message: "takes 4096 tokens, and the prompt has about 1 and 5000 for the answer",
    });
  });

  it("for a prompt that fits in bytes but not in tokens, in scripts with much in a character", () => {
    const chinese = needsOf(request("委员会在春季再次召开会议，听取了各地区办公室的汇报。".repeat(200)));
    expect(chinese.inputTokens).toBeGreaterThan(3_000);
    expect(refusal(chinese, candidate([], { contextTokensMax: 1_024 }))).toMatchObject({
      reason: "CONTEXT_LENGTH_EXCEEDED",
    });
  });
});

describe("among those that can serve", () => {
  const code = needsOf(request("Write a Python function that adds two numbers."));

  it("come first those that declare what is guessed, then those that declare nothing of the kind, then all others", () => {
    const order = [["code"], [], ["translation"]].map((words) => misfit(code, candidate(words)));
    expect(order[0]).toBe(0);
    expect(order).toEqual([...order].sort((a, b) => a - b));
    expect(new Set(order).size).toBe(3);
  });

  it("come those that may lack what is certain after all that have it", () => {
    const needs = needsOf(request([message(Role.USER, text("Write a Python function for this chart."), image)]));
    const fits = [["vision", "code"], ["vision"], ["vision", "translation"], ["code"], []].map((words) =>
      misfit(needs, candidate(words)),
    );
    expect(fits).toEqual([...fits].sort((a, b) => a - b));
    expect(Math.max(...fits)).toBeLessThan(20);
  });

  it("none is worse when nothing stands out", () => {
    const plain = needsOf(request("Draft an invitation to my mother's birthday, in rhymes."));
    expect(plain.guessed).toEqual([]);
    for (const words of [[], ["code"], ["vision", "translation"]]) expect(misfit(plain, candidate(words))).toBe(0);
  });

  it("each says what bears on its place", () => {
    expect(whyFit(code, candidate(["code", "vision"]))).toEqual(["meant for code"]);
    expect(whyFit(code, candidate(["translation"]))).toEqual(["meant for other work: translation"]);
    expect(whyFit(code, candidate([]))).toEqual([]);
    expect(whyFit(needsOf(request("hi there, how are you all?", { tools: [tool] })), candidate(["fast"]))).toContain(
      "does not say whether it has tools",
    );
  });
});

describe("what is guessed", () => {
  const guessed = (asked: CompletionRequest) => needsOf(asked).guessed.map(({ capability }) => capability);

  it("is reasoning for sure when the request asks for effort, and then nothing is simple", () => {
    const reasoning = (effort: Effort) => request("What is the capital of Peru?", { reasoning: { effort } });
    expect(needsOf(reasoning(Effort.HIGH)).guessed).toEqual([
      { capability: "reasoning", certain: false, confidence: 1, why: "the request asks for reasoning" },
    ]);
    expect(guessed(reasoning(Effort.NONE))).toEqual(["simple"]);
    expect(guessed(reasoning(Effort.UNSPECIFIED))).toEqual(["simple"]);
  });

  it("is a long context for a long prompt, whichever message makes it long", () => {
    const report = text("The committee met again in spring and heard the reports. ".repeat(700));
    expect(
      guessed(request([message(Role.SYSTEM, report), message(Role.USER, text("Draft an answer for me."))])),
    ).toEqual(["long_context"]);
  });

  it("is taken from what the user says last, and from what was said before when that says nothing", () => {
    const earlier = [
      message(Role.USER, text("Write a Python function that adds two numbers.")),
      message(Role.ASSISTANT, text("```python\ndef add(a, b):\n    return a + b\n```")),
    ];
    expect(guessed(request([...earlier, message(Role.USER, text("now with three please"))]))).toEqual(["code"]);
    expect(guessed(request([...earlier, message(Role.USER, text("Translate this to German: good morning"))]))[0]).toBe(
      "translation",
    );
  });

  it("is nothing without a text", () => {
    expect(guessed(request([message(Role.USER, image)]))).toEqual([]);
    expect(guessed(request([message(Role.SYSTEM, text("You are kind."))]))).toEqual([]);
    expect(guessed(request([]))).toEqual([]);
  });
});

describe("the estimate of tokens", () => {
  // Counted with OpenAI's tokenizer o200k_base.
  it.each([
    ["English", "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the morning.", 21],
    [
      "German",
      "Die Versammlung beschloss nach längerer Aussprache, den Bericht des Vorstands zur Kenntnis zu nehmen.",
      22,
    ],
    ["Russian", "Комиссия вновь собралась весной и заслушала доклады областных отделений об уровне воды.", 22],
    ["Arabic", "اقترح خطة رحلة إلى المغرب لمدة أسبوع مع الأطفال.", 12],
    ["Hindi", "पर्यावरण संरक्षण पर 200 शब्दों का निबंध लिखो और उसमें अपने विचार भी जोड़ो।", 23],
    ["Korean", "위원회는 봄에 다시 모여 각 지역 사무소로부터 수위와 수확, 도로 상태에 관한 보고를 들었다.", 32],
    ["Chinese", "委员会在春季再次召开会议，听取了各地区办公室关于水位、收成和道路情况的汇报。", 27],
    ["code", "for (let i = 0; i < rows.length; i++) {\n  total += rows[i].price * rows[i].count;\n}", 30],
    ["spaces", " ".repeat(100_000), 782],
    ["ruled lines", "=".repeat(1_000), 16],
  ])("is about right for %s, and never more than twice as high", (_language, sample, tokens) => {
    expect(estimateTokens(sample) / tokens).toBeGreaterThan(0.6);
    expect(estimateTokens(sample) / tokens).toBeLessThan(2);
  });

  it("is taken from samples of a long text, and grows with its length", () => {
    const sentence = "A few words of prose, and some more of them. ";
    const once = estimateTokens(sentence.repeat(10));
    expect(estimateTokens(sentence.repeat(10_000)) / (once * 1_000)).toBeCloseTo(1, 1);
    expect(estimateTokens("")).toBe(0);
    expect(estimateTokens(" ".repeat(100_000))).toBeLessThan(10_000);
  });
});

it("every capability that refuses names the field that asks for it", () => {
  for (const capability of Object.values(CAPABILITIES)) {
    expect("field" in capability).toBe(capability.use === "refuses");
  }
});
