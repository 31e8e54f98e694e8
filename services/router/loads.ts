/** How many requests each worker serves now in the whole mesh, as far as this router can know. */
import type { WorkerLoads } from "../../libs/gen/cortex/events/v1/events.ts";

/** What one node has said of one worker. */
interface Report {
  readonly load: WorkerLoad;
  /** Requests that it serves. */
  active: number;
  /** Attempts of this router that ran when it was said, whichever node served them. */
  ownThen: number;
}

/** As long as nodes take to tell of a change, about. */
const REFUSAL_PAUSE_MS = 60;

interface WorkerLoad {
  /** Attempts of this router that run now. */
  own: number;
  /** How many nodes have reported, and the sums of what they have reported. */
  reports: number;
  active: number;
  ownThen: number;
}

/**
 * Requests in flight per worker, all routers together: what the nodes that run it reported last, and what this router has begun
 * and ended since. So routers that share workers agree within the age of a report, and none of them is blind to what it has
 * done a moment ago. Without reports it counts its own attempts.
 */
export class Loads {
  readonly #workers = new Map<string, WorkerLoad>();
  /** By node, then by worker. */
  readonly #nodes = new Map<string, Map<string, Report>>();
  readonly #listeners = new Set<(worker: string) => void>();
  /** Workers that have refused somebody a moment ago. */
  readonly #refused = new Set<string>();

  /** An attempt of this router begins. */
  begin(worker: string): void {
    this.#workerLoad(worker).own += 1;
  }

  /** It has ended. */
  end(worker: string): void {
    const load = this.#workers.get(worker);
    if (load === undefined || load.own === 0) return;
    load.own -= 1;
    this.#tidy(worker, load);
    this.#released(worker);
  }

  /**
   * It has ended as the worker is full: it was never one of those that the worker serves. A report that came meanwhile has not
   * counted it, so its end leaves no room; and one that says who was faster is on its way, so nobody is sent after it for a moment.
   */
  refused(worker: string): void {
    const load = this.#workers.get(worker);
    if (load === undefined || load.own === 0) return;
    load.own -= 1;
    for (const reports of this.#nodes.values()) {
      const report = reports.get(worker);
      if (report === undefined || report.ownThen <= load.own) continue;
      load.ownThen -= report.ownThen - load.own;
      report.ownThen = load.own;
    }
    this.#tidy(worker, load);
    if (this.#refused.has(worker)) return;
    this.#refused.add(worker);
    const tell = (): void => {
      this.#refused.delete(worker);
      this.#released(worker);
    };
    setTimeout(tell, REFUSAL_PAUSE_MS).unref();
  }

  /** What a node says of its workers. Of those that it does not name, it says that they are as it said before. */
  report({ node, loads }: WorkerLoads): void {
    let reports = this.#nodes.get(node);
    if (reports === undefined) {
      reports = new Map();
      this.#nodes.set(node, reports);
    }
    const said = new Map<string, number>();
    for (const { worker, activeRequests } of loads) {
      if (!reports.has(worker)) {
        const load = this.#workerLoad(worker);
        load.reports += 1;
        reports.set(worker, { load, active: 0, ownThen: 0 });
      }
      said.set(worker, activeRequests);
    }
    // Of a worker that it does not name it says that the sum is the same: others may have begun what this router has ended.
    for (const [worker, report] of reports) this.#renew(worker, report, said.get(worker) ?? report.active);
  }

  /** The node has left: what it said counts no longer. */
  forget(node: string): void {
    const reports = this.#nodes.get(node);
    if (reports === undefined) return;
    this.#nodes.delete(node);
    for (const [worker, report] of reports) {
      const { load } = report;
      load.reports -= 1;
      load.active -= report.active;
      load.ownThen -= report.ownThen;
      this.#tidy(worker, load);
      this.#released(worker);
    }
  }

  /** Requests that the worker serves now; never fewer than this router's own. */
  of(worker: string): number {
    const load = this.#workers.get(worker);
    return load === undefined ? 0 : total(load);
  }

  /** Requests that the worker serves on one node, as that node has said; undefined when it has said nothing yet. */
  at(node: string, worker: string): number | undefined {
    const reports = this.#nodes.get(node);
    return reports === undefined ? undefined : (reports.get(worker)?.active ?? 0);
  }

  /** Tells when a worker may have room again. Returns a function that stops it. */
  onRelease(listener: (worker: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #workerLoad(worker: string): WorkerLoad {
    let load = this.#workers.get(worker);
    if (load === undefined) {
      load = { own: 0, reports: 0, active: 0, ownThen: 0 };
      this.#workers.set(worker, load);
    }
    return load;
  }

  /** An idle worker needs no entry, so that workers that are gone leave nothing behind. */
  #tidy(worker: string, { own, active }: WorkerLoad): void {
    if (own !== 0 || active !== 0) return;
    this.#workers.delete(worker);
    for (const reports of this.#nodes.values()) reports.delete(worker);
  }

  /** The report holds as of now. */
  #renew(worker: string, report: Report, active: number): void {
    const { load } = report;
    const before = total(load);
    load.active += active - report.active;
    load.ownThen += load.own - report.ownThen;
    report.active = active;
    report.ownThen = load.own;
    const freed = total(load) < before;
    this.#tidy(worker, load);
    if (freed) this.#released(worker);
  }

  #released(worker: string): void {
    for (const listener of this.#listeners) listener(worker);
  }
}

function total({ own, reports, active, ownThen }: WorkerLoad): number {
  if (reports === 0) return own;
  // Which of its nodes serves an attempt is not counted: each is taken to have had its share of the change.
  const since = own - (reports === 1 ? ownThen : Math.round(ownThen / reports));
  return Math.max(own, active + since);
}
