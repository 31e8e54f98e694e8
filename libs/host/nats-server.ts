/**
 * A nats-server of one's own, for who has none running: finds a binary or unpacks Debian's package, and runs it so that
 * it neither dies before us nor outlives us.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { delimiter, join, resolve } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Where packages put servers that a user's PATH may leave out; Debian's nats-server lies in the first. */
const SYSTEM_FOLDERS = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin"];
const DOWNLOAD_TIMEOUT_MS = 120_000;
/** How long nats-server may take until it answers; recovering much data takes it a while. */
const READY_TIMEOUT_MS = 30_000;
const READY_POLL_MS = 3;
/** How long it may take to stop when asked. */
const STOP_TIMEOUT_MS = 5_000;
/** Says, in the folder with its data, which server uses it. */
const OWNER_FILE = "cortex-owner.json";
const OWNER_PATIENCE_MS = 1_000;
const CLAIM_TRIES = 5;
const PORTS_FOLDER = ".ports-";
/** How many of its last lines are kept to explain a failure. */
const LINES_MAX = 20;
const LINE_LENGTH_MAX = 500;

export interface ResolveOptions {
  /** CORTEX_NATS_BIN: used if given, whatever else there is. */
  readonly bin?: string | undefined;
  /** The value of PATH. */
  readonly path: string;
  /** Where an unpacked nats-server is kept between runs. */
  readonly cacheDir: string;
  /** Told what takes long. */
  readonly notify: (line: string) => void;
  /** Whether Debian's package may be downloaded; yes by default. */
  readonly install?: boolean;
  /** Searched after PATH; the usual folders by default. */
  readonly systemFolders?: readonly string[];
}

/** Finds a nats-server, or gets one where the platform's packages allow it without root. Rejects, saying what to do. */
export async function resolveNatsServer(options: ResolveOptions): Promise<string> {
  if (options.bin !== undefined && options.bin !== "") {
    const bin = resolve(options.bin);
    if (!(await isExecutable(bin)))
      throw new Error(`CORTEX_NATS_BIN is ${options.bin}, which is not an executable file`);
    return bin;
  }
  const folders = [...pathFolders(options.path), ...(options.systemFolders ?? SYSTEM_FOLDERS)];
  const found = (await findExecutable("nats-server", folders)) ?? (await findUnpacked(options.cacheDir));
  if (found !== undefined) return found;
  let failure = "";
  const [aptGet, dpkg] = await Promise.all([
    findExecutable("apt-get", pathFolders(options.path)),
    findExecutable("dpkg", pathFolders(options.path)),
  ]);
  if (options.install !== false && aptGet !== undefined && dpkg !== undefined) {
    options.notify("There is no nats-server: unpacking Debian's package into the cache folder (this happens once)");
    try {
      return await unpackDebianPackage(options.cacheDir, { aptGet, dpkg });
    } catch (error) {
      failure = `\nDebian's package could not be unpacked: ${lastLines(error)}`;
    }
  }
  throw new Error(
    `Cortex needs NATS, and there is no nats-server here.${failure}\n` +
      "Install it:\n" +
      "  Debian, Ubuntu   sudo apt-get install nats-server\n" +
      "  macOS            brew install nats-server\n" +
      "  others           https://github.com/nats-io/nats-server/releases\n" +
      "or set CORTEX_NATS_BIN to a nats-server binary, or CORTEX_NATS_URL to a server that runs with JetStream (-js).",
  );
}

function pathFolders(path: string): string[] {
  return path.split(delimiter).filter((folder) => folder !== "");
}

