/** Makes Grafana dashboards out of what is said about each panel: nothing but plain data, the same every time. */

/** A query of Prometheus, and what its lines are called. */
export interface PanelQuery {
  readonly expr: string;
  /** With labels in double braces: `{{worker}}`. */
  readonly legend: string;
}

/** One panel. */
export interface PanelSpec {
  readonly title: string;
  /** What it shows and what is good, for whoever hovers. */
  readonly description: string;
  readonly kind?: "timeseries" | "stat" | "table" | "bargauge";
  /** Grafana's name of the unit: s, bytes, reqps, percentunit, short, currencyUSD. */
  readonly unit: string;
  readonly queries: readonly PanelQuery[];
  /** From these values on it is yellow, and red. */
  readonly warnings?: readonly [warning: number, critical: number];
  /** The warnings hold below the values. */
  readonly lowIsBad?: boolean;
  /** Lines are stacked. */
  readonly stacked?: boolean;
  readonly max?: number;
  /** Words for values, such as 2 → "open". */
  readonly words?: Readonly<Record<number, string>>;
  /** Traces are shown as points. */
  readonly exemplars?: boolean;
  /** Columns of 24; 8 for a graph, 4 for a number. */
  readonly width?: number;
}

/** Panels under a heading. */
export interface RowSpec {
  readonly title: string;
  readonly panels: readonly PanelSpec[];
}

/** A label by which a dashboard is filtered. */
export interface FilterSpec {
  readonly name: string;
  readonly label: string;
  /** The metric whose values of the label there are. */
  readonly metric: string;
}

/** A dashboard. */
export interface DashboardSpec {
  /** Stays the same for ever: addresses have it. */
  readonly uid: string;
  readonly title: string;
  readonly description: string;
  readonly filters?: readonly FilterSpec[];
  readonly rows: readonly RowSpec[];
}

const COLUMNS = 24;
const HEIGHT = { timeseries: 8, table: 8, bargauge: 8, stat: 4 } as const;
const DATASOURCE = { type: "prometheus", uid: `\${datasource}` } as const;
const SCHEMA_VERSION = 39;

/** The JSON of a dashboard. */
export function dashboard({ uid, title, description, filters = [], rows }: DashboardSpec): object {
  return {
    uid,
    title,
    description,
    tags: ["cortex"],
    timezone: "browser",
    editable: true,
    graphTooltip: 1,
    refresh: "10s",
    schemaVersion: SCHEMA_VERSION,
    time: { from: "now-1h", to: "now" },
    links: [
      {
        type: "dashboards",
        title: "Cortex",
        tags: ["cortex"],
        asDropdown: true,
        includeVars: true,
        keepTime: true,
        icon: "external link",
      },
    ],
    annotations: {
      list: [
        {
          name: "Alerts",
          datasource: DATASOURCE,
          enable: true,
          iconColor: "red",
          expr: `ALERTS{alertstate="firing",alertname=~"Cortex.*",job=~"$job|"}`,
          titleFormat: "{{alertname}}",
        },
      ],
    },
    templating: {
      list: [
        { name: "datasource", label: "Prometheus", type: "datasource", query: "prometheus", current: {}, hide: 0 },
        variable({ name: "job", label: "Mesh", metric: "cortex_build_info" }),
        ...filters.map(variable),
      ],
    },
    panels: arrange(rows),
  };
}

function variable({ name, label, metric }: FilterSpec): object {
  const query = name === "job" ? `label_values(${metric}, job)` : `label_values(${metric}{job=~"$job"}, ${name})`;
  return {
    name,
    label,
    type: "query",
    datasource: DATASOURCE,
    query: { query, refId: name },
    definition: query,
    refresh: 2,
    sort: 1,
    multi: true,
    includeAll: true,
    allValue: ".*",
    current: { text: ["All"], value: ["$__all"] },
  };
}

