/** The playground: a conversation with the mesh, one question at a time. */
import { Answer } from "./answer.js";
import { element, find } from "./document.js";
import { ask } from "./gateway.js";

/** @typedef {import("./answer.js").Message} Message */
/** @typedef {import("./answer.js").Price} Price */

const SUGGESTIONS = [
  "Explain back-pressure in three sentences.",
  "Write a haiku about a load balancer.",
  "Which questions should I ask before I page somebody at night?",
];
/** So many models are worth choosing from; the others are typed. */
const MODELS_MAX = 300;
const OTHER = "(another)";
/** Somebody who has scrolled up further than this reads, and is left alone. */
const FOLLOW_PX = 80;

/** The conversation and what is around it. */
export class Playground {
  #prompt = find("prompt", HTMLTextAreaElement);
  #conversation = find("conversation");
  #model = find("model", HTMLSelectElement);
  #otherModel = find("model-other", HTMLInputElement);
  #temperature = find("temperature", HTMLInputElement);
  #temperatureChosen = false;
  /** @type {Message[]} */
  #turns = [];
  /** @type {Answer | undefined} */
  #running;
  #onServed;
  /** @type {Map<string, Promise<any>>} */
  #workers = new Map();

  /** @param {(worker: string) => void} onServed told who has served an answer */
  constructor(onServed) {
    this.#onServed = onServed;
    find("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
      event.preventDefault();
      void this.#send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#running === undefined || document.querySelector("dialog[open]") !== null)
        return;
      event.preventDefault();
      this.#running.stop();
    });
    find("stop").addEventListener("click", () => this.#running?.stop());
    find("clear").addEventListener("click", () => this.#clear());
    this.#model.addEventListener("change", () => {
      this.#otherModel.hidden = this.#model.value !== OTHER;
      if (!this.#otherModel.hidden) this.#otherModel.focus();
    });
    this.#offerTemperature();
    for (const text of SUGGESTIONS) {
      const button = element("button", { type: "button", class: "chip" }, text);
      button.addEventListener("click", () => {
        this.#prompt.value = text;
        this.#prompt.focus();
      });
      find("suggestions").append(button);
    }
    if (/Mac|iP(hone|ad)/.test(navigator.platform)) {
      for (const key of document.querySelectorAll(".modifier")) key.textContent = "⌘";
    }
  }

