/** docs/conformance.md: what the suite is, and what was seen behind each gateway, side by side. */
import { availableParallelism } from "node:os";
import { NODE_SERVER_VERSION, PORTKEY_VERSION } from "../bench/portkey.ts";
import { type Column, passedCount, silentCount } from "./report.ts";
import type { Result } from "./run.ts";
import { GROUPS } from "./scenario.ts";
import { SETTINGS } from "./stage.ts";

/** The whole document. */
export function conformanceDocument(columns: readonly Column[], date: string): string {
  const scenarios = columns[0]!.results;
  const groups = Object.entries(GROUPS).flatMap(([group, title]) => section(group, title, columns));
  return [
    "# Conformance: what clients see when providers fail",
    "",
    `Written by \`npm run conformance -- --document\` on ${date}. Machine: ${availableParallelism()} cores, ${process.platform} ${process.arch}, Node ${process.version}.`,
    "Do not edit: run it again.",
    "",
    `${scenarios.length} scenarios in which providers refuse, stall, lie, cut off, limit, die and come back, or clients leave. Each says what a`,
    "client must see, in one sentence. A gateway is asked at its address by a plain HTTP client that looks at every byte, and by the",
    "official OpenAI SDK; behind it are simulated providers that speak OpenAI's protocol over real sockets, two for most scenarios:",
    "the first one fails, the second one could serve. Every scenario has providers and a model of its own, so that none is felt by",
    "another one.",
    "",
    table([
      ["", ...columns.map(({ gateway }) => gateway)],
      ["passed", ...columns.map((column) => `**${passedCount(column)} of ${column.results.length}**`)],
      ["answers that were cut short, and nothing said so", ...columns.map((column) => String(silentCount(column)))],
    ]),
    "",
    "The last row is the worst that can happen: status 200, a clean end, and less than there should be.",
    "",
    "## How to run it",
    "",
    "```",
    "npm run conformance                                    Cortex in one node, then in many",
    "npm run conformance -- --shape one --only 429          the scenarios whose name contains 429",
    "npm run conformance -- --against portkey               Portkey's gateway, installed from npm into the cache folder",
    "npm run conformance -- --against pipe                  no gateway: a pipe to the first provider",
    "npm run conformance -- --against http://127.0.0.1:8080 one that you run: the suite prints the providers and waits",
    "npm run conformance -- --list                          what a client must see, scenario by scenario",
    "```",
    "",
    "It ends with 1 when a scenario fails for Cortex. `npm test` runs all of it against one node and many.",
    "",
    "A gateway that you run has to know, for each model that is printed, its providers in their order (OpenAI-compatible, any key),",
    `and to take a provider for broken that says nothing for ${SETTINGS.firstTokenMs} ms before the first token or between two, and to try one`,
    `that was given up again after about ${SETTINGS.restMs} ms. For Cortex the configuration is printed.`,
    "",
    "## What was compared",
    "",
    "- **Cortex** as it is here: `cortex up`, and gateway, router and adapter in processes of their own. Time-outs as above, and where a",
    "  scenario is about it, what a provider serves at once; the rest is as it comes.",
    `- **Portkey ${PORTKEY_VERSION}** from npm, with all that it has against failing providers: \`strategy.mode: fallback\` over the same providers`,
    "  on 401, 403, 404, 408, 409, 429 and the 5xx that occur (not on 400, which is the request's fault), `request_timeout` of",
    `  ${SETTINGS.firstTokenMs} ms for each, two retries on 429 with \`use_retry_after_header\`. Its npm package lacks the patch of async-retry that its`,
    "  repository has, without which that last setting fails; the patch is applied here. It runs with",
    `  @hono/node-server ${NODE_SERVER_VERSION} (Portkey-AI/gateway#1389); tried once with its repository's own 1.13.5, it passed and failed the same.`,
    "  It does not go on with a text that was cut off, and does not say that it does: for the scenarios in the middle of the text it is",
    "  worth reading what was seen. An error that is told would be honest, a clean end is not. Its open-source gateway has no circuit",
    "  breaker, so no provider ever leaves its rotation.",
    "- **No gateway**: each request goes to the first provider alone. What a client is up against.",
    "",
    "## Chaos",
    "",
    "`npm run chaos` (`-- --seconds 120 --seed N --rate 8`) goes further than single failures: a mesh of one gateway, two routers, two",
    "adapter nodes, three providers and nats-server answers a steady load while parts of it are killed, frozen and made to misbehave",
    "at random, several at a time, always so that one router, one adapter and one provider are well. Every answer is held against the",
    "text that it has to be, to the letter; whatever is missing is shown with what was done at that time and what the log says of it.",
    "The same seed gives the same blows. `npm test` runs 20 s of it.",
    "",
    "## What was seen",
    "",
    ...groups,
  ].join("\n");
}

function section(group: string, title: string, columns: readonly Column[]): string[] {
  const own = columns[0]!.results.flatMap((result, index) => (result.group === group ? [index] : []));
  if (own.length === 0) return [];
  const rows = own.map((index) => {
    const { name, must } = columns[0]!.results[index]!;
    return [name, must, ...columns.map(({ results }) => verdict(results[index]!))];
  });
  const head = ["", "a client must see", ...columns.map(({ gateway }) => gateway)];
  return [`### ${title}`, "", table([head, ...rows]), ""];
}

function table([head, ...rows]: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head!), line(head!.map(() => "---")), ...rows.map(line)].join("\n");
}

function verdict({ passed, seen, silent }: Result): string {
  if (passed) return "pass";
  const words = seen.split("\n")[0]!.slice(0, 140);
  return `**${silent ? "cut short silently" : "fail"}**: ${words}`;
}
