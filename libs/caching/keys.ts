/** How keys name whom and what an answer is for. */
import { hash } from "node:crypto";
import type { CacheInvalidated } from "../gen/cortex/events/v1/events.ts";

/** 80 bits: no two names have the same part by chance. */
const DIGITS = 20;

/** Names that were asked for lately. Clients make names of models up, so there are bounds. */
const KNOWN_MAX = 1_000;
const KNOWN_CHARACTERS_MAX = 200;
const known = new Map<string, string>();

/**
 * The part of a key that stands for a tenant or a model: of fixed length, without dots. It serves to find the keys of a
 * tenant or a model; that no two share an answer is up to the rest of the key, where their names are once more.
 */
export function keyPart(name: string): string {
  let part = known.get(name);
  if (part === undefined) {
    // JSON tells strings apart that are no valid UTF-16; their UTF-8 does not.
    part = hash("sha256", JSON.stringify(name)).slice(0, DIGITS);
    if (known.size >= KNOWN_MAX) known.clear();
    if (name.length <= KNOWN_CHARACTERS_MAX) known.set(name, part);
  }
  return part;
}

/** Whether the answer under this key is one of those that are no longer to be taken. */
export function isInvalidated(key: string, { key: named, tenantPart, modelPart }: CacheInvalidated): boolean {
  if (named !== "" && key !== named) return false;
  if (tenantPart === "" && modelPart === "") return true;
  const [tenant, model] = key.split(".", 2);
  return (tenantPart === "" || tenant === tenantPart) && (modelPart === "" || model === modelPart);
}
