/**
 * Preloaded into a gateway that cannot be told an address: its server listens on 127.0.0.1 alone, on a free port, and
 * says when it is ready. Nothing else of the gateway changes.
 */
import { Server } from "node:net";
import { announce, endWithParent } from "./processes.ts";

endWithParent();
const listen = Server.prototype.listen;
Server.prototype.listen = function listenOnLoopback(this: Server, ...given: unknown[]): Server {
  Server.prototype.listen = listen;
  this.once("listening", () => announce(this));
  const callback = given.find((argument) => typeof argument === "function") as (() => void) | undefined;
  return this.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, callback);
} as typeof listen;
