/**
 * What has happened during the last hour, in steps of time: 10 s each for the last 10 minutes, 60 s before that. A step that is over
 * stays encoded, a few bytes for each name, and is read again when somebody asks.
 *
 * Everything in here follows from what routers have told and its order alone, never from this machine's clock: all replicas hold the same.
 */
import { Step } from "../../libs/gen/cortex/metrics/v1/memory.ts";
import { Dimension } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { DIMENSIONS, type EncodedTraffic, NAME_CHARACTERS_MAX, Tally, Traffic } from "../../libs/tally/index.ts";
import { OTHER } from "../../libs/telemetry/index.ts";

/** How far back it goes. */
export const MEMORY_MS = 3_600_000;
export const FINE_STEP_MS = 10_000;
export const COARSE_STEP_MS = 60_000;
/** For how long steps are fine. */
export const FINE_MS = 600_000;
/** How many names of each dimension are told apart. */
const NAMES_MAX: Readonly<Record<Dimension, number>> = {
  [Dimension.UNSPECIFIED]: 0,
  [Dimension.WORKER]: 2_000,
  [Dimension.PROVIDER]: 500,
  [Dimension.MODEL]: 500,
  [Dimension.TENANT]: 500,
  [Dimension.STRATEGY]: 500,
};
const BYTES_MAX = 256 * 1024 * 1024;
/** Steps are not put together beyond this, however large they are. */
const STEPS_MIN = 12;
/** What is kept of a step besides its bytes, about. */
const STEP_OVERHEAD_BYTES = 2_000;
/** A clock that goes back by more than this has been set: what it said before can't be put in order with what it says now. */
const CLOCK_BACK_MS = 60_000;

/** A step that is over. */
interface SealedStep {
  readonly startMs: number;
  readonly endMs: number;
  /** The encoded Step, in pieces that are one themselves: first the total, then the tallies of each dimension. */
  readonly total: Uint8Array;
  readonly tallies: ReadonlyMap<Dimension, Uint8Array>;
  readonly bytes: number;
}

/** What was added up over a window. */
export interface Window {
  /** When its first step begins. */
  readonly fromMs: number;
  readonly total: Tally;
  readonly by: ReadonlyMap<Dimension, ReadonlyMap<string, Tally>>;
}

/** What happened in one step. */
export interface HistoryStep {
  readonly startMs: number;
  readonly endMs: number;
  readonly tally: Tally;
}

export interface MemoryOptions {
  /** How many bytes the steps that are over may take; beyond it, steps are put together, the older the longer. 256 MB when absent. */
  readonly bytesMax?: number;
  /** How many names of each dimension are told apart; 2,000 workers and 500 of each other when absent. */
  readonly namesMax?: Readonly<Record<Dimension, number>>;
}

/** The last hour. */
export class Memory {
  readonly #bytesMax: number;
  readonly #namesMax: Readonly<Record<Dimension, number>>;
  /** Oldest first. */
  #sealed: SealedStep[] = [];
  #bytes = 0;
  #open: OpenStep | undefined;
  /** When each name was last seen: the start of that step. */
  readonly #names = new Map<Dimension, Map<string, number>>(DIMENSIONS.map((dimension) => [dimension, new Map()]));
  #generation = 0;
  /** The minute that is to be one step next, put together. */
  #prepared: { readonly steps: readonly SealedStep[]; readonly joined: SealedStep } | undefined;
  #preparing = false;

  constructor({ bytesMax = BYTES_MAX, namesMax = NAMES_MAX }: MemoryOptions = {}) {
    this.#bytesMax = bytesMax;
    this.#namesMax = namesMax;
  }

  /** Another one whenever a step is over. */
  get generation(): number {
    return this.#generation;
  }

  /** What the steps that are over take, about. */
  get bytes(): number {
    return this.#bytes + this.#sealed.length * STEP_OVERHEAD_BYTES;
  }

  /** How many steps there are. */
  get steps(): number {
    return this.#sealed.length + (this.#open === undefined ? 0 : 1);
  }

  /** Adds what a router has counted until about then. */
  add({ total, tallies }: EncodedTraffic, atMs: number): void {
    const step = this.#stepOf(atMs);
    step.total.merge(total);
    for (const { dimension, name, tally } of tallies) this.#tally(step, dimension, name)?.merge(tally);
  }

