/** Streams whose workers are late, slow, or die in the middle: what the client sees, and what is accounted. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { AttemptKind, AttemptOutcome, UsageSource } from "../../libs/gen/cortex/events/v1/events.ts";
import { type CompletionRequest, type Part, ResponseFormat_Kind, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { RouterServiceDefinition, StreamRequest, StreamResponse } from "../../libs/gen/cortex/router/v1/router.ts";
import { type OwnedCall, RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import {
  type Behaviour,
  chunk,
  FakeMesh,
  failing,
  failureOf,
  finish,
  overloaded,
  request,
  saying,
  served,
  text,
  textOf,
  usage,
} from "./test-mesh.ts";

const { SERVED, FAILED, INTERRUPTED, CANCELLED, SUPERSEDED } = AttemptOutcome;
const ANSWER = ["The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", "."];

let call: OwnedCall;

beforeEach(() => {
  call = startCall({ tenant: "team-a", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 20_000 });
});

afterEach(() => {
  call.cancel();
  call.finish();
});

interface Seen {
  readonly text: string;
  readonly parts: readonly Part[];
  readonly error: RpcError | undefined;
}

async function watch(
  router: Service<typeof RouterServiceDefinition>,
  asked: Partial<StreamRequest> = {},
): Promise<Seen> {
  const responses: StreamResponse[] = [];
  let error: RpcError | undefined;
  try {
    for await (const response of router.stream({ completion: request, ...asked }, call)) responses.push(response);
  } catch (thrown) {
    error = thrown as RpcError;
  }
  return { text: textOf(responses), parts: responses.flatMap(({ parts }) => parts), error };
}

const continued = ({ parts }: Seen) =>
  parts.flatMap(({ part }) => (part?.$case === "continued" ? [`${part.value.worker} ${part.value.reason}`] : []));

/** Says so many tokens of the answer, then fails. */
const dying = (tokens: number, error: Error = overloaded): Behaviour => ({
  async *stream() {
    yield chunk(served("dying"));
    for (const token of ANSWER.slice(0, tokens)) yield chunk(text(token));
    throw error;
  },
});

/** Goes on with whatever the assistant has begun. */
const prefilled: Behaviour = {
  info: { capabilities: ["prefill"] },
  async *stream(asked) {
    const begun = begunIn(asked);
    yield chunk(served("prefilled"));
    const rest = ANSWER.join("").slice(begun.length);
    for (const token of rest.match(/\s*\S+/g) ?? []) yield chunk(text(token));
    yield chunk(finish, usage({ inputTokens: 7, outputTokens: 2 }));
  },
};

function begunIn({ messages }: CompletionRequest): string {
  const last = messages.at(-1)!;
  const part = last.content[0]?.part;
  return last.role === Role.ASSISTANT && part?.$case === "text" ? part.value : "";
}

const silent: Behaviour = {
  stream: (_request, heard) => ({
    [Symbol.asyncIterator]: () => ({
      next: () =>
        new Promise((_resolve, reject) => heard.signal.addEventListener("abort", () => reject(heard.signal.reason))),
      return: () => {
        returned++;
        return Promise.resolve({ done: true, value: undefined });
      },
    }),
  }),
};
let returned = 0;

