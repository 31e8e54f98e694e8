/** What the metrics service knows, over HTTP: summaries, scores, the last hour's history, and how everything is, live. */
import { Dimension, type Figures, type Group } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { refuseForeignPages } from "./admin.ts";
import { answerJson, type Exchange, type GatewayDependencies, type Handler } from "./exchange.ts";

const ANSWERED_ANEW = { "cache-control": "no-store" };

/** What figures are kept by, in the words of the API. */
const DIMENSION_NAMES: Readonly<Record<Dimension, string>> = {
  [Dimension.UNSPECIFIED]: "",
  [Dimension.WORKER]: "worker",
  [Dimension.PROVIDER]: "provider",
  [Dimension.MODEL]: "model",
  [Dimension.TENANT]: "tenant",
  [Dimension.STRATEGY]: "strategy",
};
const DIMENSIONS = Object.values(Dimension).filter((dimension) => dimension !== Dimension.UNSPECIFIED);

/** GET /api/metrics?window=5m&by=worker,model */
export const summary: Handler = answer(["window", "by"], async ({ call }, query, { summaries }) => {
  const by = query.get("by");
  const dimensions = by === null ? DIMENSIONS : by.split(",").filter(Boolean).map(readDimension);
  const request = { windowS: readWindow(query), dimensions };
  const { groups, ...rest } = await summaries().summarize(request, call);
  const written = dimensions.map((dimension) => [
    DIMENSION_NAMES[dimension],
    groups.filter((group) => group.dimension === dimension).map(writeGroup),
  ]);
  return { ...rest, groups: Object.fromEntries(written) as Record<string, unknown> };
});

/** GET /api/metrics/scores?window=5m */
export const scores: Handler = answer(["window"], ({ call }, query, { summaries }) =>
  summaries().getHealthScores({ windowS: readWindow(query) }, call),
);

/** GET /api/metrics/history?window=1h&points=120 */
export const history: Handler = answer(["window", "points"], ({ call }, query, { summaries }) => {
  const points = query.get("points") ?? "0";
  if (!/^\d{1,4}$/.test(points)) throw invalid("points", "has to be a whole number, at most 9999");
  return summaries().getHistory({ windowS: readWindow(query), points: Number(points) }, call);
});

/** GET /api/live: server-sent events, each named "state". */
export const watchLive: Handler = async (exchange, dependencies) => {
  checkReader(exchange, dependencies);
  if (!exchange.call.admin) {
    const message = "only an administrator's key may watch: clients[].admin in cortex.yaml";
    throw new RpcError("PERMISSION_DENIED", message);
  }
  exchange.response.hasEvents = true;
  await dependencies.live.serve(exchange.response, exchange.call.signal);
};

type Question = (exchange: Exchange, query: URLSearchParams, dependencies: GatewayDependencies) => Promise<object>;

function answer(known: readonly string[], ask: Question): Handler {
  return async (exchange, dependencies) => {
    checkReader(exchange, dependencies);
    const { request, response, path } = exchange;
    const query = new URLSearchParams((request.url ?? "").slice(path.length));
    const unknown = [...query.keys()].find((name) => !known.includes(name));
    if (unknown !== undefined) throw invalid(unknown.slice(0, 100), `is not known; there are ${known.join(", ")}`);
    answerJson(response, 200, JSON.stringify(await ask(exchange, query, dependencies)), ANSWERED_ANEW);
  };
}

function checkReader({ request }: Exchange, dependencies: GatewayDependencies): void {
  const { origin, host } = request.headers;
  const { localAddress } = request.socket;
  refuseForeignPages({ origin, host, localAddress, keysRequired: dependencies.keysRequired() });
}

function writeGroup({ name, figures }: Group): { readonly name: string } & Figures {
  return { name, ...figures! };
}

function readDimension(name: string): Dimension {
  const dimension = DIMENSIONS.find((known) => DIMENSION_NAMES[known] === name);
  if (dimension !== undefined) return dimension;
  const names = DIMENSIONS.map((known) => DIMENSION_NAMES[known]).join(", ");
  throw invalid("by", `has to name some of ${names}, separated by commas`);
}

const SECONDS: Readonly<Record<string, number>> = { "": 1, s: 1, m: 60, h: 3_600 };

/** In seconds; 0 when it is not said. */
function readWindow(query: URLSearchParams): number {
  const window = query.get("window");
  if (window === null) return 0;
  const [, number = "", unit = ""] = /^(\d{1,6})([smh]?)$/.exec(window) ?? [];
  const seconds = Number(number) * SECONDS[unit]!;
  if (number === "" || seconds === 0 || seconds > 3_600)
    throw invalid("window", "has to be like 30s, 5m or 1h, at most 1h");
  return seconds;
}

function invalid(field: string, rule: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field} ${rule}`, { field });
}
