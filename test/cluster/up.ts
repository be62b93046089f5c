// Brings the cluster up (or what of it is off) until every node is Ready and DNS answers, and takes it down until nothing is left.
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { build } from "./build.ts";
import { type Cluster, cluster, type Document, type List, waitFor } from "./cluster.ts";
import { run } from "./command.ts";
import { requireInotify } from "./inotify.ts";
import { makeKeys } from "./keys.ts";
import { load } from "./load.ts";
import { removeCgroups } from "./machine/cgroup.ts";
import { machinesWithTraces } from "./machine/disk.ts";
import { powerOff, powerOn } from "./machine/power.ts";
import { CONTROL_PLANE, type Settings } from "./settings.ts";

/** An API server on a machine with ten times its load took 26 s. */
const START_MS = 120_000;
const MANIFESTS = join(import.meta.dirname, "manifests");

export type Say = (text: string) => void;

export async function up(settings: Settings, say: Say): Promise<Cluster> {
  if (process.getuid?.() !== 0) throw new Error("a cluster makes namespaces, mounts and cgroups: run as root");
  requireSight(settings);
  if (machinesWithTraces(settings).length === 0) requireInotify(settings.nodes.length);
  mkdirSync(settings.state, { recursive: true });
  mkdirSync(settings.cache, { recursive: true });
  const images = await build(settings, say);
  await makeKeys(settings);
  await powerOn(settings, CONTROL_PLANE);
  for (const { name } of settings.nodes) await powerOn(settings, name);
  const running = await cluster(settings);
  // Images go in while the API server starts.
  for (const node of running.nodes)
    await waitFor(`containerd answers on ${node}`, () => running.onNode(node, "ctr version").then(() => true), START_MS);
  await load(settings, images);
  say("base images loaded");
  await waitFor("the API server is ready", () => running.kubectl("get", "--raw", "/readyz"), START_MS);
  say("API server ready");
  for (const { name, podCidr, podCidr6 } of settings.nodes) {
    await waitFor(`${name} registers`, () => running.kubectl("get", "node", name), START_MS);
    await running.kubectl("patch", "node", name, "-p", JSON.stringify({ spec: { podCIDR: podCidr, podCIDRs: [podCidr, podCidr6] } }));
  }
  await running.kubectl("apply", "--server-side", "-f", join(MANIFESTS, "coredns.yaml"));
  await waitFor("every node is Ready", async () => readyNodes(await running.get<List>("nodes")) === settings.nodes.length, START_MS);
  say("nodes ready");
  await running.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", `--timeout=${START_MS / 1000}s`);
  say("DNS ready");
  return running;
}

/** Nodes have these for themselves: programs that lie there are not to be seen from them, and a kubelet would just not start. */
const OF_NODES = ["/etc", "/opt", "/var", "/run", "/sys"];

export function requireSight({ state, cache }: Pick<Settings, "state" | "cache">): void {
  for (const path of [state, cache]) {
    const hidden = OF_NODES.find((directory) => path.startsWith(`${directory}/`));
    if (hidden !== undefined)
      throw new Error(
        `${path} lies in ${hidden}, which every node has for itself: clone the project, or put TRACKBED_CLUSTER_CACHE, elsewhere`,
      );
  }
}

export const readyNodes = ({ items }: List<Document>): number =>
  items.filter(({ status }) => status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True")).length;

/** Ends every process and removes every namespace, cgroup and file of the cluster; with `keepDisks` the next up() is a boot, not a birth. */
export async function down(settings: Settings, keepDisks = false): Promise<void> {
  for (const machine of machinesWithTraces(settings)) await powerOff(settings, machine);
  await removeCgroups(settings.name);
  if (keepDisks || !existsSync(settings.state)) return;
  const mounts = (await run(["cat", "/proc/self/mounts"])).split("\n").filter((line) => line.includes(` ${settings.state}/`));
  if (mounts.length > 0) throw new Error(`something is mounted below ${settings.state}, which is not removed:\n${mounts.join("\n")}`);
  for (const entry of readdirSync(settings.state)) rmSync(join(settings.state, entry), { recursive: true, force: true });
  rmSync(settings.state, { recursive: true, force: true });
}