async function findExecutable(name: string, folders: readonly string[]): Promise<string | undefined> {
  for (const folder of folders) {
    const file = resolve(folder, name);
    if (await isExecutable(file)) return file;
  }
  return undefined;
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

/** The newest of those that were unpacked earlier. */
async function findUnpacked(cacheDir: string): Promise<string | undefined> {
  const names = await readdir(cacheDir).catch(() => []);
  const folders = names
    .filter((name) => name.startsWith("nats-server-"))
    .sort((a, b) => b.localeCompare(a, "en", { numeric: true }))
    .map((name) => join(cacheDir, name));
  return findExecutable("nats-server", folders);
}

/** Takes nats-server out of Debian's package: nothing is installed, nothing of the system is changed, root is not needed. */
async function unpackDebianPackage(
  cacheDir: string,
  { aptGet, dpkg }: { readonly aptGet: string; readonly dpkg: string },
): Promise<string> {
  await mkdir(cacheDir, { recursive: true });
  // Its name must not look like that of an unpacked one.
  const work = await mkdtemp(join(cacheDir, ".unpacking-"));
  try {
    const options = { cwd: work, timeout: DOWNLOAD_TIMEOUT_MS };
    try {
      await run(aptGet, ["download", "nats-server"], options);
    } catch {
      // The machine's package lists are empty, as in many images, or too old: fetch lists of our own.
      const config = await writeAptConfig(work);
      await run(aptGet, ["-c", config, "update"], options);
      await run(aptGet, ["-c", config, "download", "nats-server"], options);
    }
    const packageFile = (await readdir(work)).find((name) => name.endsWith(".deb"));
    if (packageFile === undefined) throw new Error("apt-get downloaded no package");
    await run(dpkg, ["-x", packageFile, "unpacked"], options);
    // nats-server_2.9.10-1+b5_amd64.deb; apt writes a colon in the version as %3a.
    const version = packageFile.split("_")[1]?.replaceAll(/[^A-Za-z0-9.+~-]/g, "_") ?? "unknown";
    const folder = join(cacheDir, `nats-server-${version}`);
    try {
      await rename(join(work, "unpacked", "usr", "sbin"), folder);
    } catch (error) {
      // Another process was faster, which is as well.
      if ((await findExecutable("nats-server", [folder])) === undefined) throw error;
    }
    return join(folder, "nats-server");
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Settings that keep apt-get to folders of our own, with none of the system's hooks. */
async function writeAptConfig(work: string): Promise<string> {
  const folders = { lists: join(work, "lists"), cache: join(work, "cache"), log: join(work, "log") };
  await mkdir(join(folders.lists, "partial"), { recursive: true });
  await mkdir(join(folders.cache, "archives", "partial"), { recursive: true });
  await mkdir(folders.log, { recursive: true });
  const quoted = Object.fromEntries(
    Object.entries(folders).map(([name, folder]) => [name, JSON.stringify(`${folder}/`)]),
  );
  const file = join(work, "apt.conf");
  await writeFile(
    file,
    [
      "#clear APT::Update::Pre-Invoke;",
      "#clear APT::Update::Post-Invoke;",
      "#clear APT::Update::Post-Invoke-Success;",
      `Dir::State::lists ${quoted["lists"]};`,
      `Dir::Cache ${quoted["cache"]};`,
      `Dir::Log ${quoted["log"]};`,
      // Root's apt-get would download as a user who can't write here.
      'APT::Sandbox::User "root";',
      "",
    ].join("\n"),
  );
  return file;
}

export interface StartOptions {
  readonly bin: string;
  /** Where JetStream keeps its data; made if it is missing. Not to be shared by two servers. */
  readonly storeDir: string;
  readonly host?: string | undefined;
  /** A free one by default, and for 0. */
  readonly port?: number | undefined;
}

/** How a nats-server ended. */
export interface NatsServerExit {
  /** It was asked to, by `stop`. */
  readonly expected: boolean;
  /** The last lines that it wrote. */
  readonly lines: readonly string[];
}

/** A nats-server that runs for this process. */
export interface NatsServer {
  readonly url: string;
  readonly pid: number;
  /** Stops it and waits until it is gone. */
  stop(): Promise<void>;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<NatsServerExit>;
}

/**
 * Runs nats-server ("$@") as a child of a shell, which says its pid and ends with it. A second shell waits for the end of
 * standard input, a pipe whose other end only our process holds: when we are gone, however that came about, it takes
 * nats-server down. It can't kill a stranger: the first shell ends it, with its sleep, as soon as nats-server has ended;
 * the group is theirs alone.
 */
const WATCHED = `
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
echo "$server"
exec >&-
{
  read -r _ <&3
  kill -TERM "$server"
  sleep ${STOP_TIMEOUT_MS / 1000} 3<&-
  kill -KILL "$server"
} 2>/dev/null &
exec 3<&-
wait "$server"
code=$?
trap "" TERM
kill -TERM 0
exit "$code"
`;

/** Starts nats-server with JetStream on this machine and waits until it answers. */
export async function startNatsServer(options: StartOptions): Promise<NatsServer> {
  const { bin, host = "127.0.0.1", port = 0 } = options;
  const storeDir = resolve(options.storeDir);
  if (!(await isExecutable(bin))) throw new Error(`${bin} is not an executable file: it should be a nats-server`);
  const { portsDir, name, release } = await claimFolder(storeDir);
  const flags = ["-a", host, "-p", String(port > 0 ? port : -1), "-n", name, "-js", "-sd", storeDir];
  // In a session of its own, so that Ctrl-C in the terminal reaches us alone and we can drain first.
  const shell = spawn("/bin/sh", ["-c", WATCHED, "sh", bin, ...flags, "--ports_file_dir", portsDir], {
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
  });
  const server = new WatchedServer(shell);
  const exited = server.exited.finally(release);
  try {
    const { pid, url } = await server.ready(portsDir);
    await writeFile(join(storeDir, OWNER_FILE), JSON.stringify({ name, url } satisfies Owner));
    return {
      url,
      pid,
      stop: () =>
        server
          .stop()
          .then(() => exited)
          .then(() => {}),
      exited,
    };
  } catch (error) {
    await server.stop();
    await exited;
    throw explain(error as Error, server.lines, { bin, host, port, storeDir });
  }
}

/** Who uses a folder; nats-server itself would let two servers write to the same one. */
interface Owner {
  /** The name of the server, new at each start. */
  readonly name: string;
  /** Absent while it starts. */
  readonly url?: string;
}

interface Claim {
  readonly name: string;
  readonly portsDir: string;
  readonly release: () => Promise<void>;
}

/** Makes the folder ours, or rejects if it can't be written or another server uses it. */
async function claimFolder(storeDir: string): Promise<Claim> {
  const file = join(storeDir, OWNER_FILE);
  const name = `cortex-${randomUUID()}`;
  try {
    await mkdir(storeDir, { recursive: true });
    for (let tries = 1; !(await writeNew(file, JSON.stringify({ name } satisfies Owner))); tries++) {
      const owner = await readOwner(file);
      const inUse = owner?.url !== undefined && (await answers(owner.url, owner.name));
      if (inUse || tries > CLAIM_TRIES) {
        throw new Error(
          `another nats-server${owner?.url === undefined ? "" : `, at ${owner.url},`} uses it: ` +
            "set CORTEX_DATA to another folder, or CORTEX_NATS_URL to that server to join its mesh",
        );
      }
      await rm(file, { force: true });
    }
    for (const left of await readdir(storeDir)) {
      if (left.startsWith(PORTS_FOLDER)) await rm(join(storeDir, left), { recursive: true, force: true });
    }
    // A folder of its own: a file left by a server that was killed might bear the same process id.
    const portsDir = await mkdtemp(join(storeDir, PORTS_FOLDER));
    const release = async (): Promise<void> => {
      if ((await readOwner(file, 0))?.name === name) await rm(file, { force: true });
      await rm(portsDir, { recursive: true, force: true });
    };
    return { name, portsDir, release };
  } catch (error) {
    throw new Error(`nats-server can't keep its data in ${storeDir}: ${(error as Error).message}`, { cause: error });
  }
}

async function writeNew(file: string, text: string): Promise<boolean> {
  try {
    await writeFile(file, text, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** Who has claimed the folder; one that is just starting gets the time to say where it listens. */
async function readOwner(file: string, patienceMs = OWNER_PATIENCE_MS): Promise<Owner | undefined> {
  const deadlineMs = performance.now() + patienceMs;
  for (;;) {
    const owner = await readJson<Owner>(file);
    if (owner?.url !== undefined || performance.now() >= deadlineMs) return owner;
    if ((await stat(file).catch(() => undefined)) === undefined) return undefined;
    await pause(50);
  }
}

/** Whether the server of this name listens there: the first line that any nats-server sends tells its name. */
function answers(url: string, name: string): Promise<boolean> {
  return new Promise((done) => {
    const { hostname, port } = new URL(url);
    const socket = connect({ host: hostname, port: Number(port), timeout: OWNER_PATIENCE_MS });
    const end = (result: boolean): void => {
      socket.destroy();
      done(result);
    };
    socket.once("data", (data) => end(data.toString().includes(`"${name}"`)));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
    socket.once("close", () => end(false));
  });
}

function explain(
  error: Error,
  lines: readonly string[],
  { bin, host, port, storeDir }: { bin: string; host: string; port: number; storeDir: string },
): Error {
  // What it says of itself when all is well is left out, unless that is all there is.
  const telling = lines.filter((line) => !line.includes("[INF]"));
  const text = (telling.length > 0 ? telling : lines).join("\n");
  let problem = `${bin} did not start (${error.message})`;
  if (/address already in use/.test(text)) problem = `port ${port} on ${host} is taken, nats-server can't listen there`;
  else if (/permission denied|read-only file system/i.test(text) && text.includes(storeDir)) {
    problem = `nats-server can't keep its data in ${storeDir}`;
  }
  return new Error(text === "" ? problem : `${problem}; it said:\n${text}`, { cause: error });
}

/** The shell that runs nats-server, seen from here. */
class WatchedServer {
  readonly exited: Promise<NatsServerExit>;
  readonly lines: string[] = [];
  readonly #shell: ChildProcess;
  #pid: number | undefined;
  #stopping: Promise<void> | undefined;
  #gone = false;

  constructor(shell: ChildProcess) {
    this.#shell = shell;
    shell.stdin?.on("error", () => {});
    let said = "";
    shell.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      said += chunk;
      if (said.includes("\n")) this.#pid = Number.parseInt(said, 10);
    });
    let rest = "";
    shell.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      const parts = (rest + chunk).split("\n");
      rest = (parts.pop() ?? "").slice(0, LINE_LENGTH_MAX);
      this.lines.push(...parts.map((line) => line.slice(0, LINE_LENGTH_MAX)));
      this.lines.splice(0, this.lines.length - LINES_MAX);
    });
    this.exited = new Promise((done) => {
      const gone = (): void => {
        this.#gone = true;
        done({ expected: this.#stopping !== undefined, lines: this.lines });
      };
      shell.once("error", gone);
      shell.once("close", gone);
    });
    // The server runs as long as we do; it is no reason for us to run.
    shell.unref();
    for (const pipe of [shell.stdin, shell.stdout, shell.stderr]) (pipe as Socket | null)?.unref();
  }

  /** Waits for the file in which nats-server says where it listens. */
  async ready(portsDir: string): Promise<{ readonly pid: number; readonly url: string }> {
    const deadlineMs = performance.now() + READY_TIMEOUT_MS;
    while (performance.now() < deadlineMs) {
      if (this.#gone) throw new Error("it ended at once");
      if (this.#pid !== undefined) {
        const ports = await readJson<{ readonly nats?: readonly string[] }>(
          join(portsDir, `nats-server_${this.#pid}.ports`),
        );
        const url = ports?.nats?.[0];
        if (url !== undefined) return { pid: this.#pid, url };
      }
      await pause(READY_POLL_MS);
    }
    throw new Error(`it does not answer after ${READY_TIMEOUT_MS / 1000} s`);
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    if (this.#gone) return;
    // The end of its input makes the shell stop the server, and kill it if it does not stop in time.
    this.#shell.stdin?.end();
    const timer = setTimeout(() => this.#kill(), STOP_TIMEOUT_MS + 1_000);
    await this.exited;
    clearTimeout(timer);
  }

  #kill(): void {
    for (const pid of [this.#pid, this.#shell.pid]) {
      try {
        if (pid !== undefined) process.kill(pid, "SIGKILL");
      } catch {
        // It is gone already.
      }
    }
  }
}

/** What a file holds; undefined if it is not there (yet), or only half written. */
async function readJson<T>(file: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as T;
  } catch {
    return undefined;
  }
}

function lastLines(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message?: string };
  const text = stderr === undefined || stderr.trim() === "" ? (message ?? String(error)) : stderr;
  return text.trim().split("\n").slice(-3).join("; ");
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}
