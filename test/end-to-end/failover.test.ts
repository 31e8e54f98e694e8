/** Two workers, the first of which fails in every way there is before the first token: the client sees one clean answer. */
import OpenAI, { InternalServerError } from "openai";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { type BehaviourLike, type Simulator, startOpenAiSimulator, unusedPort } from "../fakes/index.ts";
import { type OtlpReceiver, startOtlpReceiver } from "../fakes/otlp.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "hello" }];
const timeouts = { connectMs: 2_000, firstTokenMs: 400, stallMs: 400 };
/** So many failures are provoked here that the breaker would get between; it has tests of its own. */
const breaker = { failures: 1_000 };

/** How the first worker misbehaves, and the reason that the trace has to show. */
const FAILURES: readonly [string, BehaviourLike, string][] = [
  ["answers 500", "status:500", "PROVIDER_ERROR"],
  ["answers 429", "status:429,retryAfter:2", "PROVIDER_RATE_LIMITED"],
  ["refuses its key", "status:401", "PROVIDER_REFUSED_KEY"],
  ["answers a proxy's HTML", "status:502,html", "PROVIDER_ERROR"],
  ["closes the connection before the headers", "cut:request", "PROVIDER_UNREACHABLE"],
  ["resets the connection", "reset:request", "PROVIDER_UNREACHABLE"],
  ["hangs without a word", "stall:request", "PROVIDER_TIMEOUT"],
  ["hangs after the headers", "stall:headers", "PROVIDER_TIMEOUT"],
  ["closes the connection before the first token", "cut:headers", "PROVIDER_STREAM_CUT"],
  ["answers 200 and nothing", "end:headers", "PROVIDER_STREAM_CUT"],
  ["sends garbage instead of HTTP", "garbage:request", "PROVIDER_"],
  ["sends garbage after the headers", "garbage:headers", "PROVIDER_"],
  ["sends a malformed line first", "malformed:headers", "PROVIDER_INVALID_ANSWER"],
  ["reports an error inside a 200", "error:headers", "PROVIDER_"],
];

