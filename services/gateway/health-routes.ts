/** What is told of health over HTTP: to probes, to programs, and to people. */
import { answerLive, answerReady } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { refuseForeignPages } from "./admin.ts";
import { answerJson, type Exchange, type GatewayDependencies, header } from "./exchange.ts";
import { isServing, writeReport, writeVerdict } from "./health-answer.ts";
import { writeHealthPage } from "./health-page.ts";
import { countRefusal } from "./operations.ts";
import { PAGE_HEADERS, wantsPage } from "./page.ts";

const ANSWERED_ANEW = { "cache-control": "no-store" };

/** GET /live */
export async function probeLife({ response }: Exchange): Promise<void> {
  answerLive(response);
}

/** GET /ready */
export async function probeReadiness({ response }: Exchange, { operations }: GatewayDependencies): Promise<void> {
  answerReady(operations, response);
}

/** GET /api/health, for everybody: the verdict. With ?detailed=true, for administrators: everything behind it. */
export async function health({ request, response, path }: Exchange, dependencies: GatewayDependencies): Promise<void> {
  const query = new URLSearchParams((request.url ?? "").slice(path.length));
  const refusal = refusalOf({ request }, dependencies);
  if (!/^(true|1)$/.test(query.get("detailed") ?? "")) {
    const state = dependencies.health({ causes: refusal === undefined });
    const verdict = writeVerdict(state, { names: refusal === undefined });
    answerJson(response, isServing(state) ? 200 : 503, JSON.stringify(verdict), ANSWERED_ANEW);
    return;
  }
  if (refusal !== undefined) {
    const state = dependencies.health({ causes: false });
    const answer = { ...writeVerdict(state, { names: false }), details: { unavailable: refusal } };
    answerJson(response, isServing(state) ? 200 : 503, JSON.stringify(answer), ANSWERED_ANEW);
    return;
  }
  const report = await dependencies.report();
  answerJson(response, isServing(report.verdict!) ? 200 : 503, JSON.stringify(writeReport(report)), ANSWERED_ANEW);
}

/** GET /health: a page for browsers, and for everybody else what /api/health says. */
export async function healthPage(exchange: Exchange, dependencies: GatewayDependencies): Promise<void> {
  const { request, response, path } = exchange;
  if (!wantsPage(request)) return health(exchange, dependencies);
  const query = new URLSearchParams((request.url ?? "").slice(path.length));
  const refusal = refusalOf(exchange, dependencies);
  const report = refusal === undefined ? await dependencies.report() : undefined;
  const state = report?.verdict ?? dependencies.health({ causes: false });
  const page = writeHealthPage({ state, report, refusal, nowMs: Date.now(), reload: query.get("reload") !== "off" });
  response.writeHead(isServing(state) ? 200 : 503, {
    ...PAGE_HEADERS,
    ...ANSWERED_ANEW,
    vary: "accept, authorization",
    "content-type": "text/html; charset=utf-8",
    "content-length": Buffer.byteLength(page),
  });
  response.end(page);
}

/** Why somebody may not know more than the verdict, and what to do about it; undefined for administrators. */
function refusalOf({ request }: Pick<Exchange, "request">, dependencies: GatewayDependencies): string | undefined {
  const authorization = header(request, "authorization");
  const keysRequired = dependencies.keysRequired();
  try {
    if (!keysRequired) {
      const { origin, host } = request.headers;
      refuseForeignPages({ origin, host, localAddress: request.socket.localAddress, keysRequired });
      return undefined;
    }
    if (authorization !== "" && dependencies.authenticate(authorization).admin) return undefined;
  } catch (thrown) {
    const error = RpcError.from(thrown);
    if (error.reason !== "PERMISSION_DENIED") {
      // Whoever tries keys here is told whether one is right, so each that is wrong counts as anywhere else.
      countRefusal(dependencies.metrics, error);
      return error.message;
    }
    return "without client keys, details are told at localhost or an IP address only, and not to pages of other sites";
  }
  return "details are for administrators: send Authorization: Bearer KEY, with the key of a client that has admin: true";
}