describe("a text whose worker dies", () => {
  it.each([1, 2, 5, 9])("after %i tokens goes on at another worker, without a gap or a repetition", async (tokens) => {
    const mesh = new FakeMesh({ dying: dying(tokens), prefilled });
    const seen = await watch(mesh.router());
    expect(seen.error).toBeUndefined();
    expect(seen.text).toBe(ANSWER.join(""));
    expect(continued(seen)).toEqual(["prefilled PROVIDER_OVERLOADED"]);
    expect(seen.parts.filter(({ part }) => part?.$case === "served")).toHaveLength(1);
    expect(seen.parts.filter(({ part }) => part?.$case === "finish")).toHaveLength(1);
    expect(mesh.events).toMatchObject([
      { worker: "dying", outcome: INTERRUPTED, kind: AttemptKind.FIRST, usageSource: UsageSource.ESTIMATED },
      { worker: "prefilled", outcome: SERVED, kind: AttemptKind.CONTINUATION, usageSource: UsageSource.REPORTED },
    ]);
  });

  it("has the usage of all its workers", async () => {
    const mesh = new FakeMesh({
      dying: {
        async *stream() {
          yield chunk(served("dying"), text("The quick"), usage({ inputTokens: 3, outputTokens: 2 }));
          throw overloaded;
        },
      },
      prefilled,
    });
    const { parts } = await watch(mesh.router());
    const used = parts.flatMap(({ part }) => (part?.$case === "usage" ? [part.value] : []));
    expect(used.at(-1)).toMatchObject({ inputTokens: 10, outputTokens: 4 });
    expect(mesh.events[1]!.usage).toMatchObject({ inputTokens: 7, outputTokens: 2 });
  });

  it("again and again goes on as long as somebody can", async () => {
    const again = (tokens: number): Behaviour => ({
      info: { capabilities: ["prefill"] },
      async *stream(asked) {
        const begun = begunIn(asked);
        const rest = (
          ANSWER.join("")
            .slice(begun.length)
            .match(/\s*\S+/g) ?? []
        ).slice(0, tokens);
        yield chunk(served("again"));
        for (const token of rest) yield chunk(text(token));
        throw overloaded;
      },
    });
    const mesh = new FakeMesh({ a: dying(2), b: again(3), c: again(2), d: prefilled });
    const seen = await watch(mesh.router());
    expect(seen.error).toBeUndefined();
    expect(seen.text).toBe(ANSWER.join(""));
    expect(continued(seen)).toHaveLength(3);
    // What each has said is estimated for itself alone.
    expect(mesh.events.map(({ usage: used }) => used?.outputTokens)).toEqual([3, 4, 3, 2]);
  });

  it("goes on at the same worker when nobody else is there and the failure may pass", async () => {
    let times = 0;
    const mesh = new FakeMesh({
      only: {
        info: { capabilities: ["prefill"] },
        stream: (asked, made, node) => (times++ === 0 ? dying(3) : prefilled).stream!(asked, made, node),
      },
    });
    mesh.timePasses = true;
    const seen = await watch(mesh.router({ waitMaxMs: 5_000 }));
    expect(seen.error).toBeUndefined();
    expect(seen.text).toBe(ANSWER.join(""));
  });

  it("is told to go on where the model takes no beginning, and passes over whoever does not", async () => {
    const mesh = new FakeMesh({ dying: dying(4), deaf: saying("Something", " else", " entirely", "."), prefilled });
    const seen = await watch(mesh.router());
    expect(seen.text).toBe(ANSWER.join(""));
    expect(mesh.requests[1]!.messages.at(-1)!.role).toBe(Role.USER);
    expect(mesh.requests[1]!.messages.slice(0, 1)).toEqual(request.messages);
    expect(mesh.outcomes().map(([worker, , reason]) => [worker, reason])).toEqual([
      ["dying", "PROVIDER_OVERLOADED"],
      ["deaf", "CONTINUATION_MISMATCH"],
      ["prefilled", ""],
    ]);
  });

  it("is told to go on in words once a model has refused a beginning", async () => {
    const picky: Behaviour = {
      info: { capabilities: ["prefill"] },
      stream: (asked) =>
        asked.messages.at(-1)!.role === Role.ASSISTANT
          ? failing(new RpcError("INVALID_REQUEST", "no prefill")).stream!(asked, call, "here")
          : saying("not what was wanted").stream!(asked, call, "here"),
    };
    const mesh = new FakeMesh({ dying: dying(4), picky });
    const seen = await watch(mesh.router());
    expect(seen.error?.reason).toBe("STREAM_INTERRUPTED");
    expect(mesh.asked).toEqual(["dying@here", "picky@here", "picky@here"]);
    expect(mesh.requests[2]!.messages.at(-1)!.role).toBe(Role.USER);
  });

  it("ends in an error that says why, when nobody can go on", async () => {
    const mesh = new FakeMesh({ dying: dying(4), b: failing(new RpcError("PROVIDER_REFUSED_KEY", "wrong key")) });
    const seen = await watch(mesh.router());
    expect(seen.text).toBe(ANSWER.slice(0, 4).join(""));
    expect(seen.error?.reason).toBe("STREAM_INTERRUPTED");
    expect(seen.error?.message).toMatch(/dying failed .*PROVIDER_REFUSED_KEY/);
    expect(seen.parts.some(({ part }) => part?.$case === "finish")).toBe(false);
  });

  it.each<[string, Partial<StreamRequest>]>([
    ["the request forbids it", { routing: { strategy: 0, continuation: false } }],
    [
      "JSON was asked for",
      {
        completion: {
          ...request,
          responseFormat: {
            kind: ResponseFormat_Kind.JSON_OBJECT,
            name: "",
            description: "",
            jsonSchema: "",
            strict: false,
          },
        },
      },
    ],
    ["there are several answers", { completion: { ...request, choiceCount: 2 } }],
  ])("ends in an error at once when %s", async (_why, asked) => {
    const mesh = new FakeMesh({ dying: dying(4), prefilled });
    const seen = await watch(mesh.router(), asked);
    expect(seen.error?.reason).toBe("STREAM_INTERRUPTED");
    expect(mesh.asked).toEqual(["dying@here"]);
  });

  it("does not go on for a client that has left", async () => {
    const mesh = new FakeMesh({ dying: { ...silent, stream: hangingAfter("The") }, prefilled });
    const iterator = mesh.router().stream({ completion: request }, call)[Symbol.asyncIterator]();
    await iterator.next();
    const waiting = failureOf(iterator.next());
    call.cancel();
    expect((await waiting).reason).toBe("CANCELLED");
    await vi.waitFor(() => expect(mesh.events).toHaveLength(1));
    expect(mesh.events[0]).toMatchObject({ outcome: CANCELLED, usageSource: UsageSource.ESTIMATED });
    expect(mesh.asked).toEqual(["dying@here"]);
  });
});

