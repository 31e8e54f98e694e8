/** Log probabilities as OpenAI gives them, and with it every provider but a few that have a form of their own. */
import type { TokenLogprob } from "../gen/cortex/llm/v1/llm.ts";
import { isJson, type Json, textOf } from "./json.ts";

/** Each token of `tokens`, and what else was likely in its place. */
export function readTokenLogprobs(tokens: readonly unknown[]): TokenLogprob[] {
  return tokens.filter(isJson).map((token) => {
    const top = Array.isArray(token["top_logprobs"]) ? token["top_logprobs"].filter(isJson) : [];
    return { ...readTokenLogprob(token), top: top.map(readTokenLogprob) };
  });
}

function readTokenLogprob(token: Json): TokenLogprob {
  const { logprob, bytes } = token;
  return {
    token: textOf(token["token"]),
    // JSON has no infinity; OpenAI's stand-in for it is -9999.
    logprob: typeof logprob === "number" ? logprob : -9999,
    bytes: Array.isArray(bytes) ? Buffer.from(bytes) : Buffer.alloc(0),
    top: [],
  };
}
