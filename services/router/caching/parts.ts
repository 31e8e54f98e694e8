/**
 * Answers as parts, which is how they are kept, whether they came whole or as a stream: `toParts` of a whole one and
 * `toCompletion` back, `compact` before it is kept, `replay` to stream it once more. Parts are never changed, as they are
 * shared by all who read them.
 */
import { completionParts } from "../../../libs/adapter/index.ts";
import {
  type Choice,
  type Completion,
  type ContentPart,
  FinishReason,
  type Part,
  Role,
  type Served,
  type TextDelta,
  type TokenLogprob,
  type ToolCallDelta,
  type Usage,
  type Warning,
} from "../../../libs/gen/cortex/llm/v1/llm.ts";
import type { CacheStatus, StreamResponse } from "../../../libs/gen/cortex/router/v1/router.ts";
import { abortReason, type Call } from "../../../libs/rpc/index.ts";
import type { RequestAccount } from "../request-account.ts";
import { CHARACTERS_PER_TOKEN } from "../token-estimate.ts";

/** The parts of a whole answer. Throws PROVIDER_INVALID_ANSWER when it holds what no stream can. */
export const toParts: (completion: Completion) => Part[] = completionParts;

/** The whole answer that the parts of a stream make. Neighbouring texts are one. */
export function toCompletion(parts: readonly Part[]): Completion {
  let served: Served | undefined;
  let usage: Usage | undefined;
  const warnings: Warning[] = [];
  const choices = new Map<number, ChoiceSoFar>();
  const at = (index: number): ChoiceSoFar => {
    let choice = choices.get(index);
    if (choice === undefined) {
      choice = new ChoiceSoFar(index);
      choices.set(index, choice);
    }
    return choice;
  };
  for (const { part } of parts) {
    switch (part?.$case) {
      case "served":
        served ??= part.value;
        break;
      case "warning":
        warnings.push(part.value);
        break;
      case "usage":
        usage = part.value;
        break;
      case "finish":
        at(part.value.choice).finishReason = part.value.reason;
        break;
      case "toolCall":
        at(part.value.choice).addCall(part.value);
        break;
      case "text":
      case "refusal":
        at(part.value.choice).addText(part.$case, part.value);
        break;
      case "reasoning":
        at(part.value.choice).addReasoning(part.value.text);
        break;
      case "reasoningSignature":
        at(part.value.choice).addSignature(part.value.text);
        break;
      default:
        // Who went on in the middle of it is nothing that a whole answer tells.
        break;
    }
  }
  const whole = [...choices.values()].sort((a, b) => a.index - b.index).map((choice) => choice.whole());
  return { served, choices: whole, usage, warnings };
}

type Changing<T> = { -readonly [Field in keyof T]: T[Field] };

/** A piece of a message that more may be added to. */
type Piece =
  | { readonly $case: "text" | "refusal"; value: string }
  | { readonly $case: "reasoning"; readonly value: { text: string; signature: string } }
  | { readonly $case: "toolCall"; readonly value: Changing<Omit<ToolCallDelta, "choice" | "index">> };

class ChoiceSoFar {
  readonly index: number;
  finishReason: FinishReason = FinishReason.UNSPECIFIED;
  readonly #pieces: Piece[] = [];
  readonly #calls = new Map<number, Extract<Piece, { $case: "toolCall" }>["value"]>();
  readonly #logprobs: TokenLogprob[] = [];

  constructor(index: number) {
    this.index = index;
  }

  addText($case: "text" | "refusal", { text, logprobs }: TextDelta): void {
    for (const logprob of logprobs) this.#logprobs.push(logprob);
    if (text === "") return;
    const last = this.#pieces.at(-1);
    if (last?.$case === $case) last.value += text;
    else this.#pieces.push({ $case, value: text });
  }

  addReasoning(text: string): void {
    const last = this.#pieces.at(-1);
    // A signature ends what it signs.
    if (last?.$case === "reasoning" && last.value.signature === "") last.value.text += text;
    else this.#pieces.push({ $case: "reasoning", value: { text, signature: "" } });
  }

  addSignature(signature: string): void {
    // Gemini signs thoughts with a text that comes after them.
    const last = this.#pieces.findLast((piece) => piece.$case === "reasoning");
    if (last?.value.signature === "") last.value.signature = signature;
    else this.#pieces.push({ $case: "reasoning", value: { text: "", signature } });
  }

