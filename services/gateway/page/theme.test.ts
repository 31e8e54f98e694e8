/** The colours of the pages: readable for everybody, and dark in the same way whether the system or the reader chose it. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

const css = readFileSync(new URL("./theme.css", import.meta.url), "utf8");

function variables(selector: string): Map<string, string> {
  const from = css.indexOf(`${selector} {`);
  expect(from, selector).toBeGreaterThanOrEqual(0);
  const block = css.slice(from, css.indexOf("}", from));
  return new Map([...block.matchAll(/(--[a-z0-9-]+):\s*([^;]+);/g)].map(([, name, value]) => [name!, value!]));
}

const light = variables(":root");
const dark = variables(':root[data-theme="dark"]');
const darkBySystem = variables(':root:not([data-theme="light"])');

/** The contrast of two colours as WCAG 2 defines it, from 1 to 21. */
function contrast(one: string, other: string): number {
  const [lighter, darker] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (lighter! + 0.05) / (darker! + 0.05);
}

function luminance(colour: string): number {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
}

describe("the colours of the pages", () => {
  it.each([
    ["light", light],
    ["dark", dark],
  ])("can be read in the %s theme", (_name, theme) => {
    const tooFaint: string[] = [];
    const check = (front: string, back: string, least: number) => {
      const ratio = contrast(theme.get(front)!, theme.get(back)!);
      if (!(ratio >= least)) tooFaint.push(`${front} on ${back}: ${ratio.toFixed(2)}`);
    };
    for (const front of ["--text", "--muted", "--accent", "--good", "--bad", "--busy"]) {
      for (const back of ["--page", "--surface", "--sunken"]) check(front, back, 4.5);
    }
    for (const state of ["--good", "--bad", "--busy"]) {
      check(state, `${state}-surface`, 4.5);
      check("--text", `${state}-surface`, 4.5);
    }
    check("--on-accent", "--accent", 4.5);
    for (const back of ["--page", "--surface", "--sunken"]) check("--border-strong", back, 3);
    for (const line of [1, 2, 3, 4, 5]) check(`--series-${line}`, "--surface", 3);
    expect(tooFaint).toEqual([]);
  });

  it("are the same dark ones, whether the system or the reader wants it dark", () => {
    expect([...darkBySystem]).toEqual([...dark]);
    const unthemed = ["--radius", "--radius-small", "--font", "--font-fixed"];
    expect([...dark.keys()]).toEqual([...light.keys()].filter((name) => !unthemed.includes(name)));
  });
});
