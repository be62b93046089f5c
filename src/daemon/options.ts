// The daemon's command line, checked before anything is touched.
import { basename, join } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { bounds, paths, product } from "#contract/tables.ts";
import { DEFAULT_FILE_BYTES, DEFAULT_FILTER, type ExportSettings, exportSettings } from "#inspect/export/settings.ts";
import { ADOPTIONS, type Adoption } from "#mesh/enrolment.ts";
import { meshError } from "#mesh/error.ts";
import { isSubdomain } from "#mesh/identity.ts";
import type { BackendName } from "#redirect/backend.ts";
import { BACKENDS } from "#redirect/choose.ts";

export type DaemonOptions = {
  readonly node: string;
  /** Where desired state comes from: a directory of documents, or the API server. */
  readonly mesh: string | null;
  readonly kubernetes: KubernetesOptions | null;
  readonly run: string;
  readonly control: string;
  readonly root: string;
  readonly token: string;
  readonly clusterDomain: string;
  readonly health: { readonly host: string; readonly port: number } | null;
  readonly log: string;
  /** File of the ledger; null: none is kept. */
  readonly ledger: string | null;
  /** Where flow records go besides. */
  readonly exports: ExportSettings;
  /** Whose labels count beside ours; control must say the same. */
  readonly adopt: Adoption;
  /** By what pods are captured; auto: the first that works on this node. */
  readonly redirect: BackendName | "auto";
};

export type KubernetesOptions = {
  /** Null: the credentials of the pod that the daemon runs in. */
  readonly kubeconfig: string | null;
  readonly cniPlugin: string | null;
  readonly cniBin: string;
  readonly cniConf: string;
  readonly cniState: string;
  /** Take every pod of the node out of the mesh and remove what the mesh put on it, instead of serving it. */
  readonly leave: boolean;
  /** How long connections of pods that leave may last. */
  readonly drainMilliseconds: number;
};

/** Uninstalling should end while somebody watches. */
const LEAVE_DRAIN_SECONDS = 30;
const DRAIN_SECONDS_MOST = 24 * 60 * 60;

const LEVELS = ["fatal", "error", "warn", "info", "debug", "trace"];

export function parseOptions(argv: readonly string[], env: NodeJS.ProcessEnv = process.env): DaemonOptions {
  const command = new Command(`${product.labelPrefix.split(".")[0]}-daemon`)
    .description("Enrol the pods of one node and direct its engine. Its end leaves pods, rules and engine as they are.")
    .requiredOption("--node <name>", "name of this node, as the Pods name it")
    .option("--mesh <dir>", "directory with the mesh's documents")
    .option("--kubernetes", "instead of --mesh: this node of a Kubernetes cluster")
    .option("--kubeconfig <file>", "how to reach its API server (default: as the pod that this runs in)")
    .option("--cni-plugin <file>", "the CNI plugin to put on the node (default: beside the other programs)")
    .option("--cni-bin <dir>", "where the node's CNI plugins are", paths.cniBin)
    .option("--cni-conf <dir>", "where the node's CNI configuration is", paths.cniConf)
    .option("--cni-state <dir>", "what the plugin needs while no daemon answers", paths.cniState)
    .option("--leave", "take every pod out of the mesh and the mesh off the node; ready when nothing is left")
    .option("--drain <seconds>", "how long connections of pods that leave may last", seconds)
    .requiredOption("--run <dir>", "root-only directory shared with the engine")
    .requiredOption("--control <url>", "https://ADDRESS:15012", controlUrl)
    .requiredOption("--root <file>", "PEM of control's root certificate")
    .requiredOption("--token <file>", "this node's token")
    .option("--cluster-domain <name>", "DNS domain of services until control says it for the first time", domainName, "cluster.local")
    .option("--health <address>", "ADDRESS:PORT of /healthz/ready and /metrics", listenAddress)
    .addOption(
      new Option("--ledger <file>", `where edges are kept for days, or none (default: ${paths.ledger}, with --mesh below --run)`).env(
        "TRACKBED_LEDGER",
      ),
    )
    .option("--otlp-endpoint <url>", "OTLP collector that takes flow records as logs (default: as OTEL_EXPORTER_OTLP_ENDPOINT says)", "")
    .option("--export-file <file>", "flow records as lines of JSON, there or (-) on standard output", "")
    .option("--export-file-bytes <count>", "most bytes of that file and its three predecessors together", exportBytes, DEFAULT_FILE_BYTES)
    .option("--export-filter <filter>", "which records leave, as of trackbed flows", DEFAULT_FILTER)
    .addOption(
      new Option("--redirect <backend>", "by what pods are captured; auto is the first that works on this node")
        .choices(["auto", ...BACKENDS])
        .default("auto")
        .env("TRACKBED_REDIRECT"),
    )
    .addOption(
      new Option("--adopt <mesh>", "istio: follow its label istio.io/dataplane-mode as ours; control needs the same")
        .choices([...ADOPTIONS])
        .default("none"),
    )
    .option("--log <level>", LEVELS.join(" | "), logLevel, "info")
    .allowExcessArguments(false)
    .exitOverride();
  const given = command.parse([...argv], { from: "user" }).opts<Given>();
  if ((given.mesh === undefined) === (given.kubernetes !== true))
    throw meshError("E_USAGE", "one of --mesh DIR and --kubernetes is needed, and not both");
  const { node, run, control, root, token, clusterDomain, health = null, log, redirect, adopt, mesh = null } = given;
  const kubernetes = given.kubernetes ? kubernetesOf(given) : null;
  const ledger = given.ledger ?? (kubernetes === null ? join(run, basename(paths.ledger)) : paths.ledger);
  return {
    node,
    run,
    control,
    root,
    token,
    clusterDomain,
    health,
    log,
    ledger: ledger === "none" ? null : ledger,
    exports: exportSettings(given, env),
    redirect,
    adopt,
    mesh,
    kubernetes,
  };
}

