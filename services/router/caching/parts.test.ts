/** Answers as parts: whole and streamed are one, nothing is lost on the way, and a replay is the answer once more. */
import { globSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Completion, FinishReason, Part, Role, type TokenLogprob } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import { type CacheStatus, CacheStatus_State, type StreamResponse } from "../../../libs/gen/cortex/router/v1/router.ts";
import { startCall } from "../../../libs/rpc/index.ts";
import { NO_TRACE } from "../../../libs/telemetry/index.ts";
import { compact, replay, toCompletion, toParts } from "./parts.ts";

const SERVICES = join(import.meta.dirname, "../..");

/** What the adapters make of providers' answers, as their fixtures have it. */
function fixtures(form: "completion" | "parts"): [string, unknown][] {
  return globSync(`adapter-*/fixtures/*.${form}.json`, { cwd: SERVICES }).map((path) => [
    basename(path),
    JSON.parse(readFileSync(join(SERVICES, path), "utf8"), (name, value) => {
      if (name === "role") return Role[value as keyof typeof Role];
      if (name === "finishReason" || name === "reason") return FinishReason[value as keyof typeof FinishReason];
      return name === "bytes" ? Buffer.from(value, "base64") : value;
    }),
  ]);
}

/** A oneof is noted as the field that is set. */
function chosen(noted: object): { part: { $case: string; value: unknown } } {
  const [[$case, value] = ["", undefined]] = Object.entries(noted);
  return { part: { $case, value } };
}

function readCompletion(noted: unknown): Completion {
  const { choices, ...rest } = noted as { choices: { message: { content?: object[] } }[] };
  const read = choices.map(({ message, ...choice }) => ({
    ...choice,
    message: { ...message, content: (message.content ?? []).map(chosen) },
  }));
  return Completion.fromPartial({ ...rest, choices: read } as Parameters<typeof Completion.fromPartial>[0]);
}

const readParts = (noted: unknown): Part[] =>
  (noted as { parts: object[] }).parts.map((part) =>
    Part.fromPartial(chosen(part) as Parameters<typeof Part.fromPartial>[0]),
  );

describe("a provider's whole answer", () => {
  // The others are told as errors.
  const answers = fixtures("completion").filter(([, noted]) => Object.hasOwn(noted as object, "choices"));
  it("is the same after it was parts, as it came and as it is kept", () => {
    expect(answers.length).toBeGreaterThan(100);
    for (const [name, noted] of answers) {
      const completion = readCompletion(noted);
      expect(toCompletion(toParts(completion)), name).toEqual(completion);
      expect(toCompletion(compact(toParts(completion))), name).toEqual(completion);
    }
  });

  it("keeps the log probabilities of an answer without text", () => {
    const logprobs = [{ token: "{", logprob: -1, bytes: Buffer.from("{"), top: [] }];
    const call = { id: "c", name: "find", argumentsJson: "{}", signature: "" };
    const content = [{ part: { $case: "toolCall" as const, value: call } }];
    const choice = {
      index: 0,
      message: { role: Role.ASSISTANT, content, name: "" },
      finishReason: 3 as const,
      logprobs,
    };
    const completion = { served: undefined, choices: [choice], usage: undefined, warnings: [] };
    expect(toCompletion(compact(toParts(completion)))).toEqual(completion);
  });
});

describe("a provider's stream", () => {
  const streams = fixtures("parts").map(([name, noted]): [string, Part[]] => [name, readParts(noted)]);
  it("says the same when it is kept", () => {
    expect(streams.length).toBeGreaterThan(100);
    for (const [name, parts] of streams) {
      expect(toCompletion(compact(parts)), name).toEqual(toCompletion(parts));
      expect(accumulated(compact(parts)), name).toEqual(accumulated(parts));
    }
  });
});

