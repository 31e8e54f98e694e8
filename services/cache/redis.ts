/**
 * Redis as the third level of the cache: Keyv's store for it, set up so that nothing waits for a Redis that is away. The client
 * reconnects by itself, for ever.
 */
import { isInvalidated } from "../../libs/caching/index.ts";
import type { OuterStore, StoreListener } from "./outer-level.ts";

/** Before every key, so that the database may hold other things. To be changed when what lies there gets another meaning. */
const NAMESPACE = "cortex-cache-1";
const SEPARATOR = "::";
/** Keys that are looked at in one go when answers are taken out. */
const SCAN_COUNT = 1_000;
const CONNECT_TIMEOUT_MS = 2_000;
const RECONNECT_MS_MAX = 2_000;
/** A Redis that says nothing for so long, not even to a ping, is connected to anew. */
const SILENCE_MS_MAX = 10_000;
const PING_INTERVAL_MS = 4_000;
/** Commands on their way; beyond that they are refused. */
const COMMANDS_MAX = 10_000;

/** Opens the Redis at `url`. It is loaded only now: who has none pays nothing for it. */
export async function openRedis(url: string, listener: StoreListener): Promise<OuterStore> {
  const { default: KeyvRedis, createClient } = await import("@keyv/redis");
  const client = createClient({
    url,
    disableOfflineQueue: true,
    commandsQueueMaxLength: COMMANDS_MAX,
    pingInterval: PING_INTERVAL_MS,
    socket: {
      connectTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: SILENCE_MS_MAX,
      reconnectStrategy: (attempts) => Math.min(50 * 2 ** Math.min(attempts, 10), RECONNECT_MS_MAX),
    },
  });
  const store = new KeyvRedis<string>(client, {
    namespace: NAMESPACE,
    keyPrefixSeparator: SEPARATOR,
    throwOnErrors: true,
  });
  const { host } = new URL(url);
  store.on("error", (error: Error) => {
    if (!client.isReady) listener.away(`Redis at ${host}: ${wordsOf(error)}`);
  });
  client.on("ready", () => listener.ready());
  // It ends when there is a connection, and fails when the store is closed before: both are told otherwise.
  client.connect().catch(() => {});
  return {
    get ready() {
      return client.isReady;
    },
    getMany: (keys) => store.getMany<string>(keys),
    set: async (key, value, ttlMs) => void (await store.set(key, value, ttlMs)),
    delete: (key) => store.delete(key),
    async drop(invalidated, signal) {
      const { key, tenantPart, modelPart } = invalidated;
      if (key !== "") return isInvalidated(key, invalidated) && (await store.delete(key)) ? 1 : 0;
      const pattern = `${NAMESPACE}${SEPARATOR}${tenantPart || "*"}.${modelPart || "*"}.*`;
      let dropped = 0;
      let cursor = "0";
      do {
        signal.throwIfAborted();
        const found = await client.scan(cursor, { MATCH: pattern, COUNT: SCAN_COUNT });
        cursor = String(found.cursor);
        if (found.keys.length > 0) dropped += await client.unlink(found.keys);
      } while (cursor !== "0");
      return dropped;
    },
    close: () => {
      if (client.isOpen) client.destroy();
    },
  };
}

/** The system's errors of several addresses come together, without words of their own. */
function wordsOf(error: Error): string {
  const [first] = error instanceof AggregateError ? (error.errors as Error[]) : [error];
  return first?.message || error.name;
}