function hangingAfter(word: string): NonNullable<Behaviour["stream"]> {
  return async function* (_asked, heard) {
    yield chunk(served("x"), text(word));
    await new Promise((_resolve, reject) => heard.signal.addEventListener("abort", () => reject(heard.signal.reason)));
  };
}

describe("a stream that another router had begun", () => {
  it("goes on where the client stopped hearing of it", async () => {
    const mesh = new FakeMesh({ prefilled });
    const resume = { text: ANSWER.slice(0, 6).join(""), worker: "gone", attempts: 2 };
    const seen = await watch(mesh.router(), { resume });
    expect(seen.text).toBe(ANSWER.slice(6).join(""));
    expect(continued(seen)).toEqual(["prefilled NODE_UNREACHABLE"]);
    expect(mesh.events).toMatchObject([{ kind: AttemptKind.CONTINUATION, attempt: 3 }]);
  });
});

describe("a worker that is late", () => {
  /** Its first 20 answers come at once, which teaches the router what to expect of it. */
  function lateAfterTwenty(later: Behaviour): Behaviour {
    let times = 0;
    const prompt = saying("from", " the", " first");
    return {
      stream: (asked, made, node) => (times++ < 20 ? prompt : later).stream!(asked, made, node),
    };
  }
  const hedging = { enabled: true, ratio: 0.5 };

  async function taught(mesh: FakeMesh, settings: { hedging: { enabled: boolean; ratio: number } }) {
    mesh.timePasses = true;
    const router = mesh.router(settings);
    for (let index = 0; index < 20; index++) expect((await watch(router)).error).toBeUndefined();
    mesh.asked.length = 0;
    mesh.events.length = 0;
    return router;
  }

  it("gets a rival, which goes on alone; the late one is let go of", async () => {
    returned = 0;
    const mesh = new FakeMesh({ first: lateAfterTwenty(silent), second: saying("from", " the", " second") });
    const router = await taught(mesh, { hedging });
    const seen = await watch(router);
    expect(seen.text).toBe("from the second");
    expect(mesh.asked).toEqual(["first@here", "second@here"]);
    await vi.waitFor(() => expect(mesh.events).toHaveLength(2));
    expect(mesh.events).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ worker: "first", outcome: SUPERSEDED, reason: "" }),
        expect.objectContaining({ worker: "second", outcome: SERVED, kind: AttemptKind.HEDGE }),
      ]),
    );
    expect(returned).toBe(1);
  });

  it("gets none unless that is switched on, by the configuration or by the request", async () => {
    const mesh = new FakeMesh({ first: lateAfterTwenty(silent), second: saying("from", " the", " second") });
    const router = await taught(mesh, { hedging: { enabled: false, ratio: 0.5 } });
    const seen = await watch(router, { routing: { strategy: 0, hedging: true } });
    expect(seen.text).toBe("from the second");
    const waiting = watch(router);
    await vi.waitFor(() => expect(mesh.asked).toEqual(["first@here", "second@here", "first@here"]));
    call.cancel();
    expect((await waiting).error?.reason).toBe("CANCELLED");
    expect(mesh.asked).toHaveLength(3);
  });

  it("gets none once the budget of extra calls is used up", async () => {
    const mesh = new FakeMesh({ first: lateAfterTwenty(silent), second: saying("from", " the", " second") });
    const router = await taught(mesh, { hedging: { enabled: true, ratio: 0.000_001 } });
    for (let index = 0; index < 10; index++) expect((await watch(router)).text).toBe("from the second");
    mesh.asked.length = 0;
    const waiting = watch(router);
    await vi.waitFor(() => expect(mesh.asked).toEqual(["first@here"]));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(mesh.asked).toEqual(["first@here"]);
    call.cancel();
    await waiting;
  });

  it("serves all the same when its rival fails", async () => {
    const slow: Behaviour = {
      async *stream(asked, made, node) {
        await new Promise((resolve) => setTimeout(resolve, 80));
        yield* saying("late", " but", " good").stream!(asked, made, node);
      },
    };
    const mesh = new FakeMesh({ first: lateAfterTwenty(slow), second: failing(overloaded) });
    const router = await taught(mesh, { hedging });
    expect((await watch(router)).text).toBe("late but good");
    expect(mesh.outcomes()).toEqual([
      ["second", FAILED, "PROVIDER_OVERLOADED"],
      ["first", SERVED, ""],
    ]);
  });
});