  addCall({ index, id, name, argumentsJson, signature }: ToolCallDelta): void {
    const call = this.#calls.get(index);
    if (call === undefined) {
      const value = { id, name, argumentsJson, signature };
      this.#calls.set(index, value);
      this.#pieces.push({ $case: "toolCall", value });
    } else {
      call.id ||= id;
      call.name ||= name;
      call.argumentsJson += argumentsJson;
      call.signature ||= signature;
    }
  }

  whole(): Choice {
    const content = this.#pieces.map((part): ContentPart => ({ part }));
    return {
      index: this.index,
      message: { role: Role.ASSISTANT, content, name: "" },
      finishReason: this.finishReason,
      logprobs: this.#logprobs,
    };
  }
}

/**
 * The same answer in as few parts as tell it: what belongs together in one part, also when parts of other choices or calls
 * have come between. Text with log probabilities stays as it came, since they belong to its pieces.
 */
export function compact(parts: readonly Part[]): Part[] {
  const joined: Part[] = [];
  /** Where the newest part of each choice is, and all there is of each call. */
  const newest = new Map<number, number>();
  const calls = new Map<string, number>();
  for (const each of parts) {
    const { part } = each;
    switch (part?.$case) {
      case "text":
      case "reasoning":
      case "refusal": {
        const { value } = part;
        const place = newest.get(value.choice);
        const before = place === undefined ? undefined : joined[place]?.part;
        if (before?.$case === part.$case && value.logprobs.length === 0 && before.value.logprobs.length === 0) {
          const text = before.value.text + value.text;
          joined[place!] = { part: { $case: part.$case, value: { ...value, text } } };
        } else if (value.text !== "" || value.logprobs.length > 0 || part.$case === "reasoning") {
          newest.set(value.choice, joined.push(each) - 1);
        }
        break;
      }
      case "toolCall": {
        const { value } = part;
        const name = `${value.choice}.${value.index}`;
        const place = calls.get(name);
        const before = place === undefined ? undefined : joined[place]?.part;
        if (before?.$case === "toolCall") {
          joined[place!] = { part: { $case: "toolCall", value: joinCalls(before.value, value) } };
        } else {
          const at = joined.push(each) - 1;
          newest.set(value.choice, at);
          calls.set(name, at);
        }
        break;
      }
      case "reasoningSignature":
        newest.set(part.value.choice, joined.push(each) - 1);
        break;
      default:
        joined.push(each);
    }
  }
  return joined;
}

function joinCalls(before: ToolCallDelta, more: ToolCallDelta): ToolCallDelta {
  return {
    choice: before.choice,
    index: before.index,
    id: before.id || more.id,
    name: before.name || more.name,
    argumentsJson: before.argumentsJson + more.argumentsJson,
    signature: before.signature || more.signature,
  };
}

/** How an answer is streamed once more. */
export interface ReplayOptions {
  /** Of text, thoughts and arguments, four characters each; absent, or no number above 0, for all at once. */
  readonly tokensPerSecond?: number | undefined;
  /** What the first chunk says of the cache. */
  readonly cache: CacheStatus;
  /** Its signal ends the pauses. */
  readonly call: Pick<Call, "signal">;
  /** Whose it is. */
  readonly account?: RequestAccount | undefined;
}

/** What an answer says that it has used. */
export function usageOf(parts: readonly Part[]): Usage | undefined {
  let usage: Usage | undefined;
  for (const { part } of parts) if (part?.$case === "usage") usage = part.value;
  return usage;
}

/** The parts as a stream: in one chunk, or at a pace. Whoever reads slowly gets what is due by then at once. */
export function replay(parts: readonly Part[], options: ReplayOptions): AsyncIterator<StreamResponse> {
  const { tokensPerSecond = 0, cache, account } = options;
  if (!(tokensPerSecond > 0)) return new AtOnce({ parts, attempts: 0, cache }, account);
  return new Paced(schedule(parts, (tokensPerSecond * CHARACTERS_PER_TOKEN) / 1_000), options);
}

const DONE: IteratorResult<StreamResponse> = { done: true, value: undefined };

class AtOnce implements AsyncIterator<StreamResponse> {
  readonly #account: RequestAccount | undefined;
  #chunk: StreamResponse | undefined;