/** What commander found; what was not given is absent. */
type Given = Pick<DaemonOptions, "node" | "run" | "control" | "root" | "token" | "clusterDomain" | "log" | "redirect" | "adopt"> & {
  readonly otlpEndpoint: string;
  readonly exportFile: string;
  readonly exportFileBytes: number;
  readonly exportFilter: string;
  readonly health?: NonNullable<DaemonOptions["health"]>;
  readonly ledger?: string;
  readonly mesh?: string;
  readonly kubernetes?: boolean;
  readonly kubeconfig?: string;
  readonly cniPlugin?: string;
  readonly cniBin: string;
  readonly cniConf: string;
  readonly cniState: string;
  readonly leave?: boolean;
  readonly drain?: number;
};

function kubernetesOf({ kubeconfig, cniPlugin, cniBin, cniConf, cniState, leave = false, drain }: Given): KubernetesOptions {
  const usual = leave ? LEAVE_DRAIN_SECONDS * 1000 : bounds.drainMilliseconds;
  const drainMilliseconds = drain === undefined ? usual : drain * 1000;
  return { kubeconfig: kubeconfig ?? null, cniPlugin: cniPlugin ?? null, cniBin, cniConf, cniState, leave, drainMilliseconds };
}

function seconds(text: string): number {
  const value = /^[0-9]{1,6}$/.test(text) ? Number(text) : DRAIN_SECONDS_MOST + 1;
  if (value > DRAIN_SECONDS_MOST) throw new InvalidArgumentError(`expected seconds from 0 to ${DRAIN_SECONDS_MOST}`);
  return value;
}

/** Less would not hold a minute of a quiet node. */
const EXPORT_BYTES_LEAST = 1 << 20;
const EXPORT_BYTES_MOST = 2 ** 40;

function exportBytes(text: string): number {
  const value = /^[0-9]{1,13}$/.test(text) ? Number(text) : 0;
  if (value < EXPORT_BYTES_LEAST || value > EXPORT_BYTES_MOST)
    throw new InvalidArgumentError(`expected bytes from ${EXPORT_BYTES_LEAST} to ${EXPORT_BYTES_MOST}`);
  return value;
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
