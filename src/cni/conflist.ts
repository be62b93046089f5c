// The node's CNI configuration with our plugin chained last: a pure function of what others left in the directory.
import { paths, wire } from "#contract/tables.ts";

/** A file of /etc/cni/net.d. */
export type ConfFile = { readonly name: string; readonly text: string };

export type Chained =
  | { readonly from: string; readonly text: string }
  /** Why there is nothing to chain to; empty = no configuration at all yet. */
  | { readonly from: null; readonly reasons: readonly string[] }
  /** What the runtime would take cannot have us in it: why, and with it the file. */
  | { readonly from: null; readonly version: string };

/** No plugin is given the result of those before it below the first; what is newer than the last may mean something else. */
const VERSIONS: readonly string[] = wire.cniVersions.split(" ");

/** Where the daemon is not at its usual place. */
export type PluginConf = { readonly socket?: string; readonly decisions?: string };

/** The endings that container runtimes read, in the order of names: what they would take without us is what we copy. */
export const readByRuntimes = (name: string): boolean => /\.(?:conflist|conf|json)$/.test(name);

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

export function chained(files: readonly ConfFile[], conf: PluginConf = {}): Chained {
  const foreign = files.filter(({ name }) => readByRuntimes(name) && name !== paths.cniConflist).sort((a, b) => (a.name < b.name ? -1 : 1));
  const reasons: string[] = [];
  for (const { name, text } of foreign) {
    const list = asList(name, text);
    if (typeof list === "string") {
      reasons.push(`${name}: ${list}`);
      continue;
    }
    const unspoken = versionsOf(list).filter((version) => !VERSIONS.includes(version));
    // Passing over to the next file would give the node another network than it has without us.
    if (unspoken.length > 0)
      return { from: null, version: `${name} is of cniVersion ${unspoken.join(", ")}; ours speaks ${VERSIONS.join(", ")}` };
    return { from: name, text: `${JSON.stringify(withOurs(list, conf), null, 2)}\n` };
  }
  return { from: null, reasons };
}

/** A configuration of a single plugin is a list of one. */
function asList(name: string, text: string): (Fields & { readonly plugins: readonly unknown[] }) | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return `it is not JSON: ${error instanceof Error ? error.message : String(error)}`;
  }
  if (!isFields(value)) return "it is not an object";
  if (Array.isArray(value["plugins"]) && value["plugins"].length > 0) return { ...value, plugins: value["plugins"] };
  if (name.endsWith(".conflist")) return "it has no plugins";
  if (typeof value["type"] !== "string") return "it names no plugin type";
  const { cniVersion, name: network, ...plugin } = value;
  return { ...(cniVersion === undefined ? {} : { cniVersion }), name: network, plugins: [plugin] };
}

/** Runtimes take whichever of these they like best; a file without a version is of the first that there was. */
function versionsOf({ cniVersion, cniVersions }: Fields): string[] {
  const named = [cniVersion === undefined || cniVersion === "" ? "0.1.0" : cniVersion, ...(Array.isArray(cniVersions) ? cniVersions : [])];
  return named.map((version) => (typeof version === "string" ? version : JSON.stringify(version)));
}

const withOurs = (list: Fields & { readonly plugins: readonly unknown[] }, conf: PluginConf): Fields => ({
  ...list,
  plugins: [
    ...list.plugins.filter((plugin) => !(isFields(plugin) && plugin["type"] === paths.cniPlugin)),
    { type: paths.cniPlugin, ...conf },
  ],
});
