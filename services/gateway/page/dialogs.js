/** The dialogs: a client key, a question before something is done, a new worker. */
import { element, find, toast } from "./document.js";
import { ask, GatewayError, keepClientKey } from "./gateway.js";

/** @typedef {import("./mesh.js").Worker} Worker */
/** @typedef {import("./workers.js").WorkerAction} WorkerAction */

for (const dialog of document.querySelectorAll("dialog")) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
  // A click beside it, which is a click on the dialog itself and on nothing in it.
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/**
 * Shows what went wrong, or takes it away.
 * @param {string} id
 * @param {string} problem
 */
function tell(id, problem) {
  const place = find(id);
  place.hidden = problem === "";
  place.textContent = problem;
}

/**
 * What a form does when it is sent: the dialog closes when it has been done, and tells what went wrong otherwise.
 * @param {HTMLDialogElement} dialog
 * @param {string} problem the id of the place for it
 * @param {() => Promise<void>} send
 * @param {(error: unknown) => void} [onError]
 */
function onSubmit(dialog, problem, send, onError) {
  const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
  const button = /** @type {HTMLButtonElement} */ (form.querySelector("[type=submit]"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tell(problem, "");
    button.disabled = true;
    void send()
      .then(() => dialog.close())
      .catch((/** @type {unknown} */ thrown) => {
        tell(problem, thrown instanceof Error ? thrown.message : String(thrown));
        onError?.(thrown);
      })
      .finally(() => {
        button.disabled = false;
      });
  });
}

/**
 * Asks for a client key.
 * @param {string} problem why, if one was refused
 */
export function askForKey(problem) {
  const dialog = find("ask-key", HTMLDialogElement);
  if (dialog.open) return;
  tell("key-problem", problem);
  dialog.showModal();
}

/** @param {() => void} onKey told when there is another key */
export function onKeyGiven(onKey) {
  const value = find("key-value", HTMLInputElement);
  onSubmit(find("ask-key", HTMLDialogElement), "key-problem", async () => {
    keepClientKey(value.value.trim());
    value.value = "";
    onKey();
  });
}

/** @type {Readonly<Record<WorkerAction, { title: string, text: string, word: string, done: string }>>} */
const QUESTIONS = {
  drain: {
    title: "Drain",
    text: "It gets no new requests; those that run go on to their end. Undrain takes it back.",
    word: "Drain it",
    done: "is draining",
  },
  undrain: { title: "Undrain", text: "It gets requests again.", word: "Undrain it", done: "gets requests again" },
  remove: {
    title: "Remove",
    text: "It is taken out of every node, and does not come back when they are started again. Requests that run go on.",
    word: "Remove it",
    done: "has been removed",
  },
};

/** @type {() => Promise<void>} */
let confirmed = async () => {};
onSubmit(find("confirm", HTMLDialogElement), "confirm-problem", () => confirmed());

/**
 * Does something with a worker; asks first, except for what harms nobody.
 * @param {WorkerAction} action
 * @param {Worker} worker
 */
export function actOnWorker(action, { name }) {
  const { title, text, word, done } = QUESTIONS[action];
  const path = `/admin/workers/${encodeURIComponent(name)}`;
  const act = async () => {
    await (action === "remove" ? ask(path, { method: "DELETE" }) : ask(`${path}/${action}`, { method: "POST" }));
    toast(`${name} ${done}`);
  };
  if (action === "undrain") {
    void act().catch((/** @type {unknown} */ thrown) => toast(/** @type {Error} */ (thrown).message, "bad"));
    return;
  }
  confirmed = act;
  tell("confirm-problem", "");
  find("confirm-title").textContent = `${title} ${name}?`;
  find("confirm-text").textContent = text;
  const button = find("confirm-do");
  button.textContent = word;
  button.className = action === "remove" ? "bad" : "primary";
  find("confirm", HTMLDialogElement).showModal();
}

/** Makes the button for a new worker do something. */
export function offerNewWorker() {
  const dialog = find("new-worker", HTMLDialogElement);
  const provider = find("new-provider", HTMLSelectElement);
  const field = (/** @type {string} */ name) => find(`new-${name}`, HTMLInputElement);
  const elsewhere = /** @type {HTMLElement} */ (dialog.querySelector("[data-for=provider]"));
  const adapt = () => {
    elsewhere.hidden = provider.value === "sim";
  };
  provider.addEventListener("change", adapt);
  find("add-worker").addEventListener("click", () => {
    tell("new-problem", "");
    adapt();
    dialog.showModal();
  });
  onSubmit(
    dialog,
    "new-problem",
    async () => {
      const text = (/** @type {string} */ name) => field(name).value.trim() || undefined;
      const whole = (/** @type {string} */ name) => (field(name).value === "" ? undefined : Number(field(name).value));
      const simulated = provider.value === "sim";
      const models = (text("models") ?? "").split(/[\s,]+/).filter((model) => model !== "");
      const concurrent = whole("concurrent");
      await ask("/admin/workers", {
        method: "POST",
        body: {
          name: text("name"),
          provider: provider.value,
          baseUrl: simulated ? undefined : text("baseUrl"),
          keysVariable: simulated ? undefined : text("keysVariable"),
          models: models.length === 0 ? undefined : models,
          priority: whole("priority"),
          limits: concurrent === undefined ? undefined : { concurrent },
        },
      });
      toast(`${text("name")} has been added`);
      /** @type {HTMLFormElement} */ (dialog.querySelector("form")).reset();
    },
    (error) => {
      // limits.concurrent is the field "concurrent" here.
      const wrong = error instanceof GatewayError ? error.field.split(".").at(-1) : undefined;
      if (wrong) document.getElementById(`new-${wrong}`)?.focus();
    },
  );
}

/**
 * The line above everything that says why something is not shown, with one thing to do about it.
 * @param {string} sentence empty when all is shown
 * @param {{ readonly word: string, readonly act: () => void }} [remedy]
 */
export function notice(sentence, remedy) {
  const place = find("notice");
  place.hidden = sentence === "";
  place.replaceChildren(sentence);
  if (remedy === undefined || sentence === "") return;
  const button = element("button", { type: "button", class: "small" }, remedy.word);
  button.addEventListener("click", remedy.act);
  place.append(" ", button);
}