  constructor(chunk: StreamResponse, account: RequestAccount | undefined) {
    this.#chunk = chunk;
    this.#account = account;
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    const value = this.#chunk;
    this.#chunk = undefined;
    if (value === undefined) this.#account?.end();
    else this.#account?.firstContent();
    return Promise.resolve(value === undefined ? DONE : { done: false, value });
  }

  return(): Promise<IteratorResult<StreamResponse>> {
    this.#chunk = undefined;
    this.#account?.left();
    return Promise.resolve(DONE);
  }
}

/** A part, and when it is due, from the beginning. */
interface Due {
  readonly part: Part;
  readonly atMs: number;
}

/** Timers take no more; what is due later is waited for in several turns. */
const PAUSE_MS_MAX = 2_147_483_647;

class Paced implements AsyncIterator<StreamResponse> {
  readonly #due: readonly Due[];
  readonly #signal: AbortSignal;
  readonly #account: RequestAccount | undefined;
  #cache: CacheStatus | undefined;
  #next = 0;
  #startedAtMs: number | undefined;
  /** Ends the pause, if there is one. */
  #wake: (() => void) | undefined;

  constructor(due: readonly Due[], { cache, call, account }: ReplayOptions) {
    this.#due = due;
    this.#cache = cache;
    this.#signal = call.signal;
    this.#account = account;
  }

  async next(): Promise<IteratorResult<StreamResponse>> {
    this.#startedAtMs ??= performance.now();
    for (;;) {
      if (this.#signal.aborted) {
        this.#account?.left();
        throw abortReason(this.#signal);
      }
      const first = this.#due[this.#next];
      if (first === undefined) {
        this.#account?.end();
        return DONE;
      }
      const elapsedMs = performance.now() - this.#startedAtMs;
      if (first.atMs <= elapsedMs) return { done: false, value: this.#chunk(elapsedMs) };
      await this.#pause(first.atMs - elapsedMs);
    }
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    this.#account?.left();
    this.#next = this.#due.length;
    this.#wake?.();
    return DONE;
  }

  #chunk(elapsedMs: number): StreamResponse {
    const parts: Part[] = [];
    for (let due = this.#due[this.#next]; due !== undefined && due.atMs <= elapsedMs; due = this.#due[this.#next]) {
      parts.push(due.part);
      this.#next += 1;
    }
    this.#account?.firstContent();
    const cache = this.#cache;
    this.#cache = undefined;
    return { parts, attempts: 0, cache };
  }

  #pause(forMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#signal.removeEventListener("abort", wake);
        this.#wake = undefined;
        resolve();
      };
      // Rounded up: a timer that comes early would be set once more for nothing.
      const timer = setTimeout(wake, Math.min(Math.ceil(forMs), PAUSE_MS_MAX));
      this.#signal.addEventListener("abort", wake, { once: true });
      this.#wake = wake;
    });
  }
}

function schedule(parts: readonly Part[], charactersPerMs: number): Due[] {
  const due: Due[] = [];
  let characters = 0;
  for (const whole of parts) {
    for (const part of inPieces(whole)) {
      due.push({ part, atMs: characters / charactersPerMs });
      characters += charactersOf(part);
    }
  }
  return due;
}

/** Words with the space before them; long ones, and texts without space, in pieces of some characters. */
const PIECE = /\s*\S{1,12}|\s+/gu;

function inPieces(whole: Part): Part[] {
  const { part } = whole;
  switch (part?.$case) {
    case "text":
    case "reasoning":
    case "refusal": {
      const { $case, value } = part;
      const pieces = value.logprobs.length > 0 ? null : value.text.match(PIECE);
      return pieces?.map((text): Part => ({ part: { $case, value: { ...value, text } } })) ?? [whole];
    }
    case "toolCall": {
      const { value } = part;
      const pieces = value.argumentsJson.match(PIECE);
      if (pieces === null) return [whole];
      const later = { ...value, id: "", name: "", signature: "" };
      return pieces.map(
        (argumentsJson, position): Part => ({
          part: { $case: "toolCall", value: { ...(position === 0 ? value : later), argumentsJson } },
        }),
      );
    }
    default:
      return [whole];
  }
}

/** How much of a part a model has written. */
export function charactersOf({ part }: Part): number {
  switch (part?.$case) {
    case "text":
    case "reasoning":
    case "refusal":
      return part.value.text.length;
    case "toolCall":
      return part.value.argumentsJson.length;
    default:
      return 0;
  }
}
