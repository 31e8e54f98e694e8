/** Reading a provider's answer: whole, as a stream of events, or as an error. */
import type { IncomingHttpHeaders } from "node:http";
import type { Completion, FinishReason, Part, Served, Usage, Warning } from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import type { AnswerSummary, Attempt } from "./attempt.ts";
import { completionParts } from "./completion-parts.ts";
import type { Receiver } from "./connection-pool.ts";
import type { Dialect, EventReader } from "./dialect.ts";
import { failure } from "./failures.ts";
import { createFramer, type Framer } from "./framing.ts";
import { parseJson } from "./json.ts";
import type { PartStream } from "./part-stream.ts";

/** The longest whole answer. Embeddings of a large batch fit. */
export const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** How much of an error's body is read; the rest is not waited for. */
export const ERROR_BYTES_MAX = 64 * 1024;

/** What to look at when whoever answers is no server of the provider. */
const BASE_URL_HINT = "is baseUrl right?";

/** A body that is wanted whole. */
class Body {
  readonly #bytesMax: number;
  readonly #pieces: Buffer[] = [];
  #length = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** False when it is full; it then holds the first bytesMax bytes. */
  add(bytes: Buffer): boolean {
    const room = this.#bytesMax - this.#length;
    const piece = bytes.length > room ? bytes.subarray(0, room) : bytes;
    this.#pieces.push(piece);
    this.#length += piece.length;
    return bytes.length <= room;
  }

  get text(): string {
    return Buffer.concat(this.#pieces, this.#length).toString("utf8");
  }
}

interface ErrorAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Body;
}

/** What both kinds of answer do alike: an answer that is not 2xx is an error, and whatever is thrown ends the exchange. */
abstract class Answer implements Receiver {
  protected readonly attempt: Attempt;
  protected readonly dialect: Dialect;
  #error: ErrorAnswer | undefined;
  /** The status and the content type. */
  #came = "";

  constructor(attempt: Attempt, dialect: Dialect) {
    this.attempt = attempt;
    this.dialect = dialect;
  }

  onHead(status: number, headers: IncomingHttpHeaders): void {
    this.attempt.headCame(status, headers);
    this.#came = `${status} ${mediaType(headers)}`.trim();
    if (status >= 300) {
      this.#error = { status, headers, body: new Body(ERROR_BYTES_MAX) };
      this.attempt.exchange.expectErrorBody();
      return;
    }
    try {
      this.begin(headers);
    } catch (thrown) {
      this.#break(thrown);
    }
  }

