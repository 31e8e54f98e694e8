/** The playground of the live page, in a real browser, against real processes: how an answer looks while it comes. */
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { startMesh, type TestMesh } from "../mesh.ts";
import { describeWith } from "../programs.ts";
import { overflows, SCREENS, startBrowser, visit } from "./visit.ts";

describeWith(["chromium"], "the playground", () => {
  let provider: Simulator;
  let mesh: TestMesh;
  let browser: Browser;
  let url: string;

  beforeAll(async () => {
    provider = await startOpenAiSimulator();
    mesh = await startMesh("one node", {
      workers: [
        {
          name: "first",
          provider: "openai",
          baseUrl: provider.url,
          models: ["m", "<b>bold</b>"],
          breaker: { failures: 1_000 },
          modelProperties: { "*": { inputCostUsdPerMillion: 1_000, outputCostUsdPerMillion: 2_000 } },
        },
      ],
      settings: { cache: { enabled: true } },
    });
    browser = await startBrowser();
    url = `${mesh.rest}/#playground`;
  });

  afterAll(async () => {
    await browser?.close();
    await mesh?.[Symbol.asyncDispose]();
    await provider?.stop();
  });

  beforeEach(() => {
    provider.behave(undefined);
  });

  const promptOf = (page: Page) => page.getByLabel("Prompt", { exact: true });
  /** Of the last answer. */
  const textOf = (page: Page) => page.locator(".answer > .text").last();
  /** What the last answer shows under this name. */
  const fact = (page: Page, name: string) => page.locator(`.answer [data-fact="${name}"] dd`).last();

  it("shows a streamed answer token by token, and then how it came about", async () => {
    provider.behave({ text: "one two three four five six seven eight", tokenMs: 60 });
    await using seen = await visit(browser, url);
    const { page, problems } = seen;
    await promptOf(page).fill("count");
    const states = new Set<string>();
    await page.getByRole("button", { name: "Send" }).click();
    const text = textOf(page);
    await expect
      .poll(
        async () => {
          const now = (await text.textContent()) ?? "";
          states.add(now);
          return now;
        },
        { interval: 10 },
      )
      .toBe("one two three four five six seven eight");
    expect([...states].filter((state) => state !== "").length).toBeGreaterThan(3);
    await expect.poll(() => fact(page, "worker").textContent()).toBe("first (openai)");
    expect(await fact(page, "attempts").textContent()).toBe("1");
    expect(await fact(page, "first-token").textContent()).toMatch(/ms|s$/);
    expect(await fact(page, "speed").textContent()).toMatch(/tokens\/s$/);
    expect(await fact(page, "tokens").textContent()).toBe("1 in, 8 out");
    expect(await fact(page, "cost").textContent()).toBe("$0.017");
    expect(await fact(page, "cache").textContent()).toMatch(/^miss/);
    expect(await fact(page, "trace").textContent()).toMatch(/^[0-9a-f]{8}$/);
    expect(problems).toEqual([]);
  });

  it("says that an answer came from the cache and cost nothing", async () => {
    await using seen = await visit(browser, url);
    const { page } = seen;
    for (const cache of [/^miss/, /^hit/]) {
      await promptOf(page).fill("the same again");
      await page.getByRole("button", { name: "Send" }).click();
      await expect.poll(() => fact(page, "cache").textContent()).toMatch(cache);
      await page.getByRole("button", { name: "New conversation" }).click();
    }
    await promptOf(page).fill("the same again");
    await page.getByRole("button", { name: "Send" }).click();
    await expect.poll(() => fact(page, "cost").textContent()).toBe("$0");
    await page.getByRole("button", { name: "New conversation" }).click();
    await page.getByLabel("Do not answer from the cache").check();
    await promptOf(page).fill("the same again");
    await page.getByRole("button", { name: "Send" }).click();
    await expect.poll(() => fact(page, "cache").textContent()).toMatch(/^(miss|bypass)/);
  });

  it("stops an answer, and the provider's work with it, and keeps what has come", async () => {
    provider.behave({ tokens: 1_000, tokenMs: 20 });
    await using seen = await visit(browser, url);
    const { page, problems } = seen;
    await promptOf(page).fill("go on and on");
    await page.keyboard.press("Control+Enter");
    const text = textOf(page);
    await expect.poll(async () => ((await text.textContent()) ?? "").length).toBeGreaterThan(20);
    await page.keyboard.press("Escape");
    await expect.poll(() => page.locator(".answer .facts").textContent()).toContain("Stopped");
    await expect.poll(() => provider.generations.at(-1)?.closedAtMs).toBeDefined();
    expect(((await text.textContent()) ?? "").length).toBeGreaterThan(20);
    expect(await page.getByRole("button", { name: "Send" }).isVisible()).toBe(true);
    expect(problems).toEqual([]);
  });

  it("keeps the conversation, the system prompt and the temperature in what it asks", async () => {
    await using seen = await visit(browser, url);
    const { page } = seen;
    await page.getByLabel("System prompt").fill("Be brief.");
    await page.getByLabel(/^Temperature/).fill("0.3");
    for (const [index, prompt] of ["first line\nsecond line", "and then?"].entries()) {
      await promptOf(page).fill(prompt);
      await page.keyboard.press("Control+Enter");
      await expect.poll(() => page.locator('.answer [data-fact="worker"]').count()).toBe(index + 1);
    }
    const body = provider.generations.at(-1)?.body as {
      messages: { role: string; content: string }[];
      temperature: number;
    };
    expect(body.temperature).toBe(0.3);
    expect(body.messages.map(({ role, content }) => [role, content])).toEqual([
      ["system", "Be brief."],
      ["user", "first line\nsecond line"],
      ["assistant", "You said: first line\nsecond line"],
      ["user", "and then?"],
    ]);
  });

  it("gives an answer that is not streamed in one piece", async () => {
    await using seen = await visit(browser, url);
    const { page } = seen;
    await page.getByLabel("Stream the answer").uncheck();
    await promptOf(page).fill("at once");
    await page.keyboard.press("Control+Enter");
    await expect.poll(() => textOf(page).textContent()).toBe("You said: at once");
    expect(provider.generations.at(-1)?.body).not.toHaveProperty("stream", true);
  });

  it("shows an error in the words of the error, with who was tried, and gives the prompt back", async () => {
    provider.behave("status:500");
    await using seen = await visit(browser, url);
    const { page } = seen;
    await promptOf(page).fill("fail please");
    await page.keyboard.press("Control+Enter");
    const error = page.locator(".answer .error");
    await expect.poll(() => error.textContent()).toMatch(/^[A-Z_]+ · HTTP 50\d/);
    expect(await error.getByRole("listitem").first().textContent()).toMatch(/^first PROVIDER_ERROR: /);
    expect(await error.getByRole("button", { name: /trace id/ }).count()).toBe(1);
    expect(await promptOf(page).inputValue()).toBe("fail please");
  });

  it("shows a stream that breaks as an error, after what had come", async () => {
    provider.behave({ text: "one two three four five six", fault: "cut", at: 3 });
    await using seen = await visit(browser, url);
    const { page } = seen;
    await promptOf(page).fill("break");
    await page.keyboard.press("Control+Enter");
    await expect.poll(() => page.locator(".answer .error").textContent()).toContain("STREAM_INTERRUPTED");
    expect(await textOf(page).textContent()).toMatch(/^one two/);
  });

  it("never makes HTML of what a person, a provider or an error says", async () => {
    const attack = '<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>';
    await using seen = await visit(browser, url);
    const { page, problems } = seen;
    await promptOf(page).fill(attack);
    await page.keyboard.press("Control+Enter");
    await expect.poll(() => textOf(page).textContent()).toBe(`You said: ${attack}`);
    await page.getByLabel("Model", { exact: true }).selectOption({ label: "another…" });
    await page.getByLabel("Another model").fill(attack);
    await promptOf(page).fill("hello");
    await page.keyboard.press("Control+Enter");
    await expect.poll(() => page.locator(".answer .error").textContent()).toContain("<img src=x");
    await expect.poll(() => page.locator("#model option").allTextContents()).toContain("<b>bold</b>");
    expect(await page.locator("main img, main script, option b").count()).toBe(0);
    expect(await page.evaluate("window.attacked")).toBeUndefined();
    // The one complaint is of the status of the request that failed.
    expect(problems.filter((problem) => !problem.includes("404"))).toEqual([]);
  });

  it("is used with the keyboard alone, and on a phone", async () => {
    await using seen = await visit(browser, mesh.rest, { viewport: SCREENS.phone, hasTouch: true });
    const { page } = seen;
    await page.keyboard.press("Tab");
    expect(await page.evaluate("document.activeElement.textContent")).toBe("Skip to the content");
    while ((await page.evaluate("document.activeElement.textContent")) !== "Playground")
      await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await expect.poll(() => page.evaluate("document.activeElement.id")).toBe("prompt");
    await page.keyboard.type("typed");
    await page.keyboard.press("Enter");
    await page.keyboard.type("on two lines");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await expect.poll(() => textOf(page).textContent()).toBe("You said: typed\non two lines");
    expect(await overflows(page)).toBe(false);
  });
});
