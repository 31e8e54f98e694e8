/** The live page of a mesh with a thousand workers: as light as that of a small one, and all of them can be found. */
import type { Browser, CDPSession, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { startMesh, type TestMesh } from "../mesh.ts";
import { describeWith } from "../programs.ts";
import { overflows, SCREENS, startBrowser, visit } from "./visit.ts";

const WORKERS = 1_000;

describeWith(["chromium"], "the live page of a thousand workers", () => {
  let mesh: TestMesh;
  let browser: Browser;

  beforeAll(async () => {
    mesh = await startMesh("one node", {
      workers: Array.from({ length: WORKERS }, (_, index) => ({ name: `w${index}`, provider: "sim", models: ["m"] })),
    });
    browser = await startBrowser();
  });

  afterAll(async () => {
    await browser?.close();
    await mesh?.[Symbol.asyncDispose]();
  });

  const rows = (page: Page) => page.locator("#workers tbody tr");
  const names = async (page: Page) => rows(page).locator(".worker-name").allTextContents();

  /** The part of the time in which the page's own thread is busy, while so many messages come. */
  async function busyPart(page: Page, session: CDPSession, messages: number): Promise<number> {
    const { metrics } = await session.send("Performance.getMetrics");
    const startedAtMs = performance.now();
    let points = "";
    for (let seen = 0; seen < messages; seen++) {
      const before = points;
      await expect
        .poll(async () => {
          points = (await page.locator(".tile polyline").first().getAttribute("points")) ?? "";
          return points;
        })
        .not.toBe(before);
    }
    const { metrics: after } = await session.send("Performance.getMetrics");
    const taskS = (list: typeof metrics) => list.find(({ name }) => name === "TaskDuration")!.value;
    return ((taskS(after) - taskS(metrics)) * 1_000) / (performance.now() - startedAtMs);
  }

  it("shows a page of them at a time, and stays idle most of the time", async ({ annotate }) => {
    await using seen = await visit(browser, mesh.rest);
    const { page, problems } = seen;
    await expect.poll(() => page.locator("#worker-range").textContent()).toBe("1–25 of 1,000");
    await expect.poll(() => page.locator('[data-group="up"]').textContent()).toBe("1,000 up");
    const elements = (await page.evaluate("document.querySelectorAll('*').length")) as number;
    expect(elements).toBeLessThan(2_000);
    const session = await page.context().newCDPSession(page);
    await session.send("Performance.enable");
    const busy = await busyPart(page, session, 5);
    await annotate(`${elements} elements; busy ${(busy * 100).toFixed(1)} % of the time`);
    expect(busy).toBeLessThan(0.5);
    expect(problems).toEqual([]);
  });

  it("finds one by its name, turns pages, and sorts", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page } = seen;
    await expect.poll(() => rows(page).count()).toBe(25);
    expect((await names(page)).slice(0, 3)).toEqual(["w0", "w1", "w2"]);
    await page.getByRole("button", { name: "Next" }).click();
    expect((await names(page))[0]).toBe("w25");
    await page.getByRole("button", { name: "Worker", exact: true }).click();
    await page.getByRole("button", { name: "Worker", exact: true }).click();
    expect((await names(page))[0]).toBe("w999");
    expect(await page.getByRole("columnheader", { name: "Worker" }).getAttribute("aria-sort")).toBe("descending");
    await page.getByLabel(/^Filter workers/).fill("w99");
    expect(await names(page)).toEqual([
      "w999",
      "w998",
      "w997",
      "w996",
      "w995",
      "w994",
      "w993",
      "w992",
      "w991",
      "w990",
      "w99",
    ]);
    await page.getByRole("button", { name: /down$/ }).click();
    expect(await page.locator("#workers-empty").textContent()).toBe("No worker is like that.");
  });

  it("shows all of them at a glance, and the one that is clicked", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page } = seen;
    const map = page.locator("#worker-map canvas");
    await map.hover({ position: { x: 14, y: 4 } });
    await expect.poll(() => page.locator(".map-tip").textContent()).toBe("w1 · up · 0 in flight");
    await map.click({ position: { x: 14, y: 4 } });
    await expect.poll(async () => (await names(page))[0]).toBe("w1");
    expect(await page.getByLabel(/^Filter workers/).inputValue()).toBe("w1");
  });

  it("fits a phone", async () => {
    await using seen = await visit(browser, mesh.rest, { viewport: SCREENS.phone, isMobile: true });
    await expect.poll(() => rows(seen.page).count()).toBe(25);
    expect(await overflows(seen.page)).toBe(false);
  });
});
