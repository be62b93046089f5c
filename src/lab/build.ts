// The steps that make a lab: namespaces, links and routes, then pods, then the stand-ins for kube-proxy and the cluster's DNS.
import type { ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { LabOptions, Place, PodPlace } from "./api.ts";
import type { Documents, LabNode, LabPod } from "./documents.ts";
import { fewAtOnce } from "./few.ts";
import { layout } from "./mesh.ts";
import {
  type Batch,
  netnsName,
  nodeBatch,
  nodeSysctls,
  podBatches,
  podSysctls,
  UNDERLAY,
  underlayAddresses,
  underlayBatch,
} from "./network.ts";
import type { Children } from "./place.ts";
import { furnishPod, startContainers } from "./pods.ts";
import { hostsFile, kubeProxyRules, resolvConf } from "./service.ts";
import { until } from "./until.ts";

const CLUSTER_DOMAIN = "cluster.local";
const DNS_DEADLINE_MS = 5000;

/** What startLab builds step by step. */
export type Build = {
  readonly options: LabOptions;
  readonly mesh: string;
  readonly directory: string;
  readonly children: Children;
  readonly underlay: Place;
  documents: Documents;
  readonly pods: Map<string, PodPlace>;
  readonly external: Readonly<Record<string, readonly string[]>>;
  links: number;
  dns: ChildProcess | undefined;
};

export async function buildNetwork({ documents, underlay }: Build): Promise<void> {
  const { nodes } = documents;
  await addNamespaces(
    underlay,
    nodes.map(({ name }) => name),
    nodeSysctls,
  );
  await underlay.run(["sysctl", "-qw", ...nodeSysctls]);
  await apply(underlay, underlayBatch(documents));
  await Promise.all(nodes.map((node) => apply(underlay, nodeBatch(node, documents))));
}

async function addNamespaces(underlay: Place, names: readonly string[], sysctls: readonly string[]): Promise<void> {
  for (const name of names) await underlay.run(["ip", "netns", "add", name]); // one at a time: they share the set-up of /run/netns
  await fewAtOnce(names, (name) => underlay.run(["nsenter", `--net=/run/netns/${name}`, "sysctl", "-qw", ...sysctls]));
}

async function apply(underlay: Place, { netns, lines }: Batch): Promise<void> {
  const where = netns === null ? [] : ["-n", netns];
  await underlay.run(["ip", ...where, "-batch", "-"], { input: `${lines.join("\n")}\n` });
}

export async function addPods(build: Build, pods: readonly LabPod[]): Promise<void> {
  const { underlay, documents, directory, mesh, children } = build;
  await addNamespaces(
    underlay,
    pods.map(({ netns }) => netnsName(netns)),
    podSysctls,
  );
  const links = new Map(pods.map((pod) => [pod, `pod${build.links++}`]));
  for (const node of documents.nodes) await linkPods(underlay, node, pods, links);
  await fewAtOnce(pods, async (pod) => {
    if (!documents.nodes.some(({ name }) => name === pod.node)) throw new Error(`pod ${pod.namespace}/${pod.name}: no Node ${pod.node}`);
    const servers = underlayAddresses(documents.nodes);
    const place = await furnishPod(pod, directory, mesh, resolvConf(pod.namespace, CLUSTER_DOMAIN, servers), children);
    build.pods.set(place.name, place);
  });
}

/** Its programs, its link at the node's end, its name. Whoever holds the old namespace open keeps it, but cut off. */
export async function removePod({ pods, underlay }: Build, pod: PodPlace): Promise<void> {
  for (const pid of (await underlay.run(["ip", "netns", "pids", basename(pod.netns)])).split("\n").filter((line) => line !== ""))
    kill(Number(pid));
  const [ip = ""] = pod.ips;
  const [route] = JSON.parse(await underlay.run(["ip", "-n", pod.node, "-j", "route", "show", ip])) as { dev: string }[];
  if (route !== undefined) await underlay.run(["ip", "-n", pod.node, "link", "del", route.dev]);
  await underlay.run(["ip", "netns", "del", basename(pod.netns)]);
  pods.delete(pod.name);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // ended while we looked
  }
}

export async function startPrograms({ documents, pods, directory, mesh, children }: Build): Promise<void> {
  await Promise.all(
    documents.pods.map(async (pod) => {
      const place = pods.get(`${pod.namespace}/${pod.name}`);
      if (place === undefined || place.pids.length > 0) return;
      pods.set(place.name, await startContainers(pod, place, directory, mesh, children));
    }),
  );
}

async function linkPods(underlay: Place, node: LabNode, pods: readonly LabPod[], links: ReadonlyMap<LabPod, string>): Promise<void> {
  const batches = pods.filter((pod) => pod.node === node.name).map((pod) => podBatches(pod, node, links.get(pod) ?? ""));
  if (batches.length === 0) return;
  await apply(underlay, { netns: node.name, lines: batches.flatMap(([onNode]) => onNode.lines) });
  await fewAtOnce(batches, ([, inPod]) => apply(underlay, inPod));
}

export async function applyServices({ documents, underlay, directory, external }: Build): Promise<void> {
  writeFileSync(join(directory, "hosts"), hostsFile(documents, CLUSTER_DOMAIN, external));
  const input = kubeProxyRules(documents);
  await Promise.all(documents.nodes.map(({ name }) => underlay.run(["nsenter", `--net=/run/netns/${name}`, "nft", "-f", "-"], { input })));
}

export async function startDns(
  { children, directory, underlay, external, documents }: Build,
  ips: readonly string[],
): Promise<ChildProcess> {
  writeFileSync(join(directory, "hosts"), hostsFile(documents, CLUSTER_DOMAIN, external));
  const listen = ips.map((ip) => `--listen-address=${ip}`);
  const local = ["--no-resolv", "--no-hosts", `--addn-hosts=${directory}/hosts`, `--local=/${CLUSTER_DOMAIN}/`, "--local-ttl=5"];
  // --no-daemon also keeps the user: changing it fails in a user namespace with one id.
  const quiet = ["--conf-file=/dev/null", "--no-daemon", "--log-facility=-"];
  const command = ["dnsmasq", ...quiet, "--bind-interfaces", `--interface=${UNDERLAY}`, "--except-interface=lo", ...listen, ...local];
  const child = children.start(command, { log: layout(directory).log("dns") });
  await until("dnsmasq answers", async () => (await underlay.run(["ss", "-Hlun", "sport", "=", ":53"])).includes(":53"), DNS_DEADLINE_MS);
  return child;
}
