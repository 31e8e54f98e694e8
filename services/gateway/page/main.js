/** The live page: connects to the mesh, and puts what comes from it where it belongs. */
import { Charts } from "./charts.js";
import { actOnWorker, askForKey, notice, offerNewWorker, onKeyGiven } from "./dialogs.js";
import { find, say } from "./document.js";
import { Feed } from "./feed.js";
import { some } from "./format.js";
import { clientKey } from "./gateway.js";
import { Mesh } from "./mesh.js";
import { Playground } from "./playground.js";
import { Side, tellHappenings } from "./side.js";
import { Tiles } from "./tiles.js";
import { WorkerMap } from "./worker-map.js";
import { WorkerTable } from "./workers.js";

const VERDICT_MS = 5_000;
const UNSEEN_MS = 30_000;
const VIEWS = ["overview", "playground"];

const mesh = new Mesh();
const tiles = new Tiles();
const charts = new Charts();
const side = new Side();
const workers = new WorkerTable(actOnWorker);
const map = new WorkerMap((name) => workers.search(name));
const playground = new Playground((worker) => side.markServed(worker));

/** Which workers there are and how they stand, to see when that changes. */
let standing = "";
/** Which workers there are and how many models they have, to see when there are others. */
let offered = "";

const feed = new Feed({
  onState(message) {
    const { happenings, whole } = mesh.apply(message);
    charts.setClock(mesh.atMs);
    tiles.update(mesh);
    workers.update(mesh.workers, mesh.nodes);
    map.update(mesh.workers);
    side.update(mesh);
    tellHappenings(happenings, whole);
    const { eventsLost } = mesh;
    say(
      find("events-lost"),
      eventsLost === 0 ? "" : `${some(eventsLost, "message")} of events lost: figures are too low`,
    );
    const now = [...mesh.workers.values()].map(({ name, state }) => `${name} ${state}`).join();
    if (now !== standing) {
      standing = now;
      void refreshVerdict();
    }
    const models = [...mesh.workers.values()].map(({ name, models }) => `${name} ${models}`).join();
    if (models !== offered) {
      offered = models;
      refreshModels();
    }
  },
  onConnection(connection, error) {
    const shown = find("connection");
    shown.dataset["state"] = connection;
    document.body.dataset["connection"] = connection;
    if (connection === "waiting") {
      charts.stop();
      say(shown, "paused");
    } else if (connection === "live") {
      say(shown, "live");
      notice("");
      charts.start();
    } else if (connection === "lost") {
      charts.stop();
      say(shown, "connection lost, trying again…");
      if (error !== undefined && error.status > 0) notice(`The mesh can’t be watched: ${error.message}`);
      void refreshVerdict();
    } else if (connection === "refused") {
      charts.stop();
      say(shown, "no access");
      refuse(error?.status ?? 0, error?.message ?? "");
    }
    find("key").hidden = clientKey() === "";
  },
});

/**
 * @param {number} status
 * @param {string} message
 */
function refuse(status, message) {
  const remedy = { word: clientKey() === "" ? "Enter a key" : "Change the key", act: () => askForKey("") };
  if (status === 403) {
    notice("This key opens the playground; the whole mesh is shown to an administrator’s key only.", remedy);
    refreshModels();
    return;
  }
  notice("This mesh shows itself to those who have a key.", remedy);
  askForKey(clientKey() === "" ? "" : message);
}

/**
 * @param {string} state
 * @param {string} word
 * @param {string} hint
 */
function showVerdict(state, word, hint) {
  const verdict = find("verdict");
  verdict.dataset["state"] = state;
  verdict.title = hint;
  say(find("verdict-word"), word);
}

async function refreshVerdict() {
  try {
    // 503 has a body too, and is an answer.
    const response = await fetch("/api/health", { cache: "no-store", credentials: "omit" });
    const { status, problems = [] } = await response.json();
    showVerdict(status, status, problems.join("\n"));
  } catch {
    showVerdict("unknown", "not reached", "the gateway can’t be reached");
  }
}

let modelsTimer = 0;

/** Many workers change at once when a node comes; their models are asked for once. */
function refreshModels() {
  clearTimeout(modelsTimer);
  modelsTimer = setTimeout(() => void playground.refreshModels(), 300);
}

function showView() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return;
  const view = VIEWS.includes(wanted) ? wanted : "overview";
  for (const name of VIEWS) find(name).hidden = name !== view;
  document.body.dataset["view"] = view;
  for (const link of document.querySelectorAll("nav a")) {
    if (/** @type {HTMLElement} */ (link).dataset["view"] === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = view === "playground" ? "Playground · Cortex" : "Cortex";
  if (view === "playground") playground.focus();
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset["theme"];
  return chosen === undefined ? systemDark.matches : chosen === "dark";
}

function showTheme() {
  find("theme").setAttribute("aria-pressed", String(isDark()));
  charts.repaint();
  map.repaint();
}

find("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset["theme"] = theme;
  try {
    localStorage.setItem("cortex-theme", theme);
  } catch {
    // It is dark, or light, until the page is loaded again.
  }
  showTheme();
});
systemDark.addEventListener("change", showTheme);

/** A page that nobody looks at takes one of the few connections that browsers have for a gateway. */
let unseenTimer = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(unseenTimer);
  if (document.hidden) unseenTimer = setTimeout(() => feed.pause(), UNSEEN_MS);
  else if (document.body.dataset["connection"] === "waiting") feed.restart();
});
find("key").addEventListener("click", () => askForKey(""));
addEventListener("hashchange", showView);
onKeyGiven(() => feed.restart());
offerNewWorker();
showView();
showTheme();
feed.restart();
void refreshVerdict();
refreshModels();
setInterval(() => {
  if (!document.hidden) void refreshVerdict();
}, VERDICT_MS);
