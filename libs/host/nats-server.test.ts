import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";

let folder: string;
const running: NatsServer[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-nats-server-"));
});

afterEach(async () => {
  await Promise.all(running.splice(0).map((server) => server.stop()));
  await rm(folder, { recursive: true, force: true });
});

async function executable(...parts: string[]): Promise<string> {
  const file = join(folder, ...parts);
  await mkdir(join(file, ".."), { recursive: true });
  await writeFile(file, "#!/bin/sh\nexit 1\n");
  await chmod(file, 0o755);
  return file;
}

describe("resolveNatsServer", () => {
  const resolveIn = (path: string, more: { bin?: string; install?: boolean } = {}): Promise<string> =>
    resolveNatsServer({
      path,
      cacheDir: join(folder, "cache"),
      notify: () => {},
      systemFolders: [join(folder, "sbin")],
      install: false,
      ...more,
    });

  it("takes the binary it was given before all others", async () => {
    const bin = await executable("mine", "my-nats");
    await executable("bin", "nats-server");
    expect(await resolveIn(join(folder, "bin"), { bin })).toBe(bin);
  });

  it("refuses a given binary that can't be executed, by the name of its variable", async () => {
    await expect(resolveIn("", { bin: join(folder, "nothing") })).rejects.toThrow(/CORTEX_NATS_BIN/);
    await expect(resolveIn("", { bin: folder })).rejects.toThrow(/CORTEX_NATS_BIN/);
  });

  it("takes the first on the PATH, then the system's folders, then the newest in the cache", async () => {
    const old = await executable("cache", "nats-server-2.9.10-1", "nats-server");
    const cached = await executable("cache", "nats-server-2.10.2-1", "nats-server");
    await executable("cache", ".unpacking-x", "nats-server");
    expect(await resolveIn(join(folder, "bin"))).toBe(cached);
    expect(cached).not.toBe(old);
    const system = await executable("sbin", "nats-server");
    expect(await resolveIn(join(folder, "bin"))).toBe(system);
    const onPath = await executable("bin", "nats-server");
    expect(await resolveIn(["", join(folder, "none"), join(folder, "bin")].join(delimiter))).toBe(onPath);
  });

  it("says how to install NATS where there is none", async () => {
    const failure = resolveIn("");
    await expect(failure).rejects.toThrow(/apt-get install nats-server/);
    await expect(failure).rejects.toThrow(/brew install nats-server/);
    await expect(failure).rejects.toThrow(/CORTEX_NATS_URL/);
    await expect(failure).rejects.toThrow(/CORTEX_NATS_BIN/);
  });

  it("unpacks a package once, whoever else does so at the same time, and leaves nothing behind", async () => {
    // Stand-ins: the true ones need the network.
    const bin = join(folder, "bin");
    await executable("bin", "apt-get");
    await writeFile(
      join(bin, "apt-get"),
      '#!/bin/sh\ntest "$1" = download && /usr/bin/touch nats-server_2.9.10-1+b5_amd64.deb\n',
    );
    await executable("bin", "dpkg");
    await writeFile(
      join(bin, "dpkg"),
      '#!/bin/sh\n/bin/mkdir -p "$3/usr/sbin"\nprintf "#!/bin/sh\\n" > "$3/usr/sbin/nats-server"\n/bin/chmod 755 "$3/usr/sbin/nats-server"\n',
    );
    const found = await Promise.all([1, 2, 3].map(() => resolveIn(bin, { install: true })));
    expect(new Set(found)).toEqual(new Set([join(folder, "cache", "nats-server-2.9.10-1+b5", "nats-server")]));
    expect(await readdir(join(folder, "cache"))).toEqual(["nats-server-2.9.10-1+b5"]);
  });

  it("says why a package could not be unpacked", async () => {
    await executable("bin", "apt-get");
    await writeFile(join(folder, "bin", "apt-get"), "#!/bin/sh\necho 'E: no network' >&2\nexit 100\n");
    await executable("bin", "dpkg");
    await expect(resolveIn(join(folder, "bin"), { install: true })).rejects.toThrow(
      /E: no network[\s\S]*apt-get install/,
    );
    expect(await readdir(join(folder, "cache"))).toEqual([]);
  });
});

const bin = await resolveNatsServer({
  bin: process.env["CORTEX_NATS_BIN"],
  path: process.env["PATH"] ?? "",
  cacheDir: join(tmpdir(), "cortex-test-cache"),
  notify: console.error,
});

