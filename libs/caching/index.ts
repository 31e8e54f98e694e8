/** How the keys of the cache name whom and what an answer is for: what routers make keys of, and the cache looks for in them. */
import { hash } from "node:crypto";

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
