/** Commands that ask a node that runs, over gRPC like any other client. */
import { randomUUID } from "node:crypto";
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
