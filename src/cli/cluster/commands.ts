// The commands that speak to a cluster's API server, as the command line has them.
import { type Command, InvalidArgumentError, Option } from "commander";
import { kubernetes } from "#contract/tables.ts";
import { defaults } from "#install/values.ts";
import { isLabel } from "#mesh/identity.ts";
import type { Format } from "../outcome.ts";
import { version } from "../version.ts";
import { runBypass } from "./bypass.ts";
import { runCheck } from "./check.ts";
import { runEnrol, runUnenrol } from "./enrol.ts";
import { runInstall } from "./install.ts";
import { runUninstall } from "./uninstall.ts";
import { parseDuration } from "./wait.ts";
import { runWaypointApply, runWaypointDelete, runWaypointList, runWaypointStatus } from "./waypoint.ts";

export type ClusterOptions = { readonly kubeconfig: string | undefined; readonly context: string | undefined; readonly output: Format };
type Act = (result: Promise<number>) => void;
type Parse<T> = T & ClusterOptions;

const target = ({ kubeconfig, context }: ClusterOptions) => ({ kubeconfig, context });

export const withTarget = (command: Command): Command =>
  command
    .option("--kubeconfig <file>", "default: KUBECONFIG, ~/.kube/config, or the account of the pod this runs in")
    .option("--context <name>", "of the kubeconfig; default: its current one");

const output = (): Option => new Option("-o, --output <format>", "how to answer").choices(["text", "json"]).default("text");
const timeout = (text: string): Option =>
  new Option("--timeout <duration>", "longest wait, such as 90s or 5m").default(text).argParser(duration);
const collect = (value: string, all: string[]): string[] => [...all, value];

function duration(text: string): string {
  if (parseDuration(text) === null) throw new InvalidArgumentError("expected a time such as 90s or 5m");
  return text;
}

function namespaceName(text: string): string {
  if (!isLabel(text)) throw new InvalidArgumentError("expected the name of a namespace");
  return text;
}

function gatewayName(text: string): string {
  if (!isLabel(text)) throw new InvalidArgumentError("expected the name of a Gateway: a DNS label, for its Service has the same one");
  return text;
}

function seconds(text: string): number {
  const value = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value)) throw new InvalidArgumentError("expected seconds, at most 9999");
  return value;
}

const milliseconds = (text: string): number => parseDuration(text) ?? 0;

