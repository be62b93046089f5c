// The daemon's command line, checked before anything is touched.
import { Command, InvalidArgumentError } from "commander";
import { product } from "#contract/tables.ts";
import { isSubdomain } from "#mesh/identity.ts";

export type DaemonOptions = {
  readonly node: string;
  readonly mesh: string;
  readonly run: string;
  readonly control: string;
  readonly root: string;
  readonly token: string;
  readonly clusterDomain: string;
  readonly health: { readonly host: string; readonly port: number } | null;
  readonly log: string;
};

const LEVELS = ["fatal", "error", "warn", "info", "debug", "trace"];

export function parseOptions(argv: readonly string[]): DaemonOptions {
  const command = new Command(`${product.labelPrefix.split(".")[0]}-daemon`)
    .description("Enrol the pods of one node and direct its engine. Its end leaves pods, rules and engine as they are.")
    .requiredOption("--node <name>", "name of this node, as the Pods name it")
    .requiredOption("--mesh <dir>", "directory with the mesh's documents")
    .requiredOption("--run <dir>", "root-only directory shared with the engine")
    .requiredOption("--control <url>", "https://ADDRESS:15012", controlUrl)
    .requiredOption("--root <file>", "PEM of control's root certificate")
    .requiredOption("--token <file>", "this node's token")
    .option("--cluster-domain <name>", "DNS domain of services until control says it for the first time", domainName, "cluster.local")
    .option("--health <address>", "ADDRESS:PORT of /healthz/ready and /metrics", listenAddress)
    .option("--log <level>", LEVELS.join(" | "), logLevel, "info")
    .allowExcessArguments(false)
    .exitOverride();
  const options = command.parse([...argv], { from: "user" }).opts<Omit<DaemonOptions, "health"> & { health?: DaemonOptions["health"] }>();
  return { ...options, health: options.health ?? null };
}

function domainName(text: string): string {
  if (!isSubdomain(text)) throw new InvalidArgumentError('expected a DNS name of lower-case letters, digits and "-"');
  return text;
}

function controlUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol !== "https:" || url.pathname !== "/") throw new InvalidArgumentError("expected https://ADDRESS:PORT");
  return url.origin;
}

/** "127.0.0.1:15021" or "[::1]:15021". */
function listenAddress(text: string): DaemonOptions["health"] {
  const match = /^(?:\[([0-9a-f:]+)\]|([0-9.]+)):([0-9]{1,5})$/i.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) throw new InvalidArgumentError("expected ADDRESS:PORT, such as 127.0.0.1:15021");
  return { host, port };
}

function logLevel(text: string): string {
  if (!LEVELS.includes(text)) throw new InvalidArgumentError(`expected one of ${LEVELS.join(", ")}`);
  return text;
}
