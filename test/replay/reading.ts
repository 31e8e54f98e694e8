/** Reading a recorded answer as an adapter does: the shell's own code and a dialect, without a connection. */
import { StreamAnswer, WholeAnswer } from "../../libs/adapter/answer.ts";
import type { Attempt } from "../../libs/adapter/attempt.ts";
import { completionParts } from "../../libs/adapter/completion-parts.ts";
import type { AttemptContext } from "../../libs/adapter/index.ts";
import { parseJson } from "../../libs/adapter/json.ts";
import { PartStream } from "../../libs/adapter/part-stream.ts";
import { readRateLimits } from "../../libs/adapter/rate-limits.ts";
import type { EmbeddingResult, Model, Part } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import type { Reading } from "./judging.ts";

/** What came of it. */
export interface Outcome {
  /** Of a chat, also of one that was not streamed. */
  readonly parts: readonly Part[];
  readonly embeddings: EmbeddingResult | undefined;
  readonly models: readonly Model[] | undefined;
  readonly error: RpcError | undefined;
  /** What a dialect has thrown that it must not throw. */
  readonly crash: string | undefined;
}

/** Reads an answer whose body comes in these pieces. */
export function read(reading: Reading, pieces: readonly Buffer[]): Outcome {
  const attempt = new RecordedAttempt(reading);
  const outcome =
    reading.kind === "stream" ? readStream(reading, pieces, attempt) : readWhole(reading, pieces, attempt);
  return { ...outcome, error: attempt.error, crash: attempt.crash };
}

type Value = Pick<Outcome, "parts" | "embeddings" | "models">;
const NOTHING: Value = { parts: [], embeddings: undefined, models: undefined };

function readStream(reading: Reading, pieces: readonly Buffer[], attempt: RecordedAttempt): Value {
  const { dialect } = reading;
  const stream = new PartStream(() => attempt);
  const options = { stream, reader: dialect.chatEvents(attempt.context), warnings: [] };
  attempt.play(new StreamAnswer(attempt.asAttempt, dialect, options), reading, pieces);
  return { ...NOTHING, parts: stream.waiting };
}

function readWhole(reading: Reading, pieces: readonly Buffer[], attempt: RecordedAttempt): Value {
  let result = NOTHING;
  const answer = new WholeAnswer<Value>(attempt.asAttempt, reading.dialect, {
    read: (text) => ({ value: translate(reading, parseJson(text, "the answer"), attempt.context) }),
    resolve: (value) => {
      result = value;
    },
    reject: () => {},
  });
  attempt.play(answer, reading, pieces);
  return result;
}

function translate({ kind, dialect }: Reading, body: unknown, context: AttemptContext): Value {
  if (kind === "models") return { ...NOTHING, models: dialect.modelsAnswer(body) };
  if (kind === "embeddings") return { ...NOTHING, embeddings: dialect.embedding!.answer(body, context) };
  return { ...NOTHING, parts: completionParts(dialect.chatAnswer(body, context)) };
}

/** As much of an attempt as an answer sees. */
class RecordedAttempt {
  readonly context: AttemptContext;
  readonly options: { readonly context: AttemptContext };
  readonly exchange = {
    finish: () => this.#over(),
    abort: () => this.#over(),
    contentBegan: () => {},
    touch: () => {},
    messageComplete: () => {},
    expectErrorBody: () => {},
  };
  error: RpcError | undefined;
  crash: string | undefined;
  #ended = false;

  constructor({ model }: Reading) {
    let count = 0;
    const mintId = (prefix: string) => {
      count += 1;
      return `${prefix}${count}`;
    };
    this.context = { worker: "replay", model, nowS: 1_764_000_000, mintId };
    this.options = { context: this.context };
  }

  get asAttempt(): Attempt {
    return this as unknown as Attempt;
  }

  play(
    answer: StreamAnswer | WholeAnswer<Value>,
    { status, headers, dialect }: Reading,
    pieces: readonly Buffer[],
  ): void {
    try {
      (dialect.limits ?? readRateLimits)(headers);
      answer.onHead(status, headers);
      for (const piece of pieces) {
        if (this.#ended) return;
        answer.onData(piece);
      }
      if (!this.#ended) answer.onEnd();
    } catch (thrown) {
      this.crash ??= describe(thrown);
    }
  }

  headCame(): void {}
  contentBegan(): void {}
  pause(): void {}
  resume(): void {}
  cancel(): void {}

  moveOn(): boolean {
    return false;
  }

  end(error?: RpcError): RpcError | undefined {
    this.#ended = true;
    this.error ??= error;
    // The shell makes errors of what a dialect stumbles over, and keeps it.
    const cause = error?.cause;
    if (cause !== undefined && !(cause instanceof RpcError)) this.crash ??= describe(cause);
    return error;
  }

  #over(): void {
    this.#ended = true;
  }
}

/** Never the message: it may quote what was recorded. */
function describe(thrown: unknown): string {
  if (!(thrown instanceof Error)) return `something that is no error: ${typeof thrown}`;
  const where = /\(?((?:file:\/\/)?\/[^\s()]*?(libs|services)\/[^\s()]+:\d+)/.exec(thrown.stack ?? "")?.[1] ?? "";
  return `${thrown.name} at ${where.replace(/^.*\/(?=(libs|services)\/)/, "") || "an unknown place"}`;
}
