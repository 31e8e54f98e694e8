import { describe, expect, it } from "vitest";
import {
  CompletionRequest,
  FinishReason,
  Part,
  ResponseFormat_Kind,
  Role,
  ToolChoice_Mode,
} from "../gen/cortex/llm/v1/llm.ts";
import { AnswerSoFar, continuationRequest } from "./index.ts";

const PLAIN = CompletionRequest.create({
  model: "m",
  messages: [
    { role: Role.SYSTEM, content: [{ part: { $case: "text", value: "Be kind." } }] },
    { role: Role.USER, content: [{ part: { $case: "text", value: "Go" } }] },
  ],
});

const text = (value: string) => Part.create({ part: { $case: "text", value: { text: value } } });
const reasoning = (value: string) => Part.create({ part: { $case: "reasoning", value: { text: value } } });
const finish = (choice = 0) => Part.create({ part: { $case: "finish", value: { choice, reason: FinishReason.STOP } } });

function answered(request: CompletionRequest, ...parts: Part[]): AnswerSoFar {
  const answer = new AnswerSoFar(request);
  for (const part of parts) answer.add([part]);
  return answer;
}

describe("what has been seen of an answer", () => {
  it("is its text, and how much the model has put out", () => {
    const answer = answered(PLAIN, reasoning("Let me think."), text("Hel"), text("lo"));
    expect(answer.text).toBe("Hello");
    expect(answer.outputCharacters).toBe(18);
    expect(answer.obstacle()).toBeUndefined();
  });

  it("is finished when every choice is", () => {
    const two = { ...PLAIN, choiceCount: 2 };
    expect(answered(PLAIN, text("Hi")).finished).toBe(false);
    expect(answered(PLAIN, text("Hi"), finish()).finished).toBe(true);
    expect(answered(two, finish(0)).finished).toBe(false);
    expect(answered(two, finish(0), finish(1)).finished).toBe(true);
  });

  const call = Part.create({ part: { $case: "toolCall", value: { id: "1", name: "look" } } });
  const refusal = Part.create({ part: { $case: "refusal", value: { text: "I" } } });
  it.each([
    ["a tool call", answered(PLAIN, text("Let me look."), call)],
    ["reasoning", answered(PLAIN, reasoning("Hm"))],
    ["reasoning", answered(PLAIN, text("Hi"), reasoning("Hm"))],
    ["refusal", answered(PLAIN, refusal)],
    ["JSON", answered({ ...PLAIN, responseFormat: formatOf(ResponseFormat_Kind.JSON_OBJECT) }, text("{"))],
    ["JSON", answered({ ...PLAIN, responseFormat: formatOf(ResponseFormat_Kind.JSON_SCHEMA) }, text("{"))],
    ["choice", answered({ ...PLAIN, choiceCount: 2 }, text("Hi"))],
    ["probabilities", answered({ ...PLAIN, logprobs: true }, text("Hi"))],
    ["too long", answered(PLAIN, ...Array.from({ length: 3 }, () => text("x".repeat(500_000))))],
  ])("has an obstacle: %s", (word, answer) => {
    expect(answer.obstacle()).toContain(word);
  });

  it("keeps no more text than it may", () => {
    const answer = answered(PLAIN, ...Array.from({ length: 5 }, () => text("x".repeat(500_000))));
    expect(answer.text.length).toBeLessThanOrEqual(1_048_576);
    expect(answer.outputCharacters).toBeLessThanOrEqual(1_048_576);
  });

  it("has no obstacle in plain text as the format", () => {
    expect(
      answered({ ...PLAIN, responseFormat: formatOf(ResponseFormat_Kind.TEXT) }, text("Hi")).obstacle(),
    ).toBeUndefined();
  });
});

function formatOf(kind: ResponseFormat_Kind) {
  return { kind, name: "", description: "", jsonSchema: "", strict: false };
}

describe("the request to go on", () => {
  const said = "One two three ";

  it("as a prefill ends in what was said, without the blanks at its end", () => {
    const { messages, ...rest } = continuationRequest(PLAIN, said, "prefill");
    expect(messages.slice(0, 2)).toEqual(PLAIN.messages);
    expect(messages.slice(2)).toEqual([
      { role: Role.ASSISTANT, content: [{ part: { $case: "text", value: "One two three" } }], name: "" },
    ]);
    const { messages: _messages, ...unchanged } = PLAIN;
    expect(rest).toEqual(unchanged);
  });

  it("as an instruction adds the user's wish and leaves all other messages alone", () => {
    const { messages } = continuationRequest(PLAIN, said, "instruction");
    expect(messages.slice(0, 3)).toEqual(continuationRequest(PLAIN, said, "prefill").messages);
    expect(messages).toHaveLength(4);
    expect(messages[3]?.role).toBe(Role.USER);
    expect(messages[3]?.content[0]?.part?.value).toEqual(expect.stringMatching(/\n\nOne two three$/));
  });

  it("asks for the last words only, of a long answer", () => {
    const long = Array.from({ length: 500 }, (_, index) => `word${index}`).join(" ");
    const { messages } = continuationRequest(PLAIN, long, "instruction");
    const last = Array.from({ length: 8 }, (_, index) => `word${index + 492}`).join(" ");
    expect(messages.at(-1)?.content[0]?.part?.value).toEqual(expect.stringMatching(new RegExp(`\n\n${last}$`)));
  });

  it("grows the message that the client had begun for the assistant", () => {
    const begun = { role: Role.ASSISTANT, content: [{ part: { $case: "text" as const, value: "Well," } }], name: "" };
    const { messages } = continuationRequest({ ...PLAIN, messages: [...PLAIN.messages, begun] }, " yes", "prefill");
    expect(messages.slice(2)).toEqual([
      { ...begun, content: [...begun.content, { part: { $case: "text", value: " yes" } }] },
    ]);
  });

  it("asks for as much less as has been said, and always for something", () => {
    const bounded = { ...PLAIN, maxOutputTokens: 100 };
    expect(continuationRequest(bounded, "x".repeat(40), "prefill").maxOutputTokens).toBe(90);
    expect(continuationRequest(bounded, "x".repeat(4_000), "prefill").maxOutputTokens).toBe(1);
    const instructed = continuationRequest(bounded, "x".repeat(40), "instruction").maxOutputTokens!;
    expect(instructed).toBeGreaterThan(90);
  });

  it("keeps tools, sampling and the rest", () => {
    const request = CompletionRequest.create({
      ...PLAIN,
      toolChoice: { mode: ToolChoice_Mode.AUTO },
      sampling: { temperature: 0.5, stop: ["END"] },
      extraJson: { seed: "1" },
    });
    const { messages: _messages, ...rest } = continuationRequest(request, said, "instruction");
    const { messages: _unchanged, ...expected } = request;
    expect(rest).toEqual(expected);
  });

  it("asks anew where only blanks have been said", () => {
    expect(continuationRequest(PLAIN, " \n", "instruction")).toBe(PLAIN);
  });
});
