/**
 * What the load generator asks and what the fake upstream answers: both sides derive the same text from the prompt, so
 * every answer can be checked in full, and an answer that reached the wrong caller is seen. The wish travels in the
 * prompt because a prompt is the one thing that every gateway hands on unchanged.
 */

export const MODEL = "bench-model";

/** Path of the upstream's control: ends all streams that were asked to hold. */
export const RELEASE_PATH = "/release";
/** Path of the upstream's control: how often it has been asked for an answer. */
export const COUNT_PATH = "/count";

export type Wish = {
  id: string;
  /** Words of the answer; one streamed chunk each. */
  tokens: number;
  /** Between two streamed tokens. */
  everyMs: number;
  /** A held stream sends its first token, then nothing until it is released. */
  hold: boolean;
  /** Before the first token of a stream. */
  firstMs: number;
};

const WISH = /\[bench id=(\w+) tokens=(\d+) every=(\d+) hold=([01]) first=(\d+)\]/;

// About what a short chat turn weighs: the body comes to some 600 bytes.
const SYSTEM =
  "You are a helpful assistant. Answer briefly and precisely, in the language of the question. When something is " +
  "unknown, say so instead of guessing. Do not repeat the question, and do not add remarks that nobody asked for. " +
  "Numbers are given with their unit, and sources are named where there are any.";

export function requestBody(wish: Wish, options: { stream: boolean }): string {
  const mark = `[bench id=${wish.id} tokens=${wish.tokens} every=${wish.everyMs} hold=${wish.hold ? 1 : 0} first=${wish.firstMs}]`;
  return JSON.stringify({
    model: MODEL,
    messages: [
      { role: "system", content: SYSTEM },
      { role: "user", content: `Please count up to the number of words in the bracket. ${mark}` },
    ],
    temperature: 0.7,
    max_tokens: 4096,
    // Usage is asked for, so that every gateway gets and hands on the same chunks.
    ...(options.stream ? { stream: true, stream_options: { include_usage: true } } : {}),
  });
}

/** Finds the wish in a request body; undefined when a gateway has altered the prompt. */
export function readWish(body: string): Wish | undefined {
  const found = WISH.exec(body);
  if (!found) return undefined;
  return {
    id: found[1] as string,
    tokens: Number(found[2]),
    everyMs: Number(found[3]),
    hold: found[4] === "1",
    firstMs: Number(found[5]),
  };
}

export function word(wish: Wish, index: number): string {
  return ` ${wish.id}-${index}`;
}

export function answerText(wish: Wish): string {
  let text = "";
  for (let index = 0; index < wish.tokens; index++) text += word(wish, index);
  return text;
}
