/** Which failures keep a trace; docs/observability.md has the table. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CATALOGUE, type Reason } from "../rpc/index.ts";
import { isFault } from "./tracing-settings.ts";

const REASONS = Object.keys(CATALOGUE) as Reason[];

describe("a failure", () => {
  it("keeps its trace unless it is its client's own doing", () => {
    expect(REASONS.filter((reason) => !isFault(reason)).sort()).toEqual(
      REASONS.filter((reason) => CATALOGUE[reason].class === "request" && reason !== "DEADLINE_EXCEEDED").sort(),
    );
    for (const reason of ["PROVIDER_OVERLOADED", "NO_WORKERS_AVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"]) {
      expect(isFault(reason), reason).toBe(true);
    }
    for (const reason of ["CANCELLED", "INVALID_REQUEST", "UNAUTHENTICATED"])
      expect(isFault(reason), reason).toBe(false);
  });

  it("keeps its trace when its reason comes from another version", () => {
    expect(isFault("NEWER_THAN_THIS")).toBe(true);
  });

  it("is told of by the document", () => {
    const document = readFileSync(new URL("../../docs/observability.md", import.meta.url), "utf8");
    const [row = ""] = document.split("\n").filter((line) => line.startsWith("| its client's own doing"));
    const told = [...row.matchAll(/`([A-Z_]+)`/g)].map(([, reason]) => reason).sort();
    expect(told).toEqual(REASONS.filter((reason) => !isFault(reason)).sort());
  });
});
