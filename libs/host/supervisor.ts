/**
 * Runs the services of a node and looks after them: one that crashes is restarted alone, after a pause that grows while it goes
 * on crashing, and the others never notice.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { Logger } from "../telemetry/index.ts";
import { type Host, type RunningService, type ServiceEntry, StartError } from "./host.ts";

/** Before the first restart; doubled with each crash, up to the greatest. */
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 30_000;
/** A service that has run so long without a crash begins anew with the shortest pause. */
const HEALTHY_MS = 60_000;

/** A service that has crashed, or runs again. */
export interface ServiceChange {
  readonly service: string;
  readonly change: "crashed" | "restarted";
  /** What it threw; absent when it runs again. */
  readonly error?: unknown;
}

export interface SupervisorOptions {
  readonly log: Logger;
  /** The node as one service sees it, for one life of it. */
  readonly hostFor: (life: ServiceLife) => Host;
  readonly onChange: (change: ServiceChange) => void;
  /** How long what a crashed service serves may go on before it is cut off. */
  readonly drainMs: () => number;
  /** From 0 to below 1; Math.random when absent. */
  readonly random?: () => number;
}

/** A service from its start to its stop, its crash, or the end of the node. */
export interface ServiceLife {
  readonly service: string;
  /** Aborted when it is over. */
  readonly signal: AbortSignal;
  /** Runs a function as this service's: what it leaves behind, and throws later, is the service's. */
  within<A extends unknown[], T>(work: (...args: A) => T, ...args: A): T;
  /** As `Host.run`. */
  run(name: string, loop: (signal: AbortSignal) => Promise<void>): void;
  /** To be done when it is over, whether by a crash or not. */
  finally(undo: () => void): void;
  /** Ends it as a crash. */
  crash(error: unknown): void;
}

/** Which life of which service the code belongs to that runs now. */
const lives = new AsyncLocalStorage<Life>();

class Life implements ServiceLife {
  readonly service: string;
  readonly supervisor: Supervisor;
  /** Resolves with what it threw when it crashes; when it is stopped, with undefined. */
  readonly over: Promise<{ readonly error: unknown } | undefined>;
  readonly #abort = new AbortController();
  readonly #log: Logger;
  readonly #undo: (() => void)[] = [];
  #end!: (crash: { readonly error: unknown } | undefined) => void;

  constructor(service: string, supervisor: Supervisor, log: Logger) {
    this.service = service;
    this.supervisor = supervisor;
    this.#log = log;
    this.over = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  within<A extends unknown[], T>(work: (...args: A) => T, ...args: A): T {
    return lives.run(this, work, ...args);
  }

  run(name: string, loop: (signal: AbortSignal) => Promise<void>): void {
    const { signal } = this;
    if (signal.aborted) return;
    this.within(async () => {
      try {
        await loop(signal);
      } catch (error) {
        // What a loop throws when it is told to stop is the way that it stops.
        if (!signal.aborted) this.crash(new Error(`${name} of ${this.service} ended`, { cause: error }));
      }
    });
  }

  finally(undo: () => void): void {
    if (this.signal.aborted) undo();
    else this.#undo.push(undo);
  }

  crash(error: unknown): void {
    this.#finish({ error });
  }

  stop(): void {
    this.#finish(undefined);
  }

  #finish(crash: { readonly error: unknown } | undefined): void {
    if (this.signal.aborted) return;
    this.#abort.abort();
    for (const undo of this.#undo.splice(0).reverse()) {
      try {
        undo();
      } catch (error) {
        this.#log.warn({ err: error, service: this.service }, "something of a service did not end well");
      }
    }
    this.#end(crash);
  }
}

/** One service through all its lives. */
interface Supervised {
  readonly entry: ServiceEntry;
  life: Life | undefined;
  running: RunningService | undefined;
  /** What ran last: one that is started again may take up where that ended. */
  before: RunningService | undefined;
  crashes: number;
  /** It does not run now. */
  down: boolean;
}

