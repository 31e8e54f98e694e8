import { describe, expect, it } from "vitest";
import { parseJson } from "./exchange.ts";
import { readChatRequest } from "./openai-request.ts";
import { RememberedRequests } from "./remembered-requests.ts";

function counting(): { readonly requests: RememberedRequests<{ body: unknown }>; read(): number } {
  let reads = 0;
  const requests = new RememberedRequests((text: string) => {
    reads += 1;
    return { body: parseJson(text) };
  });
  return { requests, read: () => reads };
}

describe("requests that come again", () => {
  it("are read twice, and from then on known", () => {
    const { requests, read } = counting();
    const seen = [1, 2, 3, 4].map(() => requests.read('{"a":[1]}', true));
    expect(read()).toBe(2);
    for (const request of seen) expect(request).toEqual({ body: { a: [1] } });
    expect(seen[3]).toBe(seen[1]);
  });

  it("can't be changed by whoever has them, down to what lies deepest", () => {
    const requests = new RememberedRequests((text) => readChatRequest(parseJson(text)));
    const text = JSON.stringify({
      model: "m",
      messages: [{ role: "user", content: "Hello" }],
      tools: [{ type: "function", function: { name: "f", parameters: { type: "object" } } }],
      stop: ["x"],
    });
    requests.read(text, true);
    const { completion } = requests.read(text, true);
    expect(requests.read(text, true).completion).toBe(completion);
    expect(() => (completion.messages as unknown[]).push("more")).toThrow(TypeError);
    expect(() => Object.assign(completion.messages[0]!, { name: "other" })).toThrow(TypeError);
    expect(() => Object.assign(completion.tools[0]!, { name: "other" })).toThrow(TypeError);
    expect(() => (completion.sampling!.stop as string[]).push("y")).toThrow(TypeError);
  });

  it("hold bytes as they are, which can't be frozen", () => {
    const requests = new RememberedRequests((text) => ({ bytes: Buffer.from(text) }));
    requests.read("abc", true);
    expect(requests.read("abc", true).bytes.toString()).toBe("abc");
    expect(Object.isFrozen(requests.read("abc", true))).toBe(true);
  });

  it("are told apart by every character", () => {
    const { requests } = counting();
    for (let round = 0; round < 3; round += 1) {
      expect(requests.read('{"a":1}', true).body).toEqual({ a: 1 });
      expect(requests.read('{"a":1 }', true).body).toEqual({ a: 1 });
      expect(requests.read('{"a":2}', true).body).toEqual({ a: 2 });
    }
    expect(requests.read('{"a":1}', true)).not.toBe(requests.read('{"a":1 }', true));
  });

  it("are not remembered where answers are not kept, nor when they are long", () => {
    const { requests, read } = counting();
    const long = JSON.stringify("x".repeat(20_000));
    for (let round = 0; round < 3; round += 1) {
      requests.read("1", false);
      requests.read(long, true);
    }
    expect(read()).toBe(6);
  });

  it("give way to newer ones, so that many don't fill the memory", () => {
    const { requests, read } = counting();
    requests.read('"first"', true);
    requests.read('"first"', true);
    for (let index = 0; index < 5_000; index += 1) requests.read(String(index), true);
    const before = read();
    requests.read('"first"', true);
    expect(read()).toBe(before + 1);
  });

  it("are told what is wrong with them each time", () => {
    const { requests } = counting();
    for (let round = 0; round < 3; round += 1) {
      expect(() => requests.read("{", true)).toThrow(expect.objectContaining({ reason: "INVALID_REQUEST" }));
    }
  });
});
