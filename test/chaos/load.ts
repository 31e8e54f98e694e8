/** A steady load of questions whose answers are known to the letter: every answer is held against what it has to be. */
import { type Door, open, type Seen } from "../conformance/client.ts";
import { expectedText } from "../conformance/expected.ts";
import { describe, mustBeWhole } from "../conformance/verdict.ts";
import type { BehaviourLike, SimulatedRequest } from "../fakes/index.ts";
import type { Random } from "./random.ts";

/** Any failure that is worth its name shows within this. */
const PATIENCE_MS = 60_000;
const TOKENS = [5, 90] as const;

/** A request that a client did not get the whole answer to. */
export interface Failure {
  /** When it was asked and when it was over, since the beginning. */
  readonly fromMs: number;
  readonly toMs: number;
  readonly asked: string;
  readonly seen: string;
  readonly requestId: string;
  readonly traceId: string;
  /** Where the answer went wrong. */
  readonly tail: string;
}

/** What has been asked and answered. */
export interface Tally {
  streams: number;
  wholes: number;
  /** Streams that more than one worker wrote. */
  continued: number;
  /** Answers for which more than one worker was asked before the first word. */
  failedOver: number;
  readonly durationsMs: number[];
  readonly failures: Failure[];
}

/** What the simulated models do with a question of this load: as many tokens as it wants, one each 20 ms. */
export function replyTo(_index: number, { body }: SimulatedRequest): BehaviourLike {
  // It stands in the first message of the user, also when a worker is asked to go on with an answer.
  const tokens = /in (\d+) words/.exec(JSON.stringify(body))?.[1] ?? "10";
  return `tokens:${tokens},tokenMs:20`;
}

/** What a load asks for. */
export interface LoadOptions {
  readonly door: Door;
  readonly model: string;
  readonly perSecond: number;
  readonly random: Random;
  /** The beginning of time, by performance.now(). */
  readonly startedAtMs: number;
}

/** Asks `perSecond` questions each second until it is stopped. */
export class Load {
  readonly tally: Tally = { streams: 0, wholes: 0, continued: 0, failedOver: 0, durationsMs: [], failures: [] };
  readonly #door: Door;
  readonly #model: string;
  readonly #random: Random;
  readonly #startedAtMs: number;
  readonly #running = new Set<Promise<void>>();
  readonly #timer: NodeJS.Timeout;
  #count = 0;

  constructor({ door, model, perSecond, random, startedAtMs }: LoadOptions) {
    this.#door = door;
    this.#model = model;
    this.#random = random;
    this.#startedAtMs = startedAtMs;
    this.#timer = setInterval(() => this.#ask(), 1_000 / perSecond);
  }

  /** Asks nothing more, and waits for the answers that are under way. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#running);
  }

  #ask(): void {
    this.#count += 1;
    const tokens = Math.round(this.#random.between(...TOKENS));
    const said = `question ${this.#count}: tell me something in ${tokens} words`;
    const stream = this.#random.next() < 0.75;
    const asking = this.#check(said, tokens, stream).finally(() => this.#running.delete(asking));
    this.#running.add(asking);
  }

  async #check(said: string, tokens: number, stream: boolean): Promise<void> {
    const { tally } = this;
    const fromMs = performance.now() - this.#startedAtMs;
    const messages = [{ role: "user", content: said }];
    const seen = await open(this.#door, { model: this.#model, messages, stream }, PATIENCE_MS).seen;
    if (stream) tally.streams += 1;
    else tally.wholes += 1;
    if (seen.comments.some((comment) => comment.startsWith("continued"))) tally.continued += 1;
    if (Number(seen.headers["x-cortex-attempts"]) > 1) tally.failedOver += 1;
    tally.durationsMs.push(seen.durationMs);
    const expected = expectedText(said, { tokens });
    try {
      mustBeWhole(seen, expected);
    } catch {
      tally.failures.push({
        fromMs,
        toMs: fromMs + seen.durationMs,
        asked: `${stream ? "stream" : "whole"}: ${said}`,
        seen: describe(seen, expected),
        ...idsOf(seen),
        tail: seen.body.slice(-600),
      });
    }
  }
}

function idsOf({ headers }: Seen): { requestId: string; traceId: string } {
  return { requestId: String(headers["x-request-id"] ?? ""), traceId: String(headers["x-trace-id"] ?? "") };
}
