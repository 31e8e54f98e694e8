/** The model behind the simulated providers: always the same answer to the same question, and no provider's words for it. */
import type { Behaviour } from "./behaviour.ts";

/** What is asked, in no provider's form. */
export interface Question {
  /** The text of the last message of the user. */
  readonly said: string;
  /** Of all messages. */
  readonly words: number;
  /** Name and JSON Schema of each tool that may be called. */
  readonly tools: readonly { readonly name: string; readonly parameters: unknown }[];
  /** A tool has to be called: any, or the one with this name. */
  readonly toolWanted: boolean | string;
  /** The last message is a tool's result, so it is time for words. */
  readonly afterTool: boolean;
  /** Any JSON object, or one that matches the schema. */
  readonly json: { readonly schema: unknown } | undefined;
  readonly tokensMax: number | undefined;
  readonly stop: readonly string[];
}

/** What the model answers. */
export interface Said {
  /** The text, token by token. */
  readonly tokens: readonly string[];
  readonly calls: readonly { readonly name: string; readonly arguments: unknown }[];
  /** Why it stopped. */
  readonly reason: "stop" | "length" | "tool_calls";
  readonly usage: { readonly input: number; readonly output: number };
}

const FILLER = ["and", "so", "it", "goes", "on", "with", "one", "more", "word", "each", "time"];

/**
 * Echoes the user: `You said: hello`. Calls the first tool when the user says "call tool" and every tool at "call tools",
 * with arguments made up from the schema; answers in JSON when that is asked for.
 */
export function answer(question: Question, behaviour: Behaviour): Said {
  const calls = toCalls(question);
  const full = calls.length > 0 ? [] : toTokens(question, behaviour);
  const stopped = beforeStop(full, question.stop);
  const cut = question.tokensMax !== undefined && stopped.length > question.tokensMax;
  const tokens = cut ? stopped.slice(0, question.tokensMax) : stopped;
  const output = Math.max(1, tokens.length + 8 * calls.length);
  return {
    tokens,
    calls,
    reason: calls.length > 0 ? "tool_calls" : cut ? "length" : "stop",
    usage: { input: question.words, output },
  };
}

/** How many words a text has, which is how many tokens it is taken to have. */
export function countWords(text: string): number {
  return text.split(/\s+/).filter(Boolean).length;
}

/** A vector of this text, always the same and of length 1. */
export function embed(text: string, dimensions: number): number[] {
  let state = 2166136261;
  for (const byte of Buffer.from(text)) state = Math.imul(state ^ byte, 16777619) >>> 0;
  const values = Array.from({ length: dimensions }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0xffffffff - 0.5;
  });
  const length = Math.hypot(...values) || 1;
  return values.map((value) => Math.fround(value / length));
}

function toCalls(question: Question): Said["calls"] {
  const { tools, toolWanted, said, afterTool } = question;
  const asked = /call tools?/i.exec(said)?.[0].toLowerCase();
  if (tools.length === 0 || afterTool || (asked === undefined && toolWanted === false)) return [];
  const named = typeof toolWanted === "string" ? tools.filter(({ name }) => name === toolWanted) : tools;
  const called = asked === "call tools" ? named : named.slice(0, 1);
  return called.map(({ name, parameters }) => ({ name, arguments: example(parameters, 0) }));
}

function toTokens(question: Question, behaviour: Behaviour): string[] {
  const echo = `You said: ${question.said}`;
  const text = behaviour.text ?? (question.json === undefined ? echo : toJson(question, echo));
  // A token is a word with the blank before it.
  const tokens: string[] = text.match(/\s*\S+|\s+$/g) ?? [];
  if (behaviour.tokens === undefined) return tokens;
  for (let index = 0; tokens.length < behaviour.tokens; index += 1) tokens.push(` ${FILLER[index % FILLER.length]}`);
  return tokens.slice(0, behaviour.tokens);
}

function toJson(question: Question, echo: string): string {
  const schema = question.json?.schema;
  return JSON.stringify(schema === undefined ? { answer: echo } : example(schema, 0), null, " ");
}

/** Something that matches the schema, as far as it is an ordinary one. */
function example(schema: unknown, depth: number): unknown {
  if (typeof schema !== "object" || schema === null || depth > 8) return {};
  const { type, enum: values, properties, items } = schema as Record<string, unknown>;
  if (Array.isArray(values)) return values[0];
  switch (Array.isArray(type) ? type[0] : type) {
    case "string":
      return "text";
    case "integer":
    case "number":
      return 1;
    case "boolean":
      return true;
    case "null":
      return null;
    case "array":
      return [example(items, depth + 1)];
    default: {
      const entries = typeof properties === "object" && properties !== null ? Object.entries(properties) : [];
      return Object.fromEntries(entries.map(([name, property]) => [name, example(property, depth + 1)]));
    }
  }
}

function beforeStop(tokens: readonly string[], stop: readonly string[]): readonly string[] {
  const text = tokens.join("");
  const ends = stop.map((sequence) => text.indexOf(sequence)).filter((end) => end >= 0);
  if (ends.length === 0) return tokens;
  return text.slice(0, Math.min(...ends)).match(/\s*\S+|\s+$/g) ?? [];
}
