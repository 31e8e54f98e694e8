/** Why a worker can't serve, for those who look after it. */
import { CATALOGUE, type Reason, type RpcError } from "../rpc/index.ts";
import { describe } from "./failures.ts";

/** As WorkerInfo has it: both empty for a worker that serves. */
export interface Trouble {
  readonly reason: Reason | "";
  /** A sentence of ours without its full stop, so without a key or a prompt; an address may stand in it. */
  readonly message: string;
}

/** That of a worker that serves. */
export const NO_TROUBLE: Trouble = { reason: "", message: "" };

/** What `error` says of the worker that failed with it. A provider's own words are not told on: they may quote anything. */
export function troubleOf(error: RpcError): Trouble {
  return { reason: error.reason, message: describe(error).replace(/\.$/, "") };
}

/** What is wrong, and what to do about it; empty when nothing is. */
export function withRemedy({ reason, message }: Trouble): string {
  return reason === "" ? "" : `${message.replace(/\.$/, "")}. ${CATALOGUE[reason].remedy}`;
}
