/** A client of the gateway for end-to-end tests that reads an answer as it comes: whole or streamed, and to the last byte. */
import { setImmediate as nextTurn } from "node:timers/promises";

/** What is asked besides the body. */
export interface AskOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Told the headers of the answer when they come. */
  readonly onHeaders?: (headers: Headers) => void;
  /** Told each piece of text when it comes. */
  readonly onText?: (text: string) => void;
}

/** What a client has seen of an answer. */
export interface Seen {
  readonly status: number;
  readonly headers: Headers;
  /** As it came over the wire. */
  readonly body: string;
  readonly text: string;
  readonly usage: Usage | undefined;
  /** What the answer calls itself; several when it is not one answer. */
  readonly ids: readonly string[];
  readonly finishReason: string | null | undefined;
  /** The code of the error, with a status of its own or in the stream. */
  readonly error: string | undefined;
  /** It ended as it should. */
  readonly done: boolean;
  /** Events with text in them. */
  readonly texts: number;
  /** When text came first, and when everything had come, by performance.now(). */
  readonly firstTextAtMs: number;
  readonly endedAtMs: number;
}

/** As OpenAI's, with Cortex's mark. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number; readonly cortex_cached_tokens?: number };
  readonly completion_tokens_details: { readonly cortex_cached_tokens?: number };
}

interface Event {
  readonly id?: string;
  readonly error?: { readonly code: string };
  readonly usage?: Usage | null;
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly message?: { readonly content?: string | null };
    readonly finish_reason?: string | null;
  }[];
}

/** POSTs `body` to the gateway at `rest` and reads the answer to its end. Rejects when the signal is aborted. */
export async function see(rest: string, body: object, options: AskOptions = {}): Promise<Seen> {
  const response = await fetch(`${rest}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...options.headers },
    body: JSON.stringify(body),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  options.onHeaders?.(response.headers);
  const reading = new Reading(response, options.onText);
  const decoder = new TextDecoder();
  for await (const piece of response.body!) reading.take(decoder.decode(piece as Uint8Array, { stream: true }));
  return reading.end();
}

/** A client that asks for a stream, reads the beginning of it, and then nothing until it is told to. */
export async function seeSlowly(rest: string, body: object, options: AskOptions = {}): Promise<() => Promise<Seen>> {
  const gate = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const seen = (async () => {
    const response = await fetch(`${rest}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...options.headers },
      body: JSON.stringify(body),
    });
    const reading = new Reading(response, options.onText);
    const decoder = new TextDecoder();
    for await (const piece of response.body!) {
      reading.take(decoder.decode(piece as Uint8Array, { stream: true }));
      begun.resolve();
      await gate.promise;
    }
    return reading.end();
  })();
  seen.catch(begun.reject);
  await begun.promise;
  return async () => {
    gate.resolve();
    await nextTurn();
    return seen;
  };
}

class Reading {
  readonly #response: Response;
  readonly #onText: ((text: string) => void) | undefined;
  readonly #streamed: boolean;
  readonly #ids = new Set<string>();
  #body = "";
  #rest = "";
  #text = "";
  #texts = 0;
  #usage: Usage | undefined;
  #finishReason: string | null | undefined;
  #error: string | undefined;
  #firstTextAtMs = Number.NaN;

  constructor(response: Response, onText: ((text: string) => void) | undefined) {
    this.#response = response;
    this.#onText = onText;
    this.#streamed = response.headers.get("content-type")?.startsWith("text/event-stream") === true;
  }

  take(piece: string): void {
    this.#body += piece;
    if (!this.#streamed) return;
    const blocks = (this.#rest + piece).split("\n\n");
    this.#rest = blocks.pop()!;
    for (const block of blocks) if (block.startsWith("data: {")) this.#note(JSON.parse(block.slice(6)) as Event);
  }

  end(): Seen {
    if (!this.#streamed && this.#body !== "") this.#note(JSON.parse(this.#body) as Event);
    return {
      status: this.#response.status,
      headers: this.#response.headers,
      body: this.#body,
      text: this.#text,
      usage: this.#usage,
      ids: [...this.#ids],
      finishReason: this.#finishReason,
      error: this.#error,
      done: this.#streamed ? this.#body.endsWith("data: [DONE]\n\n") : this.#response.ok,
      texts: this.#texts,
      firstTextAtMs: this.#firstTextAtMs,
      endedAtMs: performance.now(),
    };
  }

  #note({ id, error, usage, choices }: Event): void {
    if (id !== undefined) this.#ids.add(id);
    if (usage) this.#usage = usage;
    if (error) this.#error = error.code;
    const choice = choices?.[0];
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
    const text = choice?.delta?.content ?? choice?.message?.content ?? "";
    if (text === "") return;
    if (this.#texts === 0) this.#firstTextAtMs = performance.now();
    this.#texts += 1;
    this.#text += text;
    this.#onText?.(text);
  }
}
