/**
 * `npm run screenshots`: the pictures of the live page in the documents, docs/images/*.png, taken of a mesh of real processes
 * and simulated providers after some minutes of traffic (`-- 30` for so many seconds).
 */
import { mkdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { Browser, Page } from "playwright-core";
import { see } from "../asking.ts";
import {
  type BehaviourLike,
  type SimulatedRequest,
  type Simulator,
  startGroqSimulator,
  startOllamaSimulator,
  startOpenAiSimulator,
} from "../fakes/index.ts";
import { startMesh, type TestMesh } from "../mesh.ts";
import { SCREENS, startBrowser, visit } from "./visit.ts";

const FOLDER = new URL("../../docs/images/", import.meta.url).pathname;
const TRAFFIC_S = Number(process.argv[2] ?? 240);
/** Requests that begin in a second, on average. */
const RATE = 5;

const LLAMA = "llama-3.3-70b-versatile";
const MODELS = [LLAMA, LLAMA, LLAMA, "gpt-4o-mini", "gpt-4o-mini", "gemma3:4b", "auto"];
const GREETING = "Hello, who are you?";
const INTRODUCTION =
  "A simulated model: this mesh stands on providers that only pretend, at the pace of real ones. Nothing here costs money.";
const PROMPT = "Explain back-pressure in three sentences.";
const ANSWER =
  "Back-pressure is how a slow reader tells a fast writer to wait. Instead of letting data pile up in memory, each stage takes only " +
  "as much as it can handle, and the stage before it slows down. The result is a system whose memory stays bounded and whose slowest " +
  "part sets the pace, without losing anything on the way.";
/** What only a request to go on with it has. */
const BEGINNING = ANSWER.slice(0, 30);
const WORDS_MAX = 60;

/** Mostly well; the answer for the picture breaks off in the middle, so that another worker goes on with it. */
function script(failing: number): (index: number, request: SimulatedRequest) => BehaviourLike {
  return (_index, { body }) => {
    const asked = JSON.stringify(body);
    if (asked.includes(PROMPT)) return { text: ANSWER, ...(asked.includes(BEGINNING) ? {} : { fault: "cut", at: 30 }) };
    if (asked.includes(GREETING)) return { text: INTRODUCTION };
    if (Math.random() < failing) return "status:503";
    return { tokens: Math.ceil(Math.random() * WORDS_MAX) };
  };
}

async function keepAsking(mesh: TestMesh, signal: AbortSignal): Promise<void> {
  const running = new Set<Promise<unknown>>();
  for (let index = 0; !signal.aborted; index++) {
    // It swells and ebbs, as traffic does.
    const rate = RATE * (1 + 0.5 * Math.sin(index / 90));
    await delay((-Math.log(1 - Math.random()) / rate) * 1_000);
    const model = MODELS[Math.floor(Math.random() * MODELS.length)]!;
    // A fifth of the questions has been asked before.
    const content = Math.random() < 0.2 ? "What are your opening hours?" : `question ${index}`;
    const asked = see(mesh.rest, { model, stream: true, messages: [{ role: "user", content }] }).catch(() => {});
    running.add(asked);
    void asked.then(() => running.delete(asked));
  }
  await Promise.all(running);
}

async function overview(browser: Browser, url: string, name: string, dark: boolean): Promise<void> {
  await using seen = await visit(browser, url, {
    colorScheme: dark ? "dark" : "light",
    viewport: { width: 1440, height: 960 },
  });
  await settle(seen.page);
  await take(seen.page, name);
}

/** The charts of five minutes, and a minute's worth of the tiles' lines. */
async function settle(page: Page): Promise<void> {
  await page.getByRole("button", { name: "5 min", exact: true }).click();
  await delay(Math.min(TRAFFIC_S / 6, 60) * 1_000);
}

async function take(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: `${FOLDER}${name}.png`, animations: "disabled" });
  process.stdout.write(`docs/images/${name}.png\n`);
}

