/** Keys: another request never has the same one, and the same request always has. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompletionRequest, EmbeddingRequest } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import { answerKey, vectorKeys } from "./key.ts";
import { arbitraryMessage, fullMessage, messageType, variations } from "./test-messages.ts";

const chatType = messageType("cortex.llm.v1.CompletionRequest");
const embeddingType = messageType("cortex.llm.v1.EmbeddingRequest");
const chats = arbitraryMessage<CompletionRequest>(chatType);
const embeddings = arbitraryMessage<EmbeddingRequest>(embeddingType);

const plain = CompletionRequest.fromPartial({
  model: "gpt-4o",
  messages: [{ role: 2, content: [{ part: { $case: "text", value: "hi" } }] }],
});
const key = (request: CompletionRequest): string => answerKey(request, "acme", "gpt-4o");
const withSchema = (schema: string): CompletionRequest => ({
  ...plain,
  tools: [{ name: "find", description: "", parametersJsonSchema: schema, strict: false }],
});
const withFormat = (schema: string): CompletionRequest => ({
  ...plain,
  responseFormat: { kind: 3, name: "", description: "", jsonSchema: schema, strict: true },
});
const withExtra = (json: string): CompletionRequest => ({ ...plain, extraJson: { extra: json } });
/** All the places where a request holds JSON. */
const PLACES = [withSchema, withFormat, withExtra];

/** JSON as schemas have it: no numbers that a double can't hold. */
const jsonValues = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.constant(null)),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(fc.oneof(fc.string(), fc.constant("__proto__")), tie("value"), { maxKeys: 4, noNullPrototype: true }),
  ),
})).value;

