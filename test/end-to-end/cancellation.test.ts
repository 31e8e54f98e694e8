/** A client that hangs up, in whatever phase, closes the provider's socket at once, through every carrier. */
import { once } from "node:events";
import { type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import { connect, RpcError, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { type Simulator, startOllamaSimulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

/** Promised are 100 ms. A busy machine may need more, but never as long as any time-out on the way. */
const BOUND_MS = 1_000;

const PHASES = [
  { phase: "before the headers of a stream", behaviour: "stall:request", stream: true, readFirst: false },
  { phase: "before the first token", behaviour: "stall:headers", stream: true, readFirst: false },
  { phase: "in the middle of a stream", behaviour: "tokens:5000,tokenMs:10", stream: true, readFirst: true },
  { phase: "during a stall in the middle of a stream", behaviour: "stall:3", stream: true, readFirst: true },
  { phase: "while waiting for a whole answer", behaviour: "stall:request", stream: false, readFirst: false },
] as const;

describe.each(SHAPES)("a client that hangs up on %s", (shape) => {
  let openai: Simulator;
  let ollama: Simulator;
  let mesh: TestMesh;

  beforeAll(async () => {
    openai = await startOpenAiSimulator();
    ollama = await startOllamaSimulator();
    mesh = await startMesh(shape, {
      workers: [
        { name: "o", provider: "openai", baseUrl: openai.url, models: ["gpt"] },
        { name: "l", provider: "ollama", baseUrl: ollama.url, models: ["llama"] },
      ],
    });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([openai?.stop(), ollama?.stop()]);
  });

  const providers = [
    ["OpenAI", "gpt", () => openai],
    ["Ollama", "llama", () => ollama],
  ] as const;

  describe.each(providers)("served by %s", (_name, model, simulatorOf) => {
    it.each(PHASES)("closes the provider's socket $phase", async ({ behaviour, stream, readFirst }) => {
      const simulator = simulatorOf();
      simulator.behave(behaviour);
      const next = simulator.generations.length;
      const client = post(`${mesh.rest}/v1/chat/completions`, {
        model,
        stream,
        messages: [{ role: "user", content: "hello" }],
      });
      client.on("error", () => {});
      const generation = await simulator.generation(next);
      if (readFirst) {
        const [response] = (await once(client, "response")) as [IncomingMessage];
        response.on("error", () => {});
        await once(response, "data");
      }
      const leftAtMs = performance.now();
      client.destroy();
      const ending = await generation.ended;
      expect(ending.how).toBe("client-closed");
      expect(ending.atMs - leftAtMs).toBeLessThan(BOUND_MS);
      expect(generation.tokensSent).toBeLessThan(1_000);
    });

    it("closes the provider's socket when a gRPC client cancels or its deadline passes", async () => {
      const simulator = simulatorOf();
      simulator.behave("tokens:5000,tokenMs:10");
      const channel = connect(mesh.grpc, {});
      try {
        for (const how of ["cancel", "deadline"] as const) {
          const next = simulator.generations.length;
          const call = startCall({
            tenant: "",
            requestId: "",
            trace: NO_TRACE,
            ...(how === "deadline" ? { deadlineAtMs: Date.now() + 500 } : {}),
          });
          const message = { role: Role.USER, name: "", content: [{ part: { $case: "text" as const, value: "hi" } }] };
          const completion = { model, messages: [message], tools: [], logprobs: false, user: "", extraJson: {} };
          const iterator = channel.client(RouterServiceDefinition).stream({ completion }, call)[Symbol.asyncIterator]();
          await iterator.next();
          const generation = await simulator.generation(next);
          if (how === "cancel") call.cancel();
          const failure = await drain(iterator);
          expect(failure.reason).toBe(how === "cancel" ? "CANCELLED" : "DEADLINE_EXCEEDED");
          expect((await generation.ended).how).toBe("client-closed");
          call.finish();
        }
      } finally {
        channel.close();
      }
    });
  });

  it("is not taken for a failure of the worker", async () => {
    await expect.poll(() => mesh.output()).not.toContain('"breaker"');
    expect(mesh.output()).not.toMatch(/"level":(50|60)/);
  });
});

function post(url: string, body: unknown): ClientRequest {
  const client = httpRequest(url, { method: "POST", agent: false, headers: { "content-type": "application/json" } });
  client.end(JSON.stringify(body));
  return client;
}

async function drain(iterator: AsyncIterator<unknown>): Promise<RpcError> {
  try {
    while ((await iterator.next()).done !== true);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(RpcError);
    return thrown as RpcError;
  }
  throw new Error("the stream ended without an error");
}
