/** Loggers whose level changes while a node runs. */
import { describe, expect, it } from "vitest";
import { createLogger, setLevel } from "./log.ts";

describe("the level of a logger", () => {
  it("changes for it and for all that were made of it", () => {
    const lines: string[] = [];
    const destination = { write: (line: string) => void lines.push((JSON.parse(line) as { message: string }).message) };
    const log = createLogger({ level: "warn", readable: false, node: "n", destination });
    const child = log.child({ worker: "w" });
    const grandchild = child.child({ key: "k" });
    for (const logger of [log, child, grandchild]) logger.info("unheard");
    setLevel(log, "info");
    log.info("node");
    child.info("worker");
    grandchild.info("key");
    setLevel(log, "error");
    for (const logger of [log, child, grandchild]) logger.warn("unheard");
    expect(lines).toEqual(["node", "worker", "key"]);
  });
});
