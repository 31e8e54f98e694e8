/** Which traces reach the collector when none is drawn: every failure, failover and slow request, whole, from all nodes. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { type Simulator, startGroqSimulator, startOpenAiSimulator } from "../fakes/index.ts";
import { type OtlpReceiver, type ReceivedSpan, startOtlpReceiver } from "../fakes/otlp.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const ROOT = "POST /v1/chat/completions";
const breaker = { failures: 1_000 };
const FIRST_TOKEN_MS = 400;

describe.each(SHAPES)("traces of which none is drawn, with %s", (shape) => {
  let first: Simulator;
  let second: Simulator;
  let otlp: OtlpReceiver;
  let mesh: TestMesh;

  beforeAll(async () => {
    first = await startOpenAiSimulator();
    second = await startGroqSimulator();
    otlp = await startOtlpReceiver();
    mesh = await startMesh(shape, {
      workers: [
        { name: "first", provider: "openai", baseUrl: first.url, keys: ["k"], models: ["m"], priority: 1, breaker },
        { name: "second", provider: "groq", baseUrl: second.url, keys: ["k"], models: ["m"], priority: 2, breaker },
      ],
      settings: {
        tracing: { share: 0, perSecondMin: 0, slowFirstTokenMs: FIRST_TOKEN_MS },
        routing: { hedging: { enabled: true, ratio: 1 } },
        log: { level: "debug" },
      },
      environment: otlp.endpoint,
    });
  });

  afterEach(async () => {
    first.behave(undefined);
    second.behave(undefined);
    await expect.poll(() => mesh.workersWithHealth(Health.AVAILABLE), { timeout: 10_000 }).toEqual(["first", "second"]);
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([first?.stop(), second?.stop(), otlp?.stop()]);
  });

  async function chat(body: object = {}, headers: Record<string, string> = {}): Promise<Response> {
    const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
      method: "POST",
      headers,
      body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "hello" }], ...body }),
    });
    return new Response(await response.text(), response);
  }

  const traceOf = (response: Response) => response.headers.get("x-trace-id")!;
  /** The spans of a trace when it is whole: its root, each with its parent, and for each attempt a worker and a provider. */
  const whole = (response: Response, attemptsMin: number) =>
    otlp.trace(traceOf(response), (spans) => {
      const known = new Set(spans.map(({ spanId }) => spanId));
      const orphans = spans.filter(({ parentSpanId }) => parentSpanId !== "" && !known.has(parentSpanId));
      const count = (pattern: RegExp) => spans.filter(({ name }) => pattern.test(name)).length;
      const attempts = count(/^attempt /);
      const served = count(/ProviderService/) === attempts && count(/^chat /) === attempts;
      return count(/^POST /) === 1 && orphans.length === 0 && attempts >= attemptsMin && served;
    });
  const why = (spans: readonly ReceivedSpan[]) =>
    new Set(spans.flatMap(({ attributes }) => (attributes["cortex.kept"] as string | undefined) ?? []));
  const services = (spans: readonly ReceivedSpan[]) => [...new Set(spans.map(({ service }) => service))].sort();
  const nodes = (...adapters: string[]) =>
    shape === "one node" ? ["cortex"] : [...adapters, "cortex-gateway", "cortex-router"];

  it.each([true, false])("shows a failover, from every node that had a part in it (streamed: %s)", async (stream) => {
    first.behave("status:503");
    const response = await chat({ stream });
    expect(response.status).toBe(200);
    const spans = await whole(response, 2);
    expect(services(spans)).toEqual(nodes("cortex-adapter-groq", "cortex-adapter-openai"));
    expect(why(spans)).toContain("error");
    const attempts = spans.filter(({ name }) => name.startsWith("attempt "));
    expect(attempts.map(({ name, attributes }) => [name, attributes["cortex.outcome"]])).toEqual([
      ["attempt first", "failed"],
      ["attempt second", "served"],
    ]);
  });

  it("shows an answer that another worker went on with", async () => {
    first.behave("cut:3,tokens:20");
    const response = await chat({ stream: true });
    expect(await response.text()).toContain("[DONE]");
    const spans = await whole(response, 2);
    expect(spans.flatMap(({ events }) => events.map(({ name }) => name))).toContain("continued");
  });

  it("shows a request that failed", async () => {
    first.behave("status:500");
    second.behave("status:500");
    const response = await chat();
    expect(response.status).toBeGreaterThanOrEqual(500);
    const spans = await whole(response, 2);
    expect(spans.find(({ name }) => name === ROOT)).toMatchObject({ status: 2 });
    expect(services(spans)).toEqual(nodes("cortex-adapter-groq", "cortex-adapter-openai"));
  });

  it("shows a request that was slow", async () => {
    first.behave({ firstTokenMs: FIRST_TOKEN_MS * 2 });
    const response = await chat({ stream: true });
    expect(response.status).toBe(200);
    const spans = await otlp.trace(
      traceOf(response),
      (found) => found.some(({ name }) => name === ROOT) && found.length >= 5,
    );
    expect([...why(spans)]).toEqual(expect.arrayContaining(["slow"]));
    expect(services(spans)).toEqual(expect.arrayContaining(nodes("cortex-adapter-openai")));
  });

  it("shows what the client samples, with what others have noted of it", async () => {
    const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
    const traceparent = `00-${traceId}-00f067aa0ba902b7-01`;
    const response = await chat({}, { traceparent, tracestate: "vendor=1,other=a:b" });
    expect(traceOf(response)).toBe(traceId);
    const spans = await otlp.trace(traceId, (found) => found.some(({ name }) => name === ROOT) && found.length >= 5);
    expect(new Set(spans.map(({ traceState }) => traceState))).toEqual(new Set(["vendor=1,other=a:b"]));
  });

  it("shows nothing else: no plain request, no mistake of a client, no client that left", async () => {
    const unseen: Response[] = [];
    for (const stream of [true, false]) unseen.push(await chat({ stream }));
    unseen.push(await chat({}, { traceparent: "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00" }));
    unseen.push(await chat({ model: "nobody-has-it" }), await chat({ temperature: "hot" }));
    first.behave("status:400");
    unseen.push(await chat());
    expect(unseen.map(({ status }) => status)).toEqual([200, 200, 200, 404, 400, 400]);
    first.behave({ tokens: 1_000, tokenMs: 20 });
    const leaving = new AbortController();
    const left = await fetch(`${mesh.rest}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "hello" }], stream: true }),
      signal: leaving.signal,
    });
    await left.body!.getReader().read();
    leaving.abort();
    await expect.poll(() => linesOf(traceOf(left)).map(({ message }) => message)).toContain("request");
    unseen.push(left);
    // What the nodes export later comes later.
    first.behave("status:503");
    await whole(await chat(), 2);
    const traces = new Set(unseen.map(traceOf));
    expect(traces.size).toBe(7);
    expect(otlp.spans.filter((span) => traces.has(span.traceId))).toEqual([]);
    const told = await (await fetch(`${mesh.rest}/metrics`)).text();
    expect(Number(/^cortex_trace_spans_total\{state="exported"\} (\d+)$/m.exec(told)?.[1])).toBeGreaterThan(0);
    expect(told).toMatch(/^cortex_trace_spans_total\{state="dropped"\} 0$/m);
  });

  it("has the trace in every log line of a request that fails, on all nodes", async () => {
    first.behave("status:500");
    second.behave("cut:headers");
    const response = await chat({ stream: true });
    expect(response.status).toBeGreaterThanOrEqual(500);
    expect(JSON.parse(await response.text())).toMatchObject({ error: { cortex: { trace_id: traceOf(response) } } });
    const requestId = response.headers.get("x-request-id");
    await expect
      .poll(() => linesOf(traceOf(response)).map(({ message }) => message))
      .toEqual(expect.arrayContaining([expect.stringMatching(/^attempt failed/), "no workers available", "request"]));
    const lines = linesOf(traceOf(response));
    expect(new Set(lines.map(({ node }) => node)).size).toBe(shape === "one node" ? 1 : 4);
    // What names the request, a worker's failure or a model is of a request, and so has its trace.
    const told = allLines().filter((line) => line["request_id"] === requestId || "attempt" in line || "model" in line);
    expect(told.length).toBeGreaterThan(0);
    for (const line of told) expect(line).toMatchObject({ trace_id: expect.stringMatching(/^[0-9a-f]{32}$/) });
  });

  if (shape === "many nodes") {
    it("shows what the others know when a node dies in the middle", async () => {
      first.behave({ tokens: 200, tokenMs: 20 });
      const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify({ model: "m", messages: [{ role: "user", content: "hello" }], stream: true }),
      });
      const reader = response.body!.getReader();
      await reader.read();
      mesh.node("adapter-openai").kill("SIGKILL");
      let last = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        last += Buffer.from(value).toString();
      }
      expect(last).toContain("[DONE]");
      const spans = await otlp.trace(
        traceOf(response),
        (found) =>
          ["cortex-gateway", "cortex-router", "cortex-adapter-groq"].every((service) =>
            found.some((span) => span.service === service),
          ) && found.some(({ name }) => name === ROOT),
      );
      expect(why(spans)).toContain("error");
      await mesh.run("adapter-openai");
    });
  }

  const allLines = () =>
    mesh
      .output()
      .split("\n")
      .filter((line) => line.startsWith("{") && line.endsWith("}"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  const linesOf = (traceId: string) => allLines().filter(({ trace_id }) => trace_id === traceId);
});
