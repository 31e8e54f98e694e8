/** The rules of the house that a compiler does not know: who may import whom, who owns which package, names, lengths. */
import { globSync, readFileSync } from "node:fs";
import { basename, dirname, join, normalize } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = new URL("..", import.meta.url).pathname;

interface SourceFile {
  readonly path: string;
  readonly text: string;
  /** Specifiers as written. */
  readonly imports: readonly string[];
  /** Paths of this project that it imports. */
  readonly local: readonly string[];
}

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\b[^;"']*?\bfrom\s*["']([^"']+)["']|\bimport\s*\(\s*["']([^"']+)["']\s*\)|(?:^|\n)import\s*["']([^"']+)["']/g;

const files: SourceFile[] = globSync("{libs,services,test}/**/*.{ts,mjs}", { cwd: ROOT })
  .filter((path) => !path.startsWith("libs/gen/"))
  .map((path) => {
    const text = readFileSync(join(ROOT, path), "utf8");
    const imports = [...text.matchAll(IMPORT)].map((match) => (match[1] ?? match[2] ?? match[3])!);
    const local = imports.filter((name) => name.startsWith(".")).map((name) => normalize(join(dirname(path), name)));
    return { path, text, imports, local };
  });
const sources = files.filter(({ path }) => !/^test\/|\.test\.ts$|\/test-[a-z-]+\.ts$|\/testing\//.test(path));

/** The live page: what browsers run as it lies. */
const page = globSync("services/gateway/page/*.{js,css,html}", { cwd: ROOT }).map((path) => ({
  path,
  text: readFileSync(join(ROOT, path), "utf8"),
}));

/** The module that a path belongs to: `libs/rpc`, `services/router`, `services` for the composition. */
function moduleOf(path: string): string {
  const [area, name, rest] = path.split("/");
  return rest === undefined ? area! : `${area}/${name}`;
}

/** What each library may import besides itself. */
const LAYERS: Readonly<Record<string, readonly string[]>> = {
  "libs/gen": [],
  "libs/collections": [],
  "libs/telemetry": ["libs/gen", "libs/collections"],
  "libs/rpc": ["libs/gen", "libs/collections", "libs/telemetry"],
  "libs/mesh": ["libs/gen", "libs/telemetry", "libs/rpc"],
  "libs/adapter": ["libs/gen", "libs/collections", "libs/telemetry", "libs/rpc", "libs/mesh"],
  "libs/caching": ["libs/gen", "libs/telemetry", "libs/rpc", "libs/mesh"],
  "libs/tally": ["libs/gen", "libs/telemetry", "libs/rpc"],
  "libs/continuation": ["libs/gen", "libs/rpc"],
  "libs/openai-protocol": ["libs/gen", "libs/rpc", "libs/adapter"],
  "libs/host": ["libs/gen", "libs/telemetry", "libs/rpc", "libs/mesh", "libs/adapter", "libs/caching"],
  "libs/cli": ["libs/gen", "libs/telemetry", "libs/rpc", "libs/host"],
};

/** Packages that one module owns, so that another library could take their place there. */
const OWNERS: readonly [RegExp, string][] = [
  [/^@grpc\/|^grpc-health-check/, "libs/rpc"],
  [/^@nats-io\//, "libs/mesh"],
  [/^@opentelemetry\/|^pino|^prom-client$/, "libs/telemetry"],
  [/^opossum|^undici|^eventsource-parser/, "libs/adapter"],
  [/^keyv|^@keyv\//, "services/cache"],
  [/^yaml$/, "libs/host"],
  [/^commander$|^cli-table3$/, "libs/cli"],
];

describe("the house rules", () => {
  it("finds the sources", () => {
    expect(sources.length).toBeGreaterThan(40);
    expect(sources.find(({ path }) => path === "libs/rpc/grpc-client.ts")?.imports).toContain("@grpc/grpc-js");
  });

  it("imports go one way, and a service never imports a service", () => {
    const wrong = sources.flatMap(({ path, local }) => {
      const from = moduleOf(path);
      return local
        .map((target) => ({ target, to: moduleOf(target) }))
        .filter(({ to }) => {
          if (to === from || to === "libs/gen") return false;
          // The composition is a list of services.
          if (from === "services") return false;
          if (from.startsWith("services/")) return !to.startsWith("libs/") || to === "libs/cli";
          return LAYERS[from]?.includes(to) !== true;
        })
        .map(({ target }) => `${path} imports ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  it("a library is entered by its door", () => {
    const wrong = sources.flatMap(({ path, local }) =>
      local
        .filter((target) => /^libs\/(?!gen\/)/.test(target) && moduleOf(target) !== moduleOf(path))
        .filter((target) => basename(target) !== "index.ts")
        .map((target) => `${path} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  it("nothing imports the tests", () => {
    expect(
      sources.filter(({ local }) => local.some((target) => target.startsWith("test/"))).map(({ path }) => path),
    ).toEqual([]);
  });

  it("has no cycles between files", () => {
    const byPath = new Map(sources.map((file) => [file.path, file.local]));
    const cycles: string[] = [];
    const done = new Set<string>();
    const visit = (path: string, trail: readonly string[]): void => {
      if (trail.includes(path)) cycles.push([...trail.slice(trail.indexOf(path)), path].join(" → "));
      if (done.has(path) || trail.includes(path)) return;
      for (const next of byPath.get(path) ?? []) if (byPath.has(next)) visit(next, [...trail, path]);
      done.add(path);
    };
    for (const path of byPath.keys()) visit(path, []);
    expect(cycles).toEqual([]);
  });

  it("each outside package has one owner", () => {
    const wrong = sources.flatMap(({ path, imports }) =>
      OWNERS.flatMap(([name, owner]) =>
        moduleOf(path) !== owner && imports.some((specifier) => name.test(specifier))
          ? [`${path} imports ${name}`]
          : [],
      ),
    );
    expect(wrong).toEqual([]);
  });

  const BANNED: readonly [RegExp, string, readonly string[]][] = [
    [/\bprocess\.env\b/, "the environment is read in libs/host", ["libs/host/config.ts", "libs/host/bootstrap.mjs"]],
    [
      /\bconsole\.(?:log|error|warn|info|debug|table)\b/,
      "logs go through the node's logger, output of commands through process.stdout",
      [],
    ],
    [/export \* from/, "a door names what it shows", []],
    [/export default/, "exports have names", []],
    [/\benum \w+ \{/, "Node can't strip enums: use a constant object", []],
    [/\b(?:TODO|FIXME|XXX|HACK)\b/, "finish it, or file an issue", []],
    [/\bas any\b|: any[,;)>[\]|]/, "name the type, or use unknown", []],
    [/\bfetch\(/, "outside calls go through a worker's pool", []],
  ];
  it.each(BANNED)("does not use %s (%s)", (pattern, _reason, except) => {
    expect(
      sources.filter(({ path, text }) => pattern.test(text) && !except.includes(path)).map(({ path }) => path),
    ).toEqual([]);
  });

  it("the page makes no HTML of text, and loads nothing from elsewhere", () => {
    const wrong = page.filter(({ text }) =>
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|https?:\/\/(?!www\.w3\.org\/)/.test(text),
    );
    expect(page.length).toBeGreaterThan(15);
    expect(wrong.map(({ path }) => path)).toEqual([]);
  });

  it("names files in kebab-case, and none for what it is not", () => {
    const wrong = files
      .map(({ path }) => path)
      .filter((path) => {
        const name = basename(path).replace(/(\.test)?\.(ts|mjs)$/, "");
        return (
          !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name.replace(/^vitest\.config$/, "vitest")) ||
          /^(utils?|helpers?|common|misc|types|constants)$/.test(name)
        );
      });
    expect(wrong).toEqual([]);
  });

  it("keeps files short enough to be read", () => {
    const long = [...sources, ...page].filter(({ text }) => text.split("\n").length > 600).map(({ path }) => path);
    expect(long).toEqual([]);
  });

  it("opens every source file by saying what it is for", () => {
    const silent = [...sources, ...page]
      .filter(({ text }) => !/^(#!.*\n|<!doctype html>\n)?(\/\*\*?|\/\/|<!--)/.test(text))
      .map(({ path }) => path);
    expect(silent).toEqual([]);
  });
});
