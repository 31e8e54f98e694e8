/**
 * What happens when every worker that could serve a request is at its limit: the request waits in a queue that is bounded,
 * fair between tenants and knows deadlines, or is refused at once with a true time to come back. A request waits for all of
 * its workers at the same time and takes the first slot that comes free.
 */
import { abortReason, type Call, RpcError } from "../../libs/rpc/index.ts";
import type { Candidate } from "./candidates.ts";
import type { Loads } from "./loads.ts";

/** The bounds of the queue, read whenever they are used. */
export interface QueueLimits {
  readonly size: number;
  readonly waitMaxMs: number;
}

interface Waiter {
  readonly tenant: string;
  readonly candidates: readonly Candidate[];
  grant(candidate: Candidate): void;
  refuse(error: RpcError): void;
  done: boolean;
}

/** Those who wait for one worker. */
interface Line {
  /** By tenant, the one whose turn is next first. */
  readonly tenants: Map<string, Waiter[]>;
  waiting: number;
  grantedAtMs: number;
}

const RETRY_AFTER_MIN_MS = 1_000;
const RETRY_AFTER_MAX_MS = 60_000;
/** How much the latest interval between two grants counts. */
const INTERVAL_WEIGHT = 0.1;
/** A pace that was measured longer ago says nothing: where it keeps everybody from waiting, it is never measured again. */
const PACE_AGE_MAX_MS = 60_000;

/** How a worker's queue moves. */
interface Pace {
  /** Between two grants while somebody waits, on average. */
  readonly intervalMs: number;
  readonly measuredAtMs: number;
}

export class Admission {
  readonly #loads: Loads;
  readonly #limits: () => QueueLimits;
  readonly #now: () => number;
  readonly #lines = new Map<string, Line>();
  readonly #waitingByTenant = new Map<string, number>();
  #waiting = 0;
  /** By worker, the one that was measured the longest time ago first. */
  readonly #paces = new Map<string, Pace>();

  constructor(options: { readonly loads: Loads; readonly limits: () => QueueLimits; readonly now: () => number }) {
    this.#loads = options.loads;
    this.#limits = options.limits;
    this.#now = options.now;
    options.loads.onRelease((worker) => this.#released(worker));
  }

  /** Requests that wait. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Whether a worker serves as many requests as it may, all routers taken together. */
  full({ worker, info, nodes }: Candidate): boolean {
    const { concurrentRequestsMax } = info;
    return concurrentRequestsMax > 0 && this.#loads.of(worker) >= concurrentRequestsMax * nodes.length;
  }

  /**
   * Waits until one of `candidates`, all of them full, has a free slot, and takes it: the load is counted already when the
   * promise resolves. Rejects with OVERLOADED when there is no room to wait, or it takes too long; with the reason of the
   * call's end when it ends.
   */
  wait(candidates: readonly Candidate[], call: Call): Promise<Candidate> {
    const { size, waitMaxMs } = this.#limits();
    const leftMs = Math.min(waitMaxMs, call.deadlineAtMs - Date.now());
    if (this.#waiting >= size && !this.#makeRoom(call.tenant, size)) {
      return Promise.reject(this.#refusal(candidates, "the queue for them is full"));
    }
    // Whoever would be served too late need not wait at all.
    if (this.#expectedMs(candidates) > leftMs) {
      return Promise.reject(this.#refusal(candidates, "the queue for them is longer than it may wait"));
    }
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        tenant: call.tenant,
        candidates,
        done: false,
        grant: (candidate) => {
          finish();
          resolve(candidate);
        },
        refuse: (error) => {
          finish();
          reject(error);
        },
      };
      const finish = (): void => {
        clearTimeout(timer);
        call.signal.removeEventListener("abort", onAbort);
        this.#leave(waiter);
      };
      const onAbort = (): void => waiter.refuse(abortReason(call.signal));
      const timer = setTimeout(
        () => waiter.refuse(this.#refusal(candidates, "it has waited for them as long as it may")),
        Math.max(leftMs, 1),
      );
      call.signal.addEventListener("abort", onAbort, { once: true });
      this.#enter(waiter);
    });
  }

  #enter(waiter: Waiter): void {
    this.#waiting++;
    this.#waitingByTenant.set(waiter.tenant, (this.#waitingByTenant.get(waiter.tenant) ?? 0) + 1);
    for (const worker of new Set(waiter.candidates.map((candidate) => candidate.worker))) {
      let line = this.#lines.get(worker);
      if (line === undefined) {
        line = { tenants: new Map(), waiting: 0, grantedAtMs: Number.NaN };
        this.#lines.set(worker, line);
      }
      line.waiting++;
      const own = line.tenants.get(waiter.tenant);
      if (own === undefined) line.tenants.set(waiter.tenant, [waiter]);
      else own.push(waiter);
    }
  }

