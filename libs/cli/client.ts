/** Commands that ask a node that runs, over gRPC like any other client. */
import { randomUUID } from "node:crypto";
import { FinishReason, Role, type Served, type Usage } from "../gen/cortex/llm/v1/llm.ts";
import { RouterServiceDefinition } from "../gen/cortex/router/v1/router.ts";
import { localGrpcAddress } from "../host/index.ts";
import { type Channel, connect, type OwnedCall, startCall } from "../rpc/index.ts";
import { NO_TRACE } from "../telemetry/index.ts";

export interface ClientOptions {
  readonly address?: string | undefined;
  readonly key?: string | undefined;
  readonly json?: boolean | undefined;
}

/** A question about the state of things is answered from memory. */
export const QUESTION_TIMEOUT_MS = 5_000;

/** Connects to the node of `options` for one question; Ctrl-C, and a reader of the output that has gone, cancel it. */
export async function withNode<T>(
  options: ClientOptions,
  timeoutMs: number,
  ask: (channel: Channel, call: OwnedCall) => Promise<T>,
): Promise<T> {
  const channel = connect(options.address ?? localGrpcAddress(), { clientKey: options.key });
  const deadlineAtMs = Date.now() + timeoutMs;
  const call = startCall({ tenant: "", requestId: randomUUID(), trace: NO_TRACE, deadlineAtMs });
  process.once("SIGINT", () => call.cancel());
  // Whoever reads the output has seen enough of it, as `head` has.
  process.stdout.once("error", () => call.cancel());
  try {
    return await ask(channel, call);
  } finally {
    call.finish();
    channel.close();
  }
}

/** Streams an answer to the terminal; who served it and how fast goes to standard error. */
export async function chat(prompt: string, options: ClientOptions & { readonly model: string }): Promise<number> {
  const startedAtMs = performance.now();
  let firstTokenMs: number | undefined;
  let served: Served | undefined;
  let usage: Usage | undefined;
  await withNode(options, 3_600_000, async (channel, call) => {
    const message = { role: Role.USER, name: "", content: [{ part: { $case: "text" as const, value: prompt } }] };
    const completion = {
      model: options.model,
      messages: [message],
      tools: [],
      logprobs: false,
      user: "",
      extraJson: {},
    };
    for await (const { parts } of channel.client(RouterServiceDefinition).stream({ completion }, call)) {
      for (const { part } of parts) {
        if (options.json === true) process.stdout.write(`${JSON.stringify(part)}\n`);
        if (part?.$case === "served") served = part.value;
        else if (part?.$case === "usage") usage = part.value;
        else if (part?.$case === "text" || part?.$case === "refusal") {
          firstTokenMs ??= performance.now() - startedAtMs;
          if (options.json !== true) process.stdout.write(part.value.text);
        } else if (part?.$case === "finish" && part.value.reason === FinishReason.LENGTH && options.json !== true) {
          process.stderr.write("\n(cut off at the model's limit)");
        }
      }
    }
  });
  if (options.json === true) return 0;
  const seconds = (performance.now() - startedAtMs) / 1_000;
  const tokens = usage?.outputTokens;
  const speed = tokens === undefined ? "" : `, ${tokens} tokens, ${(tokens / seconds).toFixed(0)} tokens/s`;
  process.stdout.write("\n");
  process.stderr.write(
    `\n${served?.worker}/${served?.model}: first token after ${((firstTokenMs ?? 0) / 1_000).toFixed(2)} s${speed}\n`,
  );
  return 0;
}
