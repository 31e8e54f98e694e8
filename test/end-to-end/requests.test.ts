/** What a running mesh tells of its requests over NATS: each exactly once, with the numbers of all its attempts. */
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  type AttemptFinished,
  AttemptsFinished,
  type RequestFinished,
  RequestOutcome,
  RequestsFinished,
  UsageSource,
} from "../../libs/gen/cortex/events/v1/events.ts";
import { EVENT } from "../../libs/telemetry/index.ts";
import { type AskOptions, type Seen, see } from "../asking.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const { SERVED, FAILED, CANCELLED } = RequestOutcome;
const SAID = "one two three four five six seven eight nine ten";
const prices = { inputCostUsdPerMillion: 1_000_000, outputCostUsdPerMillion: 2_000_000 };

describe.each(SHAPES)("the requests that end, with %s", (shape) => {
  let first: Simulator;
  let second: Simulator;
  let mesh: TestMesh;
  let doors: string[];
  let nats: NatsConnection;
  const attempts: AttemptFinished[] = [];
  const requests: RequestFinished[] = [];
  /** The ids of all requests that clients have made. */
  const asked: string[] = [];
  let questions = 0;

  beforeAll(async () => {
    [first, second] = await Promise.all([startOpenAiSimulator(), startOpenAiSimulator()]);
    const worker = (name: string, simulator: Simulator, priority: number) => ({
      ...{ name, provider: "openai", baseUrl: simulator.url, models: ["m"], priority, breaker: { failures: 1_000 } },
      modelProperties: { m: prices },
    });
    mesh = await startMesh(shape, {
      workers: [worker("first", first, 1), worker("second", second, 2)],
      settings: { cache: { enabled: true, l2: { timeoutMs: 2_000 } }, routing: { strategy: "local_first" } },
      replicas: { gateway: 2, router: 2 },
    });
    doors = mesh.nodes.flatMap(({ rest }) => rest ?? []);
    nats = await connect({ servers: mesh.nats.url });
    nats.subscribe(EVENT.attemptFinished, {
      callback: (_error, { data }) => void attempts.push(...AttemptsFinished.decode(data).attempts),
    });
    nats.subscribe(EVENT.requestFinished, {
      callback: (_error, { data }) => void requests.push(...RequestsFinished.decode(data).requests),
    });
    await nats.flush();
  });

  afterAll(async () => {
    await nats?.close();
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([first?.stop(), second?.stop()]);
  });

  beforeEach(() => {
    for (const simulator of [first, second]) simulator.behave(undefined);
  });

  function question(): string {
    questions += 1;
    return `${SAID} ${questions}`;
  }

  /** Asks one of the gateways; what it is told of the request comes with it. */
  async function request(content: string, fields: object = {}, options: AskOptions = {}): Promise<Seen> {
    const body = { model: "m", messages: [{ role: "user", content }], stream: true, ...fields };
    const onHeaders = (headers: Headers): void => {
      asked.push(headers.get("x-request-id")!);
      options.onHeaders?.(headers);
    };
    return see(doors[asked.length % doors.length]!, body, { ...options, onHeaders });
  }

  const idOf = ({ headers }: Seen): string => headers.get("x-request-id")!;

  /** What was told of these requests, in order. */
  async function told(...ids: string[]): Promise<RequestFinished[]> {
    const of = (id: string) => requests.filter(({ requestId }) => requestId === id);
    await expect.poll(() => ids.every((id) => of(id).length > 0)).toBe(true);
    return ids.flatMap(of);
  }

  it("has one that is served, and one from the cache that costs nothing", async () => {
    const content = question();
    const served = await request(content);
    const hit = await request(content);
    const [own, kept] = await told(idOf(served), idOf(hit));
    expect(own).toMatchObject({
      ...{ operation: "chat", requestedModel: "m", model: "m", worker: "first", provider: "openai" },
      ...{ strategy: "local_first", outcome: SERVED, reason: "", attempts: 1, cache: "", stream: true },
      ...{ usageSource: UsageSource.REPORTED, traceId: served.headers.get("x-trace-id")! },
    });
    const { inputTokens, outputTokens } = own!.usage!;
    expect(own!.costUsd).toBeCloseTo(inputTokens! + 2 * outputTokens!);
    expect(own!.timeToFirstTokenMs).toBeGreaterThan(0);
    expect(own!.durationMs).toBeGreaterThanOrEqual(own!.timeToFirstTokenMs);
    expect(kept).toMatchObject({ outcome: SERVED, worker: "", attempts: 0, usage: own!.usage, costUsd: undefined });
    expect(kept!.cache).toMatch(/^l[12]$/);
  });

  it("has all that share a call, which only one of them has used", async () => {
    first.behave("firstTokenMs:300,tokenMs:50");
    const content = question();
    const seen = await Promise.all(Array.from({ length: 8 }, () => request(content)));
    const ended = await told(...seen.map(idOf));
    expect(ended).toHaveLength(8);
    expect(ended.map(({ outcome }) => outcome)).toEqual(ended.map(() => SERVED));
    expect(ended.filter(({ cache }) => cache === "shared")).toHaveLength(7);
    expect(ended.filter(({ attempts: tried, costUsd }) => tried === 1 && costUsd! > 0)).toHaveLength(1);
    expect(new Set(ended.map(({ usage }) => JSON.stringify(usage))).size).toBe(1);
  });

  it("has one that failed over, and one that nobody could serve", async () => {
    first.behave("status:500");
    const [over] = await told(idOf(await request(question())));
    expect(over).toMatchObject({ outcome: SERVED, worker: "second", attempts: 2, cache: "" });
    second.behave("status:400");
    first.behave("status:400");
    const refused = await request(question(), { stream: false });
    const [failed] = await told(idOf(refused));
    expect(failed).toMatchObject({
      outcome: FAILED,
      reason: refused.error!,
      worker: "",
      stream: false,
      usage: undefined,
    });
    expect(failed!.attempts).toBeGreaterThan(0);
  });

  it("has a stream whose client has left in the middle, with what it had used by then", async () => {
    first.behave("tokens:5000,tokenMs:10");
    const leave = new AbortController();
    let id = "";
    const onHeaders = (headers: Headers): void => {
      id = headers.get("x-request-id")!;
    };
    const seen = request(question(), {}, { signal: leave.signal, onHeaders, onText: () => leave.abort() });
    await expect(seen).rejects.toThrow();
    const [left] = await told(id);
    expect(left).toMatchObject({
      ...{ outcome: CANCELLED, reason: "CANCELLED", worker: "", attempts: 1, cache: "", stream: true },
      usageSource: UsageSource.ESTIMATED,
    });
    expect(left!.timeToFirstTokenMs).toBeGreaterThan(0);
    expect(left!.costUsd).toBeGreaterThan(0);
  });

  it("has each exactly once, from every router, and the sums of the attempts are theirs", async () => {
    const seen = await Promise.all(Array.from({ length: 40 }, () => request(question())));
    await told(...seen.map(idOf));
    expect(requests.map(({ requestId }) => requestId).toSorted()).toEqual(asked.toSorted());
    expect(new Set(requests.map(({ routerNode }) => routerNode)).size).toBe(shape === "one node" ? 1 : 2);
    const tried = requests.reduce((sum, { attempts: own }) => sum + own, 0);
    await expect.poll(() => attempts.length).toBe(tried);
    const spent = requests.filter(({ attempts: own }) => own > 0);
    const sumOf = (all: readonly { readonly costUsd?: number | undefined }[]): number =>
      all.reduce((sum, { costUsd = 0 }) => sum + costUsd, 0);
    expect(sumOf(spent)).toBeCloseTo(sumOf(attempts));
  });
});
