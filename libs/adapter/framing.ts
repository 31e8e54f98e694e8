/**
 * Cutting a stream of bytes into the provider's events, wherever the network has cut it: server-sent events with any of
 * their line ends (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream), or JSON by line.
 */
import { StringDecoder } from "node:string_decoder";
import { createParser, type ParseError } from "eventsource-parser";
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

export function createFramer(framing: "sse" | "ndjson", onEvent: (event: ProviderEvent) => void): Framer {
  return framing === "sse" ? createSseFramer(onEvent) : new LineFramer(onEvent);
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
