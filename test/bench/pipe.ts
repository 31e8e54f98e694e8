/**
 * The bare pipe: the least that a gateway written on Node can cost. node:http in, undici out, bodies passed on
 * unread; nothing between.
 */
import { createServer } from "node:http";
import { Pool } from "undici";
import { announce, endWithParent } from "./processes.ts";

const upstream = process.argv[2];
if (!upstream) throw new Error("usage: pipe.ts UPSTREAM_ORIGIN");

endWithParent();
// Time-outs and connections as a gateway would set them; the pool opens as many connections as there are calls.
const pool = new Pool(upstream, { allowH2: false, keepAliveTimeout: 60_000 });

const server = createServer((request, response) => {
  const { host: _host, connection: _connection, ...headers } = request.headers;
  pool
    .request({ path: request.url ?? "/", method: request.method as "POST", headers, body: request })
    .then(({ statusCode, headers: answered, body }) => {
      const { connection: _hop, "keep-alive": _alive, "transfer-encoding": _framing, ...passed } = answered;
      response.writeHead(statusCode, passed);
      body.on("error", () => response.destroy());
      response.on("close", () => body.destroy());
      body.pipe(response);
    })
    .catch(() => response.destroy());
});
server.keepAliveTimeout = 120_000;
server.listen(0, "127.0.0.1", 4096, () => announce(server));
