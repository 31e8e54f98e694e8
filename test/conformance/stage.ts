/**
 * Where a scenario takes place: simulated providers of its own, one model that all of them have and nobody else, and a
 * gateway that asks them in order. What happens on one stage is never felt on another.
 */
import OpenAI from "openai";
import {
  type Behaviour,
  type FlavorName,
  type SimulatedRequest,
  type Simulator,
  startOpenAiSimulator,
} from "../fakes/index.ts";
import { type Door, type Open, open, PATIENCE_MS, type Seen } from "./client.ts";
import { expectedText } from "./expected.ts";
import { must } from "./verdict.ts";

/** What a gateway has to be told about a stage. */
export interface StagePlan {
  /** The model that clients ask for. */
  readonly model: string;
  /** Base URLs of the providers, in the order in which they are to be asked. */
  readonly providers: readonly string[];
  /** What each of them serves at once, where there is a limit. */
  readonly concurrent: number | undefined;
}

/** How a gateway under test has to be set up: the suite's expectations rest on these. */
export const SETTINGS = {
  connectMs: 2_000,
  /** Silence before the first token, and between two: longer counts as broken. */
  firstTokenMs: 1_500,
  stallMs: 1_500,
  /** How long a provider that has failed again and again is left alone. */
  restMs: 1_000,
} as const;

/** How long a client that has gone may be felt by the provider. 100 ms are aimed at; a busy machine needs more. */
const CLOSED_WITHIN_MS = 1_000;
const ARRIVED_WITHIN_MS = 10_000;

/** One question of a client. */
export interface Question {
  readonly said?: string;
  /** More fields of the request. */
  readonly fields?: Readonly<Record<string, unknown>>;
  readonly patienceMs?: number;
}

/** A stage that is set. */
export class Stage {
  readonly model: string;
  readonly concurrent: number | undefined;
  readonly #providers: Simulator[];
  #door: Door | undefined;

  constructor(model: string, providers: Simulator[], concurrent: number | undefined) {
    this.model = model;
    this.#providers = providers;
    this.concurrent = concurrent;
  }

  get providers(): readonly Simulator[] {
    return this.#providers;
  }

  get plan(): StagePlan {
    return { model: this.model, providers: this.providers.map(({ url }) => url), concurrent: this.concurrent };
  }

  /** Where the gateway is. */
  enter(door: Door): void {
    this.#door = door;
  }

  get first(): Simulator {
    return this.providers[0]!;
  }

  get second(): Simulator {
    return this.providers[1]!;
  }

  /** What the model says to {@link Question.said}. */
  expected(behaviour: Behaviour = {}, said = this.said): string {
    return expectedText(said, behaviour);
  }

  get said(): string {
    return `tell me of ${this.model}`;
  }

  /** Asks for a stream and sees it to its end. */
  stream(question: Question = {}): Promise<Seen> {
    return this.open(true, question).seen;
  }

  /** Asks for a whole answer. */
  whole(question: Question = {}): Promise<Seen> {
    return this.open(false, question).seen;
  }

  /** Asks, for who will not stay to the end. */
  open(stream: boolean, { said = this.said, fields, patienceMs = PATIENCE_MS }: Question = {}): Open {
    const body = { model: this.model, messages: [{ role: "user", content: said }], stream, ...fields };
    return open(this.door, body, patienceMs);
  }

  /** The official SDK, which must not repeat what failed. */
  sdk(): OpenAI {
    const { baseUrl, headers } = this.door;
    return new OpenAI({ apiKey: "conformance", baseURL: baseUrl, defaultHeaders: { ...headers }, maxRetries: 0 });
  }

  get door(): Door {
    if (this.#door === undefined) throw new Error("the stage has no gateway yet");
    return this.#door;
  }

  /** The request that a provider was asked next, or `index`th. */
  async arrival(provider: Simulator, index = 0): Promise<SimulatedRequest> {
    return within(provider.generation(index), ARRIVED_WITHIN_MS, "the gateway never asked the provider");
  }

  /** The gateway has to let go of a request whose client has just left. */
  async mustBeReleased(request: SimulatedRequest, leftAtMs: number): Promise<string> {
    const ending = await within(request.ended, ARRIVED_WITHIN_MS, "the provider went on after the client had left");
    const afterMs = Math.max(0, Math.round(ending.atMs - leftAtMs));
    must(ending.how === "client-closed", () => `the provider's answer was ${ending.how} after the client had left`);
    must(afterMs <= CLOSED_WITHIN_MS, () => `the provider's connection was closed only after ${afterMs} ms`);
    return "the provider's connection is closed";
  }

  /** A scenario shows nothing when the provider that fails was never asked. */
  mustHaveAsked(provider: Simulator, times?: number): void {
    const asked = provider.generations.length;
    const name = `provider ${this.providers.indexOf(provider) + 1}`;
    if (times === undefined) must(asked > 0, () => `${name} was never asked`);
    else must(asked === times, () => `${name} was asked ${asked} times`);
  }

  /** Starts the first provider again on its port, after it was stopped. */
  async reviveFirst(): Promise<void> {
    this.#providers[0] = await startOpenAiSimulator({ port: this.first.port });
  }

  async stop(): Promise<void> {
    await Promise.all(this.providers.map((provider) => provider.stop()));
  }
}

/** What a stage is to have. */
export interface StageOptions {
  readonly model: string;
  readonly providers: number;
  /** Where the providers' ports begin; free ones for 0. */
  readonly port: number;
  readonly concurrent?: number | undefined;
  readonly flavor?: FlavorName | undefined;
}

/** Sets a stage. */
export async function setStage({ model, providers, port, concurrent, flavor }: StageOptions): Promise<Stage> {
  const started: Simulator[] = [];
  for (let index = 0; index < providers; index += 1) {
    started.push(await startOpenAiSimulator({ port: port === 0 ? 0 : port + index, flavor }));
  }
  return new Stage(model, started, concurrent);
}

/** Rejects when it takes longer. */
async function within<T>(promise: Promise<T>, ms: number, otherwise: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  const winner = await Promise.race([promise.then((value) => ({ value })), late]);
  clearTimeout(timer);
  must(winner !== undefined, () => otherwise);
  return winner!.value;
}
