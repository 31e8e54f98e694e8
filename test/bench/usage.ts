/**
 * What a process used, from Linux' /proc: CPU over all its threads, resident memory, and the processes it started.
 */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

/** USER_HZ, the unit of times in /proc/PID/stat, is 100 on every architecture Node supports. */
const TICKS_PER_SECOND = 100;

export type Process = { pid: number; name: string };

/** CPU of one process at one moment. */
type Reading = {
  /** user + system of all threads, also of those that ended; in steps of 10 ms. */
  coarseUs: number;
  /** Per live thread, exact. */
  threadsUs: Map<string, number>;
};

export function cpuIsReadable(): boolean {
  return process.platform === "linux";
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined; // the process or thread has ended, or the kernel does not offer the file
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Fields of /proc/PID/stat from the third on: the second, the name, may contain anything. */
function stat(pid: number): { name: string; fields: string[] } | undefined {
  const text = read(`/proc/${pid}/stat`);
  if (!text) return undefined;
  const close = text.lastIndexOf(")");
  return { name: text.slice(text.indexOf("(") + 1, close), fields: text.slice(close + 2).split(" ") };
}

/** Names a process for good: a pid comes back, a pid with its start time does not. */
export function startTime(pid: number): string | undefined {
  return stat(pid)?.fields[19];
}

function cpu(pid: number): Reading {
  const fields = stat(pid)?.fields;
  if (!fields) throw new Error(`process ${pid} has ended during a measurement`);
  const coarseUs = ((Number(fields[11]) + Number(fields[12])) * 1_000_000) / TICKS_PER_SECOND;
  const threadsUs = new Map<string, number>();
  for (const thread of list(`/proc/${pid}/task`)) {
    const text = read(`/proc/${pid}/task/${thread}/schedstat`);
    if (text) threadsUs.set(thread, Number(text.split(" ")[0]) / 1_000);
  }
  return { coarseUs, threadsUs };
}

function difference(before: Reading, after: Reading): number {
  const exact = before.threadsUs.size > 0 && [...before.threadsUs.keys()].every((id) => after.threadsUs.has(id));
  if (!exact) return after.coarseUs - before.coarseUs;
  let sum = 0;
  for (const [id, us] of after.threadsUs) sum += us - (before.threadsUs.get(id) ?? 0);
  return sum;
}

/** Starts counting; the returned function says how many µs of CPU each process has used since, in the same order. */
export function countCpu(processes: readonly Process[]): () => number[] {
  const before = processes.map(({ pid }) => cpu(pid));
  return () => processes.map(({ pid }, index) => difference(before[index] as Reading, cpu(pid)));
}

/** CPU of the whole machine so far, all cores, without the time they idled. */
function machineUs(): number {
  // cpu  user nice system idle iowait irq softirq steal guest guest_nice; guest is part of user.
  const [user, nice, system, , , irq, softirq, steal] = (read("/proc/stat") ?? "").split(/\s+/).slice(1, 9).map(Number);
  const ticks = [user, nice, system, irq, softirq, steal].reduce<number>((total, value) => total + (value ?? 0), 0);
  return (ticks * 1_000_000) / TICKS_PER_SECOND;
}

/** Starts watching; the returned function says which share of the machine others than these processes have used since. */
export function watchOthers(processes: readonly Process[]): () => number {
  const ownUs = countCpu(processes);
  const before = { machineUs: machineUs(), at: performance.now() };
  return () => {
    const capacityUs = (performance.now() - before.at) * 1_000 * availableParallelism();
    const othersUs = machineUs() - before.machineUs - ownUs().reduce((total, us) => total + us, 0);
    return Math.max(0, othersUs / capacityUs);
  };
}

export function residentBytes(processes: readonly Process[]): number {
  let kilobytes = 0;
  for (const { pid } of processes)
    kilobytes += Number(/VmRSS:\s+(\d+)/.exec(read(`/proc/${pid}/status`) ?? "")?.[1] ?? 0);
  return kilobytes * 1024;
}

/** The processes given and all they started, in turn. */
export function processTree(roots: readonly number[]): Process[] {
  const parents = new Map<number, { parent: number; name: string }>();
  for (const entry of list("/proc")) {
    const pid = Number(entry);
    const found = Number.isInteger(pid) ? stat(pid) : undefined;
    if (found) parents.set(pid, { parent: Number(found.fields[1]), name: found.name });
  }
  const tree: Process[] = [];
  const open = [...roots];
  for (let pid = open.shift(); pid !== undefined; pid = open.shift()) {
    const found = parents.get(pid);
    if (!found) continue;
    tree.push({ pid, name: found.name });
    for (const [child, { parent }] of parents) if (parent === pid) open.push(child);
  }
  return tree;
}