async function playground(browser: Browser, url: string): Promise<void> {
  await using seen = await visit(browser, `${url}/#playground`, {
    colorScheme: "light",
    viewport: { width: 1440, height: 860 },
  });
  const { page } = seen;
  await page.getByLabel("Model", { exact: true }).selectOption(LLAMA);
  for (const [index, prompt] of [GREETING, PROMPT].entries()) {
    await page.getByLabel("Prompt", { exact: true }).fill(prompt);
    await page.keyboard.press("Control+Enter");
    await page.locator('.answer [data-fact="trace"]').nth(index).waitFor();
  }
  await delay(1_500);
  await take(page, "playground");
}

async function phone(browser: Browser, url: string): Promise<void> {
  await using seen = await visit(browser, url, {
    colorScheme: "dark",
    viewport: { ...SCREENS.phone, height: 780 },
    deviceScaleFactor: 2,
    hasTouch: true,
  });
  const { page } = seen;
  await settle(page);
  await page.getByRole("heading", { name: "Workers" }).scrollIntoViewIfNeeded();
  await page.locator(".workers").evaluate((panel) => panel.scrollIntoView());
  await take(page, "phone");
}

async function main(): Promise<void> {
  mkdirSync(FOLDER, { recursive: true });
  const providers: Record<string, Simulator> = {
    groq: await startGroqSimulator({ pace: "groq", behaviour: script(0.03) }),
    spare: await startGroqSimulator({ pace: "groq", behaviour: script(0) }),
    openai: await startOpenAiSimulator({ pace: "openai", behaviour: script(0.01) }),
    ollama: await startOllamaSimulator({ pace: "ollama-gpu", behaviour: script(0) }),
  };
  const { groq, spare, openai, ollama } = providers;
  const prices = (input: number, output: number) => ({
    "*": { inputCostUsdPerMillion: input, outputCostUsdPerMillion: output },
  });
  const mesh = await startMesh("one node", {
    workers: [
      {
        name: "groq-main",
        provider: "groq",
        baseUrl: groq!.url,
        models: [LLAMA],
        priority: 1,
        limits: { concurrent: 32 },
        modelProperties: prices(0.59, 0.79),
      },
      {
        name: "groq-spare",
        provider: "groq",
        baseUrl: spare!.url,
        models: [LLAMA],
        priority: 2,
        limits: { concurrent: 16 },
        modelProperties: prices(0.59, 0.79),
      },
      {
        name: "openai-main",
        provider: "openai",
        baseUrl: openai!.url,
        models: ["gpt-4o-mini"],
        priority: 5,
        modelProperties: prices(0.15, 0.6),
      },
      {
        name: "openai-batch",
        provider: "openai",
        baseUrl: openai!.url,
        models: ["gpt-4o-mini"],
        priority: 9,
        modelProperties: prices(0.15, 0.6),
      },
      {
        name: "ollama-rack-1",
        provider: "ollama",
        baseUrl: ollama!.url,
        models: ["gemma3:4b"],
        priority: 1,
        limits: { concurrent: 4 },
      },
      { name: "demo", provider: "sim", models: ["sim"], priority: 1_000 },
    ],
    settings: { cache: { enabled: true }, routing: { strategy: "least_loaded" } },
    environment: { GROQ_API_KEY: "simulated", OPENAI_API_KEY: "simulated", CORTEX_NODE_NAME: "edge-1" },
  });
  const browser = await startBrowser();
  const traffic = new AbortController();
  const asking = keepAsking(mesh, traffic.signal);
  try {
    await mesh.runAs("edge-2", "gateway", "router", "adapter-groq", "adapter-openai");
    await delay(TRAFFIC_S * 1_000);
    await fetch(`${mesh.rest}/admin/workers/openai-batch/drain`, { method: "POST" });
    await ollama!.stop();
    await Promise.all([
      overview(browser, mesh.rest, "overview-dark", true),
      overview(browser, mesh.rest, "overview-light", false),
      phone(browser, mesh.rest),
    ]);
    await playground(browser, mesh.rest);
  } finally {
    traffic.abort();
    await asking;
    await browser.close();
    await mesh[Symbol.asyncDispose]();
    await Promise.all(Object.values(providers).map((provider) => provider.stop()));
  }
}

await main();
