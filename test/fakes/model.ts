/** The model behind the simulated providers: always the same answer to the same question, and no provider's words for it. */
import type { Behaviour, Continuation } from "./behaviour.ts";

/** One message of a conversation. */
export interface Turn {
  /** Whose it is; `other` for instructions and the results of tools. */
  readonly speaker: "user" | "assistant" | "other";
  readonly text: string;
}

/** What is asked, in no provider's form. */
export interface Question {
  readonly turns: readonly Turn[];
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
 * with arguments made up from the schema; answers in JSON when that is asked for. Goes on where its answer stops that the
 * conversation ends in, or that it is told to go on with.
 */
export function answer(question: Question, behaviour: Behaviour): Said {
  const wish = toWish(question.turns);
  const whole = wholeAnswer(question, wish, behaviour);
  const goesOn = wish.begun !== "" && whole.startsWith(wish.begun);
  const calls = goesOn ? [] : toCalls(question, wish);
  const text = goesOn ? continuation(wish, whole, behaviour.continues) : whole;
  const full = calls.length > 0 ? [] : toTokens(text);
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

/** The text that the user wants an answer to: without what asks to go on with one. */
export function saidBy(turns: readonly Turn[]): string {
  return toWish(turns).said;
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

interface Wish {
  readonly said: string;
  /** The beginning of the answer, if the conversation has one. */
  readonly begun: string;
  /** Set when the user asks to go on with it: what to write first, then the last words to repeat. */
  readonly told: { readonly marker: string; readonly lastWords: string } | undefined;
}

/** How a gateway asks to go on. */
const GO_ON = /cut off .*^Write (\S+) first\. .*The last words are:\n\n(.*)$/ms;

function toWish(turns: readonly Turn[]): Wish {
  const last = turns.at(-1);
  const [, marker, lastWords] = (last?.speaker === "user" && GO_ON.exec(last.text)) || [];
  const told = marker === undefined || lastWords === undefined ? undefined : { marker, lastWords };
  const asked = told === undefined ? turns : turns.slice(0, -1);
  const end = asked.at(-1);
  return {
    said: asked.findLast(({ speaker }) => speaker === "user")?.text ?? "",
    begun: end?.speaker === "assistant" ? end.text : "",
    told,
  };
}

/** The rest of the answer as an obedient model gives it, or as the behaviour has it. */
function continuation({ begun, told }: Wish, whole: string, how: Continuation | undefined): string {
  const rest = whole.slice(begun.length);
  const marker = told === undefined ? "" : `${told.marker} `;
  const lastWords = (count: number) => begun.match(new RegExp(`(?:\\S+\\s+){0,${count - 1}}\\S+$`))?.[0] ?? begun;
  const obedient = told === undefined ? rest : `${marker}${told.lastWords}${rest}`;
  switch (how) {
    case "exact":
      return rest;
    case "tail":
      return `${marker}${lastWords(told === undefined ? 4 : countWords(told.lastWords) + 4)}${rest}`;
    case "whole":
      return marker + whole;
    case "preamble":
      return `Sure, here it goes:\n\n${obedient}`;
    case "paraphrase":
      return `In other words, ${whole.split(/\s+/).toReversed().join(" ")}`;
    case "ignore":
      return "I would rather talk about the weather, which is fine.";
    case undefined:
      return obedient;
  }
}

function toCalls(question: Question, { said }: Wish): Said["calls"] {
  const { tools, toolWanted, afterTool } = question;
  const asked = /call tools?/i.exec(said)?.[0].toLowerCase();
  if (tools.length === 0 || afterTool || (asked === undefined && toolWanted === false)) return [];
  const named = typeof toolWanted === "string" ? tools.filter(({ name }) => name === toolWanted) : tools;
  const called = asked === "call tools" ? named : named.slice(0, 1);
  return called.map(({ name, parameters }) => ({ name, arguments: example(parameters, 0) }));
}

function wholeAnswer(question: Question, { said }: Wish, behaviour: Behaviour): string {
  const echo = `You said: ${said}`;
  const text = behaviour.text ?? (question.json === undefined ? echo : toJson(question, echo));
  if (behaviour.tokens === undefined) return text;
  const tokens = toTokens(text);
  for (let index = 0; tokens.length < behaviour.tokens; index += 1) tokens.push(` ${FILLER[index % FILLER.length]}`);
  return tokens.slice(0, behaviour.tokens).join("");
}

/** A token is a word with the blank before it. */
function toTokens(text: string): string[] {
  return text.match(/\s*\S+|\s+$/g) ?? [];
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
  return toTokens(text.slice(0, Math.min(...ends)));
}