  onData(bytes: Buffer): void {
    if (this.#error !== undefined) {
      if (!this.#error.body.add(bytes)) this.#break(this.#providerError(this.#error));
      return;
    }
    try {
      this.read(bytes);
    } catch (thrown) {
      this.#break(thrown);
    }
  }

  onEnd(): void {
    if (this.#error !== undefined) {
      this.fail(this.#providerError(this.#error));
      return;
    }
    try {
      this.finish();
    } catch (thrown) {
      this.fail(this.#understand(thrown));
    }
  }

  onError(error: RpcError): void {
    // What came of an error's body is enough, unless it is the caller who ended the exchange.
    const told = this.#error !== undefined && error.reason.startsWith("PROVIDER_");
    if (told) this.fail(this.#providerError(this.#error!));
    else this.lost(error);
  }

  /** A 2xx has come. */
  protected abstract begin(headers: IncomingHttpHeaders): void;
  protected abstract read(bytes: Buffer): void;
  /** The body is whole. */
  protected abstract finish(): void;
  /** The exchange has failed. */
  protected abstract lost(error: RpcError): void;
  /** Lets the attempt go on with another key, or ends it and tells whoever waits for the answer. */
  protected abstract fail(error: RpcError): void;

  #break(thrown: unknown): void {
    this.attempt.exchange.finish();
    this.fail(this.#understand(thrown));
  }

  #providerError({ status, headers, body }: ErrorAnswer): RpcError {
    try {
      // As for whole answers, a byte order mark is no part of it.
      const error = this.dialect.error(status, headers, body.text.replace(/^\ufeff/, ""));
      if (error.reason !== "PROVIDER_INVALID_ANSWER") return error;
      // Whoever is there is no server of this provider, so its words would only mislead.
      return failure("PROVIDER_INVALID_ANSWER", `the provider answered ${this.#came}; ${BASE_URL_HINT}`);
    } catch (cause) {
      return failure("PROVIDER_ERROR", `the provider answered with HTTP status ${status}`, { cause });
    }
  }

  /** A dialect that stumbles over an answer has not understood it: another worker may do better. */
  #understand(thrown: unknown): RpcError {
    if (!(thrown instanceof RpcError)) {
      const message = `the provider's answer (${this.#came}) has not the form that it should have`;
      return failure("PROVIDER_INVALID_ANSWER", message, { cause: thrown });
    }
    if (thrown.reason !== "PROVIDER_INVALID_ANSWER") return thrown;
    const hint = this.#came.endsWith("html") ? `; ${BASE_URL_HINT}` : "";
    const message = `${thrown.message} (it answered ${this.#came}${hint})`;
    return thrown.forLog === undefined
      ? new RpcError("PROVIDER_INVALID_ANSWER", message, { cause: thrown.cause })
      : failure("PROVIDER_INVALID_ANSWER", message, { cause: thrown.cause });
  }
}

/** An answer that is wanted whole. */
export class WholeAnswer<T> extends Answer {
  readonly #body = new Body(ANSWER_BYTES_MAX);
  readonly #read: (text: string) => { readonly value: T; readonly summary?: AnswerSummary };
  readonly #resolve: (value: T) => void;
  readonly #reject: (error: RpcError) => void;
  #begun = false;

  constructor(
    attempt: Attempt,
    dialect: Dialect,
    consumer: {
      readonly read: (text: string) => { readonly value: T; readonly summary?: AnswerSummary };
      readonly resolve: (value: T) => void;
      readonly reject: (error: RpcError) => void;
    },
  ) {
    super(attempt, dialect);
    this.#read = consumer.read;
    this.#resolve = consumer.resolve;
    this.#reject = consumer.reject;
  }

  protected begin(): void {}

  protected read(bytes: Buffer): void {
    if (this.#begun) this.attempt.exchange.touch();
    else this.attempt.exchange.contentBegan();
    this.#begun = true;
    if (!this.#body.add(bytes)) throw tooLong();
  }

  protected finish(): void {
    const { value, summary } = this.#read(this.#body.text);
    this.attempt.end(undefined, summary);
    this.#resolve(value);
  }

  protected lost(error: RpcError): void {
    this.fail(error);
  }

  protected fail(error: RpcError): void {
    if (this.attempt.moveOn(error)) return;
    this.#reject(this.attempt.end(error) ?? error);
  }
}

/** An answer that is a stream of events, turned into the parts of `stream`. */
export class StreamAnswer extends Answer {
  readonly #stream: PartStream;
  readonly #warnings: readonly Warning[];
  readonly #reader: EventReader;
  #framer: Framer | undefined;
  /** Set when the provider has answered with one JSON document instead. */
  #whole: Body | undefined;
  #served: Served | undefined;
  #usage: Usage | undefined;
  #finishReasons: FinishReason[] = [];
  #contentBegan = false;
  #complete = false;

  constructor(
    attempt: Attempt,
    dialect: Dialect,
    {
      stream,
      reader,
      warnings,
    }: {
      readonly stream: PartStream;
      readonly reader: EventReader;
      /** What the request could not have. */
      readonly warnings: readonly Warning[];
    },
  ) {
    super(attempt, dialect);
    this.#stream = stream;
    this.#reader = reader;
    this.#warnings = warnings;
  }

  protected begin(headers: IncomingHttpHeaders): void {
    const type = mediaType(headers);
    if (isStreamType(this.dialect.framing, type)) {
      const reader = this.#reader;
      this.#framer = createFramer(
        this.dialect.framing,
        (event) => reader.read(event, this.#stream.waiting),
        reader.readStray && ((text) => reader.readStray?.(text)),
      );
    } else if (type === "application/json") {
      this.#whole = new Body(ANSWER_BYTES_MAX);
    } else {
      throw failure("PROVIDER_INVALID_ANSWER", "the provider sent no stream");
    }
  }

  protected read(bytes: Buffer): void {
    if (this.#framer === undefined) {
      // Its first byte is its first content, but only its end tells whether it is one.
      this.attempt.exchange.contentBegan();
      if (!this.#whole!.add(bytes)) throw tooLong();
      return;
    }
    this.attempt.exchange.touch();
    const from = this.#stream.waiting.length;
    try {
      this.#framer.push(bytes);
    } finally {
      // What came before a broken event is still the answer's.
      this.#accept(from, bytes.length);
    }
  }

  protected finish(): void {
    const from = this.#stream.waiting.length;
    if (this.#framer === undefined) {
      const body = parseJson(this.#whole!.text, "the answer");
      const completion = this.dialect.chatAnswer(body, this.attempt.options.context);
      this.#stream.waiting.push(...completionParts(completion));
      this.#accept(from, 0);
      this.#succeed();
      return;
    }
    try {
      this.#framer.end();
    } catch (thrown) {
      // Half an event at the very end is where it was cut; if all had been said it does not matter.
      if (thrown instanceof RpcError && thrown.reason !== "PROVIDER_INVALID_ANSWER") throw thrown;
    } finally {
      this.#accept(from, 0);
    }
    if (!this.#reader.complete()) {
      throw failure("PROVIDER_STREAM_CUT", "the provider ended the stream before the answer was finished");
    }
    this.#succeed();
  }

  protected lost(error: RpcError): void {
    // How the connection ends does not matter once all has been said.
    const complete = error.reason.startsWith("PROVIDER_") && this.#framer !== undefined && this.#reader.complete();
    if (complete) this.#succeed();
    else this.fail(error);
  }

  protected fail(error: RpcError): void {
    // What has been handed out can't be taken back: it says who serves.
    if (this.#served === undefined && this.attempt.moveOn(error)) return;
    this.#stream.fail(this.attempt.end(error, this.#summary()) ?? error);
  }

  #succeed(): void {
    this.attempt.end(undefined, this.#summary());
    this.#stream.end();
  }

  #summary(): AnswerSummary {
    return { served: this.#served, usage: this.#usage, finishReasons: this.#finishReasons };
  }

  /** Looks at the parts from index `from` on, and lets them go. */
  #accept(from: number, bytes: number): void {
    const parts = this.#stream.waiting;
    if (parts.length === from) return;
    const first = this.#served === undefined ? this.#acceptServed(parts, from) : from;
    for (let index = first; index < parts.length; index += 1) {
      const part = parts[index]?.part;
      switch (part?.$case) {
        case "text":
        case "reasoning":
        case "refusal":
          if (!this.#contentBegan && part.value.text !== "") this.#beginContent();
          break;
        case "toolCall":
          if (!this.#contentBegan) this.#beginContent();
          break;
        case "finish":
          if (!this.#contentBegan) this.#beginContent();
          this.#finishReasons.push(part.value.reason);
          break;
        case "usage":
          this.#usage = part.value;
          break;
      }
    }
    if (this.#finishReasons.length > 0 && !this.#complete && this.#reader.complete()) {
      this.#complete = true;
      this.attempt.exchange.messageComplete();
    }
    this.#stream.flush(bytes);
  }

  /**
   * Sees to it that the stream begins with who serves it, and then the warnings about the request. A dialect whose provider
   * does not say it at the start need not wait: it is then said with what is known of ourselves. Returns where the rest begins.
   */
  #acceptServed(parts: Part[], from: number): number {
    const first = parts[from]?.part;
    const said = first?.$case === "served" ? first.value : undefined;
    this.#served = completeServed(said, this.attempt, this.dialect);
    this.#stream.key = this.attempt.key;
    const begin: Part[] = [{ part: { $case: "served", value: this.#served } }];
    for (const value of this.#warnings) begin.push({ part: { $case: "warning", value } });
    parts.splice(from, said === undefined ? 0 : 1, ...begin);
    return from + begin.length;
  }

  #beginContent(): void {
    this.#contentBegan = true;
    this.attempt.contentBegan();
  }
}

/** Fills in what an adapter knows about who served: its worker and provider, and an id, model and time if need be. */
export function completeServed(said: Served | undefined, attempt: Attempt, dialect: Dialect): Served {
  const { context } = attempt.options;
  return {
    id: said?.id || context.mintId("cortex-"),
    model: said?.model || context.model,
    worker: context.worker,
    provider: dialect.provider,
    createdAtS: said?.createdAtS || context.nowS,
    systemFingerprint: said?.systemFingerprint ?? "",
  };
}

/** What a span says of a completion. */
export function summarize(completion: Completion): AnswerSummary {
  return {
    served: completion.served,
    usage: completion.usage,
    finishReasons: completion.choices.map((choice) => choice.finishReason),
  };
}

function mediaType(headers: IncomingHttpHeaders): string {
  const type = (headers["content-type"] ?? "").split(";", 1)[0]!.trim().toLowerCase();
  return /^[\w.+-]{0,60}(\/[\w.+-]{0,60})?$/.test(type) ? type : "an unreadable content type";
}

/** Servers that are no provider's own forget the content type or send text/plain; nothing else passes for a stream. */
function isStreamType(framing: "sse" | "ndjson", type: string): boolean {
  if (type === "" || type === "text/plain") return true;
  if (framing === "sse") return type === "text/event-stream";
  // A line of NDJSON that is an error comes as application/json too, and is read as the line that it is.
  return ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"].includes(type);
}

function tooLong(): RpcError {
  return failure("PROVIDER_INVALID_ANSWER", `the provider's answer is longer than ${ANSWER_BYTES_MAX} bytes`);
}
