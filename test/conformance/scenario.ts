/** What a scenario is. */
import type { FlavorName } from "../fakes/index.ts";
import type { Stage } from "./stage.ts";

/** The parts of the suite, in the order in which they are shown. */
export const GROUPS = {
  control: "All is well",
  before: "The provider fails before anything was said",
  after: "The provider fails in the middle of the text",
  open: "The provider fails where nobody else can go on",
  alive: "The provider is slow or odd, but works",
  limits: "The provider limits the rate",
  outage: "Providers go down and come back",
  departure: "The client goes away",
  request: "It is the request's fault",
} as const;

export interface Scenario {
  readonly group: keyof typeof GROUPS;
  /** Unique. */
  readonly name: string;
  /** What a client must see. */
  readonly must: string;
  /** How many stages it needs, each with providers and a model of its own; one when absent. */
  readonly stages?: number;
  /** How many providers there are on each; two when absent, of which the first is asked first. */
  readonly providers?: number;
  /** Whom the providers play; OpenAI when absent. */
  readonly flavor?: FlavorName;
  /** What each provider serves at once. */
  readonly concurrent?: number;
  /** Plays it. Resolves with what was seen; throws a Mismatch when a client saw something else than it must. */
  run(...stages: Stage[]): Promise<string>;
}

/** A pause, in a scenario that is about time. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until `holds`; says whether it came to that. */
export async function until(holds: () => boolean, withinMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > deadlineMs) return false;
    await pause(20);
  }
  return true;
}
