/** What a router counts, by what has really happened: over the real in-process carrier, with workers that do as they are told. */
import { beforeEach, describe, expect, it } from "vitest";
import { RpcError, startCall } from "../../libs/rpc/index.ts";
import { METRIC, NO_TRACE } from "../../libs/telemetry/index.ts";
import { FakeMesh, failing, failureOf, overloaded, read, request, saying } from "./test-mesh.ts";

let call: ReturnType<typeof startCall>;

beforeEach(() => {
  call = startCall({ tenant: "team-a", requestId: "request-1", trace: NO_TRACE });
});

/** The series of a metric and their values. */
async function told(mesh: FakeMesh, metric: { readonly name: string }, end = ""): Promise<string[]> {
  const { body } = await mesh.metrics.expose("");
  return body.split("\n").filter((line) => line.startsWith(`${metric.name}${end}`));
}

describe("a router counts", () => {
  it("each request by how it ended, and each attempt by worker", async () => {
    const mesh = new FakeMesh({ a: failing(overloaded), b: saying("hi") });
    await read(mesh.router().stream({ completion: request }, call));
    expect(await told(mesh, METRIC.requests)).toEqual([
      'cortex_requests_total{operation="chat",outcome="served",reason="",source="provider",tenant="team-a"} 1',
    ]);
    expect(await told(mesh, METRIC.attempts)).toEqual([
      'cortex_attempts_total{worker="a",provider="p",kind="first",outcome="failed",reason="PROVIDER_OVERLOADED"} 1',
      'cortex_attempts_total{worker="b",provider="p",kind="failover",outcome="served",reason=""} 1',
    ]);
    expect(await told(mesh, METRIC.attemptDuration, "_count")).toEqual([
      'cortex_attempt_duration_seconds_count{worker="b"} 1',
    ]);
    expect(await told(mesh, METRIC.genAiDuration, "_count")).toHaveLength(2);
    expect(await told(mesh, METRIC.requestFirstToken, "_count")).toHaveLength(1);
  });

  it("all of them once, however many come between two scrapes, and those that ended when it is stopped", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    const router = mesh.router();
    const serve = async (count: number) => {
      for (let index = 0; index < count; index++) await router.complete({ completion: request }, call);
    };
    const counted = async () =>
      [...(await told(mesh, METRIC.requests)), ...(await told(mesh, METRIC.attempts))].map((line) =>
        line.split(" ").at(-1),
      );
    await serve(37);
    expect(await counted()).toEqual(["37", "37"]);
    await serve(3);
    expect(await counted()).toEqual(["40", "40"]);
    await serve(5);
    mesh.stop?.();
    expect(await counted()).toEqual(["45", "45"]);
  });

  it("faults of requests apart from failures of the mesh", async () => {
    const mesh = new FakeMesh({ a: failing(overloaded) });
    const router = mesh.router();
    await failureOf(router.complete({ completion: { ...request, model: "unknown" } }, call));
    await failureOf(router.complete({ completion: request }, call));
    expect(await told(mesh, METRIC.requests)).toEqual([
      expect.stringContaining('outcome="refused",reason="MODEL_NOT_FOUND",source="none"'),
      expect.stringContaining('outcome="failed",reason="NO_WORKERS_AVAILABLE",source="none"'),
    ]);
  });

  it("requests that it serves now, until they end however they end", async () => {
    const mesh = new FakeMesh({ a: saying("hi"), b: failing(overloaded) });
    const router = mesh.router();
    const inFlight = async () => [
      ...(await told(mesh, METRIC.requestsInFlight)),
      ...(await told(mesh, METRIC.streamsOpen)),
    ];
    const stream = router.stream({ completion: request }, call)[Symbol.asyncIterator]();
    await stream.next();
    expect(await inFlight()).toEqual(["cortex_requests_in_flight 1", "cortex_streams_open 1"]);
    await stream.return?.();
    await failureOf(router.complete({ completion: { ...request, model: "unknown" } }, call));
    await router.complete({ completion: request }, call);
    expect(await inFlight()).toEqual(["cortex_requests_in_flight 0", "cortex_streams_open 0"]);
  });
});

describe("names that clients make up", () => {
  it("make no series, whether nobody has such a model or a worker that lists none is asked for it", async () => {
    const unlisted = new RpcError("PROVIDER_MODEL_NOT_FOUND", "no such model");
    const mesh = new FakeMesh({ a: saying("hi"), any: { ...failing(unlisted), models: [] } });
    const router = mesh.router();
    const names = Array.from({ length: 5_000 }, (_unused, index) => `made-up-${index}`);
    for (const name of names) {
      await failureOf(router.complete({ completion: { ...request, model: name } }, call));
      await failureOf(router.complete({ completion: { ...request, model: `any/${name}` } }, call));
    }
    const { body } = await mesh.metrics.expose("");
    expect(body).not.toContain("made-up");
    expect(await told(mesh, METRIC.requests)).toEqual([expect.stringMatching(/reason="MODEL_NOT_FOUND".* 10000$/)]);
    expect(await told(mesh, METRIC.genAiDuration, "_count")).toEqual([
      expect.stringMatching(/gen_ai_request_model="\(other\)",error_type="PROVIDER_MODEL_NOT_FOUND"\} 5000$/),
    ]);
  });
});
