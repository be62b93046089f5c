// Puts plugin and configuration on the node and keeps them there: others rewrite or delete what lies in these directories.
import { constants, type FSWatcher, watch } from "node:fs";
import { access, open, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { paths } from "#contract/tables.ts";
import { type MeshError, meshError } from "#mesh/error.ts";
import { type ConfFile, chained, type PluginConf, readByRuntimes } from "./conflist.ts";
import { replaceFile } from "./decisions.ts";

export type InstallOptions = {
  /** The plugin as it came with the daemon. */
  readonly plugin: string;
  readonly bin: string;
  readonly conf: string;
  readonly pluginConf?: PluginConf;
  /** What was put in place or mended. */
  readonly placed: (what: string) => void;
  /** What keeps the plugin from being in place; null when nothing does any more. Told once for each reason. */
  readonly trouble: (error: MeshError | null) => void;
  readonly sweepMilliseconds?: number;
};

export type Installation = {
  /** Null while everything is in place. */
  readonly problem: MeshError | null;
  /** Brings everything in place now; resolves also when that failed. */
  mend(): Promise<void>;
  /** Leaves the files where they are; resolves when nothing more is written. */
  stop(): Promise<void>;
};

/** Notices get lost (inotify has a bound of its own, and some file systems have none). */
const SWEEP_MS = 5000;
/** A network provider writes several files in a row. */
const SETTLE_MS = 50;
/** Larger is nobody's configuration. */
const CONF_BYTES = 4 * 1024 * 1024;

export function install(options: InstallOptions): Installation {
  const { plugin, bin, conf, placed, trouble } = options;
  let problem: MeshError | null = null;
  let known = false;
  let running: Promise<void> | null = null;
  let again = false;
  let stopped = false;
  let settle: NodeJS.Timeout | undefined;

  async function pass(): Promise<void> {
    try {
      if (await placePlugin(plugin, join(bin, paths.cniPlugin))) placed(`the plugin ${join(bin, paths.cniPlugin)}`);
      const from = await placeConflist(conf, options.pluginConf ?? {});
      if (from !== null) placed(`the configuration ${join(conf, paths.cniConflist)}, a copy of ${from}`);
      tell(null);
    } catch (error) {
      tell(error as MeshError); // both of them throw nothing else
    }
  }

  function tell(now: MeshError | null): void {
    if (known && now?.message === problem?.message) return;
    known = true;
    problem = now;
    trouble(now);
  }

  function mend(): Promise<void> {
    if (stopped) return Promise.resolve();
    again = running !== null;
    running ??= pass().finally(() => {
      running = null;
      if (again) return mend();
    });
    return running;
  }

  let watcher: FSWatcher | null = null;
  function look(): void {
    try {
      watcher ??= watch(conf, () => {
        clearTimeout(settle);
        settle = setTimeout(() => void mend(), SETTLE_MS);
      }).on("error", () => {
        watcher?.close();
        watcher = null;
      });
    } catch {
      watcher = null; // no directory yet, or no notices left: the sweep looks
    }
  }

  const sweep = setInterval(() => {
    look();
    void mend();
  }, options.sweepMilliseconds ?? SWEEP_MS);
  look();

  return {
    get problem() {
      return problem;
    },
    mend,
    stop: async () => {
      stopped = true;
      clearInterval(sweep);
      clearTimeout(settle);
      watcher?.close();
      await running;
    },
  };
}

/** Takes the configuration away, so that new pods do not ask for us any more. The plugin stays: runtimes may still call it at a pod's end. */
export const removeConflist = (conf: string): Promise<void> => rm(join(conf, paths.cniConflist), { force: true });

const failure = (what: string, cause: unknown): MeshError => meshError("E_CNI_INSTALL_FAILED", what, cause ?? undefined);

/** True when it was not there or another one. */
async function placePlugin(from: string, to: string): Promise<boolean> {
  try {
    const wanted = await readFile(from);
    const present = await stat(to).catch(() => null); // absent or unreadable: written anew, and that says what is wrong
    if (present !== null && present.size === wanted.length && wanted.equals(await readFile(to)) && (await mayRun(to))) return false;
    await replaceFile(to, wanted, 0o755);
    return true;
  } catch (cause) {
    throw failure(`the CNI plugin cannot be copied from ${from} to ${to}`, cause);
  }
}

const mayRun = (path: string): Promise<boolean> =>
  access(path, constants.X_OK).then(
    () => true,
    () => false,
  );

/** The file that was copied, null when ours was up to date. */
async function placeConflist(directory: string, conf: PluginConf): Promise<string | null> {
  const ours = join(directory, paths.cniConflist);
  let files: ConfFile[];
  try {
    files = await readConf(directory);
  } catch (cause) {
    throw failure(`the CNI configuration in ${directory} cannot be read`, cause);
  }
  const wanted = chained(files, conf);
  if (wanted.from === null) {
    // Ours alone would promise a network that nobody makes any more.
    await rm(ours, { force: true }).catch((cause: unknown) => {
      throw failure(`${ours} cannot be removed`, cause);
    });
    if ("version" in wanted) throw meshError("E_CNI_VERSION", `our plugin is not chained in ${directory}: ${wanted.version}`);
    throw meshError("E_CNI_NO_NETWORK", [`no CNI configuration to chain to in ${directory}`, ...wanted.reasons].join("; "));
  }
  const before = files.find(({ name }) => readByRuntimes(name) && name < paths.cniConflist)?.name;
  if (before !== undefined)
    throw failure(`${before} in ${directory} comes before ${paths.cniConflist}: the runtime would not call our plugin`, null);
  if (files.find(({ name }) => name === paths.cniConflist)?.text === wanted.text) return null;
  try {
    await replaceFile(ours, wanted.text, 0o600);
  } catch (cause) {
    throw failure(`${ours} cannot be written`, cause);
  }
  return wanted.from;
}

async function readConf(directory: string): Promise<ConfFile[]> {
  const names = await readdir(directory, { withFileTypes: true });
  const found: ConfFile[] = [];
  for (const entry of names) {
    if (entry.isDirectory()) continue;
    const text = await readBounded(join(directory, entry.name));
    if (text !== null) found.push({ name: entry.name, text });
  }
  return found;
}

/** Null for what went away while we looked, and for what is too large to be configuration. */
async function readBounded(path: string): Promise<string | null> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (file === null) return null;
  try {
    const { size } = await file.stat();
    return size > CONF_BYTES ? null : await file.readFile("utf8");
  } finally {
    await file.close();
  }
}
