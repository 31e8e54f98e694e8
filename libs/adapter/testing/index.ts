/**
 * The tests that every dialect has to pass, made from files. `cases/` has requests in Cortex's vocabulary, the same for all.
 * An adapter's fixtures folder has, beside each other:
 *
 *   CASE.sent.json              what the dialect sends for a case, or how it refuses
 *   NAME.reply.json             a whole answer of the provider, true to the byte; NAME is a case or a quirk's own
 *     NAME.completion.json      what the dialect makes of it
 *   NAME.reply.sse, .ndjson     a stream; it is also cut in two at every byte
 *     NAME.parts.json
 *   embeddings*.reply.json      and embeddings*.embeddings.json
 *   models*.reply.json          and models*.models.json
 *   NAME.error.STATUS.json      an answer that is not 2xx (also .html, .txt), with NAME.error.STATUS.headers.json if need be
 *     NAME.error.STATUS.expected.json
 *
 * Replies and errors are written by hand or recorded; the others are written by `UPDATE_GOLDENS=1 npx vitest run …` and
 * then read by a person.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Completion, EmbeddingResult, Model, Part } from "../../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../rpc/index.ts";
import type { AttemptContext, Dialect, ProviderEvent, ProviderRequest } from "../dialect.ts";
import { createFramer } from "../framing.ts";
import { toCompletionRequest, toEmbeddingRequest, toNotation } from "./notation.ts";

const CASES = join(import.meta.dirname, "cases");

/** What the suite has to know of an adapter. */
export interface DialectFixtures {
  readonly folder: string;
  /** The model that the cases are sent to. */
  readonly model: string;
}

/** Declares the tests of `dialect`, one for each file and some that hold for every answer there could be. */
export function testDialect(dialect: Dialect, fixtures: DialectFixtures): void {
  const suite = new Suite(dialect, fixtures);
  describe(`the dialect of ${dialect.provider}`, () => {
    suite.requests();
    suite.replies();
    suite.errors();
    suite.fuzz();
  });
}

/** Always the same identifiers: call_1, call_2, … */
function createContext(model: string): AttemptContext {
  let count = 0;
  return {
    worker: "worker-a",
    model,
    nowS: 1_764_000_000,
    mintId: (prefix) => {
      count += 1;
      return `${prefix}${count}`;
    },
  };
}

class Suite {
  readonly #dialect: Dialect;
  readonly #fixtures: DialectFixtures;
  readonly #files: readonly string[];
  readonly #cases = readdirSync(CASES).map((file) => file.replace(/\.json$/, ""));

  constructor(dialect: Dialect, fixtures: DialectFixtures) {
    this.#dialect = dialect;
    this.#fixtures = fixtures;
    this.#files = existsSync(fixtures.folder) ? readdirSync(fixtures.folder).sort() : [];
  }

