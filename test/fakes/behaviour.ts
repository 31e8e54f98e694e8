/**
 * How a simulated provider behaves for one request: what it says, how fast, and what goes wrong where.
 *
 * Three ways to say it, strongest first: in the model's name after an `@` (`gpt-4o@cut:3`), in `simulator.behave(…)`, and
 * nothing at all for a provider that works. Wherever a {@link Behaviour} is wanted its short form will do:
 *
 *   "cut:3"                    the connection is lost after three tokens
 *   "stall:request"            not a byte is answered; also just "stall"
 *   "end:headers"              200 and an empty body
 *   "error:2"                  an error inside the 200 after two tokens
 *   "status:429,retryAfter:2"  an HTTP error as this provider words it
 *   "tokens:100,tokenMs:20"    a hundred tokens, one each 20 ms
 *   "continues:whole"          asked to go on with an answer, it begins again; see {@link Continuation}
 *   "pace:groq"                as fast as Groq is; the names are those of pace.ts
 *   "bytes"                    every byte on its own, "drip:5" with 5 ms between, "crlf" with CRLF for line ends
 */
import { isPaceName, PACES, type PaceName } from "./pace.ts";

/** What can go wrong. */
export type Fault =
  /** The connection is closed without a word. */
  | "cut"
  /** The connection is reset (RST). */
  | "reset"
  /** The answer ends as if it were whole, but isn't. */
  | "end"
  /** Nothing more comes, and the connection stays. */
  | "stall"
  /** One line can't be parsed; the rest follows. */
  | "malformed"
  /** The provider reports an error inside its 200, then ends. */
  | "error"
  /** Bytes that mean nothing, then the end. Before the headers: no HTTP at all. */
  | "garbage";

const FAULTS: readonly string[] = ["cut", "reset", "end", "stall", "malformed", "error", "garbage"];

/** How the model goes on with an answer that it is given the beginning of, when it does not do as it is told. */
export type Continuation =
  /** Straight on, also when it was told to repeat the last words. */
  | "exact"
  /** With the last words, more of them than it was told to repeat. */
  | "tail"
  /** With all of it. */
  | "whole"
  /** With words of its own first. */
  | "preamble"
  /** Not at all: it says the same in other words. */
  | "paraphrase"
  /** Not at all: it says something else. */
  | "ignore";

const CONTINUATIONS: readonly string[] = ["exact", "tail", "whole", "preamble", "paraphrase", "ignore"];

/** When it goes wrong: once the request is read, once the headers are sent, or after so many tokens. */
export type Point = "request" | "headers" | number;

/** All of it is optional: what is left out is as with a provider that works. */
export interface Behaviour {
  readonly fault?: Fault;
  /**
   * The beginning when absent. More tokens than there are mean after the last one. An answer that is not streamed counts as
   * one token, which is half of it.
   */
  readonly at?: Point;
  /** Answers with this HTTP status instead, with a body as the provider words it or the one given. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | object;
  /** Seconds in a retry-after header. */
  readonly retryAfter?: number;
  /** An HTML page as the body, as proxies send it. */
  readonly html?: boolean;
  /** What the model says, instead of an echo. */
  readonly text?: string;
  /** How many tokens it says. */
  readonly tokens?: number;
  /** How it goes on with an answer, instead of as it is told to. */
  readonly continues?: Continuation;
  /** As fast as this provider is, as far as the times below say nothing else. */
  readonly pace?: PaceName;
  /** Before the headers, as while a model is loaded. */
  readonly headersMs?: number;
  /** Between the headers and the first token. */
  readonly firstTokenMs?: number;
  /** Between two tokens. */
  readonly tokenMs?: number;
  /** Sends each byte on its own, so many milliseconds apart; 0 for a turn of the event loop. */
  readonly byteMs?: number;
  /** CRLF instead of LF. */
  readonly crlf?: boolean;
  /** Lies about the body. */
  readonly contentType?: string;
}

/** A behaviour, in full or in its short form. */
export type BehaviourLike = Behaviour | string;

/** The words of short forms, for people. */
export const BEHAVIOURS: readonly string[] = [
  ...FAULTS.map((fault) => `${fault}[:POINT]`),
  ...["status:CODE", "retryAfter:SECONDS", "html", "text:TEXT", "tokens:COUNT", "headersMs:MS", "firstTokenMs:MS"],
  ...["tokenMs:MS", "drip:MS", "bytes", "crlf", "contentType:TYPE", "continues:HOW", "pace:PROVIDER"],
];

/** The behaviour that a short form stands for. Throws for a word that it does not know. */
export function parseBehaviour(like: BehaviourLike): Behaviour {
  if (typeof like !== "string") return like;
  const words = like.split(",").filter((word) => word.trim() !== "");
  return Object.assign({}, ...words.map((word) => parseWord(word.trim())));
}

function parseWord(word: string): Behaviour {
  const [name = "", value = ""] = word.split(/:(.*)/s);
  if (FAULTS.includes(name)) return { fault: name as Fault, at: parsePoint(value) };
  switch (name) {
    case "status":
    case "retryAfter":
    case "tokens":
    case "headersMs":
    case "firstTokenMs":
    case "tokenMs":
      return { [name]: parseCount(value, word) };
    case "continues":
      return { continues: parseContinuation(value) };
    case "pace":
      return { pace: parsePace(value) };
    case "drip":
      return { byteMs: parseCount(value, word) };
    case "bytes":
      return { byteMs: 0 };
    case "text":
    case "contentType":
      return { [name]: value };
    case "crlf":
    case "html":
      return { [name]: true };
    default:
      throw new Error(`no such behaviour: ${word}`);
  }
}

function parsePoint(value: string): Point {
  if (value === "" || value === "request") return "request";
  return value === "headers" ? "headers" : parseCount(value, value);
}

function parseContinuation(value: string): Continuation {
  if (CONTINUATIONS.includes(value)) return value as Continuation;
  throw new Error(`no such continuation: ${value}; there are ${CONTINUATIONS.join(", ")}`);
}

function parsePace(value: string): PaceName {
  if (isPaceName(value)) return value;
  throw new Error(`no such pace: ${value}; there are ${Object.keys(PACES).join(", ")}`);
}

function parseCount(value: string, word: string): number {
  const count = Number(value);
  if (value === "" || !Number.isFinite(count) || count < 0) throw new Error(`no number in the behaviour ${word}`);
  return count;
}

/** A model's name and the behaviour after its `@`, if it has one: `gpt-4o@cut:3`. */
export function splitModel(model: string): { readonly model: string; readonly behaviour: Behaviour | undefined } {
  const at = model.indexOf("@");
  if (at === -1) return { model, behaviour: undefined };
  return { model: model.slice(0, at), behaviour: parseBehaviour(model.slice(at + 1)) };
}
