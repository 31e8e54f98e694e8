/** Messages of any type as the contract describes it, so that a field that is new in the contract is in the tests too. */
import { readFileSync } from "node:fs";
import { createFileRegistry, type DescField, type DescMessage, fromBinary, ScalarType } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";

const registry = createFileRegistry(
  fromBinary(FileDescriptorSetSchema, readFileSync(new URL("../../../libs/gen/descriptors.binpb", import.meta.url))),
);

/** How deep messages nest: tool results hold content, as messages do. */
const DEPTH_MAX = 6;

/** The generated code can't read an entry with this name. */
const entryNames = fc.string({ minLength: 1 }).filter((name) => name !== "__proto__");

type Fields = Record<string, unknown>;
/** What a oneof holds. */
interface Chosen {
  readonly $case: string;
  readonly value: unknown;
}

/** The description of a message. */
export function messageType(name: string): DescMessage {
  const type = registry.getMessage(name);
  if (type === undefined) throw new Error(`${name} is in no contract`);
  return type;
}

/** Any message of a type, as the generated code has it. */
export function arbitraryMessage<T>(type: DescMessage, depth = 0): fc.Arbitrary<T> {
  const members: Record<string, fc.Arbitrary<unknown>> = {};
  for (const field of type.fields) {
    if (field.oneof !== undefined) continue;
    members[field.localName] = arbitraryField(field, depth);
  }
  for (const oneof of type.oneofs) {
    const cases = oneof.fields
      .filter((field) => canHold(field, depth))
      .map((field) => arbitraryValue(field, depth).map((value): Chosen => ({ $case: field.localName, value })));
    members[oneof.localName] = fc.option(fc.oneof(...cases), { nil: undefined });
  }
  return fc.record(members) as fc.Arbitrary<unknown> as fc.Arbitrary<T>;
}

function canHold(field: DescField, depth: number): boolean {
  return field.message === undefined || depth < DEPTH_MAX;
}

function arbitraryField(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const some = canHold(field, depth);
  switch (field.fieldKind) {
    case "list":
      return some ? fc.array(arbitraryValue(field, depth), { maxLength: depth > 2 ? 1 : 3 }) : fc.constant([]);
    case "map":
      return fc.dictionary(entryNames, arbitraryValue(field, depth), { maxKeys: 3, noNullPrototype: true });
    case "message":
      return some ? fc.option(arbitraryValue(field, depth), { nil: undefined }) : fc.constant(undefined);
    default:
      return isOptional(field)
        ? fc.option(arbitraryValue(field, depth), { nil: undefined })
        : arbitraryValue(field, depth);
  }
}

/** A value of the field, or one of its many. */
function arbitraryValue(field: DescField, depth: number): fc.Arbitrary<unknown> {
  if (field.message !== undefined) return arbitraryMessage(field.message, depth + 1);
  if (field.enum !== undefined) return fc.constantFrom(...field.enum.values.map(({ number }) => number));
  switch (field.scalar) {
    case ScalarType.STRING:
      return /_json|json_/.test(field.name)
        ? fc.oneof(fc.string(), fc.json({ maxDepth: 2 }))
        : fc.string({ unit: fc.constantFrom("a", "b", '"', "\\", "\n", ":", "null", "é", "😀", "\ufffd") });
    case ScalarType.BYTES:
      return fc.uint8Array({ maxLength: 4 }).map((bytes) => Buffer.from(bytes));
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return fc.integer({ min: -8, max: 8 }).map((eighths) => eighths / 8);
    default:
      return fc.nat();
  }
}

function isOptional(field: DescField): boolean {
  return field.fieldKind !== "list" && field.fieldKind !== "map" && field.proto.proto3Optional;
}

/** A message in which everything is set that can be; in a list there is one of every kind. */
export function fullMessage<T>(type: DescMessage, depth = 0): T {
  const message = emptyMessage(type);
  for (const field of type.fields) {
    if (!canHold(field, depth)) continue;
    const value =
      field.message === undefined ? otherThan(field, someValue(field)) : fullMessage(field.message, depth + 1);
    if (field.oneof !== undefined) message[field.oneof.localName] = { $case: field.localName, value };
    else if (field.fieldKind === "map") message[field.localName] = { some: value };
    else if (field.fieldKind !== "list") message[field.localName] = value;
    else if (field.message === undefined || field.message.oneofs.length === 0) message[field.localName] = [value];
    else message[field.localName] = eachKind(field.message, depth + 1);
  }
  return message as T;
}