  requests(): void {
    const lacking: string[] = [];
    for (const name of this.#cases) {
      if (isEmbedding(name) && this.#dialect.embedding === undefined) continue;
      const sent = this.#sent(name);
      it(`sends ${name}`, () => this.#expectGolden(`${name}.sent.json`, sent));
      const refused = typeof sent === "object" && sent !== null && "error" in sent;
      if (!refused && !this.#files.some((file) => file.startsWith(`${name}.reply.`))) lacking.push(name);
    }
    it("has a reply for every case that it sends", () => expect(lacking).toEqual([]));
  }

  replies(): void {
    for (const file of this.#files) {
      const name = /^(.*)\.reply\.(json|sse|ndjson)$/.exec(file)?.[1];
      if (name === undefined) continue;
      if (file.endsWith(".json")) it(`reads ${file}`, () => this.#expectWhole(name, this.#read(file)));
      else this.#streamTests(name, file);
    }
  }

  errors(): void {
    for (const file of this.#files) {
      const [, name, status] = /^(.*)\.error\.(\d+)\.(?:json|html|txt)$/.exec(file) ?? [];
      if (name === undefined) continue;
      it(`reads ${file}`, () => {
        const beside = `${name}.error.${status}.headers.json`;
        const headers = this.#files.includes(beside) ? JSON.parse(this.#read(beside).toString()) : {};
        const error = this.#dialect.error(Number(status), headers, this.#read(file).toString());
        this.#expectGolden(`${name}.error.${status}.expected.json`, describeError(error));
      });
    }
  }

  /** Nothing that a provider may send makes a dialect throw anything but an RpcError, or say what can't be encoded. */
  fuzz(): void {
    const dialect = this.#dialect;
    const context = () => createContext(this.#fixtures.model);
    const json = this.#mutatedJson();
    it("survives whole answers of any kind", () => {
      fc.assert(
        fc.property(json, (body) => throwsOnlyRpcErrors(() => Completion.encode(dialect.chatAnswer(body, context())))),
      );
      fc.assert(
        fc.property(json, (body) =>
          throwsOnlyRpcErrors(() => dialect.modelsAnswer(body).map((model) => Model.encode(model))),
        ),
      );
      const { embedding } = dialect;
      if (embedding === undefined) return;
      fc.assert(
        fc.property(json, (body) =>
          throwsOnlyRpcErrors(() => EmbeddingResult.encode(embedding.answer(body, context()))),
        ),
      );
    });
    it("survives events of any kind", () => {
      const data = fc.oneof({ weight: 8, arbitrary: json.map((value) => JSON.stringify(value)) }, fc.string());
      const event = fc.record({ name: fc.constantFrom("", "", "", "error", "ping"), data });
      fc.assert(
        fc.property(fc.array(event), (events) => {
          const parts: Part[] = [];
          const reader = dialect.chatEvents(context());
          throwsOnlyRpcErrors(() => {
            for (const each of events) reader.read(each, parts);
          });
          expect(typeof reader.complete()).toBe("boolean");
          expectWellFormed(parts);
        }),
      );
    });
    it("survives errors of any kind", () => {
      const body = fc.oneof(
        fc.string(),
        json.map((value) => JSON.stringify(value)),
        fc.constant("<title>".repeat(9_000)),
      );
      const headers = fc.dictionary(
        fc.constantFrom(
          "retry-after",
          "retry-after-ms",
          "date",
          "x-ratelimit-reset-tokens",
          "x-ratelimit-remaining-tokens",
        ),
        fc.oneof(fc.string(), fc.constantFrom("1", "0", "-1", "1m30s", "Wed, 21 Oct 2015 07:28:00 GMT")),
      );
      fc.assert(
        fc.property(fc.integer({ min: 100, max: 599 }), headers, body, (status, given, text) => {
          const error = dialect.error(status, given, text);
          expect(error).toBeInstanceOf(RpcError);
          expect(error.message.length).toBeLessThan(1_000);
          if (error.retryAfterMs !== undefined) expect(error.retryAfterMs).toBeGreaterThanOrEqual(0);
        }),
      );
    });
  }

  #read(file: string): Buffer {
    return readFileSync(join(this.#fixtures.folder, file));
  }

  /** What is sent whole, and which fields differ when it is streamed. */
  #sent(name: string): unknown {
    const notation: unknown = JSON.parse(readFileSync(join(CASES, `${name}.json`), "utf8"));
    const context = createContext(this.#fixtures.model);
    try {
      if (isEmbedding(name))
        return describeRequest(this.#dialect.embedding!.request(toEmbeddingRequest(notation), context));
      const request = toCompletionRequest(notation);
      const whole = this.#dialect.chatRequest(request, false, context);
      const streamed = this.#dialect.chatRequest(request, true, context);
      return { ...describeRequest(whole), streamed: differences(whole, streamed) };
    } catch (thrown) {
      return { error: describeError(thrown) };
    }
  }

  #expectWhole(name: string, bytes: Buffer): void {
    const context = createContext(this.#fixtures.model);
    const body: unknown = JSON.parse(bytes.toString());
    const [suffix, read] = isEmbedding(name)
      ? (["embeddings", () => this.#dialect.embedding?.answer(body, context)] as const)
      : name.startsWith("models")
        ? (["models", () => this.#dialect.modelsAnswer(body)] as const)
        : (["completion", () => this.#dialect.chatAnswer(body, context)] as const);
    this.#expectGolden(`${name}.${suffix}.json`, attempt(read));
  }

  #streamTests(name: string, file: string): void {
    it(`reads ${file}`, () => {
      const bytes = this.#read(file);
      const expected = this.#stream([bytes]);
      this.#expectGolden(`${name}.parts.json`, expected);
      expectWellFormed(expected.messages);
    });
    it(`reads ${file} the same wherever it is cut`, () => {
      const bytes = this.#read(file);
      const expected = formatGolden(this.#stream([bytes]));
      for (let at = 1; at < bytes.length; at += 1) {
        const cut = formatGolden(this.#stream([bytes.subarray(0, at), bytes.subarray(at)]));
        if (cut !== expected) expect.fail(`cut at byte ${at}:\n${cut}`);
      }
      expect(formatGolden(this.#stream([...bytes].map((byte) => Buffer.from([byte]))))).toBe(expected);
    });
  }

  #stream(pieces: readonly Buffer[]): StreamGolden {
    const messages: Part[] = [];
    const reader = this.#dialect.chatEvents(createContext(this.#fixtures.model));
    const framer = createFramer(
      this.#dialect.framing,
      (event: ProviderEvent) => reader.read(event, messages),
      reader.readStray && ((text) => reader.readStray?.(text)),
    );
    let error: unknown;
    try {
      for (const piece of pieces) framer.push(piece);
      framer.end();
    } catch (thrown) {
      error = describeError(thrown);
    }
    return new StreamGolden(messages, reader.complete(), error);
  }

  #expectGolden(file: string, actual: unknown): void {
    const path = join(this.#fixtures.folder, file);
    const text = formatGolden(actual);
    if (process.env["UPDATE_GOLDENS"] === "1") writeFileSync(path, text);
    expect(existsSync(path), `${file} is missing; UPDATE_GOLDENS=1 writes it`).toBe(true);
    expect(text).toBe(readFileSync(path, "utf8"));
  }

  /** Real answers in which one thing has become something else; and anything at all. */
  #mutatedJson(): fc.Arbitrary<unknown> {
    const samples = this.#files
      .filter((file) => /\.reply\./.test(file))
      .flatMap((file) => (file.endsWith(".json") ? [this.#read(file).toString()] : this.#events(file)))
      .filter((text) => text !== "[DONE]" && isJsonText(text));
    if (samples.length === 0) return fc.jsonValue();
    const odd = fc.oneof(fc.jsonValue(), fc.constantFrom<unknown>(null, "", 0, -1, 1.5, 2 ** 40, [], {}, [null], [[]]));
    const mutated = fc
      .tuple(fc.constantFrom(...samples), fc.nat(200), odd)
      .map(([text, at, value]) => mutate(text, at, value));
    return fc.oneof({ weight: 9, arbitrary: mutated }, { weight: 1, arbitrary: fc.jsonValue() });
  }

  #events(file: string): string[] {
    const found: string[] = [];
    const framer = createFramer(this.#dialect.framing, (event) => found.push(event.data));
    framer.push(this.#read(file));
    framer.end();
    return found;
  }
}

/** The text of a body: parsed, it would lose what JavaScript's numbers can't hold. */
class JsonText {
  readonly text: string;

  constructor(text: string) {
    JSON.parse(text);
    this.text = text;
  }
}

/** What a stream came to; in a golden each part has a line. */
class StreamGolden {
  readonly messages: readonly Part[];
  readonly complete: boolean;
  readonly error: unknown;

  constructor(messages: readonly Part[], complete: boolean, error: unknown) {
    this.messages = messages;
    this.complete = complete;
    this.error = error;
  }
}

function isEmbedding(name: string): boolean {
  return name.startsWith("embeddings");
}

function describeRequest(request: ProviderRequest): object {
  const { method, path, headers, body, warnings = [] } = request;
  return {
    method,
    path,
    ...(headers && { headers }),
    ...(body !== undefined && { body: new JsonText(body) }),
    ...(warnings.length > 0 && { warnings: warnings.map(toNotation) }),
  };
}

function differences(whole: ProviderRequest, streamed: ProviderRequest): object {
  const before = JSON.parse(whole.body ?? "{}");
  const fields = Object.entries(JSON.parse(streamed.body ?? "{}"));
  return {
    ...(streamed.path !== whole.path && { path: streamed.path }),
    body: Object.fromEntries(fields.filter(([name, value]) => JSON.stringify(before[name]) !== JSON.stringify(value))),
  };
}

function describeError(thrown: unknown): unknown {
  if (!(thrown instanceof RpcError)) throw thrown;
  const { reason, message, field, retryAfterMs } = thrown;
  return { reason, message, field, retryAfterMs };
}

function attempt(read: () => unknown): unknown {
  try {
    return toNotation(read());
  } catch (thrown) {
    return { error: describeError(thrown) };
  }
}

function formatGolden(value: unknown): string {
  if (!(value instanceof StreamGolden)) return `${format(value, "")}\n`;
  const lines = value.messages.map((part) => `\n    ${JSON.stringify(toNotation(part))}`).join(",");
  const error = value.error === undefined ? "" : `,\n  "error": ${JSON.stringify(value.error)}`;
  return `{\n  "parts": [${lines}${lines === "" ? "" : "\n  "}],\n  "complete": ${value.complete}${error}\n}\n`;
}

/** As JSON.stringify indents, but for a body, whose text stays what it is. */
function format(value: unknown, indent: string): string {
  if (value instanceof JsonText) return indented(value.text, indent);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return JSON.stringify(value, null, 2).replaceAll("\n", `\n${indent}`);
  }
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  const lines = fields.map(([name, field]) => `\n${indent}  ${JSON.stringify(name)}: ${format(field, `${indent}  `)}`);
  return lines.length === 0 ? "{}" : `{${lines.join(",")}\n${indent}}`;
}

/** JSON with a line for each value; strings and numbers are copied as they stand. */
function indented(json: string, indent: string): string {
  let depth = 0;
  const newLine = () => `\n${indent}${"  ".repeat(depth)}`;
  return json.replace(/"(?:[^"\\]|\\.)*"|\s+|[[{]\s*[\]}]|[[\]{},:]/g, (token) => {
    switch (token[0]) {
      case "[":
      case "{":
        if (token.length > 1) return token[0] === "[" ? "[]" : "{}";
        depth += 1;
        return token + newLine();
      case "]":
      case "}":
        depth -= 1;
        return newLine() + token;
      case ",":
        return token + newLine();
      case ":":
        return ": ";
      case '"':
        return token;
      default:
        return "";
    }
  });
}

/** The order that Part's documentation promises, and that every part can be sent on. */
function expectWellFormed(parts: readonly Part[]): void {
  const finished = new Set<number>();
  const calls = new Set<string>();
  let usages = 0;
  for (const [index, { part }] of parts.entries()) {
    Part.encode({ part });
    expect(part?.$case === "served").toBe(index === 0);
    if (part === undefined || part.$case === "served" || part.$case === "warning" || part.$case === "continued")
      continue;
    if (part.$case === "usage") {
      usages += 1;
      continue;
    }
    expect(finished.has(part.value.choice), "a part of a choice that has ended").toBe(false);
    if (part.$case === "finish") finished.add(part.value.choice);
    if (part.$case === "toolCall") {
      const call = `${part.value.choice}/${part.value.index}`;
      expect([part.value.id !== "", part.value.name !== ""]).toEqual([!calls.has(call), !calls.has(call)]);
      calls.add(call);
    }
  }
  expect(usages).toBeLessThanOrEqual(1);
}

function throwsOnlyRpcErrors(run: () => unknown): void {
  try {
    run();
  } catch (thrown) {
    if (!(thrown instanceof RpcError)) throw thrown;
  }
}

function isJsonText(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The JSON with its value number `at`, in the order of reading and around again, replaced. */
function mutate(text: string, at: number, replacement: unknown): unknown {
  let count = 0;
  JSON.parse(text, (_, value) => {
    count += 1;
    return value;
  });
  let index = 0;
  return JSON.parse(text, (_, value) => {
    index += 1;
    return index - 1 === at % count ? replacement : value;
  });
}
