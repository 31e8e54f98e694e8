/** The live page of a mesh with client keys: it is open, what it shows is not. */
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { startMesh, type TestMesh } from "../mesh.ts";
import { describeWith } from "../programs.ts";
import { startBrowser, visit } from "./visit.ts";

describeWith(["chromium"], "the live page of a mesh with client keys", () => {
  let mesh: TestMesh;
  let browser: Browser;

  beforeAll(async () => {
    mesh = await startMesh("one node", {
      workers: [{ name: "demo", provider: "sim", models: ["m"], options: { firstTokenMs: 1, tokensPerSecond: 1_000 } }],
      settings: {
        clients: [
          { key: "key-of-the-operator", tenant: "operators", admin: true },
          { key: "key-of-a-client", tenant: "clients" },
        ],
      },
    });
    browser = await startBrowser();
  });

  afterAll(async () => {
    await browser?.close();
    await mesh?.[Symbol.asyncDispose]();
  });

  it("asks for a key, says when it is wrong, and opens with the right one for as long as the tab lives", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page, context } = seen;
    const dialog = page.getByRole("dialog");
    await expect.poll(() => dialog.textContent()).toContain("asks for a key");
    await dialog.getByLabel("Client key").fill("wrong");
    await page.keyboard.press("Enter");
    await expect.poll(() => dialog.getByRole("alert").textContent()).toMatch(/key/);
    await dialog.getByLabel("Client key").fill("key-of-the-operator");
    await page.keyboard.press("Enter");
    await expect.poll(() => page.locator("#connection").textContent()).toBe("live");
    await expect.poll(() => page.locator('#workers tr[data-worker="demo"] .cell-state').textContent()).toBe("up");
    expect(await page.evaluate("JSON.stringify(localStorage)")).not.toContain("key-of");
    await page.reload();
    await expect.poll(() => page.locator("#connection").textContent()).toBe("live");
    const other = await context.newPage();
    await other.goto(mesh.rest);
    await expect.poll(() => other.getByRole("dialog").textContent()).toContain("asks for a key");
  });

  it("lets a client's key into the playground, and says why it shows nothing else", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page } = seen;
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Client key").fill("key-of-a-client");
    await page.keyboard.press("Enter");
    await expect.poll(() => page.locator("#notice").textContent()).toMatch(/administrator’s key/);
    expect(await page.locator("#workers tbody tr").count()).toBe(0);
    await page.getByRole("link", { name: "Playground" }).click();
    await expect.poll(() => page.locator("#model option").allTextContents()).toContain("m");
    await page.getByLabel("Prompt", { exact: true }).fill("hello");
    await page.keyboard.press("Control+Enter");
    await expect.poll(() => page.locator('.answer [data-fact="worker"] dd').textContent()).toBe("demo (sim)");
    expect(await page.locator('.answer [data-fact="cost"]').count()).toBe(0);
  });
});
