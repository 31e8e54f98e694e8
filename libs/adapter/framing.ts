/**
 * Cutting a stream of bytes into the provider's events, wherever the network has cut it: server-sent events with any of
 * their line ends (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream), or JSON by line.
 */
import { StringDecoder } from "node:string_decoder";
import { createParser, type EventSourceParser, type ParseError } from "eventsource-parser";
import type { ProviderEvent } from "./dialect.ts";
import { failure } from "./failures.ts";

/** The longest event that is taken, in characters. An image in base64 fits; a server that never ends its line does not. */
export const EVENT_LENGTH_MAX = 16 * 1024 * 1024;

/** Cuts one stream. What `onEvent` throws comes out of `push` and `end`; nothing may be pushed after that. */
export interface Framer {
  /** Throws PROVIDER_INVALID_ANSWER when an event is longer than EVENT_LENGTH_MAX. */
  push(bytes: Buffer): void;
  /** The body has ended: an event that lacks only its line end is still an event. */
  end(): void;
}

/**
 * `onStray` is for providers that write, in the middle of server-sent events, something that is none: it is given the lines
 * that are no field of an event, joined, before the event that follows them or at the end. Without it they are ignored, as
 * the standard has it.
 */
export function createFramer(
  framing: "sse" | "ndjson",
  onEvent: (event: ProviderEvent) => void,
  onStray?: (text: string) => void,
): Framer {
  if (framing === "ndjson") return new LineFramer(onEvent);
  return onStray === undefined ? createSseFramer(onEvent) : new StraySseFramer(onEvent, onStray);
}

function createSseFramer(onEvent: (event: ProviderEvent) => void): Framer {
  const decoder = new StringDecoder("utf8");
  const parser = createParser({
    maxBufferSize: EVENT_LENGTH_MAX,
    onEvent: ({ event, data }) => onEvent({ name: event ?? "", data }),
    onError: (error: ParseError) => {
      if (error.type === "max-buffer-size-exceeded") throw tooLong();
    },
  });
  return {
    push(bytes) {
      parser.feed(decoder.write(bytes));
    },
    end() {
      parser.feed(`${decoder.end()}\n\n`);
    },
  };
}

/** As much of what is no event is kept. */
const STRAY_LENGTH_MAX = 64 * 1024;
/** How a line begins that is a field, or a comment, whatever follows. */
const FIELD = /^\ufeff?(?:(?:data|event|id|retry)?:)/;
const FIELD_LENGTH_MAX = "\ufeffevent:".length;

/** The parser throws away a piece of a line that can't become a field; so here it gets such lines whole. */
class StraySseFramer implements Framer {
  readonly #decoder = new StringDecoder("utf8");
  readonly #parser: EventSourceParser;
  readonly #onStray: (text: string) => void;
  /** The beginning of a line that is no field so far. */
  #held = "";
  /** The parser has the beginning of the line that is coming. */
  #fed = false;
  #stray: string[] = [];
  #strayLength = 0;

  constructor(onEvent: (event: ProviderEvent) => void, onStray: (text: string) => void) {
    this.#onStray = onStray;
    this.#parser = createParser({
      maxBufferSize: EVENT_LENGTH_MAX,
      onEvent: ({ event, data }) => {
        this.#giveStray();
        onEvent({ name: event ?? "", data });
      },
      onError: (error: ParseError) => {
        if (error.type === "max-buffer-size-exceeded") throw tooLong();
        if (error.type === "unknown-field") this.#keepStray(error.line ?? "");
      },
    });
  }

  push(bytes: Buffer): void {
    this.#push(this.#decoder.write(bytes));
  }

  end(): void {
    this.#push(`${this.#decoder.end()}\n\n`);
    this.#giveStray();
  }

  #push(text: string): void {
    const end = Math.max(text.lastIndexOf("\n"), text.lastIndexOf("\r")) + 1;
    if (end > 0) {
      const lines = this.#held + (end === text.length ? text : text.slice(0, end));
      this.#held = "";
      this.#fed = false;
      this.#parser.feed(lines);
    }
    if (end < text.length) this.#begin(end === 0 ? text : text.slice(end));
  }

  /** Takes more of a line whose end has not come. */
  #begin(piece: string): void {
    if (this.#fed) {
      this.#parser.feed(piece);
      return;
    }
    const undecided = this.#held.length < FIELD_LENGTH_MAX;
    this.#held += piece;
    const field = undecided && FIELD.test(this.#held);
    if (!field && this.#held.length <= STRAY_LENGTH_MAX) return;
    this.#fed = true;
    this.#parser.feed(this.#held);
    this.#held = "";
  }

  #keepStray(line: string): void {
    if (this.#strayLength + line.length > STRAY_LENGTH_MAX) return;
    this.#stray.push(line);
    this.#strayLength += line.length;
  }

  #giveStray(): void {
    if (this.#stray.length === 0) return;
    const text = this.#stray.join("\n");
    this.#stray = [];
    this.#strayLength = 0;
    this.#onStray(text);
  }
}

class LineFramer implements Framer {
  readonly #decoder = new StringDecoder("utf8");
  readonly #onEvent: (event: ProviderEvent) => void;
  /** Pieces of a line whose end has not come; joined once, or a long line in small pieces would cost its square. */
  #pieces: string[] = [];
  #length = 0;

  constructor(onEvent: (event: ProviderEvent) => void) {
    this.#onEvent = onEvent;
  }

  push(bytes: Buffer): void {
    const text = this.#decoder.write(bytes);
    let start = 0;
    for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", start)) {
      this.#line(text.slice(start, end));
      start = end + 1;
    }
    if (start === text.length) return;
    const rest = start === 0 ? text : text.slice(start);
    this.#pieces.push(rest);
    this.#length += rest.length;
    if (this.#length > EVENT_LENGTH_MAX) throw tooLong();
  }

  end(): void {
    this.#line(this.#decoder.end());
  }

  #line(last: string): void {
    let line = last;
    if (this.#pieces.length > 0) {
      this.#pieces.push(last);
      line = this.#pieces.join("");
      this.#pieces = [];
      this.#length = 0;
    }
    const data = line.trim();
    if (data !== "") this.#onEvent({ name: "", data });
  }
}

function tooLong(): Error {
  return failure("PROVIDER_INVALID_ANSWER", `an event of the stream is longer than ${EVENT_LENGTH_MAX} characters`);
}
