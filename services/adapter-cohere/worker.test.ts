/** The adapter as a worker, against the simulated Cohere: what only shows over a connection. */
import { describe, expect, it } from "vitest";
import { collect, complete, startTestCall } from "../../libs/adapter/test-provider.ts";
import { ask, assistant, callsIn, fine, TOOLS, text, user } from "../../libs/adapter/testing/conversation.ts";
import { createStart, endingOf } from "../../libs/adapter/testing/simulated-worker.ts";
import { EmbeddingRequest, FinishReason } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { startCohereSimulator } from "../../test/fakes/index.ts";
import { cohere } from "./dialect.ts";

const start = createStart(cohere, startCohereSimulator);
const MODEL = "command-a-03-2025";
const call = startTestCall();

describe("a worker of Cohere", () => {
  it("answers whole and in a stream, however slowly it comes", async () => {
    const { worker } = await start();
    const whole = await complete(worker, ask(MODEL), call);
    expect(whole.choices[0]).toMatchObject({ message: { content: [text("You said: hello there")] } });
    expect(whole.usage).toMatchObject({ inputTokens: 497, outputTokens: 4, cachedInputTokens: 448 });
    for (const behaviour of ["", "@bytes", "@bytes,crlf"]) {
      const streamed = await collect(worker.stream(ask(`${MODEL}${behaviour}`), call));
      expect([streamed.text, streamed.error]).toEqual(["You said: hello there", undefined]);
      expect(streamed.parts.at(-1)?.part?.value).toEqual(whole.usage);
    }
  });

  it("goes through a loop of tool calls: a plan, the calls, and an answer whose sources are left out with a word", async () => {
    const { worker } = await start();
    const messages = [user(text("call tools"))];
    const { choices } = await complete(worker, ask(MODEL, { messages, tools: TOOLS }), call);
    expect(choices[0]?.finishReason).toBe(FinishReason.TOOL_CALLS);
    const { content } = choices[0]!.message!;
    expect(content[0]?.part?.$case).toBe("reasoning");
    const calls = callsIn(content);
    expect(calls.map(({ name, argumentsJson }) => [name, argumentsJson])).toEqual([
      ["weather", '{"city":"text"}'],
      ["time", "{}"],
    ]);
    const again = [...messages, assistant(...content), ...fine(calls)];
    const streamed = await collect(worker.stream(ask(MODEL, { messages: again, tools: TOOLS }), call));
    expect([streamed.text, streamed.error]).toEqual(["You said: call tools", undefined]);
    const codes = streamed.parts.flatMap(({ part }) => (part?.$case === "warning" ? [part.value.code] : []));
    expect(codes).toEqual(["CITATIONS_LEFT_OUT"]);
  });

  it("tells an error from an answer, wherever it stands", async () => {
    const ended = async (behaviour: string, options?: Parameters<typeof start>[0]) => {
      // A worker of its own, as it would rest after some of these.
      const { worker } = await start(options);
      const { texts, reason } = await endingOf(worker.stream(ask(`${MODEL}@${behaviour}`), call));
      return [texts, reason];
    };
    expect(await ended("error:2")).toEqual([2, "PROVIDER_ERROR"]);
    expect(await ended("error:2,bytes")).toEqual([2, "PROVIDER_ERROR"]);
    expect(await ended("end:2")).toEqual([2, "PROVIDER_STREAM_CUT"]);
    expect(await ended("cut:2")).toEqual([2, "PROVIDER_STREAM_CUT"]);
    expect(await ended("malformed:2")).toEqual([2, "PROVIDER_INVALID_ANSWER"]);
    expect(await ended("status:429")).toEqual([0, "PROVIDER_RATE_LIMITED"]);
    expect(await ended("tokens:2", { trialCalls: 0 })).toEqual([0, "PROVIDER_QUOTA_EXHAUSTED"]);
    expect(await ended("status:498")).toEqual([0, "PROVIDER_REFUSED_KEY"]);
    expect(await ended("status:503")).toEqual([0, "PROVIDER_OVERLOADED"]);
  });

  it("sends nothing that Cohere would refuse for its bounds", async () => {
    const { worker } = await start();
    const sampling = { topP: 1, topK: 1_000, frequencyPenalty: -2, presencePenalty: 2 };
    const { warnings } = await complete(worker, ask(MODEL, { sampling }), call);
    const named = warnings.map(({ parameter }) => parameter);
    expect(named).toEqual(["top_p", "top_k", "frequency_penalty", "presence_penalty"]);
  });

  it("embeds, lists what it serves, and knows a key that is refused", async () => {
    const { worker } = await start();
    const request = EmbeddingRequest.fromPartial({ model: "embed-v4.0", inputs: ["a", "b"], dimensions: 4 });
    expect((await worker.embed(request, call)).embedding?.embeddings.map(({ values }) => values.length)).toEqual([
      4, 4,
    ]);
    const served = (await worker.listModels(call)).map(({ id }) => id);
    expect(served).toEqual([MODEL, "command-a-reasoning-08-2025", "embed-v4.0"]);
    expect((await worker.checkHealth(call)).health).toBe(Health.AVAILABLE);
    const other = await start({ apiKeys: ["another"] });
    expect((await other.worker.checkHealth(call)).health).toBe(Health.UNAVAILABLE);
    await expect(other.worker.complete(ask(MODEL), call)).rejects.toMatchObject({ reason: "PROVIDER_REFUSED_KEY" });
  });
});
