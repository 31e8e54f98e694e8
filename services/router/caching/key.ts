/**
 * What answers are kept under: `<tenant>.<model>.<request>`. Everything that a request says is in its key, so that a field
 * which the contract gets one day makes other keys, and never a wrong answer. Only what can't change the answer is left out:
 * the order in which maps and JSON objects were written. There is no list of fields that don't matter: `user` may get other
 * answers from a provider that has refused somebody, and names and ids in a conversation are read by the model.
 *
 * `answerKey` for a chat, `vectorKeys` for the inputs of an embedding; `route` is a mark of what the model's name stands for.
 */
import { hash } from "node:crypto";
import { keyPart } from "../../../libs/caching/index.ts";
import { CompletionRequest, EmbeddingRequest } from "../../../libs/gen/cortex/llm/v1/llm.ts";

/** To be raised when the same request gets another key, or an entry another meaning: what is kept is then not found. */
const FORM = 1;

/** The key of the answer to a chat request. The request is left as it is. */
export function answerKey(request: CompletionRequest, tenant: string, route: string): string {
  // A gateway of this node has seen the same body before: such a request can't change any more.
  if (!Object.isFrozen(request)) return makeAnswerKey(request, tenant, route);
  const last = LAST_KEYS.get(request);
  if (last?.tenant === tenant && last.route === route) return last.key;
  const key = makeAnswerKey(request, tenant, route);
  LAST_KEYS.set(request, { tenant, route, key });
  return key;
}

/** The last key of each request that is frozen, and what else it was made of. */
const LAST_KEYS = new WeakMap<
  CompletionRequest,
  { readonly tenant: string; readonly route: string; readonly key: string }
>();

function makeAnswerKey(request: CompletionRequest, tenant: string, route: string): string {
  const copy = CompletionRequest.fromPartial(request) as Draft<CompletionRequest>;
  for (const tool of copy.tools) tool.parametersJsonSchema = canonicalJson(tool.parametersJsonSchema);
  if (copy.responseFormat !== undefined) copy.responseFormat.jsonSchema = canonicalJson(copy.responseFormat.jsonSchema);
  if (request.sampling !== undefined) copy.sampling!.logitBias = sorted(request.sampling.logitBias);
  copy.extraJson = sorted(request.extraJson, canonicalJson);
  return keyOf(request.model, tenant, `${preamble("answer", tenant, route)}${exactText(copy)}`);
}

/** The keys of the vectors of a request's inputs, in their order: each as if it were asked for alone. */
export function vectorKeys(request: EmbeddingRequest, tenant: string, route: string): string[] {
  const copy = EmbeddingRequest.fromPartial({ ...request, inputs: [] }) as Draft<EmbeddingRequest>;
  copy.extraJson = sorted(request.extraJson, canonicalJson);
  // The same for all inputs, of which there may be thousands.
  const shared = hash("sha256", `${preamble("vector", tenant, route)}${exactText(copy)}`);
  return request.inputs.map((input) => keyOf(request.model, tenant, `${shared}\n${JSON.stringify(input)}`));
}

type Draft<T> = { -readonly [Field in keyof T]: Draft<T[Field]> };

function keyOf(model: string, tenant: string, text: string): string {
  return `${keyPart(tenant)}.${keyPart(model)}.${hash("sha256", text)}`;
}

/** One line, as JSON has no line ends: what comes behind it can't be taken for a part of it. */
function preamble(kind: "answer" | "vector", tenant: string, route: string): string {
  return `${JSON.stringify([FORM, kind, tenant, route])}\n`;
}

/**
 * A text that no other message has. The fields are in the order in which the generated code makes them; JSON tells apart
 * strings that are no valid UTF-16, and what it can't tell apart is replaced first. Several times faster than encoding.
 */
function exactText(draft: object): string {
  replaceInexact(draft as Record<string, unknown>);
  return JSON.stringify(draft);
}

/** `message` may be a list as well. */
function replaceInexact(message: Record<string, unknown>): void {
  for (const name of Object.keys(message)) {
    const value = message[name];
    // As texts they are mistaken for nothing: a field holds numbers, bytes or texts, never now these and now those.
    if (typeof value === "number") {
      if (!Number.isFinite(value)) message[name] = String(value);
    } else if (typeof value === "object" && value !== null) {
      if (value instanceof Uint8Array) message[name] = hash("sha256", value);
      else replaceInexact(value as Record<string, unknown>);
    }
  }
}

/** The entries in the order of their names. */
function sorted<T>(map: Record<string, T>, change?: (value: T) => T): Record<string, T> {
  const names = Object.keys(map);
  if (names.length === 0) return map;
  const ordered = names.sort().map((name): [string, T] => [name, change ? change(map[name]!) : map[name]!]);
  // Unlike assigning, this makes an entry of "__proto__" too.
  return Object.fromEntries(ordered);
}

/** Tools and schemas come with each turn of a conversation, so what was made of them lately is known. */
const KNOWN_MAX = 256;
const KNOWN_CHARACTERS_MAX = 8_192;
const known = new Map<string, string>();

/**
 * JSON text without white space and with the keys of its objects in order; any other text as it is. So is JSON of which that
 * would lose something that a provider might see: a key that is there twice, a number that is no exact double.
 *
 * The order of a schema's properties is none of its meaning either, although models write them in that order: whoever asks
 * for the same object may get it as it was written for another order.
 */
function canonicalJson(text: string): string {
  if (text.length < 2) return text;
  let canonical = known.get(text);
  if (canonical === undefined) {
    canonical = toCanonical(text);
    if (known.size >= KNOWN_MAX) known.clear();
    if (text.length <= KNOWN_CHARACTERS_MAX) known.set(text, canonical);
  }
  return canonical;
}

/** Numbers with more digits than a double is sure to hold, or with an exponent: without it they may become longer. */
const INEXACT_NUMBER = /\d{16}|[\d.]{17}|\d[eE][-+]?\d/;
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/g;
const STRING_OR_SPACE = /("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+/g;

function toCanonical(text: string): string {
  if (!text.isWellFormed()) return text;
  try {
    // What looks like one is most often in a string.
    if (INEXACT_NUMBER.test(text) && INEXACT_NUMBER.test(text.replace(STRING, ""))) return text;
    const canonical = write(JSON.parse(text));
    if (canonical.length === text.length) return canonical;
    // No token is written longer than it was, so when nothing but space has gone, nothing has been lost.
    return canonical.length === text.replace(STRING_OR_SPACE, "$1").length ? canonical : text;
  } catch {
    // Not JSON, or nested too deeply to be written.
    return text;
  }
}

function write(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  const names = Object.keys(value).sort();
  const members = names.map((name) => {
    const member = write((value as Record<string, unknown>)[name]);
    return `${JSON.stringify(name)}:${member}`;
  });
  return `{${members.join(",")}}`;
}
