/** One answer of the playground: asked for, read as it comes, shown, and told about. */
import { copyButton, element, say } from "./document.js";
import { cost, count, milliseconds, rate, some } from "./format.js";
import { ask, errorOf, GatewayError, readEvents } from "./gateway.js";

/** @typedef {{ readonly role: "system" | "user" | "assistant", readonly content: string }} Message */

/**
 * @typedef {object} Question
 * @property {string} model
 * @property {readonly Message[]} messages
 * @property {number | undefined} temperature
 * @property {boolean} stream
 * @property {boolean} fresh not from the cache
 */

/** US dollars for a million tokens. @typedef {{ readonly input: number, readonly output: number }} Price */

/** How tokens of the answer are called in its usage. @typedef {{ readonly prompt_tokens: number, readonly completion_tokens: number }} Usage */

/** An answer on its way, and what is shown of it. */
export class Answer {
  /** Where it is shown. */
  place;
  /** What has come of its text. */
  text = "";
  /** Who has served it, or goes on with it. */
  worker = "";
  #client = new AbortController();
  #text = document.createTextNode("");
  #thought = document.createTextNode("");
  #thinking = element(
    "details",
    { class: "thinking", hidden: true },
    element("summary", {}, "Thinking"),
    element("p", { class: "text" }, this.#thought),
  );
  #words = element("p", { class: "text" }, this.#text);
  #facts = element("dl", { class: "facts" });
  #onChange;
  #askedAtMs = performance.now();
  #firstTextAtMs = 0;
  #pieces = 0;
  /** @type {Usage | undefined} */
  #usage;
  #finishReason = "";
  #model = "";
  /** @type {Headers} */
  #headers = new Headers();
  /** @type {{ worker: string, reason: string }[]} */
  #continued = [];

  /** @param {() => void} onChange told whenever there is more to see */
  constructor(onChange) {
    this.#onChange = onChange;
    this.place = element(
      "article",
      { class: "turn answer is-running", "aria-label": "Answer" },
      this.#thinking,
      this.#words,
      this.#facts,
    );
  }

  /** Gives up; what has come stays. */
  stop() {
    this.#client.abort();
  }

  /**
   * Asks, and resolves when the answer is whole, has been stopped or has failed: "whole", "stopped" or the error.
   * @param {Question} question
   * @param {(worker: string, model: string) => Promise<Price | undefined>} priceOf
   * @returns {Promise<"whole" | "stopped" | GatewayError>}
   */
  async run({ model, messages, temperature, stream, fresh }, priceOf) {
    this.#askedAtMs = performance.now();
    /** @type {"whole" | "stopped" | GatewayError} */
    let outcome = "whole";
    try {
      const response = await ask("/v1/chat/completions", {
        method: "POST",
        body: { model, messages, temperature, stream, ...(stream ? { stream_options: { include_usage: true } } : {}) },
        headers: fresh ? { "x-cortex-cache": "refresh" } : {},
        signal: this.#client.signal,
      });
      this.#headers = response.headers;
      this.worker = response.headers.get("x-cortex-worker") ?? "";
      if (stream) await this.#read(response);
      else this.#take(await response.json(), "message");
    } catch (thrown) {
      if (this.#client.signal.aborted) outcome = "stopped";
      else
        outcome =
          thrown instanceof GatewayError
            ? thrown
            : new GatewayError("the connection broke before the answer was whole");
    }
    const endedAtMs = performance.now();
    this.place.classList.remove("is-running");
    if (outcome instanceof GatewayError) this.place.append(errorBox(outcome));
    else this.#tell(outcome, endedAtMs, await priceOf(this.worker, this.#model).catch(() => undefined));
    this.#onChange();
    return outcome;
  }

  /** @param {Response} response */
  async #read(response) {
    for await (const { data, comment } of readEvents(response)) {
      const continued = /^continued by worker (\S+) \((\S+)\)/.exec(comment);
      if (continued !== null) {
        const [, worker = "", reason = ""] = continued;
        this.#continued.push({ worker, reason });
        this.worker = worker;
      }
      if (data === "[DONE]") return;
      if (data === "") continue;
      const event = JSON.parse(data);
      if (event.error !== undefined) throw errorOf(event, response.status);
      this.#take(event, "delta");
    }
    throw new GatewayError("the stream ended before the answer was whole");
  }