  /**
   * Adds up all steps since then. It takes its time and lets others run in between; what is counted meanwhile is not part of it.
   */
  async window(sinceMs: number, dimensions: readonly Dimension[]): Promise<Window> {
    const open = this.#openSince(sinceMs);
    const traffic = new Traffic(dimensions);
    // At the end, so that sums of the same are the same; but as it is now.
    const current = open?.encode();
    const fromMs = this.#since(sinceMs)[0]?.startMs ?? open?.startMs ?? Number.POSITIVE_INFINITY;
    await this.#addPast(traffic, sinceMs);
    if (current !== undefined) traffic.merge(current);
    return { fromMs: Math.min(fromMs, floor(sinceMs, FINE_STEP_MS)), total: traffic.total, by: traffic.by };
  }

  /** The same without the step that is not over; with {@link current} it is the whole window, until `generation` changes. */
  async past(
    sinceMs: number,
    dimensions: readonly Dimension[],
  ): Promise<ReadonlyMap<Dimension, ReadonlyMap<string, Tally>>> {
    const traffic = new Traffic(dimensions);
    await this.#addPast(traffic, sinceMs);
    return traffic.by;
  }

  /** What is counted in the step that is not over. */
  current(sinceMs: number, dimension: Dimension): ReadonlyMap<string, Tally> {
    return this.#openSince(sinceMs)?.by.get(dimension) ?? NO_NAMES;
  }

  /** The window of all requests, at once. */
  total(sinceMs: number): Tally {
    const total = new Tally();
    for (const step of this.#since(sinceMs)) total.merge(Step.decode(step.total).total);
    total.absorb(this.#openSince(sinceMs)?.total);
    return total;
  }

  /** Every step since then, oldest first: of all requests, or of a tenant's. */
  history(sinceMs: number, tenant?: string): HistoryStep[] {
    const sealed = this.#since(sinceMs).map(({ startMs, endMs, total, tallies }) => {
      const tally = new Tally();
      if (tenant === undefined) tally.merge(Step.decode(total).total);
      else {
        const { tallies: found } = Step.decode(tallies.get(Dimension.TENANT) ?? NO_BYTES);
        tally.merge(found.find(({ name }) => name === tenant)?.tally);
      }
      return { startMs, endMs, tally };
    });
    const open = this.#openSince(sinceMs);
    if (open === undefined) return sealed;
    const tally = new Tally();
    tally.absorb(tenant === undefined ? open.total : open.by.get(Dimension.TENANT)!.get(tenant));
    return [...sealed, { startMs: open.startMs, endMs: open.endMs, tally }];
  }

