/**
 * Makes the workers that run in a node the ones that should: starts, changes and stops them one by one, each without a request
 * that finds none.
 */
import { isDeepStrictEqual } from "node:util";
import type { KeyChange, Worker, WorkerChange, WorkerSettings } from "../adapter/index.ts";
import {
  WorkerChanged_Change as Change,
  KeyChanged,
  KeyChanged_Change,
  WorkerChanged,
} from "../gen/cortex/events/v1/events.ts";
import { HealthServiceDefinition } from "../gen/cortex/health/v1/health.ts";
import { Health, KeyState } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";
import { EVENT, NO_TRACE } from "../telemetry/index.ts";
import { type HealthCheckPace, HealthChecks } from "./health-checks.ts";
import type { Host } from "./host.ts";

/** How long a new worker's first answer is waited for before the worker is announced without. */
const FIRST_CHECK_MS = 1_000;
/** How long the others may take to hear that a worker leaves; until then it serves. */
const NOTICE_MS = 300;

const KEY_CHANGES: Readonly<Record<KeyState, KeyChanged_Change>> = {
  [KeyState.UNSPECIFIED]: KeyChanged_Change.UNSPECIFIED,
  [KeyState.AVAILABLE]: KeyChanged_Change.BACK,
  [KeyState.RESTING]: KeyChanged_Change.RESTED,
  [KeyState.OUT]: KeyChanged_Change.OUT,
};

/** A worker that should run. */
export interface WantedWorker {
  readonly settings: WorkerSettings;
  /** It was added at run time; otherwise it comes from the configuration. */
  readonly added: boolean;
}

interface Running {
  readonly worker: Worker;
  readonly checks: HealthChecks;
  wanted: WantedWorker;
  /** The others know that it is there. */
  told: boolean;
  /** The others have been told that it leaves. */
  leaving: boolean;
}

/** What should run under a name, and what does. */
interface Slot {
  readonly name: string;
  wanted: WantedWorker | undefined;
  running: Running | undefined;
  /** What could not be made: it is not tried again before it is another one. */
  refused: WantedWorker | undefined;
  settling: Promise<void> | undefined;
  /** Ends a wait early because something else is wanted. */
  hurry: (() => void) | undefined;
}

/** The workers of one provider in a node. */
export class RunningWorkers {
  readonly #host: Host;
  readonly #provider: string;
  readonly #create: (settings: WorkerSettings) => Worker;
  readonly #slots = new Map<string, Slot>();
  #drained: ReadonlySet<string> = new Set();
  #stopped = false;

  constructor(host: Host, provider: string, create: (settings: WorkerSettings) => Worker) {
    this.#host = host;
    this.#provider = provider;
    this.#create = create;
  }

  /** Whether a worker of this name that was added runs here. */
  runsAdded(name: string): boolean {
    return this.#slots.get(name)?.running?.wanted.added === true;
  }

