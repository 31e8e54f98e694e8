/** Reads what is named in queries of Prometheus. */

/** Words of PromQL that look like names of metrics. */
const KEYWORDS: ReadonlySet<string> = new Set([
  "and",
  "or",
  "unless",
  "by",
  "without",
  "on",
  "ignoring",
  "group_left",
  "group_right",
  "offset",
  "bool",
  "inf",
  "nan",
]);
/** What comes before a list of labels. */
const GROUPING = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g;
/** What a histogram's series end with. */
const HISTOGRAM_ENDS = /_(?:bucket|sum|count)$/;

/** The metrics that a query names, histograms by the name of the whole; recorded ones (`cortex:…`) as they are. */
export function metricsIn(query: string, histograms: ReadonlySet<string>): string[] {
  const bare = query
    .replaceAll(/"(?:[^"\\]|\\.)*"/g, '""')
    .replaceAll(/\{[^}]*\}/g, "")
    .replaceAll(/\[[^\]]*\]/g, "")
    .replaceAll(GROUPING, "");
  const names = new Set<string>();
  for (const { 0: name, index } of bare.matchAll(/[a-zA-Z_:][a-zA-Z0-9_:]*/g)) {
    const before = bare[index - 1] ?? "";
    const isCalled = /^\s*\(/.test(bare.slice(index + name.length));
    if (isCalled || KEYWORDS.has(name.toLowerCase()) || /[0-9.$]/.test(before)) continue;
    const whole = name.replace(HISTOGRAM_ENDS, "");
    names.add(histograms.has(whole) ? whole : name);
  }
  return [...names];
}