describe("a stream that does not say what it has used", () => {
  const call = (argumentsJson: string): Part => ({
    part: { $case: "toolCall", value: { choice: 0, index: 0, id: "c", name: "find", argumentsJson, signature: "" } },
  });

  it.each([
    ["text", [text("one two"), text(" three")], 4],
    ["tool calls", [call('{"name"'), call(':"cortex"}')], 7],
  ])("is accounted by an estimate of what it has said: %s", async (_what, parts, outputTokens) => {
    const forgetful: Behaviour = {
      async *stream() {
        yield chunk(served("forgetful"));
        for (const part of parts) yield chunk(part);
        yield chunk(finish);
      },
    };
    const mesh = new FakeMesh({ forgetful });
    await watch(mesh.router());
    expect(mesh.events).toMatchObject([
      { outcome: SERVED, usage: { outputTokens }, usageSource: UsageSource.ESTIMATED },
    ]);
  });
});

describe("a worker that is slower than its floor", () => {
  const crawling: Behaviour = {
    info: { tokensPerSecondMin: 5 },
    async *stream() {
      yield chunk(served("crawling"), text("one"));
      await new Promise((resolve) => setTimeout(resolve, 1_300));
      yield chunk(text(" two"));
      yield chunk(finish);
    },
  };

  it("is replaced unseen before the client has heard of it", async () => {
    const mesh = new FakeMesh({ crawling, good: saying("fast", " enough") });
    mesh.timePasses = true;
    const seen = await watch(mesh.router());
    expect(seen.text).toBe("fast enough");
    expect(mesh.outcomes()[0]).toEqual(["crawling", INTERRUPTED, "PROVIDER_TOO_SLOW"]);
  });

  it("is let go of, rather than left to talk to nobody", async () => {
    returned = 0;
    const halting: Behaviour = {
      info: { tokensPerSecondMin: 5 },
      stream: (asked, heard, node) => {
        const rest = silent.stream!(asked, heard, node)[Symbol.asyncIterator]();
        let begun = false;
        const next = () => {
          if (begun) return rest.next();
          begun = true;
          return Promise.resolve({ done: false as const, value: chunk(served("halting"), text("one")) });
        };
        return { [Symbol.asyncIterator]: () => ({ next, return: () => rest.return!() }) };
      },
    };
    const mesh = new FakeMesh({ halting, good: saying("fast", " enough") });
    mesh.timePasses = true;
    expect((await watch(mesh.router())).text).toBe("fast enough");
    expect(returned).toBe(1);
  });

  it("serves all the same when there is nobody else", async () => {
    const seen = await watch(new FakeMesh({ crawling }).router());
    expect(seen.error).toBeUndefined();
    expect(seen.text).toBe("one two");
  });

  it("is not one that is fast enough, or short", async () => {
    const fast: Behaviour = { ...saying(...ANSWER), info: { tokensPerSecondMin: 5 } };
    const short: Behaviour = { ...saying("hi"), info: { tokensPerSecondMin: 5 } };
    expect((await watch(new FakeMesh({ fast, other: saying("no") }).router())).text).toBe(ANSWER.join(""));
    expect((await watch(new FakeMesh({ short, other: saying("no") }).router())).text).toBe("hi");
  });
});
