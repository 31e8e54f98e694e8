/** Follows how the mesh is, for the commands that show it: what a node tells, put together, for as long as somebody looks. */
import {
  type Happening,
  MetricsServiceDefinition,
  type WatchedNode,
  type WatchedWorker,
  type WatchResponse,
} from "../gen/cortex/metrics/v1/metrics.ts";
import { type Call, type Channel, RpcError } from "../rpc/index.ts";
import { type ClientOptions, withNode } from "./client.ts";

/** Somebody may look for a year. */
const FOREVER_MS = 31_536_000_000;
const RETRY_MS = 1_000;

/** The mesh, as it was told last. */
export class WatchedMesh {
  readonly workers = new Map<string, WatchedWorker>();
  nodes: readonly WatchedNode[] = [];
  /** Of the last message. */
  happenings: readonly Happening[] = [];
  message!: WatchResponse;

  apply(message: WatchResponse): void {
    this.message = message;
    this.happenings = message.happenings;
    if (message.whole) {
      this.workers.clear();
      this.nodes = [];
    }
    for (const name of message.gone) this.workers.delete(name);
    for (const worker of message.workers) this.workers.set(worker.name, worker);
    if (message.nodes.length > 0) this.nodes = message.nodes;
  }

  /** How many workers are so. */
  count(state: WatchedWorker["state"]): number {
    return [...this.workers.values()].filter((worker) => worker.state === state).length;
  }
}

/**
 * Calls `onMessage` after each message, until the reader of the output, Ctrl-C or `signal` ends it. A node that goes away after it
 * has answered once is asked again until it, or another one at its address, is there; `onLost` is told of it.
 */
export async function watchMesh(
  options: ClientOptions,
  intervalMs: number,
  listener: {
    onMessage(mesh: WatchedMesh, channel: Channel, call: Call): Promise<void> | void;
    onLost(error: RpcError): void;
  },
  signal?: AbortSignal,
): Promise<void> {
  await withNode(options, FOREVER_MS, async (channel, call) => {
    const stop = (): void => call.cancel();
    signal?.addEventListener("abort", stop, { once: true });
    let answered = false;
    for (;;) {
      const mesh = new WatchedMesh();
      try {
        for await (const message of channel.client(MetricsServiceDefinition).watch({ intervalMs }, call)) {
          answered = true;
          mesh.apply(message);
          await listener.onMessage(mesh, channel, call);
        }
      } catch (thrown) {
        const error = RpcError.from(thrown);
        if (call.signal.aborted) return;
        const away = error.reason === "NODE_UNREACHABLE" || error.reason === "NODE_DRAINING";
        if (!answered || !away) throw error;
        listener.onLost(error);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      if (call.signal.aborted) return;
    }
  });
}
