import { describe, expect, it } from "vitest";
import type { Part } from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import { PartStream } from "./part-stream.ts";

function part(text: string): Part {
  return { part: { $case: "text", value: { text, choice: 0, logprobs: [] } } };
}

function createStream(): { stream: PartStream; log: string[]; push: (text: string, bytes?: number) => void } {
  const log: string[] = [];
  const stream = new PartStream(() => {
    log.push("start");
    return {
      pause: () => void log.push("pause"),
      resume: () => void log.push("resume"),
      cancel: () => void log.push("cancel"),
    };
  });
  const push = (text: string, bytes = 1): void => {
    stream.waiting.push(part(text));
    stream.flush(bytes);
  };
  return { stream, log, push };
}

const failure = new RpcError("PROVIDER_ERROR", "broken");

describe("the stream of chunks", () => {
  it("begins when it is asked, and not before", async () => {
    const { stream, log, push } = createStream();
    expect(log).toEqual([]);
    const first = stream.next();
    expect(log).toEqual(["start"]);
    push("a");
    expect(await first).toEqual({ done: false, value: { parts: [part("a")], key: "" } });
  });

  it("never begins when it is left before it was asked", async () => {
    const { stream, log } = createStream();
    expect(await stream.return()).toEqual({ done: true, value: undefined });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(log).toEqual([]);
  });

  it("hands out as one chunk what came while nobody asked", async () => {
    const { stream, push } = createStream();
    const first = stream.next();
    push("a");
    await first;
    push("b");
    push("c");
    expect(await stream.next()).toEqual({ done: false, value: { parts: [part("b"), part("c")], key: "" } });
  });

  it("hands out what waits before an error, once, and is over then", async () => {
    const { stream, push } = createStream();
    const first = stream.next();
    push("a");
    await first;
    push("b");
    stream.fail(failure);
    expect(await stream.next()).toEqual({ done: false, value: { parts: [part("b")], key: "" } });
    await expect(stream.next()).rejects.toBe(failure);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("hands out what waits before the end", async () => {
    const { stream } = createStream();
    const first = stream.next();
    stream.waiting.push(part("a"));
    stream.end();
    expect(await first).toEqual({ done: false, value: { parts: [part("a")], key: "" } });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("pauses its source beyond the bound and resumes it when the chunk was taken", async () => {
    const { stream, log, push } = createStream();
    const first = stream.next();
    push("a");
    await first;
    push("b", 200 * 1024);
    expect(log).toEqual(["start"]);
    push("c", 100 * 1024);
    push("d", 100 * 1024);
    expect(log).toEqual(["start", "pause"]);
    await stream.next();
    expect(log).toEqual(["start", "pause", "resume"]);
  });

  it("does not count what goes straight to a waiting consumer", async () => {
    const { stream, log, push } = createStream();
    for (let count = 0; count < 10; count += 1) {
      const next = stream.next();
      push("a", 100 * 1024);
      await next;
    }
    expect(log).toEqual(["start"]);
  });

  it("ends a pending request and cancels its source when it is left", async () => {
    const { stream, log, push } = createStream();
    const first = stream.next();
    await stream.return();
    expect(await first).toEqual({ done: true, value: undefined });
    push("late");
    stream.fail(failure);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(log).toEqual(["start", "cancel"]);
  });

  it("fails with what its start throws", async () => {
    const stream = new PartStream(() => {
      throw failure;
    });
    await expect(stream.next()).rejects.toBe(failure);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("serves two requests made at once in turn", async () => {
    const { stream, push } = createStream();
    const both = Promise.all([stream.next(), stream.next()]);
    push("a");
    await Promise.resolve();
    push("b");
    expect((await both).map(({ value }) => value)).toMatchObject([{ parts: [part("a")] }, { parts: [part("b")] }]);
  });
});
