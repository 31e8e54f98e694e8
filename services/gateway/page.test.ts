/** The live page's files over HTTP, as browsers ask for them. */
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { RpcError } from "../../libs/rpc/index.ts";
import { servePage } from "./page.ts";

const FOLDER = new URL("page/", import.meta.url);

interface Got {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

describe("the live page's files", () => {
  let server: Server;
  let port: number;

  beforeAll(async () => {
    server = createServer((incoming, response) => {
      servePage(incoming, response, incoming.url!.slice(1)).catch((error: unknown) => {
        response.writeHead(RpcError.from(error).reason === "ENDPOINT_NOT_FOUND" ? 404 : 500).end();
      });
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    ({ port } = server.address() as AddressInfo);
  });

  afterAll(() => {
    server.close();
  });

  async function get(name: string, headers: Readonly<Record<string, string>> = {}): Promise<Got> {
    const sent = request({ host: "127.0.0.1", port, path: `/${name}`, headers }).end();
    const [answer] = await once(sent, "response");
    const pieces: Buffer[] = [];
    for await (const piece of answer) pieces.push(piece as Buffer);
    return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces) };
  }

  /** All that the page loads, by what it says. */
  async function names(): Promise<string[]> {
    const html = (await get("index.html")).body.toString();
    const named = [...html.matchAll(/(?:src|href)="\/page\/([^"]+)"/g)].map((match) => match[1]!);
    const scripts = readdirSync(FOLDER).filter((name) => name.endsWith(".js"));
    return [...new Set(["index.html", ...named, ...scripts])];
  }

  it("have the types that browsers insist on", async () => {
    expect((await get("index.html")).headers["content-type"]).toBe("text/html; charset=utf-8");
    expect((await get("main.js")).headers["content-type"]).toBe("text/javascript; charset=utf-8");
    expect((await get("uplot.js")).headers["content-type"]).toBe("text/javascript; charset=utf-8");
    expect((await get("page.css")).headers["content-type"]).toBe("text/css; charset=utf-8");
    expect((await get("icon.svg")).headers["content-type"]).toBe("image/svg+xml");
    for (const name of await names()) {
      const { status, headers } = await get(name);
      expect([name, status, headers["x-content-type-options"]]).toEqual([name, 200, "nosniff"]);
    }
  });

  it("are small: less than 100 KB in all, compressed", async () => {
    let bytes = 0;
    for (const name of await names())
      bytes += (await get(name, { "accept-encoding": "gzip, deflate, br" })).body.length;
    expect(bytes).toBeLessThan(100_000);
  });

  it("come in the encoding that the client takes", async () => {
    const plain = await get("main.js");
    expect(plain.headers["content-encoding"]).toBeUndefined();
    const brotli = await get("main.js", { "accept-encoding": "gzip, br" });
    expect(brotli.headers["content-encoding"]).toBe("br");
    expect(brotliDecompressSync(brotli.body)).toEqual(plain.body);
    const zipped = await get("main.js", { "accept-encoding": "gzip, br;q=0" });
    expect(zipped.headers["content-encoding"]).toBe("gzip");
    expect(gunzipSync(zipped.body)).toEqual(plain.body);
    expect((await get("main.js", { "accept-encoding": "zstd, gzip;q=0" })).headers["content-encoding"]).toBeUndefined();
    expect(plain.headers["vary"]).toMatch(/accept-encoding/);
  });

  it("are not sent again to who has them", async () => {
    const { headers } = await get("main.js");
    expect(headers["cache-control"]).toBe("no-cache");
    const again = await get("main.js", { "if-none-match": `"other", W/${String(headers["etag"])}` });
    expect([again.status, again.body.length]).toEqual([304, 0]);
    expect((await get("page.css", { "if-none-match": String(headers["etag"]) })).status).toBe(200);
  });

  it("let a browser load and ask nothing from elsewhere, run nothing written into the page, and show the page nowhere else", async () => {
    const policy = String((await get("index.html")).headers["content-security-policy"]);
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).toContain("require-trusted-types-for 'script'");
    expect(policy).not.toMatch(/unsafe|\*|https?:/);
    const html = (await get("index.html")).body.toString();
    expect(html).not.toMatch(/\bstyle="|\bon[a-z]+="|<script>|https?:\/\//);
  });

  it("are all that is served", async () => {
    for (const name of [
      "",
      "server.ts",
      "../server.ts",
      "..%2fserver.ts",
      "theme.test.ts",
      "tsconfig.json",
      "constructor",
    ]) {
      expect([name, (await get(name)).status]).toEqual([name, 404]);
    }
  });
});
