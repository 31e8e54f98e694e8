import { describe, expect, it } from "vitest";
import { ModelProperties } from "../gen/cortex/provider/v1/provider.ts";
import { type Knowledge, knownOf, propertiesOf } from "./model-properties.ts";

const KNOWN: Record<string, Knowledge> = {
  seer: { capabilities: ["vision", "tools", "prefill"], contextTokensMax: 1_000 },
  writer: { contextTokensMax: 2_000 },
};

function properties(settings: Parameters<typeof propertiesOf>[0] = {}, models = ["seer", "writer", "stranger"]) {
  const known = (model: string) => (Object.hasOwn(KNOWN, model) ? KNOWN[model] : undefined);
  return propertiesOf(settings, models, known);
}

const configured = (fields: Knowledge) => ModelProperties.fromPartial(fields);

describe("the properties of a worker's models", () => {
  it("are what its adapter knows, and nothing for a model that nobody knows", () => {
    expect(properties()).toEqual({
      seer: { capabilities: ["vision", "tools", "prefill"], contextTokensMax: 1_000 },
      writer: { capabilities: [], contextTokensMax: 2_000 },
    });
  });

  it("are as configured, field by field: for the model, then for all, then as known", () => {
    const modelProperties = {
      seer: configured({ capabilities: ["audio"] }),
      writer: configured({ outputCostUsdPerMillion: 3 }),
      other: configured({ contextTokensMax: 7 }),
      "*": configured({ capabilities: ["code"], inputCostUsdPerMillion: 1, outputCostUsdPerMillion: 2 }),
    };
    const [input, output] = [{ inputCostUsdPerMillion: 1 }, { outputCostUsdPerMillion: 2 }];
    expect(properties({ modelProperties })).toEqual({
      seer: { capabilities: ["audio"], contextTokensMax: 1_000, ...input, ...output },
      writer: { capabilities: ["code"], contextTokensMax: 2_000, ...input, outputCostUsdPerMillion: 3 },
      other: { capabilities: ["code"], contextTokensMax: 7, ...input, ...output },
      "*": { capabilities: ["code"], ...input, ...output },
    });
  });

  it("have the worker's own capabilities too, which say all of the certain ones when they say one", () => {
    const of = (capabilities: string[]) => properties({ capabilities })["seer"]?.capabilities;
    expect(of(["code", "tools"])).toEqual(["code", "tools", "prefill"]);
    expect(of(["code"])).toEqual(["code", "vision", "tools", "prefill"]);
    // Where nothing is known the worker's own list holds by itself.
    expect(properties({ capabilities: ["code"] })["writer"]?.capabilities).toEqual([]);
  });

  it("take any name for a model, and no number that a message can't hold", () => {
    const names = ["__proto__", "constructor", "toString"];
    const found = propertiesOf({}, names, () => ({ contextTokensMax: 1e12 }));
    expect(Object.keys(found)).toEqual(names);
    for (const name of names) expect(Object.hasOwn(found, name)).toBe(true);
    const encoded = Object.values(found).map((each) => ModelProperties.encode(each).finish().length);
    expect(encoded).toEqual([0, 0, 0]);
  });
});

describe("families of models", () => {
  it("are tried in order", () => {
    const families = [
      { models: /^a-mini/, capabilities: ["tools"] },
      { models: /^a/, capabilities: ["tools", "vision"], contextTokensMax: 10 },
    ];
    expect(knownOf(families, "a-mini-1")).toEqual({ capabilities: ["tools"] });
    expect(knownOf(families, "a-1")).toEqual({ capabilities: ["tools", "vision"], contextTokensMax: 10 });
    expect(knownOf(families, "b")).toBeUndefined();
  });
});
