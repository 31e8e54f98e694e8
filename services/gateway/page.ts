/**
 * The live page's files, for browsers: what lies in the folder `page`, and the charts' library. They are served as they are,
 * from memory, and only they: nothing of a request ever becomes a path.
 */
import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { promisify } from "node:util";
import { brotliCompress, gzip, constants as zlib } from "node:zlib";
import { RpcError } from "../../libs/rpc/index.ts";

const FOLDER = new URL("page/", import.meta.url);
const CHARTS = import.meta.resolve("uplot");

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
};

/** Where every file lies, by the name that follows /page/. */
const PLACES: ReadonlyMap<string, URL> = new Map([
  ...readdirSync(FOLDER)
    .filter((name) => Object.hasOwn(CONTENT_TYPES, extensionOf(name)))
    .map((name) => [name, new URL(name, FOLDER)] as const),
  ["uplot.js", new URL("uPlot.iife.min.js", CHARTS)],
  ["uplot.css", new URL("uPlot.min.css", CHARTS)],
]);

/**
 * What a browser may do on a page of ours: load from here, talk to here, and nothing else. No script and no style inside the
 * HTML, and no text that becomes HTML (trusted types), so what a provider, a worker's name or an error says stays text.
 */
export const PAGE_HEADERS: Readonly<Record<string, string>> = {
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; "),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
};

/** A file, ready to be sent in whatever encoding a browser takes. */
interface PageFile {
  readonly type: string;
  readonly etag: string;
  readonly encodings: Readonly<Record<"br" | "gzip" | "identity", Buffer>>;
}

const compressBrotli = promisify(brotliCompress);
const compressGzip = promisify(gzip);

/** Read and compressed when somebody first asks: most nodes are never looked at. */
const files = new Map<string, Promise<PageFile>>();

/** Whether it is a browser that asks, which wants the page where a program wants a word. */
export function wantsPage(request: IncomingMessage): boolean {
  return /\btext\/html\b/.test(request.headers.accept ?? "");
}

/** Answers with one file of the page. Throws ENDPOINT_NOT_FOUND for a name that none has. */
export async function servePage(request: IncomingMessage, response: ServerResponse, name: string): Promise<void> {
  const place = PLACES.get(name);
  if (place === undefined) {
    throw new RpcError("ENDPOINT_NOT_FOUND", `the page has no file ${JSON.stringify(name.slice(0, 100))}`);
  }
  let file = files.get(name);
  if (file === undefined) {
    file = prepare(name, place);
    files.set(name, file);
    // A file that could not be read is read again the next time.
    file.catch(() => files.delete(name));
  }
  const { type, etag, encodings } = await file;
  const headers = {
    ...PAGE_HEADERS,
    etag,
    // Asked for again each time, and answered with 304: after an upgrade no old file is shown.
    "cache-control": "no-cache",
    vary: "accept, accept-encoding",
  };
  if (request.headers["if-none-match"]?.includes(etag) === true) {
    response.writeHead(304, headers).end();
    return;
  }
  const encoding = encodingFor(request.headers["accept-encoding"]);
  const body = encodings[encoding];
  response.writeHead(200, {
    ...headers,
    "content-type": type,
    "content-length": body.length,
    ...(encoding === "identity" ? {} : { "content-encoding": encoding }),
  });
  response.end(body);
}

async function prepare(name: string, place: URL): Promise<PageFile> {
  const identity = await readFile(place);
  const quality = { params: { [zlib.BROTLI_PARAM_QUALITY]: zlib.BROTLI_MAX_QUALITY } };
  const [br, zipped] = await Promise.all([compressBrotli(identity, quality), compressGzip(identity, { level: 9 })]);
  return {
    type: CONTENT_TYPES[extensionOf(name)]!,
    etag: `"${createHash("sha256").update(identity).digest("base64url").slice(0, 22)}"`,
    encodings: { br, gzip: zipped, identity },
  };
}

/** The best that the client takes. A quality of 0 means that it does not. */
function encodingFor(accepted = ""): "br" | "gzip" | "identity" {
  for (const name of ["br", "gzip"] as const) {
    const asked = new RegExp(`(?:^|,)\\s*${name}\\s*(?:;\\s*q=([\\d.]+)\\s*)?(?:,|$)`, "i").exec(accepted);
    if (asked !== null && Number(asked[1] ?? 1) > 0) return name;
  }
  return "identity";
}

function extensionOf(name: string): string {
  return name.slice(name.lastIndexOf(".") + 1);
}
