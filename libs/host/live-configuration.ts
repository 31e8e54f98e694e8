/**
 * The configuration of a node as it is now. Its file is followed, and what it says is taken over whole or not at all: while it
 * has mistakes, or is gone, the last good one stays in force, and everybody who asks how the node is hears of it.
 */
import { type FSWatcher, watch } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Logger } from "../telemetry/index.ts";
import { type Configuration, ConfigurationError } from "./config.ts";

/** How often the file is read where the system does not tell of changes: of mounted volumes, and of exchanged links. */
const POLL_MS = 2_000;
/** A file is taken to be written whole when it has not changed for so long. */
const SETTLE_MS = 100;

/** What became of a changed file. */
export interface Reloaded {
  readonly accepted: boolean;
  /** What is wrong with it; empty when it was accepted. */
  readonly problems: readonly string[];
}

export interface LiveConfigurationOptions {
  readonly initial: Configuration;
  /** Makes a configuration of what the file says; throws ConfigurationError. */
  readonly load: (text: string) => Configuration;
  readonly log: Logger;
  /** Told of each change of the file, after the listeners. */
  readonly onReloaded: (outcome: Reloaded) => void;
}

type Listener = (configuration: Configuration, before: Configuration) => void;

/** What takes effect only when the node is started again. */
const FIXED: readonly [string, (configuration: Configuration) => unknown][] = [
  ["node.zone", ({ node }) => node.zone],
  ["node.metricsPort", ({ node }) => node.metricsPort],
  ["metrics.enabled", ({ metrics }) => metrics.enabled],
];

/** Holds the configuration, and follows its file from `follow` to `stop`. */
export class LiveConfiguration {
  readonly #options: LiveConfigurationOptions;
  readonly #listeners = new Set<Listener>();
  #current: Configuration;
  /** What the file said when it was looked at last; undefined before that, null when it was not there. */
  #seen: string | null | undefined;
  #problem: { readonly since: Date; readonly problems: readonly string[] } | undefined;
  #watcher: FSWatcher | undefined;
  #poll: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #lookAgain = false;
  #stopped = false;

  constructor(options: LiveConfigurationOptions) {
    this.#options = options;
    this.#current = options.initial;
  }

  get current(): Configuration {
    return this.#current;
  }

  /** What is wrong with the file now, in a sentence. */
  get problem(): string | undefined {
    if (this.#problem === undefined) return undefined;
    const { since, problems } = this.#problem;
    const what = `the configuration file ${basename(this.#current.filePath)} has mistakes since ${since.toISOString()}`;
    return `${what}, so the one before it holds: ${problems.join("; ")}`;
  }

  /** Calls `listener` after each change until the returned function is called. What it throws is logged. */
  onChange(listener: Listener): () => void {
    const entry: Listener = (configuration, before) => listener(configuration, before);
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  /** Begins to follow the file, also one that is not there yet. What has changed since it was loaded is found at once. */
  follow(): void {
    const { filePath } = this.#current;
    try {
      // The folder and not the file: editors and Kubernetes put another one in its place.
      this.#watcher = watch(dirname(filePath), { persistent: false }, () => this.#look());
      this.#watcher.on("error", (error) => this.#unwatched(error));
    } catch (error) {
      this.#unwatched(error);
    }
    this.#poll = setInterval(() => this.#look(), POLL_MS).unref();
    this.#look();
  }

  /** Resolves when nothing of it runs any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#watcher?.close();
    clearInterval(this.#poll);
    await this.#looking;
  }

  #unwatched(error: unknown): void {
    this.#watcher?.close();
    this.#options.log.debug({ err: error }, "the configuration's folder can't be watched; its file is read every 2 s");
  }

  #look(): void {
    if (this.#stopped) return;
    this.#lookAgain = true;
    this.#looking ??= this.#lookUntilSettled().finally(() => {
      this.#looking = undefined;
    });
  }

  async #lookUntilSettled(): Promise<void> {
    while (this.#lookAgain && !this.#stopped) {
      this.#lookAgain = false;
      let text = await this.#read();
      if (text === this.#seen) continue;
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, SETTLE_MS).unref());
        const later = await this.#read();
        if (later === text) break;
        text = later;
      }
      if (this.#stopped) return;
      this.#seen = text;
      this.#take(text);
    }
  }

  /** What the file says; null when there is none, and a sentence for `#take` when it can't be read. */
  async #read(): Promise<string | null> {
    try {
      return await readFile(this.#current.filePath, "utf8");
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      return code === "ENOENT" ? null : UNREADABLE + message;
    }
  }

  #take(text: string | null): void {
    const before = this.#current;
    let configuration: Configuration;
    try {
      configuration = this.#load(text);
    } catch (error) {
      this.#refuse(error);
      return;
    }
    const mended = this.#problem !== undefined;
    this.#problem = undefined;
    const { log, onReloaded } = this.#options;
    const file = before.filePath;
    if (isDeepStrictEqual(configuration, before)) {
      if (!mended) return;
      log.info({ file }, "the configuration file is in order again");
    } else {
      this.#current = configuration;
      const parts = Object.keys(configuration) as (keyof Configuration)[];
      const changed = parts.filter((part) => !isDeepStrictEqual(configuration[part], before[part]));
      log.info({ file, changed }, "the configuration file has changed and is in force");
      const fixed = FIXED.flatMap(([name, of]) => (of(configuration) === of(before) ? [] : [name]));
      if (fixed.length > 0) log.warn({ file, fields: fixed }, "takes effect when the node is started again");
      for (const listener of this.#listeners) {
        try {
          listener(configuration, before);
        } catch (error) {
          log.error({ err: error }, "a listener of the configuration failed");
        }
      }
    }
    onReloaded({ accepted: true, problems: [] });
  }

  #load(text: string | null): Configuration {
    const { filePath: path, file } = this.#current;
    // Without a file from the beginning, what holds is what holds without one.
    if (text === null && file === undefined) return this.#current;
    if (text === null) throw new ConfigurationError(path, ["it is not there any more"]);
    if (text.startsWith(UNREADABLE)) throw new ConfigurationError(path, [`it can't be read: ${text.slice(1)}`]);
    // One that is being written is empty for a moment; meant so, it would take every worker away.
    if (file !== undefined && text.trim() === "") throw new ConfigurationError(path, ["it is empty"]);
    return this.#options.load(text);
  }

  #refuse(error: unknown): void {
    const { log, onReloaded } = this.#options;
    const known = error instanceof ConfigurationError;
    const problems = known ? error.problems : ["it can't be loaded; the log says why"];
    this.#problem = { since: this.#problem?.since ?? new Date(), problems };
    const what = "the configuration file has mistakes, so the one before it holds";
    log.error({ file: this.#current.filePath, problems, ...(known ? {} : { err: error }) }, what);
    onReloaded({ accepted: false, problems });
  }
}

/** Begins what stands for a file that can't be read; no text begins so. */
const UNREADABLE = "\u0000";
