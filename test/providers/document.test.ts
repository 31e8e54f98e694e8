/** The document about the providers says what they do. */
import { readFileSync, writeFileSync } from "node:fs";
import { expect, it } from "vitest";
import { providersDocument } from "./document.ts";

const FILE = new URL("../../docs/providers.md", import.meta.url).pathname;

it("docs/providers.md is what is observed", async () => {
  const observed = await providersDocument();
  if (process.env["UPDATE_GOLDENS"] === "1") writeFileSync(FILE, observed);
  expect(observed, "npm run generate writes it anew").toBe(readFileSync(FILE, "utf8"));
});
