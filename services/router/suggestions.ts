/** What to say when a model's name is not known: the names that are nearest to it. */
import { RpcError } from "../../libs/rpc/index.ts";

const SUGGESTIONS_MAX = 3;

/** MODEL_NOT_FOUND with the closest of the names that there are. */
export function modelNotFound(name: string, known: ReadonlySet<string>): RpcError {
  const asked = name.toLowerCase();
  const near = [...known]
    .map((candidate) => ({ candidate, distance: unlikeness(asked, candidate.toLowerCase()) }))
    .filter(({ distance }) => distance < 0.5)
    .sort((a, b) => a.distance - b.distance)
    .slice(0, SUGGESTIONS_MAX)
    .map(({ candidate }) => `"${candidate}"`);
  const hint =
    near.length > 0
      ? `; did you mean ${near.join(" or ")}?`
      : '; GET /v1/models lists what there is, and "auto" lets Cortex choose';
  return new RpcError("MODEL_NOT_FOUND", `the model "${name.slice(0, 200)}" does not exist${hint}`, { field: "model" });
}

/** From 0 for the same name to 1 for nothing in common. A name that is the beginning of the other is likely meant. */
function unlikeness(asked: string, candidate: string): number {
  const longest = Math.min(Math.max(asked.length, candidate.length), DISTANCE_CHARACTERS_MAX);
  if (asked.length >= 3 && candidate.startsWith(asked)) return 0.25;
  // At least as far apart as they differ in length.
  if (Math.abs(asked.length - candidate.length) >= longest / 2) return 1;
  return distance(asked, candidate) / longest;
}

const DISTANCE_CHARACTERS_MAX = 64;

/** Levenshtein's distance, of the first characters. */
function distance(a: string, b: string): number {
  const [left, right] = [a.slice(0, DISTANCE_CHARACTERS_MAX), b.slice(0, DISTANCE_CHARACTERS_MAX)];
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const cost = left[i - 1] === right[j - 1] ? 0 : 1;
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + cost));
    }
    row = next;
  }
  return row[right.length]!;
}
