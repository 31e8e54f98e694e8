/** The adapter as a worker, against the simulated Anthropic: what only shows over a connection. */
import { describe, expect, it } from "vitest";
import { collect, complete, kinds, startTestCall } from "../../libs/adapter/test-provider.ts";
import { ask, assistant, callsIn, fine, TOOLS, text, user } from "../../libs/adapter/testing/conversation.ts";
import { createStart, endingOf } from "../../libs/adapter/testing/simulated-worker.ts";
import {
  ReasoningOptions_Effort as Effort,
  FinishReason,
  ResponseFormat_Kind,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { startAnthropicSimulator } from "../../test/fakes/index.ts";
import { anthropic } from "./dialect.ts";

const start = createStart(anthropic, startAnthropicSimulator);
const call = startTestCall();

describe("a worker of Anthropic", () => {
  it("answers whole and in a stream, however slowly it comes", async () => {
    const { worker } = await start();
    const whole = await complete(worker, ask("claude-haiku-4-5"), call);
    expect(whole.choices[0]).toMatchObject({ message: { content: [text("You said: hello there")] } });
    for (const behaviour of ["", "@bytes", "@crlf"]) {
      const streamed = await collect(worker.stream(ask(`claude-haiku-4-5${behaviour}`), call));
      expect([streamed.text, streamed.error]).toEqual(["You said: hello there", undefined]);
      expect(streamed.parts.at(-1)?.part?.value).toEqual(whole.usage);
    }
  });

  it.each(["claude-haiku-4-5", "claude-opus-4-7"])("thinks through a loop of tool calls with %s", async (model) => {
    const { worker } = await start();
    const request = { tools: TOOLS, reasoning: { effort: Effort.HIGH } };
    const messages = [user(text("call tools"))];
    const { choices } = await complete(worker, ask(model, { ...request, messages }), call);
    expect(choices[0]?.finishReason).toBe(FinishReason.TOOL_CALLS);
    const { content } = choices[0]!.message!;
    expect(content.map(({ part }) => part?.$case)).toEqual(["reasoning", "toolCall", "toolCall"]);
    const calls = callsIn(content);
    for (const signed of [true, false]) {
      // A client of the OpenAI API has no place for signatures.
      const said = content.map(({ part }) =>
        part?.$case === "reasoning" && !signed
          ? { part: { ...part, value: { ...part.value, signature: "" } } }
          : { part },
      );
      const again = [...messages, assistant(...said), ...fine(calls)];
      const streamed = await collect(worker.stream(ask(model, { ...request, messages: again }), call));
      expect([streamed.text, streamed.error]).toEqual(["You said: call tools", undefined]);
      const unthinking = !signed && model === "claude-haiku-4-5";
      expect(kinds(streamed.parts).includes("reasoning")).toBe(!unthinking);
    }
  });

  it("answers to a schema, and says where its schemas end", async () => {
    const { worker } = await start();
    const answer = (jsonSchema: string) =>
      complete(
        worker,
        ask("claude-haiku-4-5", { responseFormat: { kind: ResponseFormat_Kind.JSON_SCHEMA, jsonSchema } }),
        call,
      );
    const closed = '{"type":"object","properties":{"age":{"type":"integer"}},"additionalProperties":false}';
    expect((await answer(closed)).choices[0]?.message?.content).toMatchObject([{ part: { $case: "text" } }]);
    await expect(answer('{"type":"object"}')).rejects.toMatchObject({
      reason: "UNSUPPORTED_PARAMETER",
      field: "response_format",
    });
  });

  it("tells an error from an answer, wherever it stands", async () => {
    const ended = async (behaviour: string) => {
      // A worker of its own, as it would rest after some of these.
      const { worker } = await start();
      const { texts, reason, waitS } = await endingOf(worker.stream(ask(`claude-haiku-4-5@${behaviour}`), call));
      return [texts, reason, waitS];
    };
    expect(await ended("error:2")).toEqual([2, "PROVIDER_OVERLOADED", undefined]);
    expect(await ended("error:headers")).toEqual([0, "PROVIDER_OVERLOADED", undefined]);
    expect(await ended("end:2")).toEqual([2, "PROVIDER_STREAM_CUT", undefined]);
    expect(await ended("malformed:2")).toEqual([2, "PROVIDER_INVALID_ANSWER", undefined]);
    expect(await ended("status:429,retryAfter:7")).toEqual([0, "PROVIDER_RATE_LIMITED", 7]);
    expect(await ended("status:529")).toEqual([0, "PROVIDER_OVERLOADED", undefined]);
    expect(await ended("status:413")).toEqual([0, "PROVIDER_REQUEST_TOO_LARGE", undefined]);
  });

  it("obeys the rate limits that it is told of", async () => {
    const perMs = 60_000;
    const { worker } = await start({ limits: { requests: { count: 1, perMs }, tokens: { count: 1000, perMs } } });
    await worker.complete(ask("claude-haiku-4-5"), call);
    const refused = await worker.complete(ask("claude-haiku-4-5"), call).catch((error: unknown) => error);
    expect(refused).toMatchObject({ reason: "PROVIDER_RATE_LIMITED" });
    expect(String(refused)).not.toContain("0f1e2d3c");
  });

  it("lists what it serves, and knows a key that is refused", async () => {
    const { worker } = await start();
    expect((await worker.listModels(call)).map(({ id }) => id)).toContain("claude-opus-4-7");
    expect((await worker.checkHealth(call)).health).toBe(Health.AVAILABLE);
    const other = await start({ apiKeys: ["another"] });
    expect((await other.worker.checkHealth(call)).health).toBe(Health.UNAVAILABLE);
  });
});
