import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { NodeChanged, NodeChanged_Change, WorkerLoads } from "../gen/cortex/events/v1/events.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "../host/nats-server.ts";
import { createLogger, EVENT, NO_TRACE } from "../telemetry/index.ts";
import { type Following, joinMesh, type LoggedEvent, type LogPosition, type Mesh } from "./index.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });
const BYTES_MAX = 64 * 1024 * 1024;

let folder: string;
let server: NatsServer;
let mesh: Mesh;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-log-"));
  const bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: join(tmpdir(), "cortex-test-cache"),
    notify: console.error,
  });
  server = await startNatsServer({ bin, storeDir: join(folder, "data") });
  mesh = await joinMesh({
    natsUrl: server.url,
    node: { id: "here", name: "here", address: "127.0.0.1:1", services: [], interfaces: [], version: "1", zone: "" },
    load: () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] }),
    log,
    heartbeatMs: 200,
    expiryMs: 1_500,
  });
});

afterEach(async () => {
  await mesh.leave();
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

/** Somebody who reads the log. */
class Reading {
  readonly events: LoggedEvent[] = [];
  lost = 0;
  caughtUp = 0;
  position: LogPosition | undefined;
  readonly following: Following;

  constructor(after?: LogPosition) {
    this.following = mesh.eventLog.follow({
      bytesMax: BYTES_MAX,
      log,
      after,
      reader: {
        event: (event, position) => {
          this.events.push(event);
          this.position = position;
        },
        lost: (events) => {
          this.lost += events;
        },
        caughtUp: () => {
          this.caughtUp++;
        },
      },
    });
  }

  /** The nodes of the events that were published for a test. */
  get nodes(): string[] {
    return this.events.flatMap(({ subject, data }) => {
      const { node } = NodeChanged.decode(data);
      return subject === EVENT.nodeChanged && node.startsWith("n") ? [node] : [];
    });
  }

  async ready(): Promise<this> {
    await expect.poll(() => this.caughtUp).toBeGreaterThan(0);
    return this;
  }
}

function publish(...nodes: string[]): void {
  for (const node of nodes) {
    const event = { change: NodeChanged_Change.DRAINING, node, services: [] };
    mesh.events.publish(EVENT.nodeChanged, NodeChanged, event, NO_TRACE, { atOnce: true });
  }
}

const names = (count: number, from = 0) => Array.from({ length: count }, (_, index) => `n${from + index}`);

async function administer<T>(work: (manager: Awaited<ReturnType<typeof jetstreamManager>>) => Promise<T>): Promise<T> {
  const connection = await connect({ servers: server.url });
  try {
    return await work(await jetstreamManager(connection));
  } finally {
    await connection.close();
  }
}

describe("the log of events", () => {
  it("gives everybody the same events, with the same times and places, and nothing that is not to be kept", async () => {
    const early = await new Reading().ready();
    mesh.events.publish(EVENT.workerLoad, WorkerLoads, { node: "n-load", loads: [] }, NO_TRACE, { atOnce: true });
    publish(...names(500));
    await expect.poll(() => early.nodes).toEqual(names(500));
    const late = await new Reading().ready();
    await expect.poll(() => late.events).toEqual(early.events);
    expect(early.events.every(({ subject }) => subject === EVENT.nodeChanged)).toBe(true);
    const sequences = early.events.map(({ sequence }) => sequence);
    expect(sequences).toEqual(sequences.map((_, index) => index + 1));
    expect(early.events.every(({ atMs }) => Math.abs(Date.now() - atMs) < 60_000)).toBe(true);
    expect([early.lost, late.lost]).toEqual([0, 0]);
  });

  it("is read on from where somebody was", async () => {
    const first = await new Reading().ready();
    publish("n1", "n2");
    await expect.poll(() => first.nodes).toEqual(["n1", "n2"]);
    await first.following.stop();
    publish("n3", "n4");
    const second = new Reading(first.position);
    await expect.poll(() => second.nodes).toEqual(["n3", "n4"]);
    expect(first.nodes).toEqual(["n1", "n2"]);
    expect(second.lost).toBe(0);
  });

  it("goes on when NATS was away, with what was published meanwhile", async () => {
    const reading = await new Reading().ready();
    publish("n1");
    await expect.poll(() => reading.nodes).toEqual(["n1"]);
    const { port } = new URL(server.url);
    await server.stop();
    await expect.poll(() => mesh.connected).toBe(false);
    publish("n2");
    const bin = await resolveNatsServer({
      path: process.env["PATH"] ?? "",
      cacheDir: join(tmpdir(), "cortex-test-cache"),
      notify: console.error,
    });
    server = await startNatsServer({ bin, storeDir: join(folder, "data"), port: Number(port) });
    await expect.poll(() => mesh.connected).toBe(true);
    publish("n3");
    await expect.poll(() => reading.nodes).toEqual(["n1", "n2", "n3"]);
    expect(reading.lost).toBe(0);
  });

  it("is made anew when NATS has lost it, and read from its beginning", async () => {
    const reading = await new Reading().ready();
    publish("n1", "n2", "n3");
    await expect.poll(() => reading.nodes).toHaveLength(3);
    const { created } = reading.position!;
    await administer((manager) => manager.streams.delete("cortex_events"));
    // Until the reader has noticed, there is nothing to keep them.
    await expect
      .poll(() => administer((manager) => manager.streams.info("cortex_events").then(String, () => "none")))
      .not.toBe("none");
    publish("n4");
    await expect.poll(() => reading.nodes).toEqual(["n1", "n2", "n3", "n4"]);
    expect(reading.position).toMatchObject({ sequence: 1 });
    expect(reading.position!.created).not.toBe(created);
  });

  it("tells how many events were gone before they were read", async () => {
    const reading = await new Reading().ready();
    publish("n1");
    await expect.poll(() => reading.nodes).toEqual(["n1"]);
    await reading.following.stop();
    publish("n2", "n3", "n4", "n5");
    const { sequence } = reading.position!;
    await expect
      .poll(() => administer(async (manager) => (await manager.streams.info("cortex_events")).state.last_seq))
      .toBe(sequence + 4);
    await administer((manager) => manager.streams.purge("cortex_events", { seq: sequence + 4 }));
    const after = new Reading(reading.position);
    await expect.poll(() => after.nodes).toEqual(["n5"]);
    expect(after.lost).toBe(3);
    // What had its hour is not lost.
    const old = new Reading({ ...reading.position!, atMs: Date.now() - 3_700_000 });
    await expect.poll(() => old.nodes).toEqual(["n5"]);
    expect(old.lost).toBe(0);
  });

  it("is as large as NATS has room for", async () => {
    const following = mesh.eventLog.follow({
      bytesMax: 2 ** 50,
      log,
      reader: { event: () => {}, lost: () => {} },
    });
    const size = () => administer(async (manager) => (await manager.streams.info("cortex_events")).config.max_bytes);
    await expect.poll(() => size().catch(() => 0)).toBeGreaterThan(2 ** 24);
    await following.stop();
    // Asked for less, it is made smaller.
    await new Reading().ready();
    await expect.poll(size).toBe(BYTES_MAX);
  });
});

describe("what a service wants to have back", () => {
  it("comes back as it was saved last, whatever its size", async () => {
    const store = mesh.snapshots("test");
    expect(await store.load()).toBeUndefined();
    const large = Buffer.from(Array.from({ length: 1_500_000 }, () => Math.floor(Math.random() * 256)));
    await store.save({
      head: Buffer.from("1"),
      parts: new Map([
        ["a", Buffer.from("A")],
        ["gone.b", large],
      ]),
    });
    const parts = new Map([
      ["a", Buffer.from("A")],
      ["c d", large],
    ]);
    await store.save({ head: Buffer.from("2"), parts });
    const found = await mesh.snapshots("test").load();
    expect(Buffer.from(found!.head).toString()).toBe("2");
    expect([...found!.parts.keys()].sort()).toEqual(["a", "c d"]);
    expect(large.equals(found!.parts.get("c d")!)).toBe(true);
    expect(await mesh.snapshots("other").load()).toBeUndefined();
  });

  it("is there whole or not at all", async () => {
    const store = mesh.snapshots("test");
    await store.save({ head: Buffer.from("1"), parts: new Map([["a", Buffer.from("A")]]) });
    await administer((manager) =>
      manager.streams.purge("KV_cortex_snapshots", { filter: "$KV.cortex_snapshots.test.a.0" }),
    );
    expect(await mesh.snapshots("test").load()).toBeUndefined();
  });

  it("can't be asked for while NATS is away, and says so at once", async () => {
    const store = mesh.snapshots("test");
    await server.stop();
    await expect.poll(() => mesh.connected).toBe(false);
    await expect(store.load()).rejects.toThrow(/lost/);
    await expect(store.save({ head: Buffer.from("1"), parts: new Map() })).rejects.toThrow(/lost/);
  });
});
