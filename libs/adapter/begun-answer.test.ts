import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompletionRequest, type ContentPart, type DeepPartial, Role } from "../gen/cortex/llm/v1/llm.ts";
import { begunAnswer, Repetition } from "./begun-answer.ts";

const text = (value: string) => ({ part: { $case: "text" as const, value } });
const call = { part: { $case: "toolCall" as const, value: { id: "1", name: "f", argumentsJson: "{}" } } };

describe("the answer that a request begins", () => {
  const begun = (role: Role, ...content: DeepPartial<ContentPart>[]) =>
    begunAnswer(CompletionRequest.fromPartial({ messages: [{ role, content }] }).messages);

  it("is the text of an assistant's message at the end", () => {
    expect(begun(Role.ASSISTANT, text("One, "), text("two"))).toBe("One, two");
    expect(begun(Role.USER, text("One"))).toBeUndefined();
    expect(begun(Role.ASSISTANT, text("Let me look."), call)).toBeUndefined();
    expect(begunAnswer([])).toBeUndefined();
  });
});

describe("a repetition of the beginning", () => {
  const read = (begun: string, pieces: readonly string[]) => {
    const repetition = new Repetition(begun);
    return pieces.map((piece) => repetition.push(piece)).join("") + repetition.end();
  };

  it("is taken off, however it is cut, and once only", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.array(fc.nat(60)), (begun, rest, cuts) => {
        const whole = begun + rest;
        const at = [0, ...cuts.map((cut) => Math.min(cut, whole.length)).sort((a, b) => a - b), whole.length];
        expect(
          read(
            begun,
            at.slice(1).map((end, index) => whole.slice(at[index], end)),
          ),
        ).toBe(rest);
      }),
    );
    expect(read("la", ["la", "la", "la"])).toBe("lala");
  });

  it("leaves an answer alone that only begins alike, or goes on", () => {
    expect(read("One, two, ", ["One, ", "three"])).toBe("One, three");
    expect(read("One, two, ", ["One, "])).toBe("One, ");
    expect(read("One, two, ", ["three", " One, two, "])).toBe("three One, two, ");
  });
});
