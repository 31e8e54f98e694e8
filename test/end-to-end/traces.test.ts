/** One request gives one trace, whole across processes, and nothing secret leaves in spans, logs or errors. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type BehaviourLike, type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { type OtlpReceiver, type ReceivedSpan, startOtlpReceiver } from "../fakes/otlp.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const CANARIES = {
  providerKey: "sk-canary-provider-5d1f",
  clientKey: "canary-client-88ab",
  prompt: "canary-prompt-c0ffee",
  answer: "canary-answer-decaf",
};
const SERVER = 2;
const CLIENT = 3;

describe.each(SHAPES)("traces with %s", (shape) => {
  let simulator: Simulator;
  let otlp: OtlpReceiver;
  let mesh: TestMesh;

  beforeAll(async () => {
    simulator = await startOpenAiSimulator({ apiKeys: [CANARIES.providerKey] });
    otlp = await startOtlpReceiver();
    mesh = await startMesh(shape, {
      workers: [
        { name: "main", provider: "openai", baseUrl: simulator.url, keys: [CANARIES.providerKey], models: ["gpt-4o"] },
        {
          name: "keyless",
          provider: "openai",
          baseUrl: simulator.url,
          keys: [`${CANARIES.providerKey}-wrong`],
          models: ["k"],
        },
      ],
      settings: { clients: [{ key: CANARIES.clientKey, tenant: "team-a" }], log: { level: "trace" } },
      environment: otlp.environment,
    });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([simulator?.stop(), otlp?.stop()]);
  });

  const chat = (body: object, headers: Record<string, string> = {}) =>
    fetch(`${mesh.rest}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${CANARIES.clientKey}`, ...headers },
      body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: CANARIES.prompt }], ...body }),
    });
  const whole = (spans: readonly ReceivedSpan[]) => spans.some(({ name }) => name === "POST /v1/chat/completions");

  it.each([true, false])("has every step of a request under its parent (streamed: %s)", async (stream) => {
    const response = await chat({ stream, temperature: 0.5, max_tokens: 50 });
    await response.text();
    const method = stream ? "Stream" : "Complete";
    const spans = await otlp.trace(response.headers.get("x-trace-id")!, (found) => whole(found) && found.length >= 5);
    expect(tree(spans)).toEqual([
      "POST /v1/chat/completions",
      `  cortex.router.v1.RouterService/${method}`,
      "    attempt main",
      `      cortex.provider.v1.ProviderService/${method}`,
      "        chat gpt-4o",
    ]);
    // Spans that begin within one tick of the clock have no order of their own.
    const [http, router, provider, call] = [
      "POST /v1/chat/completions",
      `cortex.router.v1.RouterService/${method}`,
      `cortex.provider.v1.ProviderService/${method}`,
      "chat gpt-4o",
    ].map((name) => spans.find((span) => span.name === name));
    expect([http!.kind, router!.kind, provider!.kind, call!.kind]).toEqual([SERVER, SERVER, SERVER, CLIENT]);
    expect(http!.attributes).toMatchObject({
      "http.request.method": "POST",
      "http.route": "/v1/chat/completions",
      "http.response.status_code": 200,
      "cortex.tenant": "team-a",
      "gen_ai.request.model": "gpt-4o",
    });
    expect(call!.attributes).toMatchObject({
      "gen_ai.operation.name": "chat",
      "gen_ai.provider.name": "openai",
      "gen_ai.request.model": "gpt-4o",
      "gen_ai.request.temperature": 0.5,
      "gen_ai.request.max_tokens": 50,
      "gen_ai.response.finish_reasons": ["stop"],
      "server.address": "127.0.0.1",
      "server.port": simulator.port,
    });
    expect(call!.attributes["gen_ai.usage.input_tokens"]).toBeGreaterThan(0);
    expect(call!.attributes["gen_ai.usage.output_tokens"]).toBeGreaterThan(0);
    if (stream) expect(call!.events.map(({ name }) => name)).toContain("first_token");
    const services = new Set(spans.map(({ service }) => service));
    expect(services).toEqual(
      new Set(shape === "one node" ? ["cortex"] : ["cortex-gateway", "cortex-router", "cortex-adapter-openai"]),
    );
    expect(new Set(spans.map(({ attributes }) => attributes["cortex.carrier"]).filter(Boolean))).toEqual(
      new Set([shape === "one node" ? "in_process" : "grpc"]),
    );
  });

  it("goes on with the client's trace, and leaves alone what the client does not sample", async () => {
    const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
    const parent = "00f067aa0ba902b7";
    const response = await chat({}, { traceparent: `00-${traceId}-${parent}-01`, tracestate: "vendor=1" });
    await response.text();
    expect(response.headers.get("x-trace-id")).toBe(traceId);
    const spans = await otlp.trace(traceId, (found) => whole(found) && found.length >= 5);
    expect(spans.find(({ name }) => name === "POST /v1/chat/completions")).toMatchObject({ parentSpanId: parent });

    const unsampled = "5bf92f3577b34da6a3ce929d0e0e4736";
    await (await chat({}, { traceparent: `00-${unsampled}-${parent}-00` })).text();
    const next = await chat({});
    await next.text();
    await otlp.trace(next.headers.get("x-trace-id")!, whole);
    expect(otlp.spans.filter((span) => span.traceId === unsampled)).toEqual([]);
  });

  it("is not sent to the provider", async () => {
    expect(simulator.generations.length).toBeGreaterThan(0);
    for (const { headers } of simulator.requests) {
      expect(headers).not.toHaveProperty("traceparent");
      expect(headers).not.toHaveProperty("x-request-id");
    }
  });

  it("ties every log line of a request to its trace", async () => {
    const response = await chat({ model: "k" });
    expect(response.status).toBe(503);
    await response.text();
    const traceId = response.headers.get("x-trace-id")!;
    const lines = () =>
      mesh
        .output()
        .split("\n")
        .filter((line) => line.startsWith("{") && line.endsWith("}"))
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    await expect
      .poll(() => lines().flatMap(({ trace_id, message }) => (trace_id === traceId ? [message] : [])))
      .toEqual(expect.arrayContaining(["no workers available", "request"]));
    for (const line of lines()) {
      if (!("event" in line))
        expect(line).toMatchObject({ level: expect.any(Number), time: expect.any(String), node: expect.any(String) });
    }
  });

  it("lets no key, prompt or answer into any span, log line or error", async () => {
    const bodies: string[] = [];
    const say = async (response: Response) => bodies.push(response.ok ? "" : await response.text());
    const echo = {
      error: { message: `I refuse ${CANARIES.prompt}`, type: "invalid_request_error", param: null, code: null },
    };
    const behaviours: BehaviourLike[] = [
      `text:${CANARIES.answer}`,
      "status:400",
      "status:500",
      // Providers quote the prompt in their errors; so the client may see it again, but nobody else.
      { status: 400, body: echo },
      { status: 500, body: echo },
      "malformed:1",
      "cut:1",
      "error:1",
      "garbage:headers",
      // Takes the worker's only key out, so it comes last.
      "status:401",
    ];
    for (const behaviour of behaviours) {
      simulator.behave(behaviour);
      await say(await chat({ stream: true }).then(async (response) => new Response(await response.text(), response)));
      await say(await chat({}));
    }
    simulator.behave(undefined);
    await say(await chat({ temperature: "hot" }));
    await say(await chat({ model: "k" }));
    await say(
      await fetch(`${mesh.rest}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: "Bearer canary-client-wrong" },
      }),
    );
    await say(
      await fetch(`${mesh.rest}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: `Bearer ${CANARIES.clientKey}` },
        body: `{"messages": "${CANARIES.prompt}`,
      }),
    );
    const last = await chat({});
    await last.text();
    await otlp.trace(last.headers.get("x-trace-id")!, whole);
    const errors = bodies.join("\n").replaceAll(`I refuse ${CANARIES.prompt}`, "");
    for (const [what, text] of Object.entries({ spans: otlp.text(), logs: mesh.output(), errors })) {
      for (const [canary, value] of Object.entries(CANARIES)) {
        expect(text.includes(value), `the ${canary} is in the ${what}`).toBe(false);
      }
      expect(text.includes("canary-client-wrong"), `a refused key is in the ${what}`).toBe(false);
    }
  });
});

/** The names of the spans, each under its parent. */
function tree(spans: readonly ReceivedSpan[]): string[] {
  const known = new Set(spans.map(({ spanId }) => spanId));
  const below = (parent: (span: ReceivedSpan) => boolean, depth: number): string[] =>
    spans
      .filter(parent)
      .flatMap((span) => [
        "  ".repeat(depth) + span.name,
        ...below(({ parentSpanId }) => parentSpanId === span.spanId, depth + 1),
      ]);
  return below(({ parentSpanId }) => !known.has(parentSpanId), 0);
}