/** The services of a node. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  #services: Supervised[] = [];
  #stopped = false;
  /** Ends the pauses between a crash and a restart. */
  readonly #stopping = new AbortController();
  /** Services that have crashed and are being let go of. */
  readonly #leaving = new Set<Promise<void>>();

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  /**
   * Starts services side by side; resolves when each runs, or has crashed and is going to be tried again. Rejects when one of
   * them has something to tell the person who starts the node (StartError); `stop` then ends the others.
   */
  async start(entries: readonly ServiceEntry[]): Promise<void> {
    this.#services = entries.map((entry) => ({
      entry,
      life: undefined,
      running: undefined,
      before: undefined,
      crashes: 0,
      down: false,
    }));
    const started = await Promise.allSettled(this.#services.map((service) => this.#startFirst(service)));
    const failed = started.find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  /** The services that run now. */
  running(): RunningService[] {
    return this.#services.flatMap(({ running }) => (running === undefined ? [] : [running]));
  }

  /** Which services do not run now, in a sentence each. */
  problems(): string[] {
    return this.#services.flatMap(({ entry, down }) =>
      down ? [`service ${entry.name} has crashed and is being restarted; the log says why`] : [],
    );
  }

  /** Something was thrown that nobody has caught. True when it is a service's of this node, which is then restarted. */
  uncaught(error: unknown): boolean {
    const life = lives.getStore();
    if (life?.supervisor !== this || this.#stopped) return false;
    // What an earlier life has left behind says nothing about this one.
    if (life.signal.aborted)
      this.#options.log.warn({ err: error, service: life.service }, "a service that has ended failed");
    else life.crash(error);
    return true;
  }

  /** No service takes anything new from outside; resolves when what they have from outside has ended. */
  async drain(): Promise<void> {
    this.#stopped = true;
    this.#stopping.abort();
    await Promise.all([...this.#leaving, ...this.running().map((service) => service.drain?.())]);
  }

  /** Ends every service. What does not end well is logged. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stopping.abort();
    for (const service of [...this.#services].reverse()) {
      const { running } = service;
      service.running = undefined;
      service.life?.stop();
      await this.#release(service.entry.name, running);
    }
  }

  async #startFirst(service: Supervised): Promise<void> {
    const life = this.#begin(service);
    try {
      await this.#startOnce(service, life);
    } catch (error) {
      life.crash(error);
      if (error instanceof StartError || this.#stopped) throw error;
    }
    void this.#supervise(service, life);
  }

  #begin(service: Supervised): Life {
    service.life = new Life(service.entry.name, this, this.#options.log);
    return service.life;
  }

  async #startOnce(service: Supervised, life: Life): Promise<void> {
    const { entry, before } = service;
    const running = await life.within(entry.start, this.#options.hostFor(life), before);
    if (this.#stopped) {
      await this.#release(entry.name, running);
      return;
    }
    service.running = running;
    if (!life.signal.aborted) service.down = false;
  }

  async #supervise(service: Supervised, first: Life): Promise<void> {
    const { log, onChange, random = Math.random } = this.#options;
    const { name } = service.entry;
    let life = first;
    for (;;) {
      const begunAtMs = performance.now();
      const crash = await life.over;
      if (crash === undefined || this.#stopped) return;
      const { error } = crash;
      service.crashes = performance.now() - begunAtMs >= HEALTHY_MS ? 1 : service.crashes + 1;
      service.down = true;
      this.#letGo(service);
      const pauseMs = Math.min(PAUSE_MIN_MS * 2 ** (service.crashes - 1), PAUSE_MAX_MS) * (0.75 + 0.5 * random());
      log.error(
        { err: error, service: name, restart_ms: Math.round(pauseMs) },
        "a service has crashed and is restarted alone",
      );
      onChange({ service: name, change: "crashed", error });
      if (!(await pause(pauseMs, this.#stopping.signal))) return;
      life = this.#begin(service);
      try {
        await this.#startOnce(service, life);
      } catch (thrown) {
        life.crash(thrown);
        continue;
      }
      if (life.signal.aborted) continue;
      log.info({ service: name }, "a service that had crashed runs again");
      onChange({ service: name, change: "restarted" });
    }
  }

  /** What a crashed service serves ends whole, if it can, beside its successor. */
  #letGo(service: Supervised): void {
    const { running, entry } = service;
    service.running = undefined;
    if (running === undefined) return;
    service.before = running;
    const leaving = this.#leave(entry.name, running).finally(() => this.#leaving.delete(leaving));
    this.#leaving.add(leaving);
  }

  async #leave(name: string, running: RunningService): Promise<void> {
    if (running.drain !== undefined) {
      const drained = running.drain().catch((error: unknown) => {
        this.#options.log.warn({ err: error, service: name }, "a service did not end well");
      });
      await Promise.race([drained, pause(this.#options.drainMs(), this.#stopping.signal)]);
    }
    await this.#release(name, running);
  }

  async #release(name: string, running: RunningService | undefined): Promise<void> {
    try {
      await running?.stop?.();
    } catch (error) {
      this.#options.log.warn({ err: error, service: name }, "a service did not end well");
    }
  }
}

/** Whether the time has passed; false when `signal` was aborted before. */
function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (passed: boolean): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      resolve(passed);
    };
    const onAbort = (): void => end(false);
    const timer = setTimeout(end, ms, true);
    if (signal.aborted) end(false);
    else signal.addEventListener("abort", onAbort);
  });
}