const logprob: fc.Arbitrary<TokenLogprob> = fc.record({
  token: fc.string(),
  logprob: fc.integer(),
  bytes: fc.constant(Buffer.alloc(0)),
  top: fc.constant([]),
});
const choice = fc.nat({ max: 2 });
const delta = fc.record({
  text: fc.string({ maxLength: 3 }),
  choice,
  logprobs: fc.oneof({ weight: 5, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.array(logprob) }),
});
/** Anything a stream may hold; calls begin with their names, as the contract has it. */
const anyParts: fc.Arbitrary<Part[]> = fc
  .array(
    fc.oneof(
      fc.record({ $case: fc.constantFrom("text", "reasoning", "refusal", "reasoningSignature"), value: delta }),
      fc.record({
        $case: fc.constant("toolCall"),
        value: fc.record({ choice, index: choice, argumentsJson: fc.lorem({ maxCount: 4 }) }),
      }),
      fc.record({ $case: fc.constant("warning"), value: fc.record({ code: fc.constantFrom("A", "B") }) }),
      fc.record({ $case: fc.constant("usage"), value: fc.record({ outputTokens: fc.nat() }) }),
    ),
    { maxLength: 30 },
  )
  .map((pieces) => {
    const begun = new Set<string>();
    const parts = pieces.map((piece): Part => {
      if (piece.$case !== "toolCall")
        return Part.fromPartial({ part: piece } as Parameters<typeof Part.fromPartial>[0]);
      const {
        choice: of,
        index,
        argumentsJson,
      } = piece.value as { choice: number; index: number; argumentsJson: string };
      const name = `${of}.${index}`;
      const opening = begun.has(name)
        ? { id: "", name: "", signature: "" }
        : { id: name, name: "find", signature: "s" };
      begun.add(name);
      return { part: { $case: "toolCall", value: { choice: of, index, argumentsJson, ...opening } } };
    });
    const ends = [0, 1, 2].map((of): Part => ({ part: { $case: "finish", value: { choice: of, reason: 1 } } }));
    return [...parts, ...ends];
  });

/** What a client gathers of a stream, as the official SDKs do: by choice and by call, each kind for itself. */
function accumulated(parts: readonly Part[]): object {
  const texts: Record<string, string> = {};
  const logprobs: Record<string, unknown[]> = {};
  const others: Part[] = [];
  const order: Record<string, number[]> = {};
  const add = (name: string, text: string): void => {
    texts[name] = (texts[name] ?? "") + text;
  };
  for (const each of parts) {
    const { part } = each;
    switch (part?.$case) {
      case "text":
      case "reasoning":
      case "refusal":
      case "reasoningSignature": {
        const name = `${part.value.choice} ${part.$case}`;
        if (part.value.text !== "") add(name, part.value.text);
        if (part.value.logprobs.length > 0) logprobs[name] = [...(logprobs[name] ?? []), ...part.value.logprobs];
        break;
      }
      case "toolCall": {
        const { choice: of, index, id, name, argumentsJson, signature } = part.value;
        for (const [field, text] of Object.entries({ id, name, argumentsJson, signature })) {
          add(`${of} call ${index} ${field}`, text);
        }
        order[of] = [...new Set(order[of]).add(index)];
        break;
      }
      default:
        others.push(each);
    }
  }
  return { texts, logprobs, others, order };
}

describe("the compact form", () => {
  it("is what a client gathers of the stream, and has nothing left to join", () => {
    fc.assert(
      fc.property(anyParts, (parts) => {
        const before = JSON.stringify(parts);
        const joined = compact(parts);
        expect(accumulated(joined)).toEqual(accumulated(parts));
        expect(toCompletion(joined)).toEqual(toCompletion(parts));
        expect(compact(joined)).toEqual(joined);
        expect(JSON.stringify(parts)).toBe(before);
      }),
      { numRuns: 500 },
    );
  });

  const text = (value: string, of = 0, logprobs: TokenLogprob[] = []): Part => ({
    part: { $case: "text", value: { text: value, choice: of, logprobs } },
  });

  it("joins the texts of choices and the arguments of calls that come in turns", () => {
    const call = (index: number, argumentsJson: string, id = ""): Part => ({
      part: { $case: "toolCall", value: { choice: 0, index, id, name: id, argumentsJson, signature: "" } },
    });
    expect(compact([text("a"), text("x", 1), text("b"), text("y", 1)])).toEqual([text("ab"), text("xy", 1)]);
    expect(compact([call(0, "", "a"), call(1, "[", "b"), call(0, "{"), call(1, "]"), call(0, "}")])).toEqual([
      call(0, "{}", "a"),
      call(1, "[]", "b"),
    ]);
  });

  it("leaves texts with log probabilities as they came, and what has come between", () => {
    const token: TokenLogprob = { token: "a", logprob: 0, bytes: Buffer.alloc(0), top: [] };
    const probable = [text("a", 0, [token]), text("b", 0, [token]), text(""), text("c")];
    expect(compact(probable)).toEqual([probable[0], probable[1], probable[3]]);
    const thought: Part = { part: { $case: "reasoning", value: { text: "hm", choice: 0, logprobs: [] } } };
    expect(compact([text("a"), thought, text("b")])).toEqual([text("a"), thought, text("b")]);
  });
});

