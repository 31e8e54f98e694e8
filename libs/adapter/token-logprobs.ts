/** Log probabilities as OpenAI gives them, and with it every provider but a few that have a form of their own. */
import type { TokenLogprob } from "../gen/cortex/llm/v1/llm.ts";
import { isJson, type Json, textOf } from "./json.ts";

/** What comes with every token is made once. */
const NO_BYTES = Buffer.alloc(0);
const NONE: readonly TokenLogprob[] = [];

/** Each token of `tokens`, and what else was likely in its place. */
export function readTokenLogprobs(tokens: readonly unknown[]): TokenLogprob[] {
  const read: TokenLogprob[] = [];
  for (const token of tokens) {
    if (isJson(token)) read.push(readTokenLogprob(token, readTop(token["top_logprobs"])));
  }
  return read;
}

function readTop(top: unknown): readonly TokenLogprob[] {
  if (!Array.isArray(top) || top.length === 0) return NONE;
  const read: TokenLogprob[] = [];
  for (const token of top) if (isJson(token)) read.push(readTokenLogprob(token, NONE));
  return read;
}

function readTokenLogprob({ token, logprob, bytes }: Json, top: readonly TokenLogprob[]): TokenLogprob {
  return {
    token: textOf(token),
    // JSON has no infinity; OpenAI's stand-in for it is -9999.
    logprob: typeof logprob === "number" ? logprob : -9999,
    bytes: Array.isArray(bytes) && bytes.length > 0 ? Buffer.from(bytes) : NO_BYTES,
    top,
  };
}
