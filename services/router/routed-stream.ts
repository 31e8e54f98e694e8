/**
 * A stream that hides the failures of workers. Until the first content a worker that fails is replaced unseen, and one that is
 * late may get a rival. After it another worker goes on with the answer where it can: plain text. Otherwise the failure is told.
 */
import { AnswerSoFar, type ContinuationMode, continuationRequest, Seam } from "../../libs/continuation/index.ts";
import { AttemptKind } from "../../libs/gen/cortex/events/v1/events.ts";
import type { CompletionRequest, Part, Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { StreamResponse as ProviderStreamResponse } from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { Resume, StreamResponse } from "../../libs/gen/cortex/router/v1/router.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { SPAN_EVENT } from "../../libs/telemetry/index.ts";
import type { Attempt } from "./attempt.ts";
import type { Candidate } from "./candidates.ts";
import type { RouterState } from "./dependencies.ts";
import { Joint, sumOf } from "./joint.ts";
import { noteUsage, Opening } from "./opening.ts";
import type { Plan } from "./plan.ts";

/** Asks a worker; the request is the client's, or one that goes on with an answer. */
export type Ask = (attempt: Attempt, request: CompletionRequest) => AsyncIterable<ProviderStreamResponse>;

const DONE: IteratorResult<StreamResponse> = { done: true, value: undefined };
/** How many models are remembered to refuse a prefill; more than there are. */
const PREFILL_REFUSED_MAX = 10_000;

export interface RoutedStreamOptions {
  readonly plan: Plan;
  readonly request: CompletionRequest;
  /** What the client has seen already, through a router that was lost. */
  readonly resume: Resume | undefined;
  readonly ask: Ask;
  /** Called when it has ended: well, with an error, or because its reader has left. Only the first time counts. */
  readonly ended: (error?: RpcError) => void;
  readonly state: RouterState;
}

export class RoutedStream implements AsyncIterator<StreamResponse> {
  readonly #plan: Plan;
  readonly #request: CompletionRequest;
  readonly #ask: Ask;
  readonly #onEnd: (error?: RpcError) => void;
  readonly #state: RouterState;
  readonly #resume: Resume | undefined;
  /** What the client has seen. */
  readonly #answer: AnswerSoFar;
  readonly #openings = new Set<Opening>();
  #attempt: Attempt | undefined;
  #iterator: AsyncIterator<ProviderStreamResponse> | undefined;
  /** Where this worker's answer is joined to the one before. */
  #joint: Joint | undefined;
  /** What attempts that were cut off have used. */
  #usedBefore: Usage | undefined;
  /** Characters of the answer that came from earlier attempts. */
  #charactersBefore = 0;
  /** Who has been asked to go on by a prefill since the last interruption. */
  readonly #prefilled = new Set<Candidate>();
  #begun = false;
  #ended = false;

  constructor({ plan, request, resume, ask, ended, state }: RoutedStreamOptions) {
    this.#plan = plan;
    this.#request = request;
    this.#resume = resume;
    this.#ask = ask;
    this.#onEnd = ended;
    this.#state = state;
    this.#answer = new AnswerSoFar(request);
    if (resume !== undefined) plan.attempts = resume.attempts;
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    if (this.#iterator !== undefined) return this.#iterator.next().then(this.#onResult, this.#onFailure);
    if (this.#ended || this.#begun) return Promise.resolve(DONE);
    this.#begun = true;
    return this.#resume === undefined ? this.#begin() : this.#goOn(this.#resume);
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    const iterator = this.#iterator;
    this.#iterator = undefined;
    this.#ended = true;
    const left = new RpcError("CANCELLED", "the caller went away");
    this.#fail(left);
    const openings = [...this.#openings];
    for (const { attempt } of openings) attempt.failed(left);
    this.#onEnd(left);
    await Promise.all([iterator?.return?.(), ...openings.map((opening) => opening.abandon())]);
    return DONE;
  }

  // The beginning.

  async #begin(): Promise<IteratorResult<StreamResponse>> {
    try {
      while (!this.#ended) {
        const attempt = await this.#plan.next();
        if (this.#leftBefore(attempt)) break;
        const opening = this.#opening(attempt, this.#request);
        const winner = await (this.#plan.hedging ? this.#race(opening) : this.#read(opening));
        if (winner !== undefined) return this.#commit(winner.opening, winner.parts);
      }
    } catch (thrown) {
      this.#end(RpcError.from(thrown));
      throw thrown;
    }
    return DONE;
  }

  #opening(attempt: Attempt, request: CompletionRequest, joint?: Joint): Opening {
    const opening = new Opening(attempt, {
      open: (asked) => this.#ask(asked, request),
      joint,
      hasAlternative: () => this.#plan.hasAlternative,
    });
    this.#openings.add(opening);
    return opening;
  }

  /** Undefined when the worker has failed and another one is to be asked. */
  async #read(opening: Opening): Promise<{ opening: Opening; parts: Part[] } | undefined> {
    try {
      return { opening, parts: await opening.read() };
    } catch (thrown) {
      if (opening.abandoned) return undefined;
      // Who was too slow would go on for nobody.
      void opening.abandon();
      this.#plan.failed(opening.attempt, RpcError.from(thrown));
      return undefined;
    } finally {
      this.#drop(opening);
    }
  }

  /** Asks a second worker when the first one is later than it usually is; the first to have content goes on alone. */
  async #race(first: Opening): Promise<{ opening: Opening; parts: Part[] } | undefined> {
    const { worker, model } = first.attempt.candidate;
    const lateAfterMs = this.#state.latencies.percentile95(worker, model);
    if (lateAfterMs === undefined) return this.#read(first);
    const leading = this.#read(first);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<"late">((resolve) => {
      timer = setTimeout(() => resolve("late"), lateAfterMs);
    });
    const early = await Promise.race([leading, late]).finally(() => clearTimeout(timer));
    if (early !== "late") return early;
    const attempt = this.#ended ? undefined : this.#plan.hedge();
    if (attempt === undefined) return leading;
    const second = this.#opening(attempt, this.#request);
    let winner: { opening: Opening; parts: Part[] } | undefined;
    try {
      winner = await firstServed(leading, this.#read(second));
      return winner;
    } finally {
      for (const opening of [first, second]) {
        if (opening === winner?.opening) continue;
        // Its own end, whatever it is, is of no interest any more.
        opening.attempt.superseded();
        void opening.abandon();
      }
    }
  }

  /** Whether the reader has left while a worker was waited for: nobody is asked then. */
  #leftBefore(attempt: Attempt): boolean {
    if (this.#ended) attempt.failed(new RpcError("CANCELLED", "the caller went away"));
    return this.#ended;
  }

  #drop(opening: Opening): void {
    this.#openings.delete(opening);
  }

  #commit(opening: Opening, parts: Part[]): IteratorResult<StreamResponse> {
    if (this.#ended) {
      opening.attempt.failed(new RpcError("CANCELLED", "the caller went away"));
      void opening.abandon();
      return DONE;
    }
    this.#attempt = opening.attempt;
    this.#iterator = opening.iterator;
    this.#answer.add(parts);
    this.#plan.request.account?.firstContent();
    return { done: false, value: { parts, attempts: this.#plan.attempts } };
  }

  // The stream.

  readonly #onResult = (
    result: IteratorResult<ProviderStreamResponse>,
  ): IteratorResult<StreamResponse> | Promise<IteratorResult<StreamResponse>> => {
    if (result.done === true) {
      this.#iterator = undefined;
      return this.#served();
    }
    let parts = result.value.parts;
    noteUsage(this.#attempt!, parts);
    if (this.#joint !== undefined) {
      try {
        parts = this.#joint.join(parts);
      } catch (thrown) {
        return this.#onFailure(thrown);
      }
      if (parts.length === 0) return this.next();
    }
    this.#answer.add(parts);
    return { done: false, value: { parts, attempts: 0 } };
  };

  readonly #onFailure = (thrown: unknown): IteratorResult<StreamResponse> | Promise<IteratorResult<StreamResponse>> => {
    this.#iterator = undefined;
    const error = RpcError.from(thrown);
    if (this.#ended) return DONE;
    if (this.#answer.finished && error.class !== "request") {
      // The client has everything: what is missing is the provider's good-bye.
      return this.#served();
    }
    return this.#continue(error);
  };

  // After a worker has failed in the middle.

  async #continue(error: RpcError): Promise<IteratorResult<StreamResponse>> {
    const attempt = this.#attempt!;
    const { candidate } = attempt;
    this.#noteOutput(attempt);
    const obstacle = error.class === "request" ? undefined : this.#obstacle();
    const used = attempt.account().usage;
    try {
      this.#plan.failed(attempt, error);
      if (obstacle !== undefined) throw this.#interrupted(candidate.worker, error, obstacle);
    } catch (thrown) {
      this.#end(RpcError.from(thrown));
      throw thrown;
    }
    if (used !== undefined) this.#usedBefore = this.#usedBefore === undefined ? used : sumOf(this.#usedBefore, used);
    return this.#takeOver(candidate.worker, error);
  }

  /** Goes on with an answer that a router which was lost had begun. */
  async #goOn(resume: Resume): Promise<IteratorResult<StreamResponse>> {
    this.#answer.add([{ part: { $case: "text", value: { text: resume.text, choice: 0, logprobs: [] } } }]);
    const error = new RpcError("NODE_UNREACHABLE", "the router that had begun the answer was lost");
    const obstacle = this.#obstacle();
    if (obstacle === undefined) return this.#takeOver(resume.worker, error);
    throw this.#lost(resume.worker, error, obstacle);
  }

  #obstacle(): string | undefined {
    return this.#plan.continuation ? this.#answer.obstacle() : "continuation is switched off";
  }

  async #takeOver(failedWorker: string, error: RpcError): Promise<IteratorResult<StreamResponse>> {
    while (!this.#ended) {
      let attempt: Attempt;
      try {
        attempt = await this.#plan.next(AttemptKind.CONTINUATION);
      } catch (thrown) {
        const last = RpcError.from(thrown);
        if (last.class !== "request") throw this.#lost(failedWorker, error, last.message);
        this.#end(last);
        throw last;
      }
      if (this.#leftBefore(attempt)) break;
      const mode = this.#modeFor(attempt.candidate);
      if (mode === "prefill") this.#prefilled.add(attempt.candidate);
      this.#joint = new Joint(new Seam(this.#answer.text, mode), this.#usedBefore ?? {});
      const request = continuationRequest(this.#request, this.#answer.text, mode);
      const opening = this.#opening(attempt, request, this.#joint);
      try {
        const parts = await opening.read();
        this.#drop(opening);
        this.#charactersBefore = this.#answer.outputCharacters;
        const { worker, provider, model } = attempt.candidate;
        this.#prefilled.clear();
        attempt.note(SPAN_EVENT.continued);
        const told: Part = { part: { $case: "continued", value: { worker, provider, model, reason: error.reason } } };
        return this.#commit(opening, [told, ...parts]);
      } catch (thrown) {
        this.#drop(opening);
        void opening.abandon();
        if (!this.#ended) this.#refused(attempt, mode, RpcError.from(thrown));
      }
    }
    return DONE;
  }

  /** A worker could not go on. Throws when the client has left. */
  #refused(attempt: Attempt, mode: ContinuationMode, error: RpcError): void {
    const { worker, model } = attempt.candidate;
    const { prefillRefused } = this.#state;
    // Some models refuse what their older sisters took.
    const refused = error.reason === "INVALID_REQUEST" || error.reason === "UNSUPPORTED_PARAMETER";
    if (mode === "prefill" && refused) {
      if (prefillRefused.size >= PREFILL_REFUSED_MAX) prefillRefused.clear();
      prefillRefused.add(`${worker}/${model}`);
    }
    try {
      // What looked like a new beginning may have been none: an instruction makes sure.
      const inWords = mode === "prefill" && (refused || error.reason === "CONTINUATION_MISMATCH");
      if (inWords) this.#plan.askAgain(attempt, error);
      else this.#plan.failed(attempt, error, true);
    } catch (thrown) {
      this.#end(RpcError.from(thrown));
      throw thrown;
    }
  }

  #modeFor(candidate: Candidate): ContinuationMode {
    const { capabilities, worker, model } = candidate;
    const refused = this.#prefilled.has(candidate) || this.#state.prefillRefused.has(`${worker}/${model}`);
    return capabilities.has("prefill") && !refused ? "prefill" : "instruction";
  }

  #fail(error: RpcError): void {
    const attempt = this.#attempt;
    if (attempt === undefined) return;
    this.#noteOutput(attempt);
    attempt.failed(error);
  }

  #served(): IteratorResult<StreamResponse> {
    if (this.#attempt !== undefined) {
      this.#noteOutput(this.#attempt);
      this.#attempt.served();
    }
    this.#end();
    return DONE;
  }

  /** How much the attempt has said, for an estimate of what it has used where its provider reports nothing. */
  #noteOutput(attempt: Attempt): void {
    attempt.outputCharacters = this.#answer.outputCharacters - this.#charactersBefore;
  }

  #end(error?: RpcError): void {
    this.#ended = true;
    this.#onEnd(error);
  }

  /** Ends with the error that it returns. */
  #lost(worker: string, error: RpcError, why: string): RpcError {
    const interrupted = this.#interrupted(worker, error, why);
    this.#end(interrupted);
    return interrupted;
  }

  #interrupted(worker: string, error: RpcError, why: string): RpcError {
    const message = `worker ${worker} failed after the answer had begun (${error.message}), and no other could go on: ${why}`;
    return new RpcError("STREAM_INTERRUPTED", message, {
      attempts: [{ worker, reason: error.reason, message: error.message }],
      cause: error,
    });
  }
}

/** The first that is there; undefined when neither comes. What becomes of the later one is nobody's business. */
async function firstServed<T>(one: Promise<T | undefined>, other: Promise<T | undefined>): Promise<T | undefined> {
  one.catch(() => {});
  other.catch(() => {});
  return (await Promise.race([one, other])) ?? (await one) ?? (await other);
}
