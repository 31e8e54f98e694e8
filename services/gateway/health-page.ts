/**
 * The status page: how the mesh is, for people. Made here and whole, so that it needs no script and shows something also when
 * most of the mesh is away. Whatever a provider, a worker or an error says is text on it, never HTML.
 */
import {
  type CheckResponse,
  type GetReportResponse,
  type NodeReport,
  Status,
} from "../../libs/gen/cortex/health/v1/health.ts";
import type { HealthScore } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { BreakerState, Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { HEALTH_NAMES } from "../../libs/host/index.ts";
import { namelessProblems, STATUS_NAMES } from "./health-answer.ts";

/** The page is made anew so often. */
const RELOAD_S = 10;
/** More problems, or workers that are not well, than anybody reads on a page; the rest is counted. */
const LISTED_MAX = 50;

/** How something is, as a colour that goes with a word. */
type Tone = "good" | "busy" | "bad" | "plain";

/** What the page shows. */
export interface HealthPage {
  readonly state: CheckResponse;
  /** Everything behind it; undefined for who may not know. */
  readonly report: GetReportResponse | undefined;
  /** Why not, and what to do about it. */
  readonly refusal: string | undefined;
  readonly nowMs: number;
  /** It is to come again by itself. */
  readonly reload: boolean;
}

/** Text that is HTML already. */
class Html {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Insertable = string | number | Html | readonly Html[];

/** HTML with everything that is put in escaped, unless it is HTML itself. */
function html(strings: TemplateStringsArray, ...values: Insertable[]): Html {
  return new Html(strings.reduce((all, text, index) => `${all}${insert(values[index - 1]!)}${text}`));
}

function insert(value: Insertable): string {
  if (value instanceof Html) return value.text;
  if (Array.isArray(value)) return value.map(insert).join("");
  return String(value).replaceAll(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

const NOTHING = new Html("");

const VERDICTS: Readonly<Record<Status, { tone: Tone; mark: string; headline: string }>> = {
  [Status.UNSPECIFIED]: { tone: "bad", mark: "!", headline: "Nothing is known" },
  [Status.HEALTHY]: { tone: "good", mark: "✓", headline: "Everything works" },
  [Status.DEGRADED]: { tone: "busy", mark: "!", headline: "Requests are served, but something is missing" },
  [Status.UNHEALTHY]: { tone: "bad", mark: "✕", headline: "Requests can't be served" },
};

/** The whole page as HTML. */
export function writeHealthPage(page: HealthPage): string {
  const { state, report, refusal, nowMs, reload } = page;
  const { tone, mark, headline } = VERDICTS[state.status];
  const problems = report === undefined ? namelessProblems(state) : state.problems;
  const time = `${new Date(nowMs).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const body = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
${reload ? html`<meta http-equiv="refresh" content="${RELOAD_S}">` : NOTHING}
<title>${STATUS_NAMES[state.status]} · Cortex</title>
<link rel="icon" href="/page/icon.svg">
<link rel="stylesheet" href="/page/theme.css">
<link rel="stylesheet" href="/page/health.css">
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="bar"><a class="brand" href="/">Cortex</a><a href="/">Live page</a></header>
<main id="main">
<section class="card verdict ${tone}">
<span class="mark" aria-hidden="true">${mark}</span>
<div><h1>${headline}</h1>
<p class="note">${STATUS_NAMES[state.status]} · version ${state.version} · up for ${duration(state.uptimeS)} · ${time}</p></div>
</section>
${problems.length === 0 ? NOTHING : writeProblems(problems)}
<dl class="parts">${writeParts(state, report)}</dl>
${report === undefined ? NOTHING : writeDetails(report, nowMs)}
</main>
<footer class="foot">
${refusal === undefined ? NOTHING : html`<p>${refusal.charAt(0).toUpperCase()}${refusal.slice(1)}.</p>`}
<p>${
    reload
      ? html`Comes anew every ${RELOAD_S} s · <a href="/health?reload=off">let it stand still</a>`
      : html`Stands still · <a href="/health">let it come anew every ${RELOAD_S} s</a>`
  } · for programs: <a href="/api/health?detailed=true">/api/health?detailed=true</a></p>
</footer>
</body>
</html>
`;
  return body.text;
}

function writeProblems(problems: readonly string[]): Html {
  const more = problems.length - LISTED_MAX;
  return html`<section class="card" aria-labelledby="problems">
<h2 id="problems">What is wrong</h2>
<ul class="problems">${problems.slice(0, LISTED_MAX).map((problem) => html`<li>${problem}</li>`)}${
    more > 0 ? html`<li>and ${more} more</li>` : NOTHING
  }</ul>
</section>
`;
}

/** The parts of the mesh, each with its state in a word. */
function writeParts(state: CheckResponse, report: GetReportResponse | undefined): Html[] {
  const { workersAvailable, workersBusy, workersUnavailable } = state;
  const serving = workersAvailable + workersBusy;
  const [tone, word]: [Tone, string] =
    serving === 0 ? ["bad", "down"] : workersUnavailable > 0 ? ["busy", "partly down"] : ["good", "up"];
  const parts = [
    writePart(
      "Workers",
      tone,
      word,
      `${workersAvailable} available, ${workersBusy} busy, ${workersUnavailable} unavailable`,
    ),
    writePart("Nodes", "good", String(state.nodes), state.nodes === 1 ? "runs everything" : "are alive"),
    state.natsConnected
      ? writePart("NATS", "good", "connected", "the nodes hear of each other")
      : writePart("NATS", "bad", "away", "requests go on, changes are not seen"),
  ];
  if (report === undefined) return parts;
  const { metrics, cache } = report;
  const total = metrics?.summary?.total;
  parts.push(
    total === undefined
      ? writePart("Requests", "plain", "not known", metrics?.unavailable ?? "")
      : writePart(
          "Requests",
          total.errors > 0 ? "busy" : "good",
          `${total.requests}`,
          `in 5 minutes, ${total.errors} failed, 95 % within ${time(total.duration?.p95Ms ?? 0)}`,
        ),
    writeCachePart(cache),
  );
  return parts;
}

function writeCachePart(cache: GetReportResponse["cache"]): Html {
  if (cache === undefined || cache.unavailable !== "") {
    return writePart("Cache", "plain", "not known", cache?.unavailable ?? "");
  }
  const levels = cache.nodes.flatMap((node) => node.levels);
  if (levels.length === 0) return writePart("Cache", "plain", "off", "no node keeps answers");
  const sum = (pick: (level: (typeof levels)[number]) => number) => levels.reduce((all, level) => all + pick(level), 0);
  const [entries, hits, failures] = [sum(({ entries }) => entries), sum(({ hits }) => hits), sum((l) => l.failures)];
  const silent = cache.silent.length > 0 ? `, ${cache.silent.length} nodes are silent` : "";
  const well = cache.silent.length === 0 && failures === 0;
  return writePart(
    "Cache",
    well ? "good" : "busy",
    "on",
    `${entries} entries, ${hits} hits, ${failures} failures${silent}`,
  );
}

function writePart(name: string, tone: Tone, word: string, note: string): Html {
  return html`<div class="part ${tone}"><dt>${name}</dt><dd class="word">${word}</dd><dd class="note">${note}</dd></div>
`;
}

function writeDetails(report: GetReportResponse, nowMs: number): Html[] {
  return [writeProviders(report), writeTroubled(report), writeNodes(report, nowMs)];
}

/** Providers by their scores, the worst first. */
function writeProviders({ workers, metrics }: GetReportResponse): Html {
  const scores = new Map((metrics?.scores?.providers ?? []).map((score) => [score.name, score]));
  const byProvider = Map.groupBy(workers, ({ info }) => info?.provider ?? "");
  const rows = [...byProvider]
    .map(([provider, running]) => {
      const up = running.filter(({ info }) => info?.health !== Health.UNAVAILABLE).length;
      return { provider, up, all: running.length, score: scores.get(provider) };
    })
    .sort((a, b) => (a.score?.score ?? 101) - (b.score?.score ?? 101) || (a.provider < b.provider ? -1 : 1));
  if (rows.length === 0) return NOTHING;
  const why =
    metrics?.unavailable === ""
      ? NOTHING
      : html`<p class="note">Scores are not known: ${metrics?.unavailable ?? ""}.</p>`;
  return table({
    title: "Providers, last 5 minutes",
    note: why,
    head: ["Provider", "Score", "Attempts", "Success", "On average", "Workers up"],
    numbers: [2, 3, 4, 5],
    rows: rows.map(({ provider, up, all, score }) => [
      html`${provider}`,
      writeScore(score),
      html`${score?.attempts ?? 0}`,
      html`${score === undefined || score.attempts === 0 ? "–" : `${(score.success * 100).toFixed(1)} %`}`,
      html`${score === undefined || score.attempts === 0 ? "–" : time(score.meanMs)}`,
      html`${up} of ${all}`,
    ]),
  });
}

function writeScore(score: HealthScore | undefined): Html {
  if (score === undefined || score.attempts === 0) return state("plain", "no data");
  const tone: Tone = score.score >= 80 ? "good" : score.score >= 60 ? "busy" : "bad";
  const word = score.score >= 80 ? "well" : score.score >= 60 ? "slow or shaky" : "failing";
  return state(tone, `${score.score} · ${word}`);
}

/** Workers that are not well. */
function writeTroubled({ workers }: GetReportResponse): Html {
  const troubled = workers.filter(({ info }) => {
    const well = info?.health === Health.AVAILABLE || info?.health === Health.BUSY;
    return !well || info.breaker === BreakerState.OPEN || info.draining;
  });
  if (troubled.length === 0) return NOTHING;
  const more = troubled.length - LISTED_MAX;
  return table({
    title: "Workers that do not serve",
    note: more > 0 ? html`<p class="note">and ${more} more</p>` : NOTHING,
    head: ["Worker", "State", "Why", "Breaker", "Provider", "Node"],
    numbers: [],
    rows: troubled
      .slice(0, LISTED_MAX)
      .map(({ info, node }) => [
        html`${info!.name}`,
        info!.draining ? state("busy", "drained") : state("bad", HEALTH_NAMES[info!.health]),
        html`${info!.reason === "" ? "" : `${info!.message} (${info!.reason})`}`,
        info!.breaker === BreakerState.OPEN ? state("bad", "open") : html`${"closed"}`,
        html`${info!.provider}`,
        html`${node}`,
      ]),
  });
}

function writeNodes({ nodes, workersByNode, silentNodes }: GetReportResponse, nowMs: number): Html {
  return table({
    title: "Nodes",
    note: NOTHING,
    head: ["Node", "State", "Services", "Workers", "Calls", "Loop delay", "Memory", "Up for"],
    numbers: [3, 4, 5, 6, 7],
    rows: nodes.map((node) => [
      html`${node.name || node.id}${node.zone === "" ? "" : ` (${node.zone})`}`,
      nodeState(node, silentNodes),
      html`${node.services.join(", ")}`,
      html`${workersByNode[node.id] ?? 0}`,
      html`${node.load?.callsInFlight ?? 0}`,
      html`${time(node.load?.eventLoopDelayMs ?? 0)}`,
      html`${node.load?.rssBytes === undefined ? "–" : `${Math.round(node.load.rssBytes / 1024 / 1024)} MB`}`,
      html`${duration(Math.max(0, nowMs - node.startedAtMs) / 1_000)}`,
    ]),
  });
}

function nodeState({ id, draining, load }: NodeReport, silentNodes: readonly string[]): Html {
  if (silentNodes.includes(id)) return state("bad", "silent");
  if (draining) return state("busy", "draining");
  return (load?.problems.length ?? 0) > 0 ? state("busy", "has problems") : state("good", "up");
}

function state(tone: Tone, word: string): Html {
  return html`<span class="state ${tone}">${word}</span>`;
}

/** A table with a row header in the first column; `numbers` are the columns of figures. */
function table(content: {
  readonly title: string;
  readonly note: Html;
  readonly head: readonly string[];
  readonly numbers: readonly number[];
  readonly rows: readonly (readonly Html[])[];
}): Html {
  const { title, note, head, numbers, rows } = content;
  const id = title.toLowerCase().replaceAll(/[^a-z]+/g, "-");
  const kind = (column: number) => (numbers.includes(column) ? "number" : "");
  return html`<section class="card" aria-labelledby="${id}">
<h2 id="${id}">${title}</h2>
<table><thead><tr>${head.map((name, column) => html`<th scope="col" class="${kind(column)}">${name}</th>`)}</tr></thead>
<tbody>${rows.map(
    ([first, ...cells]) =>
      html`<tr><th scope="row">${first!}</th>${cells.map(
        (cell, index) => html`<td class="${kind(index + 1)}" data-label="${head[index + 1]!}">${cell}</td>`,
      )}</tr>
`,
  )}</tbody></table>
${note}</section>
`;
}

function duration(seconds: number): string {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} days`;
}

function time(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;
}