describe.each(SHAPES)("failover with %s", (shape) => {
  let bad: Simulator;
  let good: Simulator;
  let otlp: OtlpReceiver;
  let mesh: TestMesh;
  let client: OpenAI;

  beforeAll(async () => {
    bad = await startOpenAiSimulator();
    good = await startOpenAiSimulator();
    otlp = await startOtlpReceiver();
    mesh = await startMesh(shape, {
      workers: [
        { name: "bad", provider: "openai", baseUrl: bad.url, models: ["m"], priority: 1, timeouts, breaker },
        { name: "good", provider: "openai", baseUrl: good.url, models: ["m"], priority: 2, timeouts, breaker },
        {
          name: "gone",
          provider: "openai",
          baseUrl: `http://127.0.0.1:${await unusedPort()}/v1`,
          models: ["g"],
          priority: 0,
        },
        { name: "spare", provider: "openai", baseUrl: good.url, models: ["g"], priority: 3, timeouts, breaker },
      ],
      environment: otlp.environment,
    });
    client = new OpenAI({ apiKey: "any", baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
  });

  beforeEach(async () => {
    bad.behave(undefined);
    good.behave(undefined);
    // A worker that has just failed is tried last until it has recovered, which each of these tests starts from.
    await expect
      .poll(() => mesh.workersWithHealth(Health.AVAILABLE), { timeout: 10_000 })
      .toEqual(["bad", "good", "spare"]);
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([bad?.stop(), good?.stop(), otlp?.stop()]);
  });

  it.each(FAILURES)("hides a worker that %s", async (_name, behaviour, reason) => {
    bad.behave(behaviour);
    const { data: stream, response } = await client.chat.completions
      .create({ model: "m", messages, stream: true })
      .withResponse();
    let text = "";
    const finishes: unknown[] = [];
    for await (const { choices } of stream) {
      text += choices[0]?.delta.content ?? "";
      if (choices[0]?.finish_reason) finishes.push(choices[0].finish_reason);
    }
    expect(text).toBe("You said: hello");
    expect(finishes).toEqual(["stop"]);
    expect(response.headers.get("x-cortex-worker")).toBe("good");

    const { data: whole, response: unary } = await client.chat.completions
      .create({ model: "m", messages })
      .withResponse();
    expect(whole.choices[0]?.message.content).toBe("You said: hello");
    expect(unary.headers.get("x-cortex-worker")).toBe("good");

    const trace = await otlp.trace(response.headers.get("x-trace-id")!, (spans) =>
      spans.some(({ name }) => name === "attempt good"),
    );
    const attempts = trace.filter(({ name }) => name.startsWith("attempt "));
    expect(attempts.map(({ name }) => name)).toEqual(["attempt bad", "attempt good"]);
    expect(attempts[0]!.attributes["error.type"]).toContain(reason);
    expect(attempts[0]!.attributes["cortex.outcome"]).toBe("failed");
    expect(attempts[1]!.attributes["cortex.outcome"]).toBe("served");
    expect(response.headers.get("x-cortex-attempts")).toBe("2");
  });

  it("hides a worker that refuses connections, streamed and not", async () => {
    const { response } = await client.chat.completions.create({ model: "g", messages }).withResponse();
    expect(response.headers.get("x-cortex-worker")).toBe("spare");
    const streamed = await client.chat.completions.create({ model: "g", messages, stream: true }).withResponse();
    expect(streamed.response.headers.get("x-cortex-worker")).toBe("spare");
  });

  it("answers 503 with the reason of every worker when none is left", async () => {
    bad.behave("status:500");
    good.behave("stall:request");
    for (const stream of [true, false]) {
      const error = await client.chat.completions.create({ model: "m", messages, stream }).then(
        () => undefined,
        (thrown: unknown) => thrown as InstanceType<typeof InternalServerError>,
      );
      expect(error).toBeInstanceOf(InternalServerError);
      expect(error?.status).toBe(503);
      expect(error?.code).toBe("NO_WORKERS_AVAILABLE");
      expect(error?.message).toMatch(/bad: PROVIDER_ERROR .*; good: PROVIDER_TIMEOUT/);
      const { attempts } = (error!.error as { cortex: { attempts: { worker: string }[] } }).cortex;
      // Each in turn; whoever may do better a moment later is asked again, and who was silent after all others.
      expect(attempts.map(({ worker }) => worker)).toEqual(["bad", "good", "bad", "bad", "good"]);
    }
    await expect.poll(() => mesh.output()).toContain("no workers available");
  });

  it("tells the client which worker failed and why, and the log once where that was", async () => {
    const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ model: "gone/g", messages }),
    });
    const body = await response.text();
    const { error } = JSON.parse(body) as {
      error: { message: string; cortex: { trace_id: string; attempts: object[] } };
    };
    expect(error.message).toMatch(/^no workers available: gone: PROVIDER_UNREACHABLE \(no answer from the provider /);
    expect(error.message).toMatch(/Try again; operators: cortex workers list, cortex doctor\.$/);
    expect(body).not.toMatch(/127\.0\.0\.1|localhost|worker \\"gone/);
    const told = () =>
      mesh
        .output()
        .split("\n")
        .filter((line) => line.includes(error.cortex.trace_id) && line.includes("attempt failed"));
    await expect.poll(told).toHaveLength(error.cortex.attempts.length);
    for (const line of told()) {
      expect(line).toMatch(/"message":"attempt failed: no answer from 127\.0\.0\.1:\d+ \(ECONNREFUSED\)"/);
      expect(line).not.toContain("stack");
    }
  });

  it("does not try another worker when the request itself is at fault", async () => {
    bad.behave("status:400");
    const before = good.generations.length;
    const error = await client.chat.completions.create({ model: "m", messages }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ status: 400 });
    expect(good.generations.length).toBe(before);
  });
});