describe("startNatsServer", () => {
  async function start(more: { port?: number; storeDir?: string } = {}): Promise<NatsServer> {
    const server = await startNatsServer({ bin, storeDir: join(folder, "data"), ...more });
    running.push(server);
    return server;
  }

  it("answers with JetStream on a free port of this machine when it resolves", async () => {
    const server = await start();
    expect(server.url).toMatch(/^nats:\/\/127\.0\.0\.1:\d+$/);
    expect(await firstLine(server.url)).toContain('"jetstream":true');
    expect(isAlive(server.pid)).toBe(true);
  });

  it("takes the port it is told", async () => {
    const port = await freePort();
    expect((await start({ port })).url).toBe(`nats://127.0.0.1:${port}`);
  });

  it("is gone when stop resolves, and says that this was expected", async () => {
    const server = await start();
    await server.stop();
    expect(isAlive(server.pid)).toBe(false);
    expect((await server.exited).expected).toBe(true);
    await server.stop();
  });

  it("says so when it dies by itself, and starts again in the same folder", async () => {
    const server = await start();
    process.kill(server.pid, "SIGKILL");
    expect((await server.exited).expected).toBe(false);
    await start();
  });

  it("is not reached by the signals that a terminal sends to our process group", async () => {
    const server = await start();
    // A process group of its own: its leader is the shell that started it.
    expect(await processGroup(server.pid)).not.toBe(await processGroup(process.pid));
  });

  it("does not outlive a parent that is killed", async () => {
    const program = `
      import { startNatsServer } from ${JSON.stringify(new URL("./nats-server.ts", import.meta.url).href)};
      const server = await startNatsServer({ bin: ${JSON.stringify(bin)}, storeDir: ${JSON.stringify(join(folder, "data"))} });
      console.log(server.pid);
      setInterval(() => {}, 1000);
    `;
    const parent = spawn(process.execPath, ["--input-type=module-typescript", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [said] = (await once(parent.stdout, "data")) as [Buffer];
    const pid = Number(said.toString());
    expect(isAlive(pid)).toBe(true);
    parent.kill("SIGKILL");
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 3_000, interval: 10 });
  });

  it("does not keep a process alive that has nothing else to do", async () => {
    const program = `
      import { startNatsServer } from ${JSON.stringify(new URL("./nats-server.ts", import.meta.url).href)};
      await startNatsServer({ bin: ${JSON.stringify(bin)}, storeDir: ${JSON.stringify(join(folder, "data"))} });
    `;
    const parent = spawn(process.execPath, ["--input-type=module-typescript", "-e", program], { stdio: "inherit" });
    expect(await once(parent, "exit")).toEqual([0, null]);
  });

  it("names a port that is taken", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as AddressInfo;
    await expect(start({ port })).rejects.toThrow(new RegExp(`port ${port} .*taken`));
    other.close();
  });

  it("names a folder that can't be written", async () => {
    await writeFile(join(folder, "file"), "");
    const storeDir = join(folder, "file", "data");
    await expect(start({ storeDir })).rejects.toThrow(storeDir);
  });

  it("refuses a folder that another server uses, and names that server", async () => {
    const first = await start();
    await expect(start()).rejects.toThrow(first.url);
    await first.stop();
    await start();
  });

  it("gives a folder to one of two that start at the same time", async () => {
    const results = await Promise.allSettled([start(), start()]);
    expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  });

  it("refuses what is not executable, and passes on what a wrong binary said", async () => {
    await writeFile(join(folder, "text"), "");
    const storeDir = join(folder, "data");
    await expect(startNatsServer({ bin: join(folder, "text"), storeDir })).rejects.toThrow(/not an executable/);
    const wrong = await executable("wrong");
    await writeFile(wrong, "#!/bin/sh\necho I am something else >&2\nexit 3\n");
    await expect(startNatsServer({ bin: wrong, storeDir })).rejects.toThrow(/I am something else/);
  });
});

async function firstLine(url: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = createConnection(Number(port), hostname);
  const [data] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  return data.toString();
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function processGroup(pid: number): Promise<string> {
  const ps = spawn("ps", ["-o", "pgid=", "-p", String(pid)]);
  const [out] = (await once(ps.stdout, "data")) as [Buffer];
  return out.toString().trim();
}
