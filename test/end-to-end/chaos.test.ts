/** A short chaos: parts of a mesh die, freeze and misbehave under load, and no client notices. `npm run chaos` does it for longer. */
import { describe, expect, it } from "vitest";
import { runChaos } from "../chaos/chaos.ts";

describe("a mesh of many nodes", () => {
  it("gives every client its whole answer while its parts are killed and frozen", { timeout: 180_000 }, async () => {
    const { tally, events, unhealed, logs } = await runChaos({ seconds: 20, seed: 4, rate: 6 });
    // What had been done to the mesh stands beside what failed.
    const happened = tally.failures.length === 0 ? [] : events;
    expect({ failures: tally.failures, unhealed, happened, logs }).toEqual({
      failures: [],
      unhealed: [],
      happened: [],
      logs: {},
    });
    expect(events.length).toBeGreaterThan(10);
    expect(tally.streams).toBeGreaterThan(50);
    expect(tally.wholes).toBeGreaterThan(10);
    expect(tally.failedOver).toBeGreaterThan(0);
    expect(tally.continued).toBeGreaterThan(0);
  });
});
