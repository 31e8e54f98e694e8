/** `cortex top`: the workers, what they do and what happens, live in the terminal; as plain lines where there is none. */
import { stripVTControlCharacters } from "node:util";
import type { Command } from "commander";
import type { Happening, WatchedWorker } from "../gen/cortex/metrics/v1/metrics.ts";
import type { ClientOptions } from "./client.ts";
import { milliseconds } from "./metrics.ts";
import { type WatchedMesh, watchMesh } from "./watching.ts";

const INTERVAL_MS = 1_000;
const HAPPENINGS_MAX = 200;
/** How many of the lines below the figures are for what happens. */
const HAPPENINGS_SHARE = 0.3;
const HAPPENING_LINES_MIN = 3;

/** Adds the command to `program`; `common` gives it the options that all have, `ended` takes the exit code. */
export function addTopCommand(
  program: Command,
  common: (command: Command) => Command,
  ended: (exitCode: number) => void,
): void {
  common(program.command("top"))
    .description("watch the workers, what they do and what happens; q ends it")
    .action(async (options: ClientOptions) => ended(await top(options)));
}

async function top(options: ClientOptions): Promise<number> {
  if (options.json === true || process.stdout.isTTY !== true) await printLines(options);
  else await drawScreen(options);
  return 0;
}

/** Without a terminal: a line each second, and what happens. */
function printLines(options: ClientOptions): Promise<void> {
  return watchMesh(options, INTERVAL_MS, {
    onMessage(mesh) {
      if (options.json === true) {
        process.stdout.write(`${JSON.stringify(mesh.message)}\n`);
        return;
      }
      const happened = mesh.happenings.map((happening) => `${plain(happeningLine(happening))}\n`).join("");
      process.stdout.write(
        `${happened}${time(mesh.message.atMs)}  ${plain(`${headline(mesh)}  ${workersInWords(mesh)}`)}\n`,
      );
    },
    onLost: ({ message }) => void process.stderr.write(`cortex: ${message}; trying again\n`),
  });
}

/** q, Q, Ctrl-C, Ctrl-D. */
const QUIT = [0x71, 0x51, 0x03, 0x04];
// The other screen of the terminal, so that what was there is there again; and each picture at once, so that nothing flickers.
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const BEGIN = "\x1b[?2026h\x1b[H";
const END = "\x1b[J\x1b[?2026l";
const LINE_END = "\x1b[K\n";

async function drawScreen(options: ClientOptions): Promise<void> {
  const { stdin, stdout } = process;
  const ending = new AbortController();
  const happenings: Happening[] = [];
  let mesh: WatchedMesh | undefined;
  let trouble = "";
  const draw = (): void => {
    const { columns, rows } = stdout;
    const lines = pictureOf({ mesh, happenings, trouble, columns, rows });
    stdout.write(`${BEGIN}${lines.join(LINE_END)}\x1b[K${END}`);
  };
  const onKey = (key: Buffer): void => {
    // Ctrl-C comes as a key, as all do now.
    if (QUIT.some((code) => key.includes(code))) ending.abort();
  };
  const end = (): void => ending.abort();
  if (stdin.isTTY === true) {
    stdin.setRawMode(true);
    stdin.on("data", onKey);
  }
  process.once("SIGTERM", end);
  stdout.write(ENTER);
  stdout.on("resize", draw);
  draw();
  try {
    await watchMesh(
      options,
      INTERVAL_MS,
      {
        onMessage(told) {
          mesh = told;
          trouble = "";
          if (told.message.whole) happenings.length = 0;
          happenings.push(...told.happenings);
          happenings.splice(0, happenings.length - HAPPENINGS_MAX);
          draw();
        },
        onLost({ message }) {
          trouble = `${message}; trying again`;
          draw();
        },
      },
      ending.signal,
    );
  } finally {
    stdout.off("resize", draw);
    stdout.write(LEAVE);
    process.off("SIGTERM", end);
    if (stdin.isTTY === true) {
      stdin.off("data", onKey);
      stdin.setRawMode(false);
      stdin.pause();
    }
  }
}

interface Picture {
  readonly mesh: WatchedMesh | undefined;
  readonly happenings: readonly Happening[];
  /** Why nothing new comes. */
  readonly trouble: string;
  readonly columns: number;
  readonly rows: number;
}

const RED = "\x1b[31m";
const GREEN = "\x1b[32m";
const YELLOW = "\x1b[33m";
const DIM = "\x1b[2m";
const BOLD = "\x1b[1m";
const RESET = "\x1b[0m";

/** The lines of a terminal of that size. */
export function pictureOf({ mesh, happenings, trouble, columns, rows }: Picture): string[] {
  if (mesh === undefined) return [`${DIM}cortex top: waiting for the first figures … (q ends)${RESET}`];
  const head = [
    `${BOLD}cortex top${RESET}  ${time(mesh.message.atMs)}  ${headline(mesh)}`,
    ...(trouble === "" ? [] : [`${RED}${trouble}${RESET}`]),
    `${workersInWords(mesh)}  ${nodesInWords(mesh)}`,
    "",
  ];
  const room = Math.max(0, rows - head.length);
  const happeningLines = Math.min(
    happenings.length,
    Math.max(HAPPENING_LINES_MIN, Math.floor(room * HAPPENINGS_SHARE)),
  );
  const workers = workerLines([...mesh.workers.values()], Math.max(1, room - happeningLines - 2));
  const news = happenings.slice(happenings.length - happeningLines).map(happeningLine);
  return [...head, ...workers, "", ...news].slice(0, rows).map((line) => cut(line, columns));
}

