/** The recorded exchanges of a folder. Any file of an exchange may be missing, cut short, or hold what nobody expected. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { brotliDecompressSync, gunzipSync, inflateSync } from "node:zlib";

/** The head of a recorded answer, with what was asked. */
export interface Head {
  readonly url: string | undefined;
  readonly status: number | undefined;
  /** Of the answer, names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
}

/** One request and what came back. */
export interface Exchange {
  /** The folder that it lies in. */
  readonly folder: string;
  readonly name: string;
  /** Parsed; undefined when it is not there or no JSON. */
  readonly request: unknown;
  readonly head: Head;
  /** The body of the answer, byte by byte; undefined when none was recorded. */
  readonly body: Buffer | undefined;
  /** How the file of the answer ends: `json`, `sse`, … */
  readonly extension: string;
}

/** What lies beside recordings, and is none. */
const OTHER_FILE = /^(\.|readme|license|licence|index\.|manifest)|\.(md|tsv|csv|ya?ml|lock)$/i;
const PART_OF_EXCHANGE = /^(?<name>.+?)\.(?<part>request(?:\.[\w-]+)?|headers(?:\.[\w-]+)?|response(?:\.[\w-]+)?)$/i;
/** An answer alone: `openai-500.json`. */
const LOOSE = /^(?<name>.+)\.(?<extension>json|sse|ndjson|jsonl|txt|html?)$/i;

/** Reads `folder`: a folder for each provider in it, or the exchanges of one provider. */
export function readExchanges(folder: string): Exchange[] {
  const entries = readdirSync(folder).sort();
  const inFolders = entries
    .filter((entry) => !entry.startsWith(".") && statSync(join(folder, entry)).isDirectory())
    .flatMap((entry) => readFolder(join(folder, entry)));
  return [...inFolders, ...readFolder(folder)];
}

interface Files {
  request?: string;
  headers?: string;
  readonly responses: { readonly path: string; readonly extension: string }[];
}

function readFolder(folder: string): Exchange[] {
  const found = new Map<string, Files>();
  const filesOf = (name: string): Files => {
    const files = found.get(name) ?? { responses: [] };
    found.set(name, files);
    return files;
  };
  for (const file of readdirSync(folder).sort()) {
    const path = join(folder, file);
    if (OTHER_FILE.test(file) || !statSync(path).isFile()) continue;
    const { name = "", part } = PART_OF_EXCHANGE.exec(file)?.groups ?? {};
    if (part === undefined) {
      const loose = LOOSE.exec(file)?.groups;
      if (loose === undefined) continue;
      filesOf(loose["name"] ?? "").responses.push({ path, extension: (loose["extension"] ?? "").toLowerCase() });
    } else if (/^request/i.test(part)) filesOf(name).request = path;
    else if (/^headers/i.test(part)) filesOf(name).headers = path;
    else filesOf(name).responses.push({ path, extension: (part.split(".")[1] ?? "").toLowerCase() });
  }
  return [...found].flatMap(([name, files]) => exchangesOf(basename(folder), name, files));
}

/** An answer may have been recorded whole and as a stream under one name. */
function exchangesOf(folder: string, name: string, { request, headers, responses }: Files): Exchange[] {
  const head = parseHead(headers === undefined ? "" : readText(headers));
  const asked = request === undefined ? undefined : parseJson(readText(request));
  const common = { folder, name, request: asked, head };
  if (responses.length === 0) return [{ ...common, body: undefined, extension: "" }];
  return responses.map(({ path, extension }) => ({
    ...common,
    name: responses.length === 1 ? name : `${name}.${extension}`,
    body: existsSync(path) ? decompress(readFileSync(path), head.headers["content-encoding"]) : undefined,
    extension,
  }));
}

/** Text of a person's tool: with a byte order mark or without, in UTF-8 or UTF-16. */
function readText(path: string): string {
  const bytes = readFileSync(path);
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return bytes.subarray(2).toString("utf16le");
  if (bytes[0] === 0xfe && bytes[1] === 0xff) {
    return Buffer.from(bytes.subarray(2, bytes.length & ~1))
      .swap16()
      .toString("utf16le");
  }
  return bytes.toString("utf8").replace(/^\ufeff/, "");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * `POST https://…`, the request's headers behind `>`, `HTTP 200`, the answer's headers. Lines that are none of these are
 * passed over.
 */
function parseHead(text: string): Head {
  const headers: Record<string, string> = {};
  let url: string | undefined;
  let status: number | undefined;
  for (const line of text.split(/\r\n|\n|\r/)) {
    if (line.startsWith(">")) continue;
    const asked = /^[A-Z]{3,7}\s+(\S+)/.exec(line)?.[1];
    const answered = /^(?:<\s*)?(?:HTTP(?:\/[\d.]+)?|:?status:?)\s+(\d{3})\b/i.exec(line)?.[1];
    const [, name, value] = /^(?:<\s*)?([\w-]+):\s*(.*)$/.exec(line) ?? [];
    if (answered !== undefined) status = Number(answered);
    else if (asked !== undefined && !asked.startsWith(":")) url ??= asked;
    else if (name !== undefined) headers[name.toLowerCase()] = value ?? "";
  }
  return { url, status, headers };
}

/** Some record what the server has sent, others what the client has made of it; the header is the same. */
function decompress(body: Buffer, encoding: string | undefined): Buffer {
  try {
    if (body[0] === 0x1f && body[1] === 0x8b) return gunzipSync(body);
    if (encoding === "br") return brotliDecompressSync(body);
    if (encoding === "deflate") return inflateSync(body);
  } catch {
    // It was not, or not any more.
  }
  return body;
}
