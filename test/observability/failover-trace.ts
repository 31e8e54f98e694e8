/**
 * `npm run trace`: has a mesh of several processes answer a request whose first worker fails, and writes the trace that arrives
 * at the collector into docs/observability.md, as text.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { startGroqSimulator, startOpenAiSimulator } from "../fakes/index.ts";
import { type ReceivedSpan, startOtlpReceiver } from "../fakes/otlp.ts";
import { startMesh } from "../mesh.ts";

const DOCUMENT = new URL("../../docs/observability.md", import.meta.url).pathname;
const BEGIN = "<!-- Written by `npm run trace`: a run's own output. -->";
const END = "<!-- End of what is written. -->";
/** What of a span is shown, and in which word; the rest would fill the page. */
const SHOWN: Readonly<Record<string, string>> = {
  "cortex.attempt.kind": "kind",
  "cortex.outcome": "outcome",
  "error.type": "error",
  "http.response.status_code": "status",
  "gen_ai.usage.output_tokens": "tokens",
  "cortex.kept": "kept",
};
/** Requests before: what a process does for the first time takes longer. */
const WARM_UP_REQUESTS = 50;
const PREFIX = /^cortex-/;

function ms(ns: bigint): string {
  return (Number(ns) / 1e6).toFixed(1);
}

function line(span: ReceivedSpan, branch: string, startNs: bigint): string {
  const name = `${branch}${span.name}`;
  const where = span.service.replace(PREFIX, "");
  const times = `${ms(span.startNs - startNs).padStart(6)} ${ms(span.endNs - span.startNs).padStart(6)}`;
  const told = Object.entries(SHOWN).flatMap(([key, word]) =>
    span.attributes[key] === undefined ? [] : [`${word}=${span.attributes[key]}`],
  );
  const events = span.events.map((event) => `(${event.name})`).filter((event) => event !== "(exception)");
  return `${name.padEnd(58)} ${where.padEnd(15)} ${times}  ${[...told, ...events].join(" ")}`.trimEnd();
}

/** The spans under each other, with where each was made, when it began and how long it took. */
function tree(spans: readonly ReceivedSpan[]): string[] {
  const below = (parent: ReceivedSpan, branch: string): string[] => {
    const children = spans.filter(({ parentSpanId }) => parentSpanId === parent.spanId);
    return children.flatMap((child, index) => {
      const last = index === children.length - 1;
      return [
        line(child, `${branch}${last ? "└─ " : "├─ "}`, spans[0]!.startNs),
        ...below(child, `${branch}${last ? "   " : "│  "}`),
      ];
    });
  };
  return [line(spans[0]!, "", spans[0]!.startNs), ...below(spans[0]!, "")];
}

const first = await startOpenAiSimulator();
const second = await startGroqSimulator();
const otlp = await startOtlpReceiver();
const mesh = await startMesh("many nodes", {
  workers: [
    { name: "first", provider: "openai", baseUrl: first.url, keys: ["k"], models: ["gpt-4o"], priority: 1 },
    { name: "second", provider: "groq", baseUrl: second.url, keys: ["k"], models: ["llama-3.3-70b"], priority: 2 },
  ],
  settings: {
    tracing: { share: 0, perSecondMin: 0 },
    routing: { models: { fast: ["first/gpt-4o", "second/llama-3.3-70b"] } },
  },
  environment: otlp.endpoint,
});
try {
  const body = JSON.stringify({ model: "fast", messages: [{ role: "user", content: "hello" }], stream: true });
  const ask = async (): Promise<Response> => {
    const response = await fetch(`${mesh.rest}/v1/chat/completions`, { method: "POST", body });
    await response.text();
    return response;
  };
  for (let i = 0; i < WARM_UP_REQUESTS; i++) await ask();
  first.behave("status:503");
  const response = await ask();
  const spans = await otlp.trace(response.headers.get("x-trace-id")!, (found) => {
    const known = new Set(found.map(({ spanId }) => spanId));
    const root = found.some(({ parentSpanId }) => parentSpanId === "");
    return (
      root && found.length >= 8 && found.every(({ parentSpanId }) => parentSpanId === "" || known.has(parentSpanId))
    );
  });
  const head = `${"".padEnd(58)} ${"node".padEnd(15)} ${"at ms".padStart(6)} ${"took".padStart(6)}`;
  const text = [BEGIN, "", "```", head, ...tree(spans), "```", "", END].join("\n");
  const document = readFileSync(DOCUMENT, "utf8");
  writeFileSync(
    DOCUMENT,
    document.slice(0, document.indexOf(BEGIN)) + text + document.slice(document.indexOf(END) + END.length),
  );
  process.stdout.write(`${text}\n`);
} finally {
  await mesh[Symbol.asyncDispose]();
  await Promise.all([first.stop(), second.stop(), otlp.stop()]);
}
