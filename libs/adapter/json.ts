/** Parsing what a provider sent, so that a failure says where but never what: answers do not belong in errors. */
import { failure } from "./failures.ts";

const POSITION = /at position (\d+)/;

/**
 * Parses JSON of a provider; a byte order mark and white space before it are fine. `what` names it in the message: `the
 * answer`, `an event`. Throws PROVIDER_INVALID_ANSWER.
 */
export function parseJson(text: string, what: string): unknown {
  const source = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  try {
    return JSON.parse(source);
  } catch (thrown) {
    throw failure("PROVIDER_INVALID_ANSWER", `${what} is not JSON: ${describe(source, thrown)}`);
  }
}

/** V8's own message can't be used, it quotes the source; and it has a position only for some mistakes. */
function describe(source: string, thrown: unknown): string {
  const message = thrown instanceof Error ? thrown.message : "";
  if (source.trim() === "") return "it is empty";
  if (message.startsWith("Unexpected end of JSON input")) return `it ends at position ${source.length}`;
  const position = POSITION.exec(message)?.[1];
  if (position !== undefined) return `wrong at position ${position} of ${source.length}`;
  const start = source.search(/\S/);
  if (!'{["-0123456789tfn'.includes(source.charAt(start))) return `wrong at position ${start} of ${source.length}`;
  return `wrong somewhere in ${source.length} characters`;
}

/** The largest number that a vector's element can hold. */
const FLOAT32_MAX = 3.4028234663852886e38;

/** Whether a parsed value is a vector: numbers, at least one, each of which a 32-bit float can hold. */
export function isVector(value: unknown): value is number[] {
  if (!Array.isArray(value) || value.length === 0) return false;
  return value.every((element) => typeof element === "number" && Math.abs(element) <= FLOAT32_MAX);
}