function eachKind(type: DescMessage, depth: number): unknown[] {
  return type.oneofs.flatMap((oneof) =>
    oneof.fields
      .filter((field) => canHold(field, depth))
      .map((field) => {
        const value =
          field.message === undefined ? otherThan(field, someValue(field)) : fullMessage(field.message, depth + 1);
        return { ...fullMessage<Fields>(type, depth), [oneof.localName]: { $case: field.localName, value } };
      }),
  );
}

/** One change, and where it was made. */
interface Variation<T> {
  readonly path: string;
  readonly message: T;
}

/** The message with one thing changed, for each field of it and of what is in it, whether it is set or not. */
export function variations<T>(type: DescMessage, message: T): Variation<T>[] {
  const fields = message as Fields;
  const changed: Variation<T>[] = [];
  const change = (name: string, value: unknown, where: string): void => {
    changed.push({ path: `${name}${where}`, message: { ...fields, [name]: value } as T });
  };
  for (const field of type.fields) {
    const name = field.oneof?.localName ?? field.localName;
    const value = fields[name];
    if (field.oneof !== undefined) {
      const chosen = value as Chosen | undefined;
      if (chosen?.$case !== field.localName) {
        change(name, { $case: field.localName, value: someValue(field) }, `=${field.localName}`);
        continue;
      }
      change(name, undefined, "=nothing");
      for (const other of others(field, chosen.value)) change(name, { ...chosen, value: other.value }, other.where);
    } else if (field.fieldKind === "list") {
      const items = value as unknown[];
      change(name, [...items, someValue(field)], "+");
      change(name, [...items].toSpliced(0, 0, someValue(field), otherThan(field, someValue(field))), "++");
      for (const [index, item] of items.entries()) {
        change(name, items.toSpliced(index, 1), `-${index}`);
        for (const { value: other, where } of others(field, item)) {
          change(name, items.with(index, other), `[${index}]${where}`);
        }
      }
    } else if (field.fieldKind === "map") {
      const map = value as Fields;
      change(name, { ...map, [`${Object.keys(map).join()}more`]: someValue(field) }, "+");
      for (const key of Object.keys(map)) {
        const { [key]: item, ...rest } = map;
        change(name, rest, `-${key}`);
        change(name, { ...rest, [`${Object.keys(map).join()}other`]: item }, `~${key}`);
        for (const { value: other, where } of others(field, item)) change(name, { ...map, [key]: other }, where);
      }
    } else if (value === undefined) {
      change(name, someValue(field), "=set");
    } else {
      if (isOptional(field) || field.message !== undefined) change(name, undefined, "=nothing");
      for (const { value: other, where } of others(field, value)) change(name, other, where);
    }
  }
  return changed;
}

/** Other values than this one of a field that is set. */
function others(field: DescField, value: unknown): { readonly value: unknown; readonly where: string }[] {
  if (field.message === undefined) return [{ value: otherThan(field, value), where: "=other" }];
  return variations(field.message, value).map(({ path, message }) => ({ value: message, where: `.${path}` }));
}

function otherThan(field: DescField, value: unknown): unknown {
  if (field.message !== undefined) return variations(field.message, value)[0]!.message;
  if (field.enum !== undefined) return field.enum.values.find(({ number }) => number !== value)!.number;
  if (typeof value === "string") return `${value}x`;
  if (typeof value === "boolean") return !value;
  if (Buffer.isBuffer(value)) return Buffer.concat([value, Buffer.of(0)]);
  return value === 1 ? 2 : 1;
}

function someValue(field: DescField): unknown {
  if (field.message !== undefined) return emptyMessage(field.message);
  if (field.enum !== undefined) return 0;
  switch (field.scalar) {
    case ScalarType.STRING:
      return "";
    case ScalarType.BYTES:
      return Buffer.alloc(0);
    case ScalarType.BOOL:
      return false;
    default:
      return 0;
  }
}

function emptyMessage(type: DescMessage): Fields {
  const message: Fields = {};
  for (const field of type.fields) {
    if (field.oneof !== undefined) message[field.oneof.localName] = undefined;
    else if (field.fieldKind === "list") message[field.localName] = [];
    else if (field.fieldKind === "map") message[field.localName] = {};
    else if (field.message !== undefined || isOptional(field)) message[field.localName] = undefined;
    else message[field.localName] = someValue(field);
  }
  return message;
}