  /** Asks what there is to choose from. */
  async refreshModels() {
    /** @type {readonly { readonly id: string, readonly owned_by: string }[]} */
    let models;
    try {
      ({ data: models } = await (await ask("/v1/models")).json());
    } catch {
      // What was there before can still be chosen.
      return;
    }
    const isOneWorkers = (/** @type {{ id: string, owned_by: string }} */ { id, owned_by }) =>
      id.startsWith(`${owned_by}/`);
    const own = models.filter((model) => model.id !== "auto" && !isOneWorkers(model)).map(({ id }) => id);
    const others = models.filter(isOneWorkers).map(({ id }) => id);
    const chosen = this.#model.value;
    const shown = own.slice(0, MODELS_MAX);
    const groups = [
      element("option", { value: "auto" }, "auto: Cortex chooses"),
      ...group("Models and routes", shown),
      ...group("Of one worker", others.slice(0, MODELS_MAX - shown.length)),
      element("option", { value: OTHER }, "another…"),
    ];
    this.#model.replaceChildren(...groups);
    this.#model.value = chosen;
    if (this.#model.value !== chosen) this.#model.value = "auto";
    this.#otherModel.hidden = this.#model.value !== OTHER;
  }

  focus() {
    this.#prompt.focus({ preventScroll: true });
  }

  #offerTemperature() {
    const value = find("temperature-value", HTMLOutputElement);
    const reset = find("temperature-reset", HTMLButtonElement);
    const show = () => {
      value.value = this.#temperatureChosen ? this.#temperature.value : "the model’s own";
      reset.disabled = !this.#temperatureChosen;
      this.#temperature.classList.toggle("is-unset", !this.#temperatureChosen);
    };
    this.#temperature.addEventListener("input", () => {
      this.#temperatureChosen = true;
      show();
    });
    reset.addEventListener("click", () => {
      this.#temperatureChosen = false;
      this.#temperature.value = "1";
      this.#temperature.focus();
      show();
    });
    show();
  }

  async #send() {
    const content = this.#prompt.value.trim();
    if (content === "" || this.#running !== undefined) return;
    find("conversation-empty").hidden = true;
    const system = find("system", HTMLTextAreaElement).value.trim();
    const question = element(
      "article",
      { class: "turn question", "aria-label": "You" },
      element("p", { class: "text" }, content),
    );
    const answer = new Answer(() => this.#follow());
    this.#conversation.append(question, answer.place);
    this.#prompt.value = "";
    this.#run(answer);
    this.#conversation.scrollTop = this.#conversation.scrollHeight;
    const outcome = await answer.run(
      {
        model: this.#model.value === OTHER ? this.#otherModel.value.trim() : this.#model.value,
        messages: [
          ...(system === "" ? [] : [/** @type {Message} */ ({ role: "system", content: system })]),
          ...this.#turns,
          { role: "user", content },
        ],
        temperature: this.#temperatureChosen ? Number(this.#temperature.value) : undefined,
        stream: find("stream", HTMLInputElement).checked,
        fresh: find("fresh", HTMLInputElement).checked,
      },
      (worker, model) => this.#priceOf(worker, model),
    );
    this.#run(undefined);
    // A question without an answer is asked again with the next one, not answered by it.
    if (answer.text !== "") this.#turns.push({ role: "user", content }, { role: "assistant", content: answer.text });
    else if (this.#prompt.value === "") this.#prompt.value = content;
    this.#onServed(answer.worker);
    const told =
      outcome === "whole"
        ? `The answer is complete: ${answer.text}`
        : outcome === "stopped"
          ? "Stopped."
          : "The answer failed.";
    find("answer-status").textContent = told;
  }

  /** @param {Answer | undefined} answer the one that runs now */
  #run(answer) {
    this.#running = answer;
    const stop = find("stop");
    const hadFocus = document.activeElement === stop;
    stop.hidden = answer === undefined;
    find("send").hidden = answer !== undefined;
    find("clear", HTMLButtonElement).disabled = answer !== undefined;
    if (hadFocus) this.focus();
    if (answer !== undefined) find("answer-status").textContent = "Waiting for the answer";
  }

  #clear() {
    this.#turns = [];
    for (const turn of this.#conversation.querySelectorAll(".turn")) turn.remove();
    find("conversation-empty").hidden = false;
    find("clear", HTMLButtonElement).disabled = true;
    this.focus();
  }

  #follow() {
    const { scrollHeight, scrollTop, clientHeight } = this.#conversation;
    if (scrollHeight - scrollTop - clientHeight < FOLLOW_PX) this.#conversation.scrollTop = scrollHeight;
  }

  /**
   * What a worker's model costs, if the configuration says; only an administrator may ask.
   * @param {string} worker
   * @param {string} model
   * @returns {Promise<Price | undefined>}
   */
  async #priceOf(worker, model) {
    if (worker === "") return undefined;
    let asked = this.#workers.get(worker);
    if (asked === undefined) {
      asked = ask(`/admin/workers/${encodeURIComponent(worker)}`).then((response) => response.json());
      this.#workers.set(worker, asked);
      asked.catch(() => this.#workers.delete(worker));
    }
    const { running = [] } = await asked;
    const known = running[0]?.modelProperties ?? {};
    const { inputCostUsdPerMillion: input, outputCostUsdPerMillion: output } = known[model] ?? known["*"] ?? {};
    return input === undefined || output === undefined ? undefined : { input, output };
  }
}

/**
 * @param {string} label
 * @param {readonly string[]} ids
 */
function group(label, ids) {
  if (ids.length === 0) return [];
  return [element("optgroup", { label }, ...ids.map((id) => element("option", { value: id }, id)))];
}
