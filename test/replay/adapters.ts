/** The adapters that there are: each folder `services/adapter-*` has its entry in `start.ts`, and the entry knows its dialect. */
import { globSync } from "node:fs";
import type { ServiceEntry } from "../../libs/host/index.ts";
import type { Adapters } from "./judging.ts";

/** Loads them. */
export async function findAdapters(): Promise<Adapters> {
  const root = new URL("../../", import.meta.url);
  const found = new Map<string, NonNullable<ReturnType<Adapters["get"]>>>();
  for (const file of globSync("services/adapter-*/start.ts", { cwd: root }).sort()) {
    const door: Record<string, unknown> = await import(new URL(file, root).href);
    for (const { adapter } of Object.values(door).filter(isEntry)) {
      if (adapter?.createDialect !== undefined) found.set(adapter.provider, adapter.createDialect);
    }
  }
  return found;
}

function isEntry(value: unknown): value is ServiceEntry {
  return typeof value === "object" && value !== null && "start" in value && "interfaces" in value;
}
