/** The live page in a real browser, against a mesh of real processes: what it shows is what the mesh does. */
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { see } from "../asking.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { startMesh, type TestMesh } from "../mesh.ts";
import { describeWith } from "../programs.ts";
import { layCable } from "./cut.ts";
import { overflows, SCREENS, startBrowser, visit } from "./visit.ts";

const QUESTION = { model: "m", messages: [{ role: "user", content: "hello" }] };

describeWith(["chromium"], "the live page", () => {
  let provider: Simulator;
  let mesh: TestMesh;
  let browser: Browser;

  beforeAll(async () => {
    provider = await startOpenAiSimulator();
    mesh = await startMesh("many nodes", {
      workers: [
        { name: "main", provider: "openai", baseUrl: provider.url, models: ["m"], priority: 1 },
        {
          name: "spare",
          provider: "sim",
          models: ["m"],
          priority: 2,
          options: { firstTokenMs: 5, tokensPerSecond: 500 },
        },
      ],
    });
    await mesh.run("metrics", "health");
    browser = await startBrowser();
  });

  afterAll(async () => {
    await browser?.close();
    await mesh?.[Symbol.asyncDispose]();
    await provider?.stop();
  });

  const rowOf = (page: Page, worker: string) => page.locator(`#workers tr[data-worker="${worker}"]`);
  /** The word for a worker's state. */
  const stateOf = async (page: Page, worker: string) =>
    (await rowOf(page, worker).locator(".cell-state").allTextContents()).join();
  const connectionOf = (page: Page) => page.locator("#connection").textContent();
  const tileOf = (page: Page, title: string) =>
    page.locator(".tile", { has: page.getByText(title, { exact: true }) }).locator("dd");

  it("greets programs with a word and browsers with a page", async () => {
    const word = await fetch(mesh.rest);
    expect(word.headers.get("content-type")).toMatch(/^text\/plain/);
    const page = await fetch(mesh.rest, { headers: { accept: "text/html,application/xhtml+xml,*/*;q=0.8" } });
    expect(page.headers.get("content-type")).toMatch(/^text\/html/);
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
  });

  it("opens without a complaint, asks no other host, and shows the workers, the nodes and the verdict", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page, problems } = seen;
    await expect.poll(() => connectionOf(page)).toBe("live");
    await expect.poll(() => stateOf(page, "main")).toBe("up");
    expect(await stateOf(page, "spare")).toBe("up");
    expect(await rowOf(page, "spare").locator(".worker-place").textContent()).toMatch(/^sim, simulated · /);
    await expect.poll(() => page.locator("#nodes li").count()).toBe(mesh.nodes.length);
    await expect.poll(() => page.locator("#verdict").textContent()).toBe("healthy");
    expect(await page.locator(".chart .u-over").count()).toBe(4);
    expect(await overflows(page)).toBe(false);
    expect(problems).toEqual([]);
  });

  it("shows requests as they come: rates, the model, the worker, the charts", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page, problems } = seen;
    await expect.poll(() => connectionOf(page)).toBe("live");
    await page.getByRole("button", { name: "5 min", exact: true }).click();
    const rates = new Set<string>();
    await expect
      .poll(async () => {
        await see(mesh.rest, { ...QUESTION, stream: true });
        rates.add((await tileOf(page, "Requests/s").textContent()) ?? "");
        const used = await page.locator("#used li").allTextContents();
        const score = await rowOf(page, "main").locator(".cell-score").textContent();
        const chart = await page.locator(".chart-place").first().getAttribute("aria-label");
        return { used: used.some((line) => /^m\d+$/.test(line)), score, chart: /at most [^0]/.test(chart ?? "") };
      })
      .toEqual({ used: true, score: "100", chart: true });
    expect(rates.size).toBeGreaterThan(1);
    expect(problems).toEqual([]);
  });

  it("adds a worker by its form, drains it, takes it back and removes it", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page, problems } = seen;
    await expect.poll(() => connectionOf(page)).toBe("live");
    await page.getByRole("button", { name: "Add a worker" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name").fill("main");
    await dialog.getByRole("button", { name: "Add it" }).click();
    await expect.poll(() => dialog.getByRole("alert").textContent()).toMatch(/main/);
    await dialog.getByLabel("Name").fill("newcomer");
    await dialog.getByLabel("Models").fill("x, y");
    await dialog.getByLabel("Requests at once").fill("7");
    await dialog.getByRole("button", { name: "Add it" }).click();
    await expect.poll(() => stateOf(page, "newcomer")).toBe("up");
    expect(await dialog.isVisible()).toBe(false);
    expect(await rowOf(page, "newcomer").locator(".cell-load").textContent()).toBe("0 / 7");
    await page.getByRole("button", { name: "Drain newcomer" }).click();
    await dialog.getByRole("button", { name: "Drain it" }).click();
    await expect.poll(() => stateOf(page, "newcomer")).toBe("draining");
    await page.getByRole("button", { name: "Undrain newcomer" }).click();
    await expect.poll(() => stateOf(page, "newcomer")).toBe("up");
    await page.getByRole("button", { name: "Remove newcomer" }).click();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    expect(await rowOf(page, "newcomer").count()).toBe(1);
    await page.getByRole("button", { name: "Remove newcomer" }).click();
    await dialog.getByRole("button", { name: "Remove it" }).click();
    await expect.poll(() => rowOf(page, "newcomer").count()).toBe(0);
    // One of the file can't be removed here.
    expect(await page.getByRole("button", { name: "Remove main" }).count()).toBe(0);
    // The one complaint is of the status of the name that was taken.
    expect(problems.filter((problem) => !problem.includes("409"))).toEqual([]);
  });

  it("is light or dark as the system has it, or as was chosen, and stays so", async () => {
    await using seen = await visit(browser, mesh.rest, { colorScheme: "dark" });
    const { page } = seen;
    const brightness = () =>
      page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])") as Promise<number>;
    expect(await brightness()).toBeLessThan(60);
    await page.emulateMedia({ colorScheme: "light" });
    expect(await brightness()).toBeGreaterThan(200);
    await page.getByRole("button", { name: "Dark colours" }).click();
    expect(await brightness()).toBeLessThan(60);
    await page.reload();
    expect(await brightness()).toBeLessThan(60);
    expect(await page.getByRole("button", { name: "Dark colours" }).getAttribute("aria-pressed")).toBe("true");
  });

  it("fits a phone", async () => {
    await using seen = await visit(browser, mesh.rest, { viewport: SCREENS.phone, hasTouch: true, isMobile: true });
    const { page } = seen;
    await expect.poll(() => stateOf(page, "main")).toBe("up");
    expect(await overflows(page)).toBe(false);
    const cards = page.locator("#workers tbody tr");
    const [first, second] = [await cards.nth(0).boundingBox(), await cards.nth(1).boundingBox()];
    expect(first!.x).toBe(second!.x);
    expect(second!.y).toBeGreaterThanOrEqual(first!.y + first!.height);
  });

  it("says that the connection is lost, and takes it up again", async () => {
    await using cable = await layCable(mesh.rest);
    await using seen = await visit(browser, cable.url);
    const { page } = seen;
    await expect.poll(() => connectionOf(page)).toBe("live");
    cable.cut();
    await expect.poll(() => connectionOf(page)).toMatch(/^connection lost/);
    await expect.poll(() => page.locator("#verdict").textContent()).toMatch(/^not /);
    cable.mend();
    await expect.poll(() => connectionOf(page)).toBe("live");
    await expect.poll(() => page.locator("#verdict").textContent()).not.toMatch(/^not /);
    expect(await stateOf(page, "main")).toBe("up");
  });

  it("says under the name of a worker that is down why it is", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page } = seen;
    const worker = { name: "unreachable", provider: "openai", baseUrl: "http://127.0.0.1:1/v1", models: ["m"] };
    await fetch(`${mesh.rest}/admin/workers`, { method: "POST", body: JSON.stringify(worker) });
    const why = "PROVIDER_UNREACHABLE: no answer from 127.0.0.1:1 (ECONNREFUSED)";
    await expect.poll(() => rowOf(page, "unreachable").locator(".worker-trouble").allTextContents()).toEqual([why]);
    expect(await rowOf(page, "unreachable").locator(".worker-trouble").isVisible()).toBe(true);
    expect(await rowOf(page, "main").locator(".worker-trouble").textContent()).toBe("");
    await fetch(`${mesh.rest}/admin/workers/unreachable`, { method: "DELETE" });
    await expect.poll(() => rowOf(page, "unreachable").count()).toBe(0);
  });

  // From here on nodes die.
  it("turns a worker red whose process was killed, and shows its traffic move", async ({ annotate }) => {
    await using seen = await visit(browser, mesh.rest);
    const { page, problems } = seen;
    await expect.poll(() => stateOf(page, "main")).toBe("up");
    const served = new Set<string>();
    const ask = async () => {
      await see(mesh.rest, QUESTION, { onHeaders: (headers) => served.add(headers.get("x-cortex-worker") ?? "") });
    };
    await ask();
    expect([...served]).toEqual(["main"]);
    const killedAtMs = performance.now();
    mesh.node("adapter-openai").kill("SIGKILL");
    await expect.poll(() => stateOf(page, "main"), { interval: 10 }).toBe("lost");
    await annotate(`red ${Math.round(performance.now() - killedAtMs)} ms after the process was killed`);
    expect(await rowOf(page, "main").locator(".worker-trouble").textContent()).toMatch(/the node that ran it is gone$/);
    // What is wrong stands first.
    expect(await page.locator("#workers tbody tr").first().getAttribute("data-worker")).toBe("main");
    const [red, green] = await rowOf(page, "main")
      .locator("td")
      .first()
      .evaluate((cell) => {
        const view = cell.ownerDocument.defaultView!;
        return view.getComputedStyle(cell).color.match(/\d+/g)!.map(Number);
      });
    expect(red).toBeGreaterThan(green! * 2);
    served.clear();
    await expect
      .poll(async () => {
        await ask();
        return rowOf(page, "spare").locator(".cell-score").textContent();
      })
      .toBe("100");
    expect([...served]).toEqual(["spare"]);
    await expect.poll(() => page.locator("#happenings").textContent()).toMatch(/was lost, and with it worker main/);
    expect(problems).toEqual([]);
  });

  it("says why nothing is shown when no metrics service is left, and goes on when there is one again", async () => {
    await using seen = await visit(browser, mesh.rest);
    const { page } = seen;
    await expect.poll(() => connectionOf(page)).toBe("live");
    mesh.node("metrics+health").kill("SIGKILL");
    await expect.poll(() => page.locator("#notice").textContent()).toMatch(/^The mesh can’t be watched: /);
    await expect.poll(() => page.locator("#verdict").textContent()).toMatch(/degraded|healthy/);
    await page.getByRole("link", { name: "Playground" }).click();
    await page.getByLabel("Prompt", { exact: true }).fill("hello");
    await page.keyboard.press("Control+Enter");
    await expect.poll(() => page.locator('.answer [data-fact="worker"] dd').textContent()).toBe("spare (sim)");
    await mesh.run("metrics");
    await expect.poll(() => connectionOf(page)).toBe("live");
    expect(await page.locator("#notice").isVisible()).toBe(false);
  });
});
