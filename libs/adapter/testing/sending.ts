/** What a dialect makes of a request, for the tests of what the cases that all share do not show. */
import { CompletionRequest, type DeepPartial } from "../../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../rpc/index.ts";
import type { AttemptContext, Dialect } from "../dialect.ts";
import { text, user } from "./conversation.ts";

/** An attempt with `model`; every identifier that it mints ends in x. */
export function contextFor(model: string): AttemptContext {
  return { worker: "worker-a", model, nowS: 1_764_000_000, mintId: (prefix) => `${prefix}x` };
}

/**
 * Tells what `dialect` sends for a request to `model` unless another is named: the body, parsed, and the parameters that were
 * warned about. `defaults` is what every request has.
 */
export function createSend(dialect: Dialect, model: string, defaults: DeepPartial<CompletionRequest> = {}) {
  return (request: DeepPartial<CompletionRequest>, name = model) => {
    const full = CompletionRequest.fromPartial({ messages: [user(text("hi"))], ...defaults, ...request });
    const { path, headers, body = "", warnings = [] } = dialect.chatRequest(full, false, contextFor(name));
    return { path, headers, body: JSON.parse(body), warned: warnings.map(({ parameter }) => parameter) };
  };
}

/** How a request is refused, as reason and field; or what comes of it when it is not. */
export function refusal(run: () => unknown): unknown {
  try {
    return run();
  } catch (thrown) {
    return thrown instanceof RpcError ? `${thrown.reason} ${thrown.field}` : thrown;
  }
}
