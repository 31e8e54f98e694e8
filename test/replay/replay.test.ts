/** Replaying recorded exchanges, seen from outside: what it says of good and bad recordings, and of dialects that read badly. */
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Dialect, EventReader } from "../../libs/adapter/index.ts";
import { findAdapters } from "./adapters.ts";
import type { Adapters } from "./judging.ts";
import { replay } from "./report.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

let adapters: Adapters;
beforeAll(async () => {
  adapters = await findAdapters();
});

/** A folder with these files. */
function record(files: Readonly<Record<string, string | Buffer>>): string {
  const folder = mkdtempSync(join(tmpdir(), "cortex-replay-"));
  folders.push(folder);
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
  return folder;
}

/** Whether all reads well, and the lines, by the name of the exchange. */
function run(files: Readonly<Record<string, string | Buffer>>, by: Adapters = adapters) {
  const lines: string[] = [];
  const well = replay(record(files), by, (line) => lines.push(line));
  const find = (name: string) => lines.find((line) => line.slice(2).startsWith(`${name} `)) ?? "";
  return { well, lines, find };
}

/** The command itself. */
function command(...args: string[]): Promise<{ code: number; output: string }> {
  const main = join(import.meta.dirname, "main.ts");
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr });
    });
  });
}

const head = (url: string, status: number, ...headers: string[]) =>
  [`POST ${url}`, "> content-type: application/json", `HTTP ${status}`, ...headers, ""].join("\n");
