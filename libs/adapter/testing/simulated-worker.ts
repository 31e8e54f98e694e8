/** Workers against the simulator of their provider, for what only shows over a connection. */
import { afterEach } from "vitest";
import type { StreamResponse } from "../../gen/cortex/provider/v1/provider.ts";
import type { Dialect } from "../dialect.ts";
import { collect, createTestWorker, kinds } from "../test-provider.ts";

const KEY = "canary-key";

/**
 * Starts a simulator and a worker of `dialect` against it, with a key that the simulator takes unless it is told of others;
 * both end with the test.
 */
export function createStart<Options extends object, Simulator extends AsyncDisposable & { readonly url: string }>(
  dialect: Dialect,
  startSimulator: (options: Options & { readonly apiKeys: readonly string[] }) => Promise<Simulator>,
) {
  const running: AsyncDisposable[] = [];
  afterEach(async () => {
    for (const each of running.splice(0).reverse()) await each[Symbol.asyncDispose]();
  });
  return async (options: Partial<Options> = {}) => {
    const simulator = await startSimulator({ apiKeys: [KEY], ...options } as Options & { apiKeys: string[] });
    const worker = createTestWorker(simulator.url, { keys: [KEY], models: undefined }, { dialect });
    running.push(simulator, worker);
    return { simulator, worker };
  };
}

/** How a stream ended: after how many pieces of text, for which reason, and with a wait of how many seconds. */
export async function endingOf(stream: AsyncIterable<StreamResponse>) {
  const { error, parts } = await collect(stream);
  return {
    texts: kinds(parts).filter((kind) => kind === "text").length,
    reason: error?.reason,
    waitS: error?.retryAfterMs && Math.round(error.retryAfterMs / 1000),
  };
}