  /**
   * Takes in a piece of the answer, or all of it.
   * @param {any} event
   * @param {"delta" | "message"} where its text is
   */
  #take(event, where) {
    if (event.model) this.#model = event.model;
    if (event.usage) this.#usage = event.usage;
    const choice = event.choices?.[0];
    const thought = choice?.[where]?.reasoning_content ?? "";
    const text = (choice?.[where]?.content ?? "") + (choice?.[where]?.refusal ?? "");
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
    if (thought !== "") {
      this.#thinking.hidden = false;
      this.#thought.appendData(thought);
    }
    if (text !== "") {
      this.text += text;
      this.#text.appendData(text);
    }
    if (text === "" && thought === "") return;
    this.#pieces += 1;
    if (this.#firstTextAtMs === 0) this.#firstTextAtMs = performance.now();
    this.#onChange();
  }

  /**
   * Says under the answer how it came about.
   * @param {"whole" | "stopped"} outcome
   * @param {number} endedAtMs
   * @param {Price | undefined} price
   */
  #tell(outcome, endedAtMs, price) {
    const provider = this.#headers.get("x-cortex-provider") ?? "";
    const began = this.#headers.get("x-cortex-worker") ?? "";
    const attempts = Number(this.#headers.get("x-cortex-attempts") ?? 0);
    const cache = this.#headers.get("x-cortex-cache") ?? "";
    const warnings = this.#headers.get("x-cortex-warnings") ?? "";
    const traceId = this.#headers.get("x-trace-id") ?? "";
    const usage = this.#usage;
    // Without a report of the provider, a piece is about a token.
    const tokens = usage?.completion_tokens ?? this.#pieces;
    const streamedS = (endedAtMs - this.#firstTextAtMs) / 1_000;
    const cached = cache.startsWith("hit");
    if (outcome === "stopped") this.#fact("Stopped", "by you");
    if (began !== "") this.#fact("Served by", provider === "" ? began : `${began} (${provider})`, "worker");
    for (const { worker, reason } of this.#continued) this.#fact("Continued by", `${worker} (${reason})`);
    if (this.#model !== "") this.#fact("Model", this.#model);
    // The header was sent before anybody had to go on.
    if (attempts > 0) this.#fact("Attempts", count(attempts + this.#continued.length), "attempts");
    if (this.#firstTextAtMs > 0) {
      this.#fact("First token", milliseconds(this.#firstTextAtMs - this.#askedAtMs), "first-token");
      if (this.#pieces > 1 && streamedS > 0) this.#fact("Speed", `${rate(tokens / streamedS)} tokens/s`, "speed");
    }
    this.#fact("In all", milliseconds(endedAtMs - this.#askedAtMs));
    if (usage !== undefined)
      this.#fact("Tokens", `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out`, "tokens");
    if (cached) this.#fact("Cost", cost(0), "cost");
    else if (price !== undefined && usage !== undefined) {
      const usd = (usage.prompt_tokens * price.input + usage.completion_tokens * price.output) / 1_000_000;
      // What each of several workers has used is not told: it is priced as if the last one had done it all.
      this.#fact("Cost", this.#continued.length === 0 ? cost(usd) : `about ${cost(usd)}`, "cost");
    }
    if (cache !== "") this.#fact("Cache", cache, "cache");
    if (this.#finishReason !== "" && this.#finishReason !== "stop") this.#fact("Ended by", this.#finishReason);
    if (warnings !== "") this.#fact("Warnings", warnings);
    if (traceId !== "") this.#fact("Trace", copyButton(traceId.slice(0, 8), traceId, "the trace id"), "trace");
  }

  /**
   * @param {string} title
   * @param {string | HTMLElement} value
   * @param {string} [name] for those who look for it
   */
  #fact(title, value, name) {
    this.#facts.append(element("div", { "data-fact": name }, element("dt", {}, title), element("dd", {}, value)));
  }
}

/** @param {GatewayError} error */
function errorBox({ message, reason, status, traceId, attempts }) {
  const title = element("p", { class: "error-title" });
  say(
    title,
    [reason, ...(status === 0 ? [] : [`HTTP ${status}`])].filter((word) => word !== "").join(" · ") || "Failed",
  );
  const box = element("div", { class: "error", role: "alert" }, title, element("p", {}, message));
  if (attempts.length > 0) {
    const tried = attempts.map((attempt) =>
      element("li", {}, element("strong", {}, attempt.worker), ` ${attempt.reason}: ${attempt.message}`),
    );
    box.append(
      element("p", { class: "hint" }, `Tried ${some(attempts.length, "worker")}:`),
      element("ol", {}, ...tried),
    );
  }
  if (traceId !== "") box.append(copyButton(`trace ${traceId.slice(0, 8)}`, traceId, "the trace id"));
  return box;
}