  #leave(waiter: Waiter): void {
    waiter.done = true;
    this.#waiting--;
    const left = this.#waitingByTenant.get(waiter.tenant)! - 1;
    if (left === 0) this.#waitingByTenant.delete(waiter.tenant);
    else this.#waitingByTenant.set(waiter.tenant, left);
    for (const { worker } of waiter.candidates) {
      const line = this.#lines.get(worker);
      const own = line?.tenants.get(waiter.tenant);
      const position = own?.indexOf(waiter) ?? -1;
      if (line === undefined || own === undefined || position < 0) continue;
      own.splice(position, 1);
      line.waiting--;
      if (own.length === 0) line.tenants.delete(waiter.tenant);
      if (line.waiting === 0) this.#lines.delete(worker);
    }
  }

  /** Gives the slots of a worker that have come free to those who wait for it, one tenant after the other. */
  #released(worker: string): void {
    for (;;) {
      const line = this.#lines.get(worker);
      if (line === undefined) return;
      const [tenant, waiters] = line.tenants.entries().next().value!;
      const waiter = waiters[0]!;
      const candidate = waiter.candidates.find((possible) => possible.worker === worker)!;
      if (this.full(candidate)) return;
      // Whose turn it was comes last now.
      line.tenants.delete(tenant);
      line.tenants.set(tenant, waiters);
      this.#loads.begin(worker);
      this.#noteGrant(worker, line);
      waiter.grant(candidate);
    }
  }

  /** In a full queue the tenant that waits most makes room for one that waits for less. */
  #makeRoom(tenant: string, size: number): boolean {
    if (size === 0) return false;
    let [most, count] = ["", 0];
    for (const [other, waiting] of this.#waitingByTenant) if (waiting > count) [most, count] = [other, waiting];
    if (count <= (this.#waitingByTenant.get(tenant) ?? 0) + 1) return false;
    for (const line of this.#lines.values()) {
      const latest = line.tenants.get(most)?.at(-1);
      if (latest === undefined) continue;
      latest.refuse(this.#refusal(latest.candidates, "the queue for them is full"));
      return true;
    }
    return false;
  }

  #noteGrant(worker: string, line: Line): void {
    const nowMs = this.#now();
    const intervalMs = nowMs - line.grantedAtMs;
    line.grantedAtMs = nowMs;
    if (Number.isNaN(intervalMs)) return;
    for (const [known, { measuredAtMs }] of this.#paces) {
      if (nowMs - measuredAtMs <= PACE_AGE_MAX_MS) break;
      this.#paces.delete(known);
    }
    const before = this.#paces.get(worker)?.intervalMs ?? intervalMs;
    this.#paces.delete(worker);
    this.#paces.set(worker, {
      intervalMs: before + (intervalMs - before) * INTERVAL_WEIGHT,
      measuredAtMs: nowMs,
    });
  }

  /** How long one who joined the queue now would wait; 0 while that is not known. */
  #expectedMs(candidates: readonly Candidate[]): number {
    let shortestMs = Number.POSITIVE_INFINITY;
    const nowMs = this.#now();
    for (const { worker } of candidates) {
      const waiting = (this.#lines.get(worker)?.waiting ?? 0) + 1;
      const pace = this.#paces.get(worker);
      const isKnown = pace !== undefined && nowMs - pace.measuredAtMs <= PACE_AGE_MAX_MS;
      shortestMs = Math.min(shortestMs, isKnown ? pace.intervalMs * waiting : 0);
    }
    return shortestMs;
  }

  #refusal(candidates: readonly Candidate[], why: string): RpcError {
    const retryAfterMs = Math.min(Math.max(this.#expectedMs(candidates), RETRY_AFTER_MIN_MS), RETRY_AFTER_MAX_MS);
    const message = `every worker that could serve the request is at its limit, and ${why}`;
    return new RpcError("OVERLOADED", message, { retryAfterMs });
  }
}