function headline(mesh: WatchedMesh): string {
  const { requestsPerSecond, errorsPerSecond, outputTokensPerSecond, hitRate, activeRequests, duration } =
    mesh.message.rates!;
  const errors = `${errorsPerSecond.toFixed(1)} errors/s`;
  return [
    `${requestsPerSecond.toFixed(1)} requests/s`,
    errorsPerSecond > 0 ? `${RED}${errors}${RESET}` : errors,
    `${outputTokensPerSecond.toFixed(0)} tokens/s`,
    `${(100 * hitRate).toFixed(0)} % hits`,
    `${activeRequests} running`,
    `p95 ${duration!.count === 0 ? "–" : milliseconds(duration!.p95Ms)}`,
  ].join("  ");
}

function workersInWords(mesh: WatchedMesh): string {
  const down = mesh.count("unavailable");
  const words = `workers ${mesh.count("available")} up ${mesh.count("busy")} busy`;
  return `${words} ${down > 0 ? `${RED}${down} down${RESET}` : "0 down"}`;
}

function nodesInWords({ nodes }: WatchedMesh): string {
  const shown = nodes.map(({ name, draining, rssBytes, eventLoopDelayMs, eventLoopUtilization, problems }) => {
    const words = `${name} ${(rssBytes / 1_048_576).toFixed(0)} MB ${(100 * eventLoopUtilization).toFixed(0)} % busy`;
    const slow = eventLoopDelayMs >= 100 ? ` ${YELLOW}loop ${eventLoopDelayMs.toFixed(0)} ms${RESET}` : "";
    const more = `${draining ? " draining" : ""}${problems.length > 0 ? ` ${RED}${problems.length} problems${RESET}` : ""}`;
    return `${words}${slow}${more}`;
  });
  return `${nodes.length} ${nodes.length === 1 ? "node" : "nodes"}: ${shown.join(", ")}`;
}

const COLUMNS: readonly {
  readonly head: string;
  readonly width: number;
  readonly left?: boolean;
  readonly write: (worker: WatchedWorker) => string;
}[] = [
  { head: "worker", width: 24, left: true, write: ({ name }) => name },
  { head: "provider", width: 10, left: true, write: ({ provider }) => provider },
  { head: "state", width: 12, left: true, write: ({ state }) => state },
  { head: "breaker", width: 9, left: true, write: ({ breaker }) => breaker.replace("_", "-") },
  {
    head: "running",
    width: 9,
    write: ({ activeRequests, concurrentRequestsMax: max }) =>
      max === 0 ? String(activeRequests) : `${activeRequests}/${max}`,
  },
  { head: "attempts", width: 9, write: ({ attempts }) => String(attempts) },
  { head: "errors", width: 7, write: ({ errors }) => String(errors) },
  { head: "p95", width: 9, write: ({ p95Ms }) => (p95Ms === 0 ? "" : milliseconds(p95Ms)) },
  {
    head: "tokens/s",
    width: 9,
    write: ({ tokensPerSecond }) => (tokensPerSecond === 0 ? "" : tokensPerSecond.toFixed(0)),
  },
  { head: "score", width: 6, write: ({ score, attempts }) => (attempts === 0 ? "" : String(score)) },
];

/** Those in trouble first, then those that do most. */
const ORDER: Readonly<Record<string, number>> = { unavailable: 0, busy: 1, available: 2, draining: 3 };

function workerLines(workers: WatchedWorker[], max: number): string[] {
  workers.sort(
    (a, b) =>
      ORDER[a.state]! - ORDER[b.state]! ||
      b.activeRequests - a.activeRequests ||
      b.attempts - a.attempts ||
      (a.name < b.name ? -1 : 1),
  );
  const fits = workers.length <= max - 1;
  const shown = fits ? workers : workers.slice(0, Math.max(0, max - 2));
  const head = COLUMNS.map(({ head: name, width, left }) => padded(name, width, left)).join(" ");
  const more = fits ? [] : [`${DIM}and ${workers.length - shown.length} more workers${RESET}`];
  return [`${DIM}${head}${RESET}`, ...shown.map(workerLine), ...more];
}

function workerLine(worker: WatchedWorker): string {
  const text = COLUMNS.map(({ width, left, write }) => padded(write(worker), width, left)).join(" ");
  if (worker.state === "unavailable") return `${RED}${text}${RESET}`;
  if (worker.state === "busy") return `${YELLOW}${text}${RESET}`;
  return worker.state === "draining" ? `${DIM}${text}${RESET}` : text;
}

function padded(text: string, width: number, left = false): string {
  const fitting = text.length > width ? `${text.slice(0, width - 1)}…` : text;
  return left ? fitting.padEnd(width) : fitting.padStart(width);
}

function happeningLine({ atMs, tone, sentence }: Happening): string {
  const color = tone === "bad" ? RED : tone === "good" ? GREEN : "";
  return `${DIM}${time(atMs)}${RESET}  ${color}${safe(sentence)}${RESET}`;
}

function time(atMs: number): string {
  return new Date(atMs).toTimeString().slice(0, 8);
}

const CONTROL = /\p{Cc}/gu;

/** What a client has made up must not command the terminal. */
function safe(text: string): string {
  return text.replaceAll(CONTROL, "�");
}

function plain(text: string): string {
  return stripVTControlCharacters(text);
}

const ESCAPE = "\x1b";
const STYLE = new RegExp(`(${ESCAPE}\\[\\d+m)`);

/** As much of a line as fits. */
function cut(line: string, columns: number): string {
  let width = 0;
  let result = "";
  for (const part of line.split(STYLE)) {
    if (part.startsWith(ESCAPE)) result += part;
    else {
      const fitting = part.slice(0, Math.max(0, columns - width));
      width += fitting.length;
      result += fitting;
    }
  }
  return result;
}