/** Panels from left to right, rows from top to bottom. */
function arrange(rows: readonly RowSpec[]): object[] {
  const panels: object[] = [];
  let [id, y] = [0, 0];
  for (const { title, panels: specified } of rows) {
    panels.push({
      id: ++id,
      type: "row",
      title,
      collapsed: false,
      panels: [],
      gridPos: { x: 0, y, w: COLUMNS, h: 1 },
    });
    y += 1;
    let [x, highest] = [0, 0];
    for (const spec of specified) {
      const kind = spec.kind ?? "timeseries";
      const [w, h] = [spec.width ?? (kind === "stat" ? 4 : 8), HEIGHT[kind]];
      if (x + w > COLUMNS) [x, y, highest] = [0, y + highest, 0];
      panels.push(panel(spec, ++id, { x, y, w, h }));
      x += w;
      highest = Math.max(highest, h);
    }
    y += highest;
  }
  return panels;
}

interface Place {
  readonly x: number;
  readonly y: number;
  readonly w: number;
  readonly h: number;
}

function panel(spec: PanelSpec, id: number, gridPos: Place): object {
  const { title, description, kind = "timeseries", queries, exemplars = false } = spec;
  const instant = kind !== "timeseries";
  return {
    id,
    type: kind,
    title,
    description,
    datasource: DATASOURCE,
    gridPos,
    targets: queries.map(({ expr, legend }, index) => ({
      refId: String.fromCharCode("A".charCodeAt(0) + index),
      datasource: DATASOURCE,
      editorMode: "code",
      expr,
      legendFormat: legend,
      // A number shows its last hour behind it.
      instant: instant && kind !== "stat",
      range: !instant || kind === "stat",
      ...(kind === "table" ? { format: "table" } : {}),
      ...(exemplars ? { exemplar: true } : {}),
    })),
    fieldConfig: { defaults: fieldsOf(spec), overrides: [] },
    options: optionsOf(kind),
    ...(kind === "table" ? { transformations: [{ id: "merge", options: {} }] } : {}),
  };
}

function fieldsOf({
  kind = "timeseries",
  unit,
  warnings,
  lowIsBad = false,
  stacked = false,
  max,
  words,
}: PanelSpec): object {
  return {
    unit,
    min: 0,
    ...(max === undefined ? {} : { max }),
    color: { mode: warnings !== undefined && kind !== "timeseries" ? "thresholds" : "palette-classic" },
    thresholds: { mode: "absolute", steps: stepsOf(warnings, lowIsBad) },
    mappings:
      words === undefined
        ? []
        : [
            {
              type: "value",
              options: Object.fromEntries(Object.entries(words).map(([value, text]) => [value, { text }])),
            },
          ],
    custom:
      kind === "timeseries"
        ? {
            lineWidth: 1,
            fillOpacity: stacked ? 30 : 10,
            showPoints: "never",
            spanNulls: true,
            stacking: { mode: stacked ? "normal" : "none", group: "A" },
            thresholdsStyle: { mode: warnings === undefined ? "off" : "dashed" },
          }
        : {},
  };
}

function stepsOf(warnings: PanelSpec["warnings"], lowIsBad: boolean): object[] {
  if (warnings === undefined) return [{ color: "green", value: null }];
  const [warning, critical] = warnings;
  return lowIsBad
    ? [
        { color: "red", value: null },
        { color: "yellow", value: critical },
        { color: "green", value: warning },
      ]
    : [
        { color: "green", value: null },
        { color: "yellow", value: warning },
        { color: "red", value: critical },
      ];
}

function optionsOf(kind: NonNullable<PanelSpec["kind"]>): object {
  const reduceOptions = { calcs: ["lastNotNull"], fields: "", values: false };
  if (kind === "stat") return { reduceOptions, colorMode: "value", graphMode: "area", textMode: "auto" };
  if (kind === "bargauge") return { reduceOptions, orientation: "horizontal", displayMode: "gradient" };
  if (kind === "table") return { showHeader: true, footer: { show: false } };
  return {
    legend: { displayMode: "list", placement: "bottom", showLegend: true },
    tooltip: { mode: "multi", sort: "desc" },
  };
}