export function addClusterCommands(program: Command, act: Act): void {
  const own = defaults(version());
  const command = (name: string, description: string): Command =>
    withTarget(program.command(name).description(description)).addOption(output());
  const withImage = (one: Command): Command =>
    one
      .option("--registry <registry>", "the image is REGISTRY/trackbed:TAG", own.registry)
      .option("--tag <tag>", "tag of the image", own.tag)
      .option("--image-pull-secret <name>", "Secret in trackbed-system (repeatable)", collect, [])
      .option("--cni-bin <dir>", "where the nodes' runtime looks for CNI plugins", own.cniBin)
      .option("--cni-conf <dir>", "and for their configuration", own.cniConf)
      .option("--kubelet <dir>", "the kubelet's own directory on the nodes", own.kubelet);
  type Image = { registry: string; tag: string; imagePullSecret: string[]; cniBin: string; cniConf: string; kubelet: string };
  const image = ({ registry, tag, imagePullSecret, cniBin, cniConf, kubelet }: Image) => ({
    ...own,
    registry,
    tag,
    imagePullSecrets: imagePullSecret,
    cniBin,
    cniConf,
    kubelet,
  });

  withImage(command("install", "put the mesh into a cluster, or bring it to this version, and wait until it works"))
    .option("--trust-domain <name>", "first part of every identity", own.trustDomain)
    .option("--adopt <mesh>", "none, or istio: namespaces and pods labelled istio.io/dataplane-mode=ambient are in the mesh", own.adopt)
    .option("--cluster-domain <name>", "DNS domain of services", own.clusterDomain)
    .option("--issuer <kind/name>", "cert-manager's Issuer, ClusterIssuer or KIND.GROUP that signs the mesh's issuer", own.issuer)
    .option("--otlp-endpoint <url>", "base address of the OTLP collector that takes flow records as logs", own.otlpEndpoint)
    .option(
      "--export-file <file>",
      "flow records as lines of JSON: below /var/lib/trackbed of the nodes, or - in the daemons' logs",
      own.exportFile,
    )
    .option("--dry-run", "only print the manifests", false)
    .option("--skip-checks", "install although something stands against it", false)
    .addOption(timeout("5m"))
    .action(
      (
        options: Parse<
          Image & {
            trustDomain: string;
            adopt: string;
            clusterDomain: string;
            issuer: string;
            otlpEndpoint: string;
            exportFile: string;
            dryRun: boolean;
            skipChecks: boolean;
            timeout: string;
          }
        >,
      ) => {
        const { trustDomain, adopt, clusterDomain, issuer, otlpEndpoint, exportFile, dryRun, skipChecks } = options;
        const values = { ...image(options), trustDomain, adopt, clusterDomain, issuer, otlpEndpoint, exportFile };
        act(runInstall(target(options), { values, dryRun, skipChecks, timeoutMs: milliseconds(options.timeout) }, options.output));
      },
    );
  withImage(command("uninstall", "take every pod out of the mesh, then the mesh out of the cluster"))
    .option("--drain <seconds>", "how long captured connections may go on", seconds, 30)
    .option("--dry-run", "only tell what would go", false)
    .addOption(timeout("5m"))
    .action((options: Parse<Image & { drain: number; dryRun: boolean; timeout: string }>) => {
      const { drain, dryRun } = options;
      act(
        runUninstall(
          target(options),
          { values: image(options), drainSeconds: drain, dryRun, timeoutMs: milliseconds(options.timeout) },
          options.output,
        ),
      );
    });
  command("check", "what stands against the mesh in a cluster, before and after it is installed").action((options: ClusterOptions) =>
    act(runCheck(target(options), options.output)),
  );
  for (const [name, run, description] of [
    ["enrol", runEnrol, "take a namespace's pods into the mesh, without restarting them"],
    ["unenrol", runUnenrol, "take a namespace's pods out of the mesh"],
  ] as const)
    command(name, description)
      .argument("<namespace>", "its name", namespaceName)
      .option("--dry-run", "only tell what would change", false)
      .addOption(timeout("60s"))
      .action((namespace: string, options: Parse<{ dryRun: boolean; timeout: string }>) =>
        act(run(target(options), { namespace, dryRun: options.dryRun, timeoutMs: milliseconds(options.timeout) }, options.output)),
      );
  addWaypointCommands(program, act);
  command("bypass", "take a namespace out of the mesh for a while; it comes back by itself")
    .argument("<namespace>", "its name", namespaceName)
    .option("--for <duration>", "such as 30m, at most 24h")
    .option("--end", "end it now", false)
    .action((namespace: string, options: Parse<{ for?: string; end: boolean }>) =>
      act(runBypass(target(options), { namespace, for: options.for, end: options.end }, options.output)),
    );
}

/** The first argument of each is the waypoint's name, as with any Gateway; one that a namespace got by itself has the default. */
function addWaypointCommands(program: Command, act: Act): void {
  const waypoint = program.command("waypoint").description("the HTTP half of the mesh: a proxy for the services of a namespace");
  const command = (name: string, description: string): Command =>
    withTarget(waypoint.command(name).description(description)).addOption(output());
  const ofOne = (name: string, description: string): Command =>
    command(name, description)
      .argument("[name]", "of the Gateway", gatewayName, kubernetes.waypointAuto)
      .requiredOption("-n, --namespace <name>", "its namespace", namespaceName);
  type One = Parse<{ namespace: string }>;

  ofOne("apply", "make a waypoint, or bring it to what this version makes, and wait until it serves")
    .option("--use", "then label the namespace: every service of it is reached through the waypoint", false)
    .option("--dry-run", "only print the Gateway", false)
    .addOption(timeout("90s"))
    .action((name: string, options: One & { use: boolean; dryRun: boolean; timeout: string }) => {
      const { namespace, use, dryRun } = options;
      act(runWaypointApply(target(options), { namespace, name, use, dryRun, timeoutMs: milliseconds(options.timeout) }, options.output));
    });
  command("list", "every waypoint: whether it serves, and who names it")
    .option("-n, --namespace <name>", "only of this namespace", namespaceName)
    .action((options: Parse<{ namespace?: string }>) => act(runWaypointList(target(options), options.namespace, options.output)));
  ofOne("status", "one waypoint: its conditions, its pods, and routes that are not in force").action((name: string, options: One) =>
    act(runWaypointStatus(target(options), { namespace: options.namespace, name }, options.output)),
  );
  ofOne("delete", "take a waypoint away, with everything that was made for it")
    .option("--force", "although somebody names it", false)
    .action((name: string, options: One & { force: boolean }) =>
      act(runWaypointDelete(target(options), { namespace: options.namespace, name, force: options.force }, options.output)),
    );
}