describe("a replay", () => {
  const told: CacheStatus = { state: CacheStatus_State.HIT, detail: "l1", ageS: 1, key: "k" };
  const words = "The quick brown fox jumps over the lazy dog, and so on and on.";
  const answer: Part[] = [
    Part.fromPartial({ part: { $case: "served", value: { id: "a", worker: "w" } } }),
    Part.fromPartial({ part: { $case: "text", value: { text: words } } }),
    Part.fromPartial({ part: { $case: "finish", value: { reason: 1 } } }),
    Part.fromPartial({ part: { $case: "usage", value: { outputTokens: 15 } } }),
  ];
  const start = (tokensPerSecond?: number, parts: readonly Part[] = answer) => {
    const call = startCall({ tenant: "t", requestId: "r", trace: NO_TRACE });
    return { call, stream: replay(parts, { tokensPerSecond, cache: told, call }) };
  };
  /** Reads to the end; the time passes by itself. */
  async function readAll(stream: AsyncIterator<StreamResponse>): Promise<{ chunk: StreamResponse; atMs: number }[]> {
    const chunks: { chunk: StreamResponse; atMs: number }[] = [];
    for (;;) {
      const asked = stream.next();
      while (!(await settled(asked))) await vi.advanceTimersToNextTimerAsync();
      const result = await asked;
      if (result.done === true) return chunks;
      chunks.push({ chunk: result.value, atMs: performance.now() });
    }
  }
  const pending = Symbol("pending");
  const settled = async (asked: Promise<unknown>): Promise<boolean> => {
    const nothing = new Promise((resolve) => setImmediate(resolve, pending));
    return (await Promise.race([asked.catch(() => undefined), nothing])) !== pending;
  };

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it.each([undefined, 0, -1, Number.NaN])("comes in one chunk that says it is a hit, at a pace of %s", async (pace) => {
    const chunks = await readAll(start(pace).stream);
    expect(chunks.map(({ chunk }) => chunk)).toEqual([{ parts: answer, attempts: 0, cache: told }]);
  });

  it("comes at the pace that was asked for, and is the same answer", async () => {
    const fromMs = performance.now();
    const chunks = await readAll(start(10).stream);
    expect(compact(chunks.flatMap(({ chunk }) => chunk.parts))).toEqual(answer);
    expect(chunks.length).toBeGreaterThan(10);
    // At once what needs no time, and the first word; the end when all of the text has had its time.
    expect(chunks[0]!.atMs).toBe(fromMs);
    expect(chunks[0]!.chunk.parts.slice(0, 1)).toEqual(answer.slice(0, 1));
    const durationMs = chunks.at(-1)!.atMs - fromMs;
    expect(durationMs).toBeGreaterThanOrEqual((words.length / 4 / 10) * 1_000);
    expect(durationMs).toBeLessThan((words.length / 4 / 10) * 1_000 + 10);
    expect(chunks.map(({ chunk }) => chunk.cache)).toEqual([told, ...chunks.slice(1).map(() => undefined)]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("cuts any answer so that nothing is lost", async () => {
    const parts = anyParts.filter(({ length }) => length > 0);
    await fc.assert(
      fc.asyncProperty(parts, fc.integer({ min: 1, max: 1_000 }), async (whole, pace) => {
        const chunks = await readAll(start(pace, whole).stream);
        expect(accumulated(chunks.flatMap(({ chunk }) => chunk.parts))).toEqual(accumulated(whole));
        for (const { chunk } of chunks) expect(chunk.parts).not.toEqual([]);
      }),
      { numRuns: 30 },
    );
  });

  it("cuts no character in two, and what has no words into short pieces", async () => {
    const text = "日本語".repeat(10) + "😀".repeat(30);
    const chunks = await readAll(start(5, [Part.fromPartial({ part: { $case: "text", value: { text } } })]).stream);
    const texts = chunks
      .flatMap(({ chunk }) => chunk.parts)
      .map(({ part }) => (part?.$case === "text" ? part.value.text : ""));
    expect(texts.join("")).toBe(text);
    expect(texts.every((piece) => piece.isWellFormed() && piece.length <= 24)).toBe(true);
  });

  it("gives a slow reader at once what is due by then", async () => {
    const { stream } = start(10);
    await stream.next();
    vi.advanceTimersByTime(60_000);
    const rest = await stream.next();
    expect(compact(rest.value.parts).at(-1)).toEqual(answer.at(-1));
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("ends with the call, in the middle of a pause", async () => {
    const { call, stream } = start(1);
    await stream.next();
    const asked = stream.next();
    expect(await settled(asked)).toBe(false);
    call.cancel();
    await expect(asked).rejects.toHaveProperty("reason", "CANCELLED");
    expect(vi.getTimerCount()).toBe(0);
  });

  it("ends when its reader leaves, in the middle of a pause", async () => {
    const { stream } = start(1);
    await stream.next();
    const asked = stream.next();
    await stream.return?.();
    expect(await asked).toEqual({ done: true, value: undefined });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(vi.getTimerCount()).toBe(0);
  });
});
