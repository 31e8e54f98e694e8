/** The adapter as a worker, against the simulated Gemini: what only shows over a connection. */
import { describe, expect, it } from "vitest";
import { collect, complete, startTestCall } from "../../libs/adapter/test-provider.ts";
import { ask, assistant, callsIn, fine, TOOLS, text, user } from "../../libs/adapter/testing/conversation.ts";
import { createStart, endingOf } from "../../libs/adapter/testing/simulated-worker.ts";
import { EmbeddingRequest, FinishReason } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { startGeminiSimulator } from "../../test/fakes/index.ts";
import { gemini } from "./dialect.ts";

const start = createStart(gemini, startGeminiSimulator);
const call = startTestCall();
const tools = TOOLS.map((tool) => ({ ...tool, strict: tool.name === "weather" }));

describe("a worker of Gemini", () => {
  it("answers whole and in a stream, however slowly it comes", async () => {
    const { worker, simulator } = await start();
    const whole = await complete(worker, ask("gemini-2.5-flash"), call);
    expect(whole.choices[0]).toMatchObject({ message: { content: [text("You said: hello there")] } });
    for (const behaviour of ["", "@bytes", "@bytes,crlf"]) {
      const streamed = await collect(worker.stream(ask(`gemini-2.5-flash${behaviour}`), call));
      expect([streamed.text, streamed.error]).toEqual(["You said: hello there", undefined]);
      expect(streamed.parts.at(-1)?.part?.value).toEqual(whole.usage);
    }
    expect(simulator.requests.every(({ path }) => !path.includes("canary-key"))).toBe(true);
  });

  it.each(["gemini-2.5-flash", "gemini-3-flash-preview"])(
    "goes through a loop of tool calls with %s",
    async (model) => {
      const { worker } = await start();
      const messages = [user(text("call tools"))];
      const { choices } = await complete(worker, ask(model, { messages, tools }), call);
      expect(choices[0]?.finishReason).toBe(FinishReason.TOOL_CALLS);
      const { content } = choices[0]!.message!;
      const calls = callsIn(content);
      expect(calls.map(({ name, argumentsJson }) => [name, argumentsJson])).toEqual([
        ["weather", '{"city":"text"}'],
        ["time", "{}"],
      ]);
      for (const signed of [true, false]) {
        // A client of the OpenAI API has no place for signatures.
        const said = content.map(({ part }) =>
          part?.$case === "toolCall" && !signed
            ? { part: { ...part, value: { ...part.value, signature: "" } } }
            : { part },
        );
        const again = [...messages, assistant(...said), ...fine(calls)];
        const streamed = await collect(worker.stream(ask(model, { messages: again, tools }), call));
        expect([streamed.text, streamed.error]).toEqual(["You said: call tools", undefined]);
      }
    },
  );

  it("tells an error from an answer, wherever it stands", async () => {
    const ended = async (behaviour: string) => {
      // A worker of its own, as it would rest after some of these.
      const { worker } = await start();
      const { texts, reason, waitS } = await endingOf(worker.stream(ask(`gemini-2.5-flash@${behaviour}`), call));
      return [texts, reason, waitS];
    };
    expect(await ended("error:2")).toEqual([2, "PROVIDER_OVERLOADED", undefined]);
    expect(await ended("error:2,bytes")).toEqual([2, "PROVIDER_OVERLOADED", undefined]);
    expect(await ended("error:headers")).toEqual([0, "PROVIDER_OVERLOADED", undefined]);
    expect(await ended("end:2")).toEqual([2, "PROVIDER_STREAM_CUT", undefined]);
    expect(await ended("malformed:2")).toEqual([2, "PROVIDER_INVALID_ANSWER", undefined]);
    expect(await ended("status:429,retryAfter:7")).toEqual([0, "PROVIDER_RATE_LIMITED", 7]);
    expect(await ended("status:503")).toEqual([0, "PROVIDER_OVERLOADED", undefined]);
  });

  it("embeds, lists what it serves, and knows a key that is refused", async () => {
    const { worker } = await start();
    const request = EmbeddingRequest.fromPartial({ model: "gemini-embedding-001", inputs: ["a", "b"], dimensions: 4 });
    expect((await worker.embed(request, call)).embedding?.embeddings.map(({ values }) => values.length)).toEqual([
      4, 4,
    ]);
    expect((await worker.listModels(call)).map(({ id }) => id)).toContain("gemini-3-flash-preview");
    expect((await worker.checkHealth(call)).health).toBe(Health.AVAILABLE);
    const other = await start({ apiKeys: ["another"] });
    expect((await other.worker.checkHealth(call)).health).toBe(Health.UNAVAILABLE);
    await expect(other.worker.complete(ask("gemini-2.5-flash"), call)).rejects.toMatchObject({
      reason: "PROVIDER_REFUSED_KEY",
    });
  });
});
