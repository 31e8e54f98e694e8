/** The dashboards of deploy/grafana: what they ask for exists, and what the runbook calls them is what they are called. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { METRIC, type MetricDefinition } from "../../libs/telemetry/index.ts";
import { DASHBOARDS, dashboardFiles } from "./dashboards.ts";
import { metricsIn } from "./promql.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const catalogue: readonly MetricDefinition[] = Object.values(METRIC);
const histograms = new Set(catalogue.filter(({ kind }) => kind === "histogram").map(({ name }) => name));
const { groups } = parse(readFileSync(`${ROOT}deploy/prometheus/rules.yml`, "utf8")) as {
  groups: { rules: { record?: string; expr: string }[] }[];
};
const recorded = groups.flatMap(({ rules }) => rules.flatMap(({ record }) => record ?? []));
const known = new Set([...catalogue.map(({ name }) => name), ...recorded]);
const dashboards = Object.entries(DASHBOARDS);
const panels = dashboards.flatMap(([name, { rows }]) =>
  rows.flatMap((row) => row.panels.map((panel) => ({ name, panel }))),
);

interface DashboardJson {
  readonly uid: string;
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] };
  readonly panels: readonly {
    readonly id: number;
    readonly type: string;
    readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  }[];
}

const files = Object.entries(dashboardFiles()).map(
  ([name, text]) => [name, JSON.parse(text) as DashboardJson] as const,
);

describe("the dashboards", () => {
  it("lie in deploy/grafana as they are generated, and nothing else does", () => {
    expect(readdirSync(`${ROOT}deploy/grafana/dashboards`).sort()).toEqual(Object.keys(dashboardFiles()).sort());
    for (const [name, text] of Object.entries(dashboardFiles())) {
      expect(readFileSync(`${ROOT}deploy/grafana/dashboards/${name}`, "utf8"), name).toBe(text);
    }
  });

  it.each(panels.map(({ name, panel }) => [name, panel.title, panel] as const))(
    "%s: %s asks for what exists",
    (_name, _title, panel) => {
      for (const { expr } of panel.queries) {
        const named = metricsIn(expr, histograms);
        expect(named.length).toBeGreaterThan(0);
        expect(named.filter((metric) => !known.has(metric))).toEqual([]);
        for (const [, label] of expr.matchAll(/[{,](\w+)(?:=~|!~|!=|=)/g))
          expect(labelsOf(named), expr).toContain(label);
      }
      expect(panel.description).toMatch(/\.$/);
    },
  );

  it("have panels of different names, each", () => {
    for (const [name, { rows }] of dashboards) {
      const titles = rows.flatMap((row) => row.panels.map(({ title }) => title));
      expect(new Set(titles).size, name).toBe(titles.length);
    }
  });

  it("show every metric of Cortex' own somewhere, or an alert does", () => {
    const rules = groups.flatMap((group) => group.rules.flatMap(({ expr }) => metricsIn(expr, histograms)));
    const shown = new Set([
      ...rules,
      ...panels.flatMap(({ panel }) => panel.queries.flatMap(({ expr }) => metricsIn(expr, histograms))),
    ]);
    expect(catalogue.map(({ name }) => name).filter((name) => !shown.has(name))).toEqual([]);
  });

  it.each(files)("%s has panels beside each other, none upon another", (_name, { panels: placed }) => {
    expect(new Set(placed.map(({ id }) => id)).size).toBe(placed.length);
    for (const [index, { gridPos: one }] of placed.entries()) {
      expect(one.x + one.w).toBeLessThanOrEqual(24);
      for (const { gridPos: other } of placed.slice(index + 1)) {
        const apart =
          one.x + one.w <= other.x ||
          other.x + other.w <= one.x ||
          one.y + one.h <= other.y ||
          other.y + other.h <= one.y;
        expect(apart).toBe(true);
      }
    }
  });

  it.each(files)("%s takes its data source from a variable, and its variables are used", (_name, file) => {
    const text = JSON.stringify(file);
    expect(text).toContain(`"uid":"$\{datasource}"`);
    for (const { name } of file.templating.list)
      expect(text).toContain(name === "datasource" ? "{datasource}" : `$${name}`);
    expect(
      [...text.matchAll(/\$(\w+)/g)].map(([, name]) => name).filter((name) => !KNOWN_TO_GRAFANA.has(name!)),
    ).toSatisfy((used: string[]) =>
      used.every((name) => file.templating.list.some((variable) => variable.name === name)),
    );
  });
});

const KNOWN_TO_GRAFANA: ReadonlySet<string> = new Set(["__rate_interval", "__all"]);

/** The labels that series of these metrics may have. */
function labelsOf(names: readonly string[]): string[] {
  const own = catalogue.filter(({ name }) => names.includes(name)).flatMap(({ labels }) => labels);
  const ofRecorded = names.some((name) => name.includes(":")) ? ["worker", "provider", "type"] : [];
  return [...own, ...ofRecorded, "job", "instance"];
}

describe("the runbook", () => {
  it("calls panels what they are called", () => {
    const runbook = readFileSync(`${ROOT}docs/runbook.md`, "utf8");
    const titles = new Map(
      dashboards.map(([, { title, rows }]) => [title.replace("Cortex: ", "").toLowerCase(), rows]),
    );
    const references = [...runbook.matchAll(/\*([A-Z][\w ]+?) → ([^*]+)\*/g)];
    expect(references.length).toBeGreaterThan(15);
    const short: Readonly<Record<string, string>> = { nodes: "nodes and event loops" };
    const wrong = references.filter(([, where, what]) => {
      if (where === "Status") return false;
      const rows = titles.get(short[where!.toLowerCase()] ?? where!.toLowerCase());
      return rows?.some((row) => row.panels.some(({ title }) => title === what!.replaceAll("\n", " "))) !== true;
    });
    expect(wrong.map(([whole]) => whole)).toEqual([]);
  });
});