  /** From now on these should run, by name, and no others. Resolves when the new ones are announced. */
  async want(wanted: ReadonlyMap<string, WantedWorker>): Promise<void> {
    if (this.#stopped) return;
    const names = new Set([...this.#slots.keys(), ...wanted.keys()]);
    await Promise.all([...names].map((name) => this.#wantOne(name, wanted.get(name))));
  }

  /** These are drained, of all workers of the mesh; to be called after each change of the directory. */
  drain(names: ReadonlySet<string>): void {
    if (names === this.#drained) return;
    const before = this.#drained;
    this.#drained = names;
    this.#host.workers.setDrained(names);
    for (const slot of this.#slots.values()) {
      if (before.has(slot.name) !== names.has(slot.name)) this.#announce(slot);
    }
  }

  /** Takes all of them back. They serve to the end what they have begun. */
  stop(): void {
    this.#stopped = true;
    for (const slot of this.#slots.values()) {
      slot.wanted = undefined;
      slot.hurry?.();
      this.#host.problem(problemName(slot.name), undefined);
      if (slot.running !== undefined && !slot.running.leaving) this.#takeLeave(slot, slot.running);
      this.#let(slot);
    }
    this.#slots.clear();
  }

  #wantOne(name: string, wanted: WantedWorker | undefined): Promise<void> {
    let slot = this.#slots.get(name);
    if (slot === undefined) {
      slot = { name, wanted, running: undefined, refused: undefined, settling: undefined, hurry: undefined };
      this.#slots.set(name, slot);
    }
    // Asked at each change of the directory: what is as it was has to be found out without comparing field by field.
    if (slot.wanted === wanted && slot.settling === undefined && this.#isSettled(slot)) return Promise.resolve();
    if (!isDeepStrictEqual(slot.wanted, wanted)) slot.hurry?.();
    slot.wanted = wanted;
    slot.settling ??= this.#settle(slot);
    return slot.settling;
  }

  async #settle(slot: Slot): Promise<void> {
    try {
      while (!this.#stopped && !this.#isSettled(slot)) {
        const { wanted, running } = slot;
        if (wanted === undefined) await this.#end(slot, running!);
        else if (running !== undefined && isDeepStrictEqual(running.wanted.settings, wanted.settings)) {
          this.#stay(slot, running, wanted);
        } else await this.#start(slot, wanted);
      }
    } finally {
      slot.settling = undefined;
    }
    if (slot.wanted === undefined) {
      this.#host.problem(problemName(slot.name), undefined);
      if (this.#slots.get(slot.name) === slot) this.#slots.delete(slot.name);
    }
  }

  #isSettled({ wanted, running, refused }: Slot): boolean {
    if (wanted === undefined) return running === undefined;
    if (running !== undefined && !running.leaving && isDeepStrictEqual(running.wanted, wanted)) {
      running.wanted = wanted;
      return true;
    }
    return isDeepStrictEqual(refused, wanted);
  }

  /** Makes a worker, and puts it in the place of the one that runs, if one does, once it knows how it is. */
  async #start(slot: Slot, wanted: WantedWorker): Promise<void> {
    const host = this.#host;
    const { name } = slot;
    let worker: Worker;
    try {
      worker = this.#create(wanted.settings);
    } catch (thrown) {
      slot.refused = wanted;
      const { message } = RpcError.from(thrown);
      host.problem(problemName(name), `worker ${name} can't run as it should: ${message}`);
      host.log.error({ err: thrown, worker: name }, "a worker can't be made of its settings");
      return;
    }
    slot.refused = undefined;
    host.problem(problemName(name), undefined);
    const pace: HealthCheckPace = {
      intervalMs: () => host.configuration.health.intervalMs,
      isWatched: () => host.mesh.directory.nodesServing(HealthServiceDefinition.fullName).length > 0,
    };
    const checks = new HealthChecks(worker, pace, host.log, () => this.#announceIf(slot, worker));
    worker.onChange((change) => this.#changed(slot, worker, change));
    host.run(`health checks of ${name}`, (signal) => checks.run(signal));
    const before = slot.running;
    // The one that runs serves until the new one has been asked; without one, announcing can't wait for who does not answer.
    await (before === undefined ? within(checks.first, FIRST_CHECK_MS) : checks.first);
    if (this.#stopped || !isDeepStrictEqual(slot.wanted?.settings, wanted.settings)) {
      checks.stop();
      await worker.close();
      return;
    }
    before?.checks.stop();
    slot.running = { worker, checks, wanted: slot.wanted!, told: false, leaving: false };
    host.workers.replace(worker).catch((error: unknown) => {
      host.log.error({ err: error, worker: name }, "a worker did not end well");
    });
    slot.running.told = before?.told ?? false;
    this.#announce(slot, before?.told === true ? Change.REPLACED : undefined);
  }

  /** What runs is what should run, or is so again. */
  #stay(slot: Slot, running: Running, wanted: WantedWorker): void {
    const left = running.leaving;
    running.wanted = wanted;
    running.leaving = false;
    slot.refused = undefined;
    this.#host.problem(problemName(slot.name), undefined);
    this.#announce(slot, left ? Change.STARTED : undefined);
  }

  async #end(slot: Slot, running: Running): Promise<void> {
    this.#host.problem(problemName(slot.name), undefined);
    if (!running.leaving) {
      this.#takeLeave(slot, running);
      if (this.#host.mesh.directory.nodes().length > 1) await this.#notice(slot);
      if (slot.wanted !== undefined || this.#stopped) return;
    }
    this.#let(slot);
  }

  /** Tells the others that a worker leaves. */
  #takeLeave(slot: Slot, running: Running): void {
    running.leaving = true;
    if (!this.#isInPlace(running) || !running.told) return;
    this.#host.mesh.withdrawWorker(slot.name);
    this.#publish(running.worker, Change.STOPPED);
  }

  #let(slot: Slot): void {
    const { running } = slot;
    slot.running = undefined;
    if (running === undefined) return;
    running.checks.stop();
    if (!this.#isInPlace(running)) return;
    this.#host.workers.retire(slot.name).catch((error: unknown) => {
      this.#host.log.error({ err: error, worker: slot.name }, "a worker did not end well");
    });
  }

  #notice(slot: Slot): Promise<void> {
    return new Promise((resolve) => {
      slot.hurry = () => {
        clearTimeout(timer);
        slot.hurry = undefined;
        resolve();
      };
      const timer = setTimeout(slot.hurry, NOTICE_MS).unref();
    });
  }

  /** Whether nobody has taken the worker's place: its name may belong to another provider by now. */
  #isInPlace({ worker }: Running): boolean {
    return this.#host.workers.workers().includes(worker);
  }

  #changed(slot: Slot, worker: Worker, change: WorkerChange): void {
    if (slot.running?.worker !== worker) return;
    this.#announce(slot, typeof change === "string" ? CHANGES[change] : undefined);
    if (typeof change === "object") this.#publishKey(worker.name, change);
    if (change === "health") slot.running.checks.changed();
  }

  #announceIf(slot: Slot, worker: Worker): void {
    if (slot.running?.worker === worker) this.#announce(slot);
  }

