/**
 * Reading the JSON that a provider sent. Answers do not belong in errors: a failure to parse says where but never what, and
 * what is not as it should be is named by what it should have been.
 */
import { RpcError } from "../rpc/index.ts";
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

/** A parsed JSON object. */
export type Json = Readonly<Record<string, unknown>>;

/** Whether a parsed value is a JSON object. */
export function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An answer that could not be understood; `what` says which part of it. */
export function notUnderstood(what: string): RpcError {
  return new RpcError("PROVIDER_INVALID_ANSWER", `the provider's answer could not be understood: ${what}`);
}

/** A whole answer or an event, which is a JSON object unless an error of the provider's stands in its place. */
export function objectOf(value: unknown, disguised: RpcError | undefined): Json {
  if (disguised !== undefined) throw disguised;
  if (!isJson(value)) throw notUnderstood("not an object");
  return value;
}

/** A text, or the empty one where there is none. */
export function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** A count as protobuf's uint32 holds it; undefined for anything else. */
export function countOf(value: unknown): number | undefined {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff ? value : undefined;
}

/** A moment as RFC 3339 writes it, in seconds since the Unix epoch; undefined for anything else. */
export function momentSOf(value: unknown): number | undefined {
  return countOf(Math.floor(Date.parse(textOf(value)) / 1000));
}

/** The largest number that a vector's element can hold. */
const FLOAT32_MAX = 3.4028234663852886e38;

/** The numbers of an embedding: at least one, each of which a 32-bit float can hold. */
export function vectorOf(value: unknown): number[] {
  if (!isVector(value)) throw notUnderstood("an embedding is not a vector");
  return value;
}

function isVector(value: unknown): value is number[] {
  if (!Array.isArray(value) || value.length === 0) return false;
  return value.every((element) => typeof element === "number" && Math.abs(element) <= FLOAT32_MAX);
}
