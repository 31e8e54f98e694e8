/** What clients see when providers fail, against Cortex in both of its shapes: a test for each scenario of the suite. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startGateway } from "../conformance/gateways.ts";
import { type Run, startRun } from "../conformance/run.ts";
import { SCENARIOS } from "../conformance/scenarios.ts";

describe.each(["one", "many"] as const)("a client of Cortex (%s) when", (shape) => {
  let run: Run;

  beforeAll(async () => {
    run = await startRun({ scenarios: SCENARIOS, start: (stages) => startGateway(shape, stages) });
  });

  afterAll(async () => {
    await run?.stop();
  });

  // They are played together; each test waits for its own.
  it.each(SCENARIOS)("$group: $name", { timeout: 120_000 }, async ({ name }) => {
    const { passed, must, seen } = await run.result(name);
    expect({ must, seen, passed }).toEqual({ must, seen, passed: true });
  });
});

describe("the suite", () => {
  it("has a name of its own for each scenario", () => {
    expect(new Set(SCENARIOS.map(({ name }) => name)).size).toBe(SCENARIOS.length);
  });

  it("finds that a client without a gateway notices every failure", async () => {
    const scenarios = SCENARIOS.filter(({ group }) => group === "before" || group === "after");
    // Those of a provider that is silent last as long as the client's patience.
    const quick = scenarios.filter(({ name }) => !/nothing|stalls|late|at once/.test(name));
    const run = await startRun({ scenarios: quick, start: (stages) => startGateway("pipe", stages) });
    try {
      expect((await run.results).filter(({ passed }) => passed)).toEqual([]);
    } finally {
      await run.stop();
    }
  });
});
