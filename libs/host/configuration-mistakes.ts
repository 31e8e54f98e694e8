/** What is wrong with a configuration file, in words for whoever wrote it: each mistake with its field, no value quoted. */
import type { z } from "zod";

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** As far as it is needed here. */
interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
}

/** A mistake and the field that has it. */
export interface Mistake {
  readonly path: Path;
  /** The field and what is wrong with it. */
  readonly message: string;
}

/** The mistakes that a schema has found; `schema` is the same as JSON Schema, for the names of fields that there are. */
export function mistakesOf(issues: readonly Issue[], schema: object): Mistake[] {
  return issues.flatMap((issue) => mistakesOfIssue(issue, [], schema));
}

/** `workers[0].pool.connections` */
export function fieldName(path: Path): string {
  const name = path.map((step) => (typeof step === "number" ? `[${step}]` : `.${String(step)}`)).join("");
  return name === "" ? "the file" : name.replace(/^\./, "");
}

function mistakesOfIssue(issue: Issue, within: Path, schema: JsonSchema): Mistake[] {
  const path = [...within, ...issue.path];
  if (issue.code === "unrecognized_keys") {
    const names = fieldsAt(path, schema);
    return issue.keys.map((key) => {
      const field = [...path, key];
      return { path: field, message: `${fieldName(field)}: there is no such field; there are ${names.join(", ")}` };
    });
  }
  if (issue.code === "invalid_union") {
    // Of the forms that it may have, the one that was meant is the one whose outermost type is right.
    const meant = issue.errors.find(
      (issues) => !issues.some(({ code, path: at }) => code === "invalid_type" && at.length === 0),
    );
    if (meant !== undefined) return meant.flatMap((inner) => mistakesOfIssue(inner, path, schema));
  }
  return [{ path, message: `${fieldName(path)}: ${inWords(issue.message)}` }];
}

/** What a schema finds wrong with one value, in words for people; a sentence that was written for it stays as it is. */
export function inWords(message: string): string {
  for (const [pattern, write] of RULES) {
    const found = pattern.exec(message);
    if (found !== null) return write(...found.slice(1));
  }
  return message;
}

const RULES: readonly (readonly [RegExp, (...found: string[]) => string])[] = [
  [/^Invalid input: expected (\w+), received undefined$/, (type) => `is missing; it has to be ${kind(type!)}`],
  [/^Invalid input: expected (\w+), received (\w+)$/, (type, given) => `has to be ${kind(type!)}, not ${kind(given!)}`],
  [/^Invalid input: expected (.+)$/, (value) => `has to be ${value}`],
  [/^Invalid input$/, () => "has none of the forms that it may have"],
  [/^Invalid option: expected one of (.+)$/, (options) => `has to be one of ${options!.replaceAll('"|"', '", "')}`],
  [
    /^Invalid discriminator value\. Expected (.+)$/,
    (options) => `has to be one of ${options!.replaceAll("' | '", "', '")}`,
  ],
  [/^Invalid string: must match pattern (.+)$/, (pattern) => `has to match ${pattern}`],
  [/^Too small: expected \w+ to have >=1 \w+$/, () => "must not be empty"],
  [/^Too small: expected \w+ to have >=(\d+) (\w+)$/, (least, what) => `has to have at least ${least} ${what}`],
  [/^Too big: expected \w+ to have <=(\d+) (\w+)$/, (most, what) => `may have at most ${count(most!, what!)}`],
  [/^Too small: expected \w+ to be >=(.+)$/, (least) => `has to be at least ${least}`],
  [/^Too small: expected \w+ to be >(.+)$/, (bound) => `has to be more than ${bound}`],
  [/^Too big: expected \w+ to be <=(.+)$/, (most) => `has to be at most ${most}`],
  [/^Too big: expected \w+ to be <(.+)$/, (bound) => `has to be less than ${bound}`],
];

function count(number: string, what: string): string {
  return `${number} ${number === "1" ? what.replace(/s$/, "") : what}`;
}

function kind(type: string): string {
  return KINDS.get(type) ?? type;
}

const KINDS: ReadonlyMap<string, string> = new Map([
  ["string", "a text"],
  ["number", "a number"],
  ["int", "a whole number"],
  ["boolean", "true or false"],
  ["array", "a list"],
  ["object", "an object"],
  ["record", "an object"],
]);

/** The names of the fields that there are at this place. */
function fieldsAt(path: Path, schema: JsonSchema): string[] {
  let places: readonly JsonSchema[] = [schema];
  for (const step of path) places = places.flatMap((place) => inside(place, step));
  return places.flatMap(({ properties, anyOf = [] }) =>
    [properties, ...anyOf.map((form) => form.properties)].flatMap((fields) => Object.keys(fields ?? {})),
  );
}

function inside({ properties, additionalProperties, items, anyOf = [] }: JsonSchema, step: PropertyKey): JsonSchema[] {
  const here = typeof step === "number" ? items : (properties?.[String(step)] ?? additionalProperties);
  return [...(typeof here === "object" ? [here] : []), ...anyOf.flatMap((form) => inside(form, step))];
}