  /**
   * All of it that is younger than an hour, for another replica or another life: the steps that are over by a name that tells what
   * is in them, and the open one.
   */
  save(nowMs: number): { readonly sealed: ReadonlyMap<string, Uint8Array>; readonly open: Step | undefined } {
    const sealed = this.#since(nowMs - MEMORY_MS).map((step) => {
      const { startMs, endMs, total, tallies } = step;
      return [`${startMs}-${endMs}`, Buffer.concat([total, ...tallies.values()])] as const;
    });
    return { sealed: new Map(sealed), open: this.#open?.encode() };
  }

  /** Takes over what was saved, in the place of everything that was there. */
  restore(sealed: Iterable<Uint8Array>, open: Step | undefined): void {
    this.#clear();
    const steps = [...sealed].map((bytes) => Step.decode(bytes)).sort((a, b) => a.startMs - b.startMs);
    for (const step of steps) {
      this.#push(seal(step));
      this.#remember(step);
    }
    if (open === undefined) return;
    this.#open = OpenStep.decode(open);
    this.#remember(open);
  }

  #remember({ endMs, tallies }: Step): void {
    const lastMs = endMs - FINE_STEP_MS;
    for (const { dimension, name } of tallies) {
      const names = this.#names.get(dimension);
      if (names !== undefined && name !== OTHER) names.set(name, Math.max(names.get(name) ?? 0, lastMs));
    }
  }

  #clear(): void {
    this.#sealed = [];
    this.#bytes = 0;
    this.#open = undefined;
    this.#prepared = undefined;
    for (const names of this.#names.values()) names.clear();
    this.#generation++;
  }

  #since(sinceMs: number): SealedStep[] {
    return this.#sealed.filter(({ endMs }) => endMs > sinceMs);
  }

  #openSince(sinceMs: number): OpenStep | undefined {
    return this.#open !== undefined && this.#open.endMs > sinceMs ? this.#open : undefined;
  }

  async #addPast(traffic: Traffic, sinceMs: number): Promise<void> {
    let pauseAtMs = performance.now() + TURN_MS;
    for (const step of this.#since(sinceMs)) {
      addSealed(traffic, step);
      if (performance.now() < pauseAtMs) continue;
      await new Promise((resolve) => setImmediate(resolve));
      pauseAtMs = performance.now() + TURN_MS;
    }
  }

  #stepOf(atMs: number): OpenStep {
    if (this.#open !== undefined) {
      if (atMs < this.#open.startMs - CLOCK_BACK_MS) this.#clear();
      else if (atMs < this.#open.endMs) return this.#open;
      else this.#seal(this.#open, atMs);
    }
    this.#open = new OpenStep(floor(atMs, FINE_STEP_MS));
    return this.#open;
  }

  /** Undefined for a dimension that only later versions know. */
  #tally(step: OpenStep, dimension: Dimension, longName: string): Tally | undefined {
    const known = step.by.get(dimension)?.get(longName);
    if (known !== undefined) return known;
    if (!this.#names.has(dimension)) return undefined;
    return step.of(dimension, this.#admit(dimension, longName.slice(0, NAME_CHARACTERS_MAX), step.startMs));
  }

  #admit(dimension: Dimension, name: string, startMs: number): string {
    if (name === OTHER) return OTHER;
    const names = this.#names.get(dimension)!;
    if (!names.has(name) && names.size >= this.#namesMax[dimension]) return OTHER;
    names.set(name, startMs);
    return name;
  }

  /** Ends the step that was open; with it, what is too old is forgotten, and what is no longer new is put together. */
  #seal(open: OpenStep, nowMs: number): void {
    this.#open = undefined;
    this.#generation++;
    this.#push(seal(open.encode()));
    const forgottenMs = floor(nowMs, FINE_STEP_MS) - MEMORY_MS;
    while (this.#sealed.length > 0 && this.#sealed[0]!.endMs <= forgottenMs) this.#bytes -= this.#sealed.shift()!.bytes;
    for (const names of this.#names.values()) {
      for (const [name, lastMs] of names) if (lastMs + FINE_STEP_MS <= forgottenMs) names.delete(name);
    }
    this.#coarsen(floor(nowMs, FINE_STEP_MS) - FINE_MS);
    while (this.bytes > this.#bytesMax && this.#sealed.length > STEPS_MIN) {
      const from = this.#leastBlurred(nowMs);
      this.#join(from, from + 2);
    }
    setImmediate(() => void this.#prepare());
  }

  /** Where two steps are that are short for their age: put together, they blur the least. */
  #leastBlurred(nowMs: number): number {
    let least = Number.POSITIVE_INFINITY;
    let found = 0;
    for (let place = 0; place + 1 < this.#sealed.length; place++) {
      const { startMs } = this.#sealed[place]!;
      const blurred = (this.#sealed[place + 1]!.endMs - startMs) / (nowMs - startMs);
      if (blurred < least) [least, found] = [blurred, place];
    }
    return found;
  }

  /**
   * Puts the fine steps of the next minute together before it is time, in turns, so that nobody is kept waiting when it is. It comes
   * to the same as doing it then.
   */
  async #prepare(): Promise<void> {
    if (this.#preparing || this.#prepared !== undefined) return;
    const from = this.#sealed.findIndex(({ startMs, endMs }) => endMs - startMs === FINE_STEP_MS);
    const minuteEndMs = floor(this.#sealed[from]?.startMs ?? 0, COARSE_STEP_MS) + COARSE_STEP_MS;
    const steps = this.#sealed.slice(from).filter(({ endMs }) => endMs <= minuteEndMs);
    const isOver = this.#open !== undefined && this.#open.startMs >= minuteEndMs;
    if (from < 0 || !isOver) return;
    this.#preparing = true;
    try {
      const startMs = Math.max(minuteEndMs - COARSE_STEP_MS, this.#sealed[from - 1]?.endMs ?? 0);
      const traffic = new Traffic();
      for (const step of steps) {
        addSealed(traffic, step);
        await new Promise((resolve) => setImmediate(resolve));
      }
      this.#prepared = { steps, joined: seal({ startMs, endMs: minuteEndMs, ...traffic.encode() }) };
    } finally {
      this.#preparing = false;
    }
  }

  /** Puts fine steps of minutes that ended by `untilMs` together. */
  #coarsen(untilMs: number): void {
    for (let from = 0; from < this.#sealed.length; from++) {
      const { startMs, endMs } = this.#sealed[from]!;
      if (endMs - startMs !== FINE_STEP_MS) continue;
      const minuteEndMs = floor(startMs, COARSE_STEP_MS) + COARSE_STEP_MS;
      if (minuteEndMs > untilMs) return;
      let until = from + 1;
      while (until < this.#sealed.length && this.#sealed[until]!.endMs <= minuteEndMs) until++;
      const beforeEndMs = this.#sealed[from - 1]?.endMs ?? 0;
      this.#join(from, until, Math.max(minuteEndMs - COARSE_STEP_MS, beforeEndMs), minuteEndMs);
    }
  }

  #join(from: number, until: number, startMs?: number, endMs?: number): void {
    const steps = this.#sealed.slice(from, until);
    const joined =
      this.#takePrepared(steps, startMs, endMs) ??
      joinedOf(steps, startMs ?? steps[0]!.startMs, endMs ?? steps.at(-1)!.endMs);
    this.#sealed.splice(from, until - from, joined);
    this.#bytes += joined.bytes - steps.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** What these steps come to together, if that is known already. */
  #takePrepared(steps: readonly SealedStep[], startMs?: number, endMs?: number): SealedStep | undefined {
    const prepared = this.#prepared;
    if (prepared === undefined) return undefined;
    // The oldest fine steps are the next to be put together, in this way or another one.
    this.#prepared = undefined;
    const { steps: known, joined } = prepared;
    const same = known.length === steps.length && known.every((step, place) => step === steps[place]);
    return same && joined.startMs === startMs && joined.endMs === endMs ? joined : undefined;
  }

  #push(step: SealedStep): void {
    this.#sealed.push(step);
    this.#bytes += step.bytes;
  }
}

/** For how long adding up keeps everybody else waiting. */
const TURN_MS = 10;
const NO_BYTES = new Uint8Array(0);
const NO_NAMES: ReadonlyMap<string, Tally> = new Map();

/** The step in which is counted now. */
class OpenStep extends Traffic {
  readonly startMs: number;
  readonly endMs: number;

  constructor(startMs: number) {
    super();
    this.startMs = startMs;
    this.endMs = startMs + FINE_STEP_MS;
  }

  static decode(encoded: Step): OpenStep {
    const step = new OpenStep(encoded.startMs);
    step.merge(encoded);
    return step;
  }

  override encode() {
    return { startMs: this.startMs, endMs: this.endMs, ...super.encode() };
  }
}

function addSealed(traffic: Traffic, { total, tallies }: SealedStep): void {
  traffic.merge(Step.decode(total));
  for (const dimension of traffic.by.keys()) {
    const bytes = tallies.get(dimension);
    if (bytes !== undefined) traffic.merge(Step.decode(bytes));
  }
}

function joinedOf(steps: readonly SealedStep[], startMs: number, endMs: number): SealedStep {
  const traffic = new Traffic();
  for (const step of steps) addSealed(traffic, step);
  return seal({ startMs, endMs, ...traffic.encode() });
}

function seal({ startMs, endMs, total, tallies }: Step): SealedStep {
  const encodedTotal = Step.encode({ startMs, endMs, total, tallies: [] }).finish();
  const encoded = new Map<Dimension, Uint8Array>();
  let bytes = encodedTotal.length;
  for (const dimension of DIMENSIONS) {
    const own = tallies.filter((tally) => tally.dimension === dimension);
    if (own.length === 0) continue;
    const part = Step.encode({ startMs: 0, endMs: 0, total: undefined, tallies: own }).finish();
    bytes += part.length;
    encoded.set(dimension, part);
  }
  return { startMs, endMs, total: encodedTotal, tallies: encoded, bytes };
}

function floor(atMs: number, stepMs: number): number {
  return Math.floor(atMs / stepMs) * stepMs;
}