  /** Tells how the worker is, and what has happened to it. */
  #announce({ name, running }: Slot, change?: Change): void {
    if (running === undefined || running.leaving) return;
    const info = this.#host.workers.info(name);
    if (info === undefined) return;
    const isAbsent = info.health !== Health.AVAILABLE && info.health !== Health.BUSY;
    if (!running.told && running.wanted.settings.assumed === true && isAbsent) return;
    this.#host.mesh.announceWorker(info, { added: running.wanted.added });
    if (!running.told) this.#publish(running.worker, Change.STARTED);
    else if (change !== undefined) this.#publish(running.worker, change);
    running.told = true;
  }

  #publish(worker: Worker, change: Change): void {
    const { mesh, nodeId } = this.#host;
    mesh.events.publish(EVENT.workerChanged, WorkerChanged, { change, node: nodeId, info: worker.info() }, NO_TRACE);
  }

  #publishKey(worker: string, { fingerprint, state, reason, restingUntilMs }: KeyChange): void {
    const { mesh, nodeId } = this.#host;
    const event: KeyChanged = {
      change: KEY_CHANGES[state],
      node: nodeId,
      worker,
      provider: this.#provider,
      fingerprint,
      reason: reason ?? "",
      restingUntilMs,
    };
    mesh.events.publish(EVENT.keyChanged, KeyChanged, event, NO_TRACE);
  }
}

/** What others are told of a change; who asks for the models finds them in the directory. */
const CHANGES: Partial<Record<Extract<WorkerChange, string>, Change>> = {
  breaker: Change.BREAKER,
  health: Change.HEALTH,
};

function problemName(worker: string): string {
  return `worker ${worker}`;
}

/** Resolves when `promise` does, and after `ms` at the latest. */
async function within(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
