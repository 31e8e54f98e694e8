/**
 * What a service wants to have back when it is started again: many parts that never change once they are there, and a head that
 * changes each time. All of it lies in a bucket of NATS; what is read is either whole or nothing.
 */
import { promisify } from "node:util";
import { zstdCompress, zstdDecompress } from "node:zlib";
import { jetstream } from "@nats-io/jetstream";
import { type KV, Kvm } from "@nats-io/kv";
import type { NatsConnection } from "@nats-io/transport-node";
import type { Buckets } from "./buckets.ts";
import { keyOf } from "./keys.ts";

/** A state, as it is kept. */
export interface Snapshot {
  /** What changes each time. */
  readonly head: Uint8Array;
  /** By key; what is kept under a key stays the same. */
  readonly parts: ReadonlyMap<string, Uint8Array>;
}

/** Where one service keeps its state. Meant for one writer at a time; of two, the later one stands, or nothing does. */
export interface SnapshotStore {
  /** Puts what is not there yet, and takes away what is no longer part of it. Rejects when NATS can't be reached or is full. */
  save(snapshot: Snapshot): Promise<void>;
  /** What was saved last; undefined when there is nothing, or it is not whole. Rejects when NATS can't be reached. */
  load(): Promise<Snapshot | undefined>;
}

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

const BUCKET = "cortex_snapshots";
/** What nobody puts again vanishes. */
const TTL_MS = 4_200_000;
/** NATS reserves as much. */
const BYTES_MAX = 256 * 1024 * 1024;
const VALUE_BYTES_MAX = 512 * 1024;
const REQUEST_TIMEOUT_MS = 3_000;
const REQUESTS_AT_ONCE = 16;
const INDEX = "index";
const HEAD = "head";

/** Where the parts of a snapshot lie: how many pieces each has, by key. */
interface Index {
  readonly head: readonly [key: string, pieces: number];
  readonly parts: Readonly<Record<string, number>>;
}

/** A store over a connection. */
export class Snapshots implements SnapshotStore {
  readonly #connection: NatsConnection;
  readonly #buckets: Pick<Buckets, "run">;
  readonly #name: string;
  /** What is known to be there: pieces by key. */
  #stored = new Map<string, number>();
  #saves = 0;
  /** When the bucket was made. */
  #created = "";

  constructor(connection: NatsConnection, buckets: Pick<Buckets, "run">, name: string) {
    this.#connection = connection;
    this.#buckets = buckets;
    this.#name = name;
  }

  async save({ head, parts }: Snapshot): Promise<void> {
    const kv = await this.#open();
    const headKey = `${HEAD}-${Date.now().toString(36)}-${++this.#saves}`;
    const stored = new Map<string, number>();
    try {
      for (const [key, part] of parts) stored.set(key, this.#stored.get(key) ?? (await this.#put(kv, key, part)));
      stored.set(headKey, await this.#put(kv, headKey, head));
      const index: Index = {
        head: [headKey, stored.get(headKey)!],
        parts: Object.fromEntries([...stored].filter(([key]) => key !== headKey)),
      };
      await this.#buckets.run(() => kv.put(this.#keyOf(INDEX), JSON.stringify(index)));
    } catch (error) {
      // What is there after a failure nobody knows: the next time everything is put again.
      this.#stored = new Map();
      throw error;
    }
    const before = this.#stored;
    this.#stored = stored;
    const gone = [...before].filter(([key]) => !stored.has(key));
    await inParallel(
      gone.flatMap(([key, pieces]) => Array.from({ length: pieces }, (_, piece) => this.#keyOf(key, piece))),
      (key) => this.#buckets.run(() => kv.delete(key)),
    );
  }

  async load(): Promise<Snapshot | undefined> {
    const kv = await this.#open();
    const entry = await this.#buckets.run(() => kv.get(this.#keyOf(INDEX)));
    if (entry === null || entry.operation !== "PUT") return undefined;
    const index = JSON.parse(entry.string()) as Index;
    const found = new Map<string, Uint8Array>();
    const wanted = [index.head, ...Object.entries(index.parts)];
    await inParallel(wanted, async ([key, pieces]) => {
      const part = await this.#get(kv, key, pieces);
      if (part !== undefined) found.set(key, part);
    });
    if (found.size < wanted.length) return undefined;
    this.#stored = new Map(wanted);
    const head = found.get(index.head[0])!;
    found.delete(index.head[0]);
    return { head, parts: found };
  }

  async #open(): Promise<KV> {
    const kvm = new Kvm(jetstream(this.#connection, { timeout: REQUEST_TIMEOUT_MS }));
    const options = { history: 1, ttl: TTL_MS, max_bytes: BYTES_MAX, maxValueSize: VALUE_BYTES_MAX };
    const kv = await this.#buckets.run(() => kvm.create(BUCKET, options));
    const { streamInfo } = await this.#buckets.run(() => kv.status());
    // NATS has lost it, and it was made anew: nothing that was stored is there.
    if (String(streamInfo.created) !== this.#created) this.#stored = new Map();
    this.#created = String(streamInfo.created);
    return kv;
  }

  #keyOf(key: string, piece?: number): string {
    return piece === undefined ? keyOf(this.#name, key) : keyOf(this.#name, key, String(piece));
  }

  /** Returns how many pieces it took. */
  async #put(kv: KV, key: string, part: Uint8Array): Promise<number> {
    const bytes = await compress(part);
    const pieces = Math.max(1, Math.ceil(bytes.length / VALUE_BYTES_MAX));
    for (let piece = 0; piece < pieces; piece++) {
      const value = bytes.subarray(piece * VALUE_BYTES_MAX, (piece + 1) * VALUE_BYTES_MAX);
      await this.#buckets.run(() => kv.put(this.#keyOf(key, piece), value));
    }
    return pieces;
  }

  async #get(kv: KV, key: string, pieces: number): Promise<Uint8Array | undefined> {
    const values: Uint8Array[] = [];
    for (let piece = 0; piece < pieces; piece++) {
      const entry = await this.#buckets.run(() => kv.get(this.#keyOf(key, piece)));
      if (entry === null || entry.operation !== "PUT") return undefined;
      values.push(entry.value);
    }
    return decompress(Buffer.concat(values));
  }
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < items.length) await work(items[next++]!);
  };
  await Promise.all(Array.from({ length: Math.min(REQUESTS_AT_ONCE, items.length) }, worker));
}
