/** What the HTTP face counts. */
import { METHODS } from "node:http";
import { expect, it } from "vitest";
import { createMetrics, NO_TRACE } from "../../libs/telemetry/index.ts";
import { countExchange } from "./operations.ts";

it("counts methods that nobody needs together, so that they take no place of those that are", async () => {
  const metrics = createMetrics();
  const ended = { route: "(unknown)", status: 405, durationMs: 1, failure: undefined, trace: NO_TRACE };
  for (const method of METHODS.toReversed()) countExchange(metrics, { ...ended, method });
  const { body } = await metrics.expose("");
  const counted = [...body.matchAll(/_count\{http_request_method="([^"]+)".*\} (\d+)/g)].map(
    ([, method, count]) => `${method} ${count}`,
  );
  const known = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
  expect(counted.sort()).toEqual([`(other) ${METHODS.length - known.length}`, ...known.map((method) => `${method} 1`)]);
});
