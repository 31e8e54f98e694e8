/**
 * The beginning of a stream: everything that comes before the client may see any of it. A worker that fails here is replaced
 * unseen: by an error, by silence, by ending without content, and by being too slow where its settings have a floor.
 */
import type { Part } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { StreamResponse as ProviderStreamResponse } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import type { Attempt } from "./attempt.ts";
import type { Joint } from "./joint.ts";

/** How many parts may come before the first content; more than this is taken for content. */
const PARTS_BEFORE_CONTENT_MAX = 64;
/** How long the pace of a worker is looked at. */
const PACE_WINDOW_MS = 1_000;

export interface OpeningOptions {
  readonly open: (attempt: Attempt) => AsyncIterable<ProviderStreamResponse>;
  /** Where the answer goes on after another worker's; absent for a new answer. */
  readonly joint?: Joint | undefined;
  /** Whether somebody else could be asked: the last one may be as slow as it likes. */
  readonly hasAlternative: () => boolean;
}

/** One attempt on its way to its first content. */
export class Opening {
  readonly attempt: Attempt;
  readonly #joint: Joint | undefined;
  readonly #hasAlternative: () => boolean;
  readonly #open: OpeningOptions["open"];
  #iterator: AsyncIterator<ProviderStreamResponse> | undefined;
  #abandoned = false;

  constructor(attempt: Attempt, options: OpeningOptions) {
    this.attempt = attempt;
    this.#open = options.open;
    this.#joint = options.joint;
    this.#hasAlternative = options.hasAlternative;
  }

  /** What follows the beginning. */
  get iterator(): AsyncIterator<ProviderStreamResponse> {
    return this.#iterator!;
  }

  /** Reads until there is content; resolves with all that has come. Rejects when the worker fails before. */
  async read(): Promise<Part[]> {
    const iterator = this.#open(this.attempt)[Symbol.asyncIterator]();
    this.#iterator = iterator;
    const held: Part[] = [];
    for (;;) {
      const result = await iterator.next();
      if (result.done === true) throw new RpcError("PROVIDER_STREAM_CUT", "the stream ended without content");
      if (result.value.key !== "") this.attempt.key = result.value.key;
      if (this.#take(result.value.parts, held)) break;
    }
    this.attempt.firstToken();
    const { tokensPerSecondMin } = this.attempt.candidate.info;
    if (tokensPerSecondMin > 0) await this.#watchPace(held, tokensPerSecondMin);
    return held;
  }

  /** Nobody waits for it any more. */
  get abandoned(): boolean {
    return this.#abandoned;
  }

  /** Lets go of the worker. */
  async abandon(): Promise<void> {
    this.#abandoned = true;
    await this.#iterator?.return?.();
  }

  /** Puts `parts` to those that are held; true when there is content among them. */
  #take(parts: readonly Part[], held: Part[]): boolean {
    noteUsage(this.attempt, parts);
    const joined = this.#joint === undefined ? parts : this.#joint.join(parts);
    let content = false;
    for (const part of joined) {
      held.push(part);
      content ||= isContent(part);
    }
    return content || (this.#joint === undefined && held.length > PARTS_BEFORE_CONTENT_MAX);
  }

  /** Holds the beginning back until the worker has shown that it is fast enough. */
  async #watchPace(held: Part[], tokensPerSecondMin: number): Promise<void> {
    const wanted = Math.ceil((tokensPerSecondMin * PACE_WINDOW_MS) / 1_000);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<"late">((resolve) => {
      timer = setTimeout(() => resolve("late"), PACE_WINDOW_MS);
    });
    try {
      while (countTokens(held) < wanted && !held.some(isEnd)) {
        const pending = this.iterator.next();
        const result = await Promise.race([pending, late]);
        if (result !== "late") {
          // Whoever reads on is told so again.
          if (result.done === true) return;
          this.#take(result.value.parts, held);
          continue;
        }
        if (this.#hasAlternative()) {
          const message = `fewer than ${tokensPerSecondMin} tokens came in the first second`;
          pending.catch(() => {});
          throw new RpcError("PROVIDER_TOO_SLOW", message);
        }
        // What was asked for must not be lost: it is the first thing that whoever reads on gets.
        this.#iterator = resumed(pending, this.iterator);
        return;
      }
    } finally {
      clearTimeout(timer);
    }
  }
}

/** An iterator whose first message has been asked for already. */
function resumed<T>(first: Promise<IteratorResult<T>>, rest: AsyncIterator<T>): AsyncIterator<T> {
  let pending: Promise<IteratorResult<T>> | undefined = first;
  return {
    next() {
      const next = pending ?? rest.next();
      pending = undefined;
      return next;
    },
    return: () => rest.return?.() ?? Promise.resolve({ done: true, value: undefined }),
  };
}

/** Whether a client would see the part as an answer. */
function isContent({ part }: Part): boolean {
  switch (part?.$case) {
    case "text":
    case "reasoning":
    case "refusal":
      return part.value.text !== "";
    case "toolCall":
    case "finish":
      return true;
    default:
      return false;
  }
}

function isEnd({ part }: Part): boolean {
  return part?.$case === "finish";
}

/** Providers send a token or a few in each part. */
function countTokens(parts: readonly Part[]): number {
  let tokens = 0;
  for (const { part } of parts) {
    if (part?.$case === "text" || part?.$case === "reasoning")
      tokens += Math.max(1, Math.round(part.value.text.length / 6));
    else if (part?.$case === "toolCall") tokens += 1;
  }
  return tokens;
}

/** Notes what the worker says it has used. */
export function noteUsage(attempt: Attempt, parts: readonly Part[]): void {
  for (const { part } of parts) if (part?.$case === "usage") attempt.usage = part.value;
}
