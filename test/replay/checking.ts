/** Comparing what a dialect has read with what was recorded. */
import { isDeepStrictEqual } from "node:util";
import { Part, type Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { type Cuts, cutEverywhere } from "./cutting.ts";
import type { Reading } from "./judging.ts";
import { type Outcome, read } from "./reading.ts";
import { errorSentence, listedModels, type Recorded, vectorLengths } from "./recorded.ts";

/** A chat, put together. */
export interface Said {
  readonly text: string;
  readonly reasoning: string;
  readonly refusal: string;
  readonly calls: readonly { readonly name: string; readonly arguments: string }[];
  readonly finishes: readonly number[];
  readonly usage: Usage | undefined;
}

/** What came of an exchange. */
export interface Verdict {
  readonly outcome: Outcome;
  readonly said: Said;
  readonly cuts: Cuts | undefined;
  /** What is wrong with it; none when it reads well. */
  readonly complaints: readonly string[];
}

/** Reads an exchange whole, and in pieces if it is a stream, and compares. */
export function check(reading: Reading): Verdict {
  const { kind, dialect, body, status } = reading;
  const outcome = read(reading, [body]);
  const said = saidIn(outcome.parts);
  const complaints: string[] = [];
  if (outcome.crash !== undefined) complaints.push(`crash: ${outcome.crash}`);
  complaints.push(...contentComplaints(reading, outcome, said));
  if (kind !== "stream" || status >= 300) return { outcome, said, cuts: undefined, complaints };
  const bytes = Array.from(body, (byte) => Buffer.from([byte]));
  if (!isSame(read(reading, bytes), outcome)) complaints.push("different when it comes byte by byte");
  const strays = dialect.chatEvents(CONTEXT).readStray !== undefined;
  const cuts = cutEverywhere(dialect.framing, body, strays);
  if (cuts.differentAt !== undefined) complaints.push(`different when it is cut at byte ${cuts.differentAt}`);
  return { outcome, said, cuts, complaints };
}

/** For a reader that reads nothing. */
const CONTEXT = { worker: "replay", model: "", nowS: 0, mintId: (prefix: string) => prefix };

function isSame(one: Outcome, other: Outcome): boolean {
  const parts = ({ parts }: Outcome) => parts.map((part) => Buffer.from(Part.encode(part).finish()).toString("base64"));
  const error = ({ error, crash }: Outcome) => [
    error?.reason,
    error?.message,
    error?.field,
    error?.retryAfterMs,
    crash,
  ];
  return isDeepStrictEqual([parts(one), error(one)], [parts(other), error(other)]);
}

function saidIn(parts: readonly Part[]): Said {
  const calls = new Map<string, { name: string; arguments: string }>();
  const said = { text: "", reasoning: "", refusal: "" };
  const finishes: number[] = [];
  let usage: Said["usage"];
  for (const { part } of parts) {
    switch (part?.$case) {
      case "text":
      case "reasoning":
      case "refusal":
        said[part.$case] += part.value.text;
        break;
      case "toolCall": {
        const key = `${part.value.choice}/${part.value.index}`;
        const call = calls.get(key) ?? { name: "", arguments: "" };
        calls.set(key, { name: call.name + part.value.name, arguments: call.arguments + part.value.argumentsJson });
        break;
      }
      case "finish":
        finishes.push(part.value.reason);
        break;
      case "usage":
        usage = part.value;
        break;
    }
  }
  return { ...said, calls: [...calls.values()], finishes, usage };
}

function contentComplaints(reading: Reading, outcome: Outcome, said: Said): string[] {
  switch (reading.kind) {
    case "error":
      return errorComplaints(reading, outcome);
    case "embeddings":
      return embeddingComplaints(reading, outcome);
    case "models":
      return modelComplaints(reading, outcome);
    default:
      return chatComplaints(reading.recorded, outcome, said);
  }
}

function chatComplaints(recorded: Recorded, { error }: Outcome, said: Said): string[] {
  const complaints = (["text", "reasoning", "refusal"] as const).flatMap((field) => {
    const [was, is] = [recorded[field], said[field]];
    if (was === is) return [];
    // A dialect may know places for these that are not looked at here.
    if (was === "" && field !== "text") return [];
    // What comes before an error, or before what can't be parsed, has to come out; what comes after it can't.
    const mayEnd = error !== undefined && (recorded.failed || recorded.broken);
    if (mayEnd && was.startsWith(is)) return [];
    return [
      `${field} lost or changed: ${was.length} characters recorded, ${is.length} read, ${firstDifference(was, is)}`,
    ];
  });
  if (error !== undefined) {
    const excused = recorded.failed || recorded.broken || !recorded.ended;
    const empty = recorded.shape === "other";
    if (!excused && !empty) complaints.push(`an answer was refused: ${error.reason}`);
    return complaints;
  }
  if (recorded.calls.length !== said.calls.length) {
    complaints.push(`tool calls lost: ${recorded.calls.length} recorded, ${said.calls.length} read`);
  }
  for (const [index, call] of recorded.calls.entries()) {
    const made = said.calls[index];
    if (made !== undefined && (made.name !== call.name || !isSameArguments(call.arguments, made.arguments))) {
      complaints.push(`tool call ${index} changed`);
    }
  }
  if (recorded.usage && said.usage === undefined) complaints.push("usage lost");
  if (recorded.finishes > 0 && said.finishes.length === 0) complaints.push("finish reason lost");
  return complaints;
}

function firstDifference(one: string, other: string): string {
  let index = 0;
  while (index < one.length && one[index] === other[index]) index += 1;
  return `the first difference at ${index}`;
}

/** Objects are written as JSON; what a tool without parameters is given is written in many ways. */
function isSameArguments(recorded: string | object, made: string): boolean {
  if (recorded === "?" || recorded === made) return true;
  if (typeof recorded === "string") return /^\s*(null|\{\s*\})?\s*$/.test(recorded) && made === "{}";
  try {
    return isDeepStrictEqual(JSON.parse(made === "" ? "{}" : made), recorded);
  } catch {
    return false;
  }
}

function embeddingComplaints({ documents, recorded }: Reading, { embeddings, error }: Outcome): string[] {
  const lengths = vectorLengths(documents[0]);
  if (error !== undefined) {
    return lengths.length > 0 && !recorded.failed ? [`embeddings were refused: ${error.reason}`] : [];
  }
  const read = embeddings?.embeddings.map(({ values }) => values.length) ?? [];
  if (isDeepStrictEqual(read, lengths)) return [];
  return [`vectors lost: ${lengths.length} recorded, ${read.length} read`];
}

function modelComplaints({ documents, recorded }: Reading, { models, error }: Outcome): string[] {
  const listed = listedModels(documents[0]) ?? 0;
  if (error !== undefined) return listed > 0 && !recorded.failed ? [`a list was refused: ${error.reason}`] : [];
  return listed > 0 && models?.length === 0 ? [`models lost: ${listed} recorded, none read`] : [];
}

/** Something of what the provider said has to be in what Cortex says; keys and pages of proxies are left out of it. */
function errorComplaints({ documents }: Reading, { error, crash }: Outcome): string[] {
  if (error === undefined) return crash === undefined ? ["no error came of it"] : [];
  const words =
    errorSentence(documents[0])
      .toLowerCase()
      .match(/[a-z]{5,}/g) ?? [];
  const message = error.message.toLowerCase();
  if (words.length < 3 || words.some((word) => message.includes(word))) return [];
  return ["nothing is left of what the provider said"];
}
