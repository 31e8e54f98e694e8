/**
 * A function call whose arguments come in pieces, as Vertex AI streams them when asked to:
 * https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc
 */
import { isJson, type Json, notUnderstood, textOf } from "../../libs/adapter/index.ts";

/** More pieces, or deeper ones, are no arguments but a fault. */
const STEPS_MAX = 64;
const PIECES_MAX = 65_536;

type Container = Record<string, unknown> | unknown[];

/** One call on its way. */
export class PartialCall {
  readonly id: string;
  readonly name: string;
  readonly signature: string;
  readonly #args: Record<string, unknown> = Object.create(null);
  #pieces = 0;

  constructor(first: Json, signature: string) {
    this.id = textOf(first["id"]);
    this.name = textOf(first["name"]);
    this.signature = signature;
    if (isJson(first["args"])) Object.assign(this.#args, first["args"]);
  }

  get args(): Json {
    return this.#args;
  }

  /** Takes more of it; false when there is no more to come. */
  add(call: Json): boolean {
    const pieces = call["partialArgs"] ?? [];
    if (!Array.isArray(pieces)) throw notUnderstood("partialArgs is not an array");
    for (const piece of pieces) this.#set(piece);
    return call["willContinue"] === true;
  }

  #set(piece: unknown): void {
    this.#pieces += 1;
    const steps = isJson(piece) ? toSteps(textOf(piece["jsonPath"])) : [];
    const last = steps.pop();
    if (!isJson(piece) || last === undefined || this.#pieces > PIECES_MAX) throw notUnderstood("a piece of arguments");
    let container: Container = this.#args;
    for (const [index, step] of steps.entries()) container = child(container, step, steps[index + 1] ?? last);
    const before = read(container, last);
    // A text comes in pieces of its own.
    const text = piece["stringValue"];
    if (typeof text === "string") write(container, last, typeof before === "string" ? before + text : text);
    else write(container, last, piece["numberValue"] ?? piece["boolValue"] ?? null);
  }
}

/** `$.rooms[0]["wall colour"]` */
function toSteps(path: string): (string | number)[] {
  const steps: (string | number)[] = [];
  const step = /\.([^.[\]]+)|\[(\d+)\]|\[(?:"([^"]*)"|'([^']*)')\]/y;
  step.lastIndex = 1;
  while (path.startsWith("$") && step.lastIndex < path.length) {
    const found = step.exec(path);
    if (found === null || steps.length >= STEPS_MAX) return [];
    steps.push(found[2] === undefined ? (found[1] ?? found[3] ?? found[4] ?? "") : Number(found[2]));
  }
  return steps;
}

function child(container: Container, step: string | number, next: string | number): Container {
  const found = read(container, step);
  if (typeof found === "object" && found !== null) return found as Container;
  const made: Container = typeof next === "number" ? [] : Object.create(null);
  write(container, step, made);
  return made;
}

function read(container: Container, step: string | number): unknown {
  if (Array.isArray(container)) return typeof step === "number" ? container[step] : undefined;
  return container[step];
}

/** An array grows by one at a time. */
function write(container: Container, step: string | number, value: unknown): void {
  if (!Array.isArray(container)) container[step] = value;
  else if (typeof step === "number" && step <= container.length) container[step] = value;
  else throw notUnderstood("a piece of arguments");
}
