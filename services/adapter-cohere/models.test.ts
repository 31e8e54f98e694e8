import { describe, expect, it } from "vitest";
import { cohere } from "./dialect.ts";

describe("what is known of Cohere's models", () => {
  it("is certain for these, and nothing for others", () => {
    const known = (model: string) => cohere.modelProperties?.(model)?.capabilities;
    expect(known("command-a-03-2025")).toEqual(["tools", "json_schema"]);
    expect(known("command-r-plus-08-2024")).toEqual(["tools", "json_schema"]);
    for (const model of ["command-nightly", "command-a-vision-07-2025"]) expect(known(model)).toBeUndefined();
  });

  it("is what the list says, for those that chat", () => {
    const list = (model: object) => cohere.modelsAnswer({ models: [{ name: "m", ...model }] })[0]?.properties;
    expect(list({ endpoints: ["chat"], features: ["tools", "vision", "logprobs"], context_length: 10 })).toEqual({
      capabilities: ["tools", "vision"],
      contextTokensMax: 10,
    });
    expect(list({ endpoints: ["embed"], features: null, context_length: 10 })).toBeUndefined();
  });
});
