/** The metrics service: what the last hour has come to, and how everything is now. */
import { MetricsServiceDefinition } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import type { Host, RunningService, ServiceEntry } from "../../libs/host/index.ts";
import { Board } from "./board.ts";
import { Happenings } from "./happenings.ts";
import { Memory } from "./memory.ts";
import { MeshState } from "./mesh-state.ts";
import { Recorder } from "./recorder.ts";
import { MetricsAnswers } from "./service.ts";

/** Answers the MetricsService. */
export const metrics: ServiceEntry = { name: "metrics", interfaces: [MetricsServiceDefinition], start };

/** How often what is known is kept. */
const SAVE_MS = 30_000;
/** How often it is noted how much was counted, for rates. */
const SAMPLE_MS = 250;
/** How long it may take at the end. */
const LAST_SAVE_MS = 1_500;
/** What belongs to the replica that keeps what all of them know. */
const SNAPSHOT_KEY = "snapshot";

async function start(host: Host): Promise<RunningService> {
  const { mesh, clients, workers, log, nodeId } = host;
  const settings = host.configuration.metrics;
  if (!settings.enabled) return {};
  const now = () => Date.now();
  const memory = new Memory({ bytesMax: settings.memoryBytesMax });
  const happenings = new Happenings((id) => mesh.directory.node(id)?.name || id);
  const recorder = new Recorder({
    memory,
    happenings,
    mesh,
    log,
    now,
    eventsBytesMax: settings.eventsBytesMax,
    problem: (sentence) => host.problem("events", sentence),
  });
  const state = new MeshState({
    mesh,
    clients,
    workers,
    now,
    onLost: (name, lost) => happenings.nodeLost(name, lost, now()),
    onBack: (name) => happenings.nodeBack(name, now()),
  });
  const board = new Board({
    memory,
    state,
    happenings,
    now,
    totals: () => ({ ...recorder.totals }),
    eventsLost: () => recorder.lost,
  });
  const answers = new MetricsAnswers({ memory, board, now, eventsLost: () => recorder.lost });
  try {
    await recorder.start();
  } catch (error) {
    state.stop();
    await recorder.stop();
    throw error;
  }
  host.serve(MetricsServiceDefinition, answers);
  host.run("sampling", async (signal) => {
    while (await pause(SAMPLE_MS, signal)) board.sample();
  });
  host.run("keeping what is known", async (signal) => {
    while (await pause(SAVE_MS, signal)) {
      if (clients.ownerOf(MetricsServiceDefinition, SNAPSHOT_KEY) === nodeId) await save();
    }
  });

  /** NATS may be away, or full: the next one will do. */
  async function save(): Promise<void> {
    try {
      await recorder.save();
    } catch (error) {
      log.debug({ err: error }, "what the metrics service knows could not be kept; it is tried again");
    }
  }

  return {
    drain: async () => answers.close(),
    async stop() {
      answers.close();
      state.stop();
      await recorder.stop();
      const owner = clients.ownerOf(MetricsServiceDefinition, SNAPSHOT_KEY);
      // A node that drains owns nothing any more; without another one, nobody else does it.
      if (owner === undefined || owner === nodeId) await Promise.race([save(), pause(LAST_SAVE_MS)]);
    },
  };
}

/** Whether the time has passed; false when `signal` was aborted before. */
function pause(ms: number, signal?: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve(signal?.aborted !== true);
    };
    const timer = setTimeout(end, ms).unref();
    signal?.addEventListener("abort", end);
    if (signal?.aborted === true) end();
  });
}
