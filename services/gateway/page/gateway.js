/** Asking the gateway that has served this page: the key, errors in its words, and streams of events. */

const KEY = "cortex-key";

/** The client key, as long as the tab lives; empty without one. */
export function clientKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} key */
export function keepClientKey(key) {
  if (key === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/**
 * One worker that was asked in vain.
 * @typedef {{ readonly worker: string, readonly reason: string, readonly message: string }} FailedAttempt
 */

/** What the gateway says went wrong. */
export class GatewayError extends Error {
  /**
   * @param {string} message
   * @param {{ status?: number, reason?: string, field?: string, traceId?: string, attempts?: readonly FailedAttempt[] }} [details]
   */
  constructor(message, { status = 0, reason = "", field = "", traceId = "", attempts = [] } = {}) {
    super(message);
    /** Of HTTP; 0 when there was no answer, or it had begun. */
    this.status = status;
    this.reason = reason;
    this.field = field;
    this.traceId = traceId;
    this.attempts = attempts;
  }
}

/**
 * Reads the error object of a body, as OpenAI has it and Cortex adds to it.
 * @param {any} body
 * @param {number} status
 */
export function errorOf(body, status) {
  const error = body?.error;
  if (typeof error?.message !== "string") return new GatewayError(`the gateway answered with ${status}`, { status });
  const { message, param, code, cortex = {} } = error;
  return new GatewayError(message, {
    status,
    reason: cortex.reason ?? code ?? "",
    field: param ?? "",
    traceId: cortex.trace_id ?? "",
    attempts: cortex.attempts ?? [],
  });
}

/**
 * An answer of the gateway whose status is good. Throws a {@link GatewayError} for any other, and when there is none.
 * @param {string} path
 * @param {{ method?: string, body?: unknown, headers?: Readonly<Record<string, string>>, signal?: AbortSignal }} [options]
 */
export async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  const key = clientKey();
  /** @type {Response} */
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        ...headers,
        ...(key === "" ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
      // It is sent as a header, too, and for a question that would mean: not from the mesh's cache.
      cache: method === "GET" ? "no-store" : "default",
      credentials: "omit",
    });
  } catch (thrown) {
    if (signal?.aborted === true) throw thrown;
    throw new GatewayError("the gateway can’t be reached", { reason: "UNREACHABLE" });
  }
  if (response.ok) return response;
  throw errorOf(await response.json().catch(() => undefined), response.status);
}

/**
 * The events of a stream as they come, and its comments. Ends when the stream does.
 * @param {Response} response
 * @returns {AsyncGenerator<{ readonly event: string, readonly data: string, readonly comment: string }>}
 */
export async function* readEvents(response) {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // One end of an event in both forms; our gateway never sends a lone CR.
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) yield readBlock(block);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** @param {string} block */
function readBlock(block) {
  let event = "message";
  let comment = "";
  /** @type {string[]} */
  const data = [];
  for (const line of block.split("\n")) {
    const [field, value = ""] = line.split(/: ?(.*)/s);
    if (field === "") comment = value;
    else if (field === "event") event = value;
    else if (field === "data") data.push(value);
  }
  return { event, data: data.join("\n"), comment };
}
