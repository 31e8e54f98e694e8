/** All turns of a conversation are told to be one, and conversations are told apart. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompletionRequest, type DeepPartial, type Message, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { conversationOf } from "./conversation.ts";

function said(role: Role, text: string): DeepPartial<Message> {
  return { role, content: [{ part: { $case: "text", value: text } }] };
}

function of(messages: readonly DeepPartial<Message>[], tenant = "t", extraJson: Record<string, string> = {}): number {
  return conversationOf(CompletionRequest.fromPartial({ model: "m", messages: [...messages], extraJson }), tenant);
}

const system = said(Role.SYSTEM, "You are terse.");
const first = said(Role.USER, "What is a mesh?");

describe("a conversation", () => {
  it("is the same in all its turns", () => {
    const begun = of([system, first]);
    expect(of([system, first, said(Role.ASSISTANT, "A net."), said(Role.USER, "And a node?")])).toBe(begun);
    const called = { role: Role.ASSISTANT, content: [{ part: { $case: "toolCall", value: { id: "1", name: "f" } } }] };
    const later = [called as DeepPartial<Message>, said(Role.TOOL, "42"), said(Role.SYSTEM, "Now be long."), first];
    expect(of([system, first, ...later])).toBe(begun);
    expect(Number.isInteger(begun) && begun >= 0 && begun < 2 ** 32).toBe(true);
  });

  it("is another one for another tenant, other instructions or another first message", () => {
    const texts = ["What is a mesh?", "What is a mesh", "", "What is a mesh? What is a mesh?"];
    const conversations = [
      ...texts.map((text) => of([system, said(Role.USER, text)])),
      of([first]),
      of([said(Role.SYSTEM, "You are terse!"), first]),
      of([system, first], "other"),
      of([system]),
      of([]),
    ];
    expect(new Set(conversations).size).toBe(conversations.length);
  });

  it("does not mistake one kind of content for another", () => {
    const withImage = (data: Buffer) =>
      of([
        { role: Role.USER, content: [{ part: { $case: "image", value: { source: { $case: "data", value: data } } } }] },
      ]);
    const png = Buffer.alloc(5_000, 7);
    const other = Buffer.from(png);
    other[10] = 8;
    const url = { $case: "url" as const, value: "https://example.com/a.png" };
    const conversations = [
      withImage(png),
      withImage(other),
      withImage(png.subarray(0, 4_999)),
      of([{ role: Role.USER, content: [{ part: { $case: "image", value: { source: url } } }] }]),
      of([{ role: Role.USER, content: [{ part: { $case: "audio", value: { data: Buffer.alloc(5_000, 9) } } }] }]),
      of([first]),
    ];
    expect(new Set(conversations).size).toBe(conversations.length);
  });

  it("is told apart behind a long common beginning of the instructions", () => {
    const long = said(Role.SYSTEM, "rule ".repeat(10_000));
    expect(of([long, said(Role.USER, "a")])).not.toBe(of([long, said(Role.USER, "b")]));
  });

  it("is what the client says it is when it names the cache itself", () => {
    const named = { prompt_cache_key: '"session-1"' };
    expect(of([first], "t", named)).toBe(of([system, said(Role.USER, "something else")], "t", named));
    expect(of([first], "t", named)).not.toBe(of([first], "other", named));
    expect(of([first], "t", named)).not.toBe(of([first], "t", { prompt_cache_key: '"session-2"' }));
  });

  it("costs no more for a long prompt than for a short one", () => {
    let read = 0;
    const text = new Proxy(new String("x".repeat(1_000_000)), {
      get: (target, property) => {
        if (property === "charCodeAt") read += 1;
        const value = Reflect.get(target, property) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const long = {
      role: Role.USER,
      content: [{ part: { $case: "text", value: text as unknown as string } }],
      name: "",
    };
    conversationOf({ ...CompletionRequest.fromPartial({}), messages: [long as Message, long as Message] }, "t");
    expect(read).toBeGreaterThan(0);
    expect(read).toBeLessThanOrEqual(2_048);
  });

  it("spreads evenly, however alike the first messages are", () => {
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 2, max: 16 }), (prefix, parts) => {
        const counts = new Array<number>(parts).fill(0);
        for (let index = 0; index < 2_000; index += 1) {
          counts[of([system, said(Role.USER, `${prefix}${index}`)]) % parts]! += 1;
        }
        const mean = 2_000 / parts;
        for (const count of counts) expect(Math.abs(count - mean)).toBeLessThan(6 * Math.sqrt(mean));
      }),
      { numRuns: 10 },
    );
  });
});
