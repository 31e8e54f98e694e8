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

function inWords(message: string): string {
  return message.replace(/^Invalid input: /, "").replace(/, received undefined$/, ", but it is missing");
}

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
