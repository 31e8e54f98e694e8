/** The connection to NATS: made with patience, kept for ever, and honest about when it is away. */
import { type ConnectionOptions, connect, errors, type NatsConnection } from "@nats-io/transport-node";
import type { Logger } from "../telemetry/index.ts";

/** How long one try to connect may take. */
const DIAL_TIMEOUT_MS = 5_000;
/** Between two tries to connect, about; the jitter keeps a whole mesh from coming back in the same millisecond. */
const RECONNECT_WAIT_MS = 200;
const RECONNECT_JITTER_MS = 200;

interface ConnectOptions {
  readonly natsUrl: string;
  readonly name: string;
  readonly expiryMs: number;
  readonly timeoutMs: number;
  readonly log: Logger;
}

/** Connects to NATS, waiting for it if need be. Rejects, saying what to do, when it can't be reached in time. */
export async function connectNats(options: ConnectOptions): Promise<NatsConnection> {
  const { servers, shown, ...credentials } = parseNatsUrl(options.natsUrl);
  const deadlineMs = performance.now() + options.timeoutMs;
  let warned = false;
  for (;;) {
    try {
      return await connect({
        ...credentials,
        servers,
        name: options.name,
        timeout: Math.max(1, Math.min(DIAL_TIMEOUT_MS, deadlineMs - performance.now())),
        maxReconnectAttempts: -1,
        // A server that is being set up anew may refuse for a while what it will accept again.
        ignoreAuthErrorAbort: true,
        reconnectDelayHandler,
        // A connection that is lost without a word is noticed within the time in which a silent node would expire.
        pingInterval: Math.max(100, options.expiryMs / 3),
        maxPingOut: 2,
      });
    } catch (error) {
      if (error instanceof errors.AuthorizationError || error instanceof errors.UserAuthenticationExpiredError) {
        throw new Error(
          `NATS at ${shown} refused the credentials: put them into CORTEX_NATS_URL (nats://user:password@host:port)`,
          {
            cause: error,
          },
        );
      }
      if (performance.now() >= deadlineMs) {
        throw new Error(
          `NATS at ${shown} can't be reached (${(error as Error).message}; waited ${Math.round(options.timeoutMs / 1000)} s): ` +
            "start it (nats-server -js) or set CORTEX_NATS_URL to the one to use",
          { cause: error },
        );
      }
      if (!warned) options.log.warn({ nats: shown }, "waiting for NATS, which can't be reached yet");
      warned = true;
      await new Promise((resolve) =>
        setTimeout(resolve, Math.min(reconnectDelayHandler(), deadlineMs - performance.now())),
      );
    }
  }
}

function reconnectDelayHandler(): number {
  return RECONNECT_WAIT_MS + Math.random() * RECONNECT_JITTER_MS;
}

type ParsedUrl = Pick<ConnectionOptions, "user" | "pass" | "token" | "tls"> & {
  readonly servers: string[];
  /** The URL without its credentials: for errors and logs. */
  readonly shown: string;
};

/** Takes apart a NATS URL, or several separated by commas. The client itself ignores credentials in URLs. */
export function parseNatsUrl(natsUrl: string): ParsedUrl {
  const urls = natsUrl
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((part) => {
      const text = part.includes("://") ? part : `nats://${part}`;
      if (!URL.canParse(text)) throw new Error("the NATS URL is not valid: it should look like nats://127.0.0.1:4222");
      return new URL(text);
    });
  const [first] = urls;
  if (first === undefined) throw new Error("the NATS URL is empty: it should look like nats://127.0.0.1:4222");
  const servers = urls.map(({ hostname, port }) => `${hostname}:${port === "" ? "4222" : port}`);
  const user = decodeURIComponent(first.username);
  const pass = decodeURIComponent(first.password);
  return {
    servers,
    shown: servers.map((server) => `${first.protocol}//${server}`).join(","),
    ...(user !== "" && pass !== "" ? { user, pass } : {}),
    // As NATS has it: a user without a password is a token.
    ...(user !== "" && pass === "" ? { token: user } : {}),
    ...(first.protocol === "tls:" ? { tls: {} } : {}),
  };
}
