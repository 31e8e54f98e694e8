import type { ServerResponse } from "node:http";
import { describe, expect, it, vi } from "vitest";
import { CompletionRequest, EmbeddingRequest } from "../gen/cortex/llm/v1/llm.ts";
import { BreakerState, Health, KeyState } from "../gen/cortex/provider/v1/provider.ts";
import { createProviderService } from "./provider-service.ts";
import {
  collect,
  createTestWorker,
  GOOD,
  kinds,
  REQUEST,
  serveHttp,
  startSse,
  startTestCall,
} from "./test-provider.ts";

const call = startTestCall();

describe("the provider service", () => {
  it("hands each request to the worker that it names", async () => {
    await using server = await serveHttp((request, response) => {
      if (request.url === "/chat") {
        request.resume();
        startSse(response).end(GOOD);
      } else response.end('["m-1"]');
    });
    const provider = createProviderService();
    provider.add(createTestWorker(server.url, { name: "a", models: undefined }));
    provider.add(createTestWorker(server.url, { name: "b" }));
    const { service } = provider;

    const streamed = await collect(service.stream({ worker: "a", completion: REQUEST, lastResort: false }, call));
    expect(kinds(streamed.parts)).toEqual(["served", "text", "text", "finish", "usage"]);
    expect(streamed.parts[0]?.part?.value).toMatchObject({ worker: "a", provider: "test" });
    expect(await service.listModels({ worker: "a" }, call)).toMatchObject({ models: [{ id: "m-1" }] });
    expect(await service.listModels({ worker: "b" }, call)).toMatchObject({ models: [{ id: "m" }] });
    expect(await service.checkHealth({ worker: "b" }, call)).toMatchObject({ health: Health.AVAILABLE });
    await provider.close();
  });

  it("lets a last resort past an open breaker, whatever is asked for", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      response.writeHead(500).end("no");
    });
    const provider = createProviderService();
    provider.add(createTestWorker(server.url, { name: "a", keys: ["k"], breaker: { failures: 1 } }));
    const { service } = provider;
    const failureOf = async (lastResort: boolean, stream: boolean) => {
      const request = { worker: "a", completion: REQUEST, lastResort };
      if (stream) return (await collect(service.stream(request, call))).error;
      return service.complete(request, call).catch((error: unknown) => error);
    };
    expect(await failureOf(false, true)).toMatchObject({ reason: "PROVIDER_ERROR", key: "8254c329" });
    for (const stream of [true, false]) {
      expect(await failureOf(false, stream)).toMatchObject({ reason: "BREAKER_OPEN", key: undefined });
      expect(await failureOf(true, stream)).toMatchObject({ reason: "PROVIDER_ERROR", key: "8254c329" });
    }
    await provider.close();
  });

  it("describes one worker, or all of them", async () => {
    const provider = createProviderService();
    provider.add(createTestWorker("http://127.0.0.1:1/v1/", { name: "a", keys: ["k"], limits: { concurrent: 3 } }));
    provider.add(createTestWorker("http://127.0.0.1:1", { name: "b", priority: 5, capabilities: [] }));
    const { workers } = await provider.service.getInfo({ worker: "" }, call);
    expect(workers).toEqual([
      {
        name: "a",
        provider: "test",
        priority: 70,
        baseUrl: "http://127.0.0.1:1/v1",
        models: ["m"],
        capabilities: ["code"],
        health: Health.UNSPECIFIED,
        breaker: BreakerState.CLOSED,
        pool: { size: 4, connected: 0, free: 0, running: 0, pending: 0, queued: 0 },
        activeRequests: 0,
        concurrentRequestsMax: 3,
        simulated: false,
        // The start of `printf k | sha256sum`.
        keys: [
          {
            fingerprint: "8254c329",
            state: KeyState.AVAILABLE,
            restingUntilMs: 0,
            requests: 0,
            inFlight: 0,
            reason: "",
          },
        ],
        breakerStatistics: {
          failuresInRow: 0,
          successes: 0,
          failures: 0,
          rejected: 0,
          opened: 0,
          openedAtMs: 0,
          concurrentRequestsMax: 0,
        },
        weight: 1,
        modelProperties: {},
        draining: false,
        tokensPerSecondMin: 0,
        reason: "",
        message: "",
      },
      expect.objectContaining({ name: "b", priority: 5, capabilities: [], baseUrl: "http://127.0.0.1:1" }),
    ]);
    expect((await provider.service.getInfo({ worker: "b" }, call)).workers).toHaveLength(1);
    await provider.close();
  });

  it("names the worker that it does not have", async () => {
    const { service } = createProviderService();
    const error = { reason: "WORKER_NOT_FOUND", message: 'there is no worker "x" on this node' };
    await expect(service.checkHealth({ worker: "x" }, call)).rejects.toMatchObject(error);
    await expect(service.getInfo({ worker: "x" }, call)).rejects.toMatchObject(error);
    await expect(service.complete({ worker: "x", completion: REQUEST, lastResort: false }, call)).rejects.toMatchObject(
      error,
    );
    expect(() => service.stream({ worker: "x", completion: REQUEST, lastResort: false }, call)).toThrow(
      expect.objectContaining(error),
    );
  });

  it("names the field that is missing", async () => {
    const provider = createProviderService();
    provider.add(createTestWorker("http://127.0.0.1:1", { name: "a" }));
    const { service } = provider;
    const worker = "a";
    const missing = (field: string) => ({ reason: "INVALID_REQUEST", message: `${field} is missing`, field });
    await expect(service.checkHealth({ worker: "" }, call)).rejects.toMatchObject(missing("worker"));
    await expect(service.complete({ worker, lastResort: false }, call)).rejects.toMatchObject(missing("completion"));
    const noModel = CompletionRequest.fromPartial({ ...REQUEST, model: "" });
    await expect(service.complete({ worker, completion: noModel, lastResort: false }, call)).rejects.toMatchObject(
      missing("completion.model"),
    );
    const noMessages = CompletionRequest.fromPartial({ model: "m" });
    expect(() => service.stream({ worker, completion: noMessages, lastResort: false }, call)).toThrow(
      expect.objectContaining(missing("completion.messages")),
    );
    await expect(service.embed({ worker, lastResort: false }, call)).rejects.toMatchObject(missing("embedding"));
    const noInputs = EmbeddingRequest.fromPartial({ model: "m" });
    await expect(service.embed({ worker, embedding: noInputs, lastResort: false }, call)).rejects.toMatchObject(
      missing("embedding.inputs"),
    );
    await provider.close();
  });

  it("refuses a second worker of the same name", async () => {
    const provider = createProviderService();
    provider.add(createTestWorker("http://127.0.0.1:1", { name: "a" }));
    const second = createTestWorker("http://127.0.0.1:1", { name: "a" });
    expect(() => provider.add(second)).toThrow(expect.objectContaining({ reason: "WORKER_ALREADY_REGISTERED" }));
    await second.close();
    await provider.close();
  });

  it("tells what happens to its workers, and forgets those that are removed", async () => {
    await using server = await serveHttp((_request, response) => void response.end("{}"));
    const provider = createProviderService();
    const changes: string[] = [];
    const unwatch = provider.onChange(({ worker, change }) => changes.push(`${worker} ${change}`));
    provider.add(createTestWorker(server.url, { name: "a" }));
    await provider.service.checkHealth({ worker: "a" }, call);
    expect(await provider.remove("a")).toBe(true);
    expect(await provider.remove("a")).toBe(false);
    expect(changes).toEqual(["a added", "a health", "a removed"]);
    expect(provider.workers()).toEqual([]);
    unwatch();
    provider.add(createTestWorker(server.url, { name: "a" }));
    expect(changes).toHaveLength(3);
    await provider.close();
  });

  it("puts a worker in the place of another one, which serves to the end what it has begun", async () => {
    const answers: ServerResponse[] = [];
    await using before = await serveHttp((request, response) => {
      request.resume();
      answers.push(startSse(response));
    });
    await using after = await serveHttp((request, response) => {
      request.resume();
      startSse(response).end(GOOD);
    });
    const provider = createProviderService();
    const changes: unknown[] = [];
    provider.onChange(({ change }) => changes.push(change));
    const old = createTestWorker(before.url, { name: "a" });
    provider.add(old);
    const ask = () => collect(provider.service.stream({ worker: "a", completion: REQUEST, lastResort: false }, call));
    const first = ask();
    await vi.waitFor(() => expect(answers).toHaveLength(1));
    const replaced = provider.replace(createTestWorker(after.url, { name: "a", priority: 1 }));
    expect(provider.info("a")).toMatchObject({ priority: 1, activeRequests: 0 });
    expect(kinds((await ask()).parts)).toContain("finish");
    answers[0]!.end(GOOD);
    expect(kinds((await first).parts)).toContain("finish");
    await replaced;
    expect((await collect(old.stream(REQUEST, call))).error).toMatchObject({ reason: "NODE_DRAINING" });
    expect(changes.filter((change) => change !== "health")).toEqual(["added", "replaced"]);
    await provider.close();
  });

  it("sends no more requests to a worker that retires, and tells who comes too late to look elsewhere", async () => {
    const answers: ServerResponse[] = [];
    await using server = await serveHttp((request, response) => {
      request.resume();
      answers.push(startSse(response));
    });
    const provider = createProviderService();
    provider.add(createTestWorker(server.url, { name: "a" }));
    const ask = () => collect(provider.service.stream({ worker: "a", completion: REQUEST, lastResort: false }, call));
    const asked = ask();
    await vi.waitFor(() => expect(answers).toHaveLength(1));
    const retired = provider.retire("a");
    expect(ask).toThrow(expect.objectContaining({ reason: "NODE_UNREACHABLE" }));
    answers[0]!.end(GOOD);
    expect(kinds((await asked).parts)).toContain("finish");
    expect(await retired).toBe(true);
    expect(await provider.retire("a")).toBe(false);
  });

  it("closes what retires when it is closed itself", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      startSse(response);
    });
    const provider = createProviderService();
    provider.add(createTestWorker(server.url, { name: "a" }, { dependencies: { closeWaitMs: 10 } }));
    const asked = collect(provider.service.stream({ worker: "a", completion: REQUEST, lastResort: false }, call));
    await vi.waitFor(() => expect(provider.info("a")?.activeRequests).toBe(1));
    const retired = provider.retire("a");
    await provider.close();
    await retired;
    expect((await asked).error).toMatchObject({ reason: "NODE_DRAINING" });
  });

  it("tells which of its workers are drained", async () => {
    const provider = createProviderService();
    for (const name of ["a", "b"]) provider.add(createTestWorker("http://127.0.0.1:1", { name }));
    provider.setDrained(new Set(["a", "of another node"]));
    const { workers } = await provider.service.getInfo({ worker: "" }, call);
    expect(workers.map(({ draining }) => draining)).toEqual([true, false]);
    expect([provider.info("a")?.draining, provider.info("b")?.draining]).toEqual([true, false]);
    expect(provider.info("of another node")).toBeUndefined();
    await provider.close();
  });
});
