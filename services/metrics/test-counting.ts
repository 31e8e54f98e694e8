/** Counting for tests, one at a time. */
import type { AttemptFinished, RequestFinished } from "../../libs/gen/cortex/events/v1/events.ts";
import { Traffic } from "../../libs/tally/index.ts";
import type { Memory } from "./memory.ts";

/** A request has ended, and a router has told it. */
export function countRequest(memory: Memory, request: RequestFinished, atMs: number): void {
  const traffic = new Traffic();
  traffic.addRequest(request);
  memory.add(traffic.encode(), atMs);
}

/** An attempt has ended, and a router has told it. */
export function countAttempt(memory: Memory, attempt: AttemptFinished, atMs: number): void {
  const traffic = new Traffic();
  traffic.addAttempt(attempt);
  memory.add(traffic.encode(), atMs);
}
