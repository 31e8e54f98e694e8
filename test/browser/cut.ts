/** A cable between a browser and a gateway that a test can cut, and mend. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/** Passes every byte on, until it is cut. */
export interface Cable extends AsyncDisposable {
  /** What to open instead of the gateway. */
  readonly url: string;
  /** Every connection breaks, and no new one is taken. */
  cut(): void;
  mend(): void;
}

/** Lays a cable to `url`. */
export async function layCable(url: string): Promise<Cable> {
  const { hostname, port } = new URL(url);
  const open = new Set<Socket>();
  let whole = true;
  const server = createServer((near) => {
    if (!whole) {
      near.destroy();
      return;
    }
    const far = connect(Number(port), hostname);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      open.add(one);
      one.pipe(other);
      one.on("error", () => {});
      one.on("close", () => {
        open.delete(one);
        other.destroy();
      });
    }
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => {
    whole = false;
    for (const socket of open) socket.destroy();
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut,
    mend: () => {
      whole = true;
    },
    async [Symbol.asyncDispose]() {
      cut();
      server.close();
    },
  };
}