/** The same JSON, written in another way. */
function rewritten(value: unknown, space: string): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item) => rewritten(item, space)).join(`${space},`)}]`;
  const members = Object.keys(value).map(
    (name) => `${JSON.stringify(name)}${space}:${rewritten((value as Record<string, unknown>)[name], space)}`,
  );
  return `{${space}${members.reverse().join(`,${space}`)}}`;
}

describe("the key of an answer", () => {
  it("is another one when any field is another one, wherever it is in the request", () => {
    fc.assert(
      fc.property(chats, (request) => {
        const before = key(request);
        for (const { path, message } of variations(chatType, request)) expect(key(message), path).not.toBe(before);
      }),
    );
  });

  it("is another one for each field of the contract that is another one", () => {
    const request = fullMessage<CompletionRequest>(chatType);
    const before = key(request);
    const paths = variations(chatType, request).map(({ path, message }) => {
      expect(key(message), path).not.toBe(before);
      return path;
    });
    expect(paths).toContain("user=other");
    expect(paths).toContain("sampling.temperature=nothing");
    // An image among what a tool has answered.
    expect(paths).toContain("messages[0].content[5].part.content[1].part.source=other");
    expect(paths.length).toBeGreaterThan(100);
  });

  it("is the same for the same request, also after it has travelled", () => {
    fc.assert(
      fc.property(chats, (request) => {
        const travelled = CompletionRequest.decode(CompletionRequest.encode(request).finish());
        expect(key(travelled)).toBe(key(request));
      }),
    );
  });

  it("is the same when maps and the keys of JSON objects come in another order", () => {
    fc.assert(
      fc.property(jsonValues, fc.constantFrom("", " ", "\n\t"), fc.nat(), (value, space, count) => {
        for (const place of PLACES) expect(key(place(rewritten(value, space)))).toBe(key(place(JSON.stringify(value))));
        const entries = Array.from({ length: count % 5 }, (_, index): [string, string] => [`field_${index}`, "{}"]);
        const reordered = { ...plain, extraJson: Object.fromEntries(entries.toReversed()) };
        expect(key(reordered)).toBe(key({ ...plain, extraJson: Object.fromEntries(entries) }));
      }),
    );
    const biased = (...ids: string[]): CompletionRequest => ({
      ...plain,
      sampling: { stop: [], logitBias: Object.fromEntries(ids.map((id) => [id, 1])) },
    });
    expect(key(biased("b", "a", "1"))).toBe(key(biased("1", "a", "b")));
  });

  it("is another one when JSON says something else", () => {
    fc.assert(
      fc.property(jsonValues, jsonValues, (one, other) => {
        const same = rewritten(sortedDeep(one), "") === rewritten(sortedDeep(other), "");
        for (const place of PLACES) {
          expect(key(place(JSON.stringify(one))) === key(place(rewritten(other, " ")))).toBe(same);
        }
      }),
    );
  });

  it.each([
    ["a key that is there twice", '{"a":1,"a":2}', '{"a":2}'],
    ["a number beyond a double", '{"a":12345678901234567890}', '{"a":12345678901234567891}'],
    ["a fraction beyond a double", '{"a":0.12345678901234567}', '{"a":0.12345678901234568}'],
    ["a key twice that an exponent would make up for", '{"a":1,"a":1e8}', '{"a":100000000}'],
    ["a number that is infinite", '{"a":1e400}', '{"a":null}'],
    ["the order of a list", '["a","b"]', '["b","a"]'],
    ["a number that is a text", "1", '"1"'],
    ["a text that is no JSON", "{a:1}", "{a: 1}"],
    ["space within a text", '{"a":"b c"}', '{"a":"bc"}'],
    ["a key that objects have anyway", '{"__proto__":1}', "{}"],
    ["a broken character", '{"a":"\ud800"}', '{"a":"\ufffd"}'],
    ["one nested beyond measure", "[".repeat(100_000), "[".repeat(100_001)],
  ])("heeds in JSON: %s", (_what, one, other) => {
    for (const place of PLACES) expect(key(place(one))).not.toBe(key(place(other)));
  });

  it("is the same for JSON of which only the form differs, within properties too", () => {
    const one = '{"type":"object","properties":{"a":{"type":"string","description":"x"},"b":{}},"required":["a"]}';
    const other =
      ' {"required" : ["a"], "properties": {"b":{},"a":{"description":"x","type":"string"}},"type":"object"}';
    for (const place of PLACES) expect(key(place(one))).toBe(key(place(other)));
  });

  it("tells numbers apart that JSON can't", () => {
    const warm = (temperature: number | undefined) =>
      key({ ...plain, sampling: { temperature, stop: [], logitBias: {} } });
    const keys = [undefined, 0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map(warm);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it("tells texts apart that have the same bytes as UTF-8", () => {
    const said = (value: string) => key({ ...plain, user: value });
    expect(said("\ud800")).not.toBe(said("\ufffd"));
    expect(said("\ud800")).not.toBe(said("\\ud800"));
  });

  it("is another one for another tenant, model or route, however their names are cut", () => {
    const names = fc.string({ unit: fc.constantFrom("a", "b", ".", '"', ",", "\n", "\\"), maxLength: 4 });
    const asked = fc.tuple(names, names, names);
    fc.assert(
      fc.property(asked, asked, ([model, tenant, route], [otherModel, otherTenant, otherRoute]) => {
        const one = answerKey({ ...plain, model }, tenant, route);
        const other = answerKey({ ...plain, model: otherModel }, otherTenant, otherRoute);
        expect(one === other).toBe(model === otherModel && tenant === otherTenant && route === otherRoute);
      }),
    );
  });

  it("is the same for a frozen request, whoever asks with it first and how often", () => {
    const who = fc.tuple(fc.constantFrom("a", "b"), fc.constantFrom("r", "s"));
    fc.assert(
      fc.property(chats, fc.array(who, { minLength: 2, maxLength: 6 }), (request, askers) => {
        const frozen = Object.freeze({ ...request });
        for (const [tenant, route] of askers) {
          expect(answerKey(frozen, tenant, route)).toBe(answerKey(request, tenant, route));
        }
      }),
    );
  });

  it("names the tenant and the model in parts of its own, and leaves the request as it was", () => {
    const request = deeplyFrozen(
      CompletionRequest.fromPartial({ ...withSchema('{"b":1,"a":2}'), extraJson: { b: "1", a: "2" } }),
    );
    const [tenant, model, rest] = key(request).split(".");
    expect(key({ ...request, user: "u" }).split(".")).toEqual([tenant, model, expect.not.stringMatching(rest!)]);
    expect(rest).toMatch(/^[0-9a-f]{64}$/);
    expect(answerKey(request, "other", "gpt-4o").split(".")[0]).not.toBe(tenant);
    expect(key({ ...request, model: "gpt-4" }).split(".")[1]).not.toBe(model);
  });
});

describe("the keys of vectors", () => {
  const keys = (request: EmbeddingRequest) => vectorKeys(request, "acme", "route");

  it("are the same for the same input, whatever stands beside it", () => {
    const ask = (...inputs: string[]) => keys(EmbeddingRequest.fromPartial({ model: "m", inputs }));
    const [a, b] = ask("a", "b");
    expect(ask("b", "c", "a")).toEqual([b, expect.any(String), a]);
    expect(ask("a", "a")).toEqual([a, a]);
    expect(new Set(ask("a", "A", "a ", "", "\ud800", "\ufffd", '"a"')).size).toBe(7);
  });

  it("are all others when any other field is", () => {
    fc.assert(
      fc.property(embeddings, (request) => {
        const before = new Set(keys({ ...request, inputs: ["a", "b"] }));
        for (const { path, message } of variations(embeddingType, { ...request, inputs: ["a", "b"] })) {
          if (path.startsWith("inputs")) continue;
          for (const changed of keys(message)) expect(before.has(changed), path).toBe(false);
        }
      }),
    );
    expect(keys(EmbeddingRequest.fromPartial({ model: "m", inputs: ["a"] }))).not.toEqual(
      vectorKeys(EmbeddingRequest.fromPartial({ model: "m", inputs: ["a"] }), "acme", "elsewhere"),
    );
  });
});

function sortedDeep(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(sortedDeep);
  const entries = Object.entries(value).map(([name, member]): [string, unknown] => [name, sortedDeep(member)]);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function deeplyFrozen<T>(value: T): T {
  if (typeof value === "object" && value !== null && !ArrayBuffer.isView(value)) {
    for (const member of Object.values(value)) deeplyFrozen(member);
    Object.freeze(value);
  }
  return value;
}
