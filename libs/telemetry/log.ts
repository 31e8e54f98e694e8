/** Structured logs: JSON lines on standard error, or readable lines where a person watches. */
import { type DestinationStream, type Logger, pino } from "pino";
import { PinoPretty as pretty } from "pino-pretty";
import type { TraceContext } from "./trace.ts";

export type { Logger };

export interface LogOptions {
  /** trace, debug, info, warn, error, fatal or silent. */
  readonly level: string;
  /** Lines for people instead of JSON. */
  readonly readable: boolean;
  /** In every line. */
  readonly node: string;
  /** Where to write; standard error when absent. */
  readonly destination?: DestinationStream;
}

/** Makes the logger of a node. Never give it a key, a prompt or an answer. */
export function createLogger(options: LogOptions): Logger {
  const destination =
    options.destination ??
    (options.readable
      ? pretty({
          destination: 2,
          sync: true,
          ignore: "pid,hostname,node",
          translateTime: "SYS:HH:MM:ss.l",
          messageKey: "message",
        })
      : pino.destination({ dest: 2, sync: false }));
  const children = new Set<WeakRef<Logger>>();
  const logger = pino(
    {
      level: options.level,
      onChild: (child: Logger) => {
        for (const known of children) if (known.deref() === undefined) children.delete(known);
        children.add(new WeakRef(child));
      },
      base: { node: options.node },
      timestamp: pino.stdTimeFunctions.isoTime,
      messageKey: "message",
    },
    destination,
  );
  CHILDREN.set(logger, children);
  return logger;
}

/** The loggers that were made of a node's logger, which keep a level of their own. */
const CHILDREN = new WeakMap<Logger, ReadonlySet<WeakRef<Logger>>>();

/** From now on a node's logger, and all that were made of it, write from this level on. */
export function setLevel(logger: Logger, level: string): void {
  logger.level = level;
  for (const child of CHILDREN.get(logger) ?? []) {
    const alive = child.deref();
    if (alive !== undefined) alive.level = level;
  }
}

/** The fields that tie a log line to a trace. */
export function traceFields(trace: TraceContext): { trace_id: string; span_id: string } {
  return { trace_id: trace.traceId, span_id: trace.spanId };
}