const chunk = (delta: object, finish: string | null = null) =>
  `data: ${JSON.stringify({ id: "c1", model: "m", choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;

const OPENAI = "https://api.openai.com/v1/chat/completions";
const COHERE = "https://api.cohere.com/v2/chat";
const SSE = "content-type: text/event-stream";
const STREAM = `${chunk({ role: "assistant", content: "Grüße" })}${chunk({ content: " ☀" })}${chunk({}, "stop")}data: [DONE]\n\n`;
const WHOLE = JSON.stringify({
  id: "5f",
  message: {
    role: "assistant",
    tool_plan: "I look.",
    tool_calls: [{ id: "a", type: "function", function: { name: "look", arguments: '{"at":1}' } }],
  },
  finish_reason: "TOOL_CALL",
  usage: { billed_units: { input_tokens: 2, output_tokens: 3 }, tokens: { input_tokens: 70, output_tokens: 9 } },
});

const GOOD: Readonly<Record<string, string>> = {
  "openai/text.request.json": '{"model":"m","stream":true}',
  "openai/text.headers.txt": head(OPENAI, 200, SSE),
  "openai/text.response.sse": STREAM,
  "openai/limited.headers.txt": head(OPENAI, 429, "content-type: application/json", "retry-after: 7"),
  "openai/limited.response.json":
    '{"error":{"message":"Rate limit reached for requests","type":"requests","code":null}}',
  "cohere/tools.headers.txt": head(COHERE, 200),
  "cohere/tools.response.json": WHOLE,
};

describe("the command replay", () => {
  it("says what came of each exchange, and ends with counts and 0", async () => {
    const { code, output } = await command(record(GOOD));
    expect(output).toMatch(
      /^✓ openai\/text +openai +stream +text 7 · tool calls 0 · usage none · finish stop · \d+ cuts$/m,
    );
    expect(output).toMatch(
      /^✓ openai\/limited +openai +error +HTTP 429 · PROVIDER_RATE_LIMITED \(provider\), wait 7 s$/m,
    );
    expect(output).toMatch(
      /^✓ cohere\/tools +cohere +whole +text 0 · reasoning 7 · tool calls 1 · usage 70→9 · finish tool_calls$/m,
    );
    expect(output).toMatch(/^openai +1 +1 +0 +0$/m);
    expect(output).toMatch(/^all +2 +1 +0 +0$/m);
    expect(code).toBe(0);
  });

  it("ends with 1 when something that was recorded does not come out, and with 2 without a folder", async () => {
    const unknown = JSON.stringify({ ...JSON.parse(WHOLE), finish_reason: "TIRED" });
    const bad = await command(record({ ...GOOD, "cohere/odd.response.json": unknown }));
    expect(bad.output).toMatch(/^✗ cohere\/odd .*PROVIDER_INVALID_ANSWER/m);
    expect(bad.output).toContain("reasoning lost or changed: 7 characters recorded, 0 read");
    expect(bad.output).toContain("an answer was refused");
    expect(bad.output).toMatch(/^all +2 +1 +0 +1$/m);
    expect(bad.code).toBe(1);
    expect((await command()).code).toBe(2);
    expect(await command(join(tmpdir(), "no-such-folder"))).toMatchObject({ code: 2 });
  });
});

describe("replaying recordings that nobody has seen", () => {
  it("reads what was cut short, and errors in disguise, as the failures that they are", () => {
    const { well, find } = run({
      "openai/cut.headers.txt": head(OPENAI, 200, SSE),
      "openai/cut.response.sse": STREAM.slice(0, STREAM.indexOf("☀")),
      "openai/cut-json.headers.txt": head(OPENAI, 200, "content-type: application/json"),
      "openai/cut-json.response.json": '{"id":"c1","choices":[{"index":0,"mess',
      "openai/disguised.headers.txt": head(OPENAI, 200, SSE),
      "openai/disguised.response.sse": `${chunk({ content: "Gr" })}data: {"error":{"message":"The server had an error","code":503}}\n\n`,
      "openai/empty.headers.txt": head(OPENAI, 200, SSE),
      "openai/empty.response.sse": "",
      "openai/page.headers.txt": head(OPENAI, 502, "content-type: text/html"),
      "openai/page.response.html": "<html><title>502 Bad Gateway</title></html>",
    });
    expect(find("openai/cut")).toMatch(/^✓.*text 5 .*finish none · PROVIDER_STREAM_CUT/);
    expect(find("openai/cut-json")).toMatch(/^✓.*PROVIDER_INVALID_ANSWER/);
    expect(find("openai/disguised")).toMatch(/^✓.*text 2 .*PROVIDER_OVERLOADED/);
    expect(find("openai/empty")).toMatch(/^✓.*PROVIDER_STREAM_CUT/);
    expect(find("openai/page")).toMatch(/^✓.*HTTP 502 · PROVIDER_ERROR/);
    expect(well).toBe(true);
  });

  it("knows whose they are by the path, the host, the folder, the file's name or the answer, and skips the rest by name", () => {
    const { well, lines, find } = run({
      "tomorrow/by-path.headers.txt": head("https://llm.example/v2/chat", 200),
      "tomorrow/by-path.response.json": WHOLE,
      "tomorrow/by-answer.response.sse": STREAM,
      "tomorrow/groq-401.json": '{"error":{"message":"Invalid API Key given","type":"invalid_request_error"}}',
      "tomorrow/compatible.headers.txt": head("https://api.cohere.com/compatibility/v1/chat/completions", 200, SSE),
      "tomorrow/compatible.response.sse": STREAM,
      "cohere/models.response.json": '{"models":[{"name":"command-a-03-2025","endpoints":["chat"]}]}',
      "tomorrow/vectors.response.json":
        '{"object":"list","data":[{"index":0,"embedding":[0.5,0.25]}],"model":"m","usage":{"prompt_tokens":3}}',
      "tomorrow/other.headers.txt": head("https://api.openai.com/v1/responses", 200),
      "tomorrow/other.response.json": '{"object":"response","output":[]}',
      "tomorrow/asked.request.json": "{}",
      "tomorrow/weather.response.json": '{"celsius":-3}',
      "tomorrow/nothing.response.txt": "",
      "README.md": "not an exchange",
    });
    expect(find("tomorrow/by-path")).toMatch(/ cohere +whole /);
    expect(find("tomorrow/by-answer")).toMatch(/ openai +stream /);
    expect(find("tomorrow/groq-401")).toMatch(/ groq +error +HTTP 401 /);
    expect(find("tomorrow/compatible")).toMatch(/ openai +stream /);
    expect(find("cohere/models")).toMatch(/ cohere +models +1 models$/);
    expect(find("tomorrow/vectors")).toMatch(/ openai +embeddings +1 vectors of 2 · usage 3$/);
    expect(find("tomorrow/other")).toMatch(/^- .*skipped +Responses API$/);
    expect(find("tomorrow/asked")).toMatch(/^- .*skipped +no answer was recorded$/);
    expect(find("tomorrow/weather")).toMatch(/^- .*skipped +no answer of a model$/);
    expect(find("tomorrow/nothing")).toMatch(/^- .*skipped +an empty answer of which nothing is known$/);
    expect(lines.at(-1)).toMatch(/^skipped: .*1 × Responses API/);
    expect(well).toBe(true);
  });

  it("survives odd encodings and bytes, compressed answers, and a folder of one provider", () => {
    const utf16 = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(head(COHERE, 200), "utf16le")]);
    const { well, lines, find } = run({
      "packed.headers.txt": utf16,
      "packed.response.json": gzipSync(WHOLE),
      "mark.headers.txt": `\ufeff${head(COHERE, 401)}`,
      "mark.response.json": '\ufeff{"id":"5f","message":"invalid api token"}',
      "noise.headers.txt": head(COHERE, 200, SSE),
      "noise.response.sse": Buffer.from(Array.from({ length: 300 }, (_, index) => (index * 37) % 256)),
      "broken.request.json": "{",
    });
    const folder = lines[0]?.slice(2).split("/")[0];
    expect(find(`${folder}/packed`)).toMatch(/^✓ .*tool calls 1/);
    expect(find(`${folder}/mark`)).toMatch(/^✓ .*PROVIDER_REFUSED_KEY/);
    expect(find(`${folder}/noise`)).toMatch(/^✓ .*PROVIDER_STREAM_CUT/);
    expect(find(`${folder}/broken`)).toMatch(/^- /);
    expect(well).toBe(true);
  });
});

describe("replaying with a dialect that reads badly", () => {
  const openai = () => {
    const create = adapters.get("openai");
    if (create === undefined) throw new Error("there is no adapter for openai");
    return create({ name: "replay", provider: "openai", keys: [] });
  };
  const good = { "openai/text.headers.txt": head(OPENAI, 200, SSE), "openai/text.response.sse": STREAM };
  const withReader = (change: (reader: EventReader) => Partial<EventReader>): Adapters => {
    const dialect = openai();
    const chatEvents: Dialect["chatEvents"] = (context) => {
      const reader = dialect.chatEvents(context);
      const read: EventReader["read"] = (event, parts) => reader.read(event, parts);
      return { read, complete: () => reader.complete(), ...change(reader) };
    };
    return new Map([["openai", () => ({ ...dialect, chatEvents })]]);
  };

  it("sees text that is lost", () => {
    const lossy = withReader((reader) => ({
      read: (event, parts) => {
        if (!event.data.includes("☀")) reader.read(event, parts);
      },
    }));
    const { well, find } = run(good, lossy);
    expect(find("openai/text")).toContain("text lost or changed: 7 characters recorded, 5 read");
    expect(well).toBe(false);
  });

  it("sees that it makes a difference how the bytes come", () => {
    // To be asked whether all has been said must change nothing.
    const forgetful = withReader((reader) => {
      let asked = 0;
      return {
        read: (event, parts) => {
          if (asked === 0 || !event.data.includes("usage")) reader.read(event, parts);
        },
        complete: () => {
          asked += 1;
          return reader.complete();
        },
      };
    });
    const usage = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n';
    const counted = { ...good, "openai/text.response.sse": STREAM.replace("data: [DONE]", `${usage}data: [DONE]`) };
    const { well, find } = run(counted, forgetful);
    expect(find("openai/text")).toContain("usage 3→2");
    expect(find("openai/text")).toContain("different when it comes byte by byte");
    expect(well).toBe(false);
  });

  it("sees a crash, and says where but not what was recorded", () => {
    const crashing = withReader(() => ({
      read: (event) => {
        throw new TypeError(event.data);
      },
    }));
    const { well, lines } = run(good, crashing);
    expect(lines.join("\n")).toContain("crash: TypeError");
    expect(lines.join("\n")).not.toContain("Grüße");
    expect(well).toBe(false);
  });
});
