/** A real browser that looks at the live page, and keeps what should never happen on it. */
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { requireProgram } from "../programs.ts";

/** The sizes of screens that the page is held against. */
export const SCREENS = {
  desk: { width: 1440, height: 900 },
  phone: { width: 360, height: 740 },
} as const;

/** For one thing to be there on the page: what is not there on a busy machine by then does not come. */
const TIMEOUT_MS = 15_000;

/** Starts Chromium. */
export function startBrowser(): Promise<Browser> {
  // CI runs as root, for whom Chromium has no sandbox.
  return chromium.launch({ executablePath: requireProgram("chromium"), args: ["--no-sandbox"] });
}

/** One person's look at a page. */
export interface Visit extends AsyncDisposable {
  readonly page: Page;
  readonly context: BrowserContext;
  /** What the console complained of, what was thrown, and whatever was asked of another host. */
  readonly problems: readonly string[];
}

/** Opens `url` in a browser of its own: no other visit's keys and choices are there. */
export async function visit(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Visit> {
  const context = await browser.newContext({ viewport: SCREENS.desk, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  const problems: string[] = [];
  const { host } = new URL(url);
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== host) problems.push(`a request to ${request.url()}`);
  });
  await page.goto(url);
  return { page, context, problems, [Symbol.asyncDispose]: () => context.close() };
}

/** Whether something is wider than the screen. */
export async function overflows(page: Page): Promise<boolean> {
  return (await page.evaluate(
    "document.documentElement.scrollWidth > document.documentElement.clientWidth",
  )) as boolean;
}
