import { describe, expect, it } from "vitest";
import { Strategy } from "../../libs/gen/cortex/router/v1/router.ts";
import { STRATEGY_NAMES } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { readChatRequest, readEmbeddingsRequest, readShortChatRequest } from "./openai-request.ts";
import { type RoutingWish, readRouting } from "./routing-options.ts";

const messages = [{ role: "user", content: "hi" }];

function read(headers: Record<string, string>, wish?: RoutingWish) {
  return readRouting(wish, (name) => headers[name] ?? "");
}

function refusalOf(action: () => unknown): RpcError {
  try {
    action();
  } catch (thrown) {
    return RpcError.from(thrown);
  }
  throw new Error("it was not refused");
}

describe("how a request is to be routed", () => {
  it("is as configured when nothing is wished", () => {
    expect(read({})).toBeUndefined();
    expect(read({}, {})).toBeUndefined();
    expect(read({}, null)).toBeUndefined();
  });

  it.each(STRATEGY_NAMES)("may be by the strategy %s", (strategy) => {
    const wished = read({ "x-cortex-strategy": strategy })?.strategy;
    expect(wished).toBe(Strategy[strategy.toUpperCase() as keyof typeof Strategy]);
    expect(wished).toBeGreaterThan(Strategy.UNSPECIFIED);
    expect(read({}, { strategy })?.strategy).toBe(wished);
  });

  it("may switch continuation and hedging", () => {
    expect(read({ "x-cortex-continuation": "off", "x-cortex-hedging": "on" })).toEqual({
      strategy: Strategy.UNSPECIFIED,
      continuation: false,
      hedging: true,
    });
    expect(read({}, { continuation: true, hedging: false })).toEqual({
      strategy: Strategy.UNSPECIFIED,
      continuation: true,
      hedging: false,
    });
  });

  it("is as the header says where the body says otherwise", () => {
    const wish = { strategy: "cost", continuation: true, hedging: true } as const;
    expect(read({ "x-cortex-strategy": "latency", "x-cortex-continuation": "off" }, wish)).toEqual({
      strategy: Strategy.LATENCY,
      continuation: false,
      hedging: true,
    });
  });

  it.each([
    ["x-cortex-strategy", "fastest"],
    ["x-cortex-continuation", "maybe"],
    ["x-cortex-hedging", "true"],
  ])("is refused for an unknown word in the header %s", (name, value) => {
    const refusal = refusalOf(() => read({ [name]: value }));
    expect(refusal).toMatchObject({ reason: "INVALID_REQUEST", field: name });
    expect(refusal.message).not.toContain(value);
  });

  const readers: Record<string, (body: object) => unknown> = {
    chat: (body) => readChatRequest({ model: "m", messages, ...body }),
    "short chat": (body) => readShortChatRequest({ messages, ...body }),
    embeddings: (body) => readEmbeddingsRequest({ model: "m", input: "hi", ...body }),
  };
  it.each(Object.entries(readers))("is refused for what the body of %s has wrong", (_name, reader) => {
    expect(refusalOf(() => reader({ cortex: { strategy: "fastest" } })).field).toBe("cortex.strategy");
    expect(refusalOf(() => reader({ cortex: { hedging: "yes" } })).field).toBe("cortex.hedging");
    expect(refusalOf(() => reader({ cortex: { strategies: "cost" } })).field).toBe("cortex.strategies");
    expect(refusalOf(() => reader({ cortex: "cost" })).field).toBe("cortex");
  });

  it("is no parameter for the provider", () => {
    const cortex = { strategy: "cost" as const };
    const chat = readChatRequest({ model: "m", messages, cortex, other: 1 });
    expect(chat.routing).toEqual(cortex);
    expect(chat.completion.extraJson).toEqual({ other: "1" });
    const embeddings = readEmbeddingsRequest({ model: "m", input: "hi", cortex });
    expect(embeddings.routing).toEqual(cortex);
    expect(embeddings.embedding.extraJson).toEqual({});
    expect(readShortChatRequest({ messages, cortex }).routing).toEqual(cortex);
  });
});
