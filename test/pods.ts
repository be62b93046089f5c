// Pods that a test adds to the two-node mesh, and what it looks at from outside: phases, rules, flows, descriptors.
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { marks, paths, ports } from "#contract/tables.ts";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import type { PodExplanation, PodStatus } from "#inspect/status.ts";
import type { Lab, NodePlace, PodPlace } from "../src/lab/api.ts";
import { get } from "../src/lab/mesh.ts";
import { until } from "../src/lab/until.ts";

export type PodDocument = {
  readonly name: string;
  readonly ips: readonly string[];
  readonly node?: string;
  readonly namespace?: string;
  /** The label trackbed.dev/mesh. */
  readonly mesh?: "enabled" | "disabled";
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
};

/** JSON is YAML. Its service account is named as the pod. */
export function podDocument(document: PodDocument): string {
  const { name, ips, node = "node-a", namespace = "legacy", mesh, annotations = {} } = document;
  const labels = { app: name, ...document.labels, ...(mesh === undefined ? {} : { "trackbed.dev/mesh": mesh }) };
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace, labels, annotations: { "trackbed.dev/netns": `/run/netns/${namespace}-${name}`, ...annotations } },
    spec: { nodeName: node, serviceAccountName: name, containers: [] },
    status: { phase: "Running", podIPs: ips.map((ip) => ({ ip })) },
  });
}

export async function statusOf(lab: Lab, pod: PodPlace): Promise<PodStatus | undefined> {
  const { pods } = await lab.status(pod.node);
  return pods.find(({ namespace, name }) => `${namespace}/${name}` === pod.name);
}

/** Waits until what the daemon says of the pod is so. */
export function untilPod(lab: Lab, pod: PodPlace, what: string, is: (status: PodStatus) => boolean, ms = 10_000): Promise<PodStatus> {
  let last: PodStatus | undefined;
  return until(
    `${pod.name} ${what}`,
    async () => {
      last = await statusOf(lab, pod);
      return last !== undefined && is(last) ? last : null;
    },
    ms,
    () => JSON.stringify(last),
  );
}

export const untilReady = (lab: Lab, pod: PodPlace): Promise<PodStatus> => untilPod(lab, pod, "is ready", ({ phase }) => phase === "ready");

const admin = (node: NodePlace, path: string): Promise<string> => get({ socketPath: join(node.runDirectory, paths.adminSocket) }, path);

export const explain = async (lab: Lab, pod: PodPlace): Promise<PodExplanation> =>
  JSON.parse(await admin(lab.node(pod.node), `/v1/pods/${pod.name}`)) as PodExplanation;

export async function flowsOf(lab: Lab, node: string): Promise<FlowRecord[]> {
  const lines = (await admin(lab.node(node), "/v1/flows")).split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as FlowLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
}

/** Everything that capture makes in a namespace, one text per part; a part that is not there is "". */
export type Capture = { readonly table: string; readonly rules: readonly string[]; readonly routes: readonly string[] };

export const NOTHING: Capture = { table: "", rules: ["", ""], routes: ["", ""] };

export async function captureOf(pod: PodPlace): Promise<Capture> {
  const script = `nft -s list table inet trackbed 2>/dev/null; echo ---
for f in -4 -6; do ip $f rule show pref ${marks.rulePreference}; echo ---; ip $f route show table ${marks.routeTable} 2>/dev/null; echo ---; done`;
  const [table = "", rule4 = "", route4 = "", rule6 = "", route6 = ""] = (await pod.run(["sh", "-c", script]))
    .split("---\n")
    .map((text) => text.trim());
  return { table, rules: [rule4, rule6], routes: [route4, route6] };
}

/** Ports of ours that are listened on in the pod's namespace. */
export async function listenersOf(pod: PodPlace): Promise<number[]> {
  const ours: readonly number[] = [ports.outbound, ports.inboundPlain, ports.hbone, ports.dns];
  const listing = await pod.run(["ss", "-Htuln"]);
  const found = listing.split("\n").map((line) => Number(/:(\d+)\s/.exec(line.replace(/^\S+\s+\S+\s+\d+\s+\d+\s+/, ""))?.[1]));
  return ours.filter((port) => found.includes(port));
}

/** Descriptors of keeper and worker that are the pod's namespace itself. */
export function heldNamespaces(node: NodePlace, netns: string): string[] {
  const { ino } = statSync(netns);
  return [...node.pidsOf("engine"), ...node.pidsOf("worker")].flatMap((pid) => links(pid).filter((link) => link === `net:[${ino}]`));
}

function links(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return []; // closed while we looked
    }
  });
}

const MEMORY = "/memfd:";

/** Open descriptors but those of sealed memory, which the engine keeps its state in. */
export const descriptorsOf = (pid: number): number => links(pid).filter((link) => !link.startsWith(MEMORY)).length;

export const memoriesOf = (pid: number): number => links(pid).filter((link) => link.startsWith(MEMORY)).length;

export const threadsOf = (pid: number): number => Number(/^Threads:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

/** Waits until nothing of ours is left in the pod's namespace and the engine lets go of it. */
export async function untilClean(lab: Lab, pod: PodPlace): Promise<void> {
  let seen = "";
  await until(
    `nothing of ours is left in ${pod.name}`,
    async () => {
      const left = {
        ...(await captureOf(pod)),
        listeners: await listenersOf(pod),
        held: heldNamespaces(lab.node(pod.node), pod.netns),
      };
      seen = JSON.stringify(left);
      return seen === JSON.stringify({ ...NOTHING, listeners: [], held: [] });
    },
    10_000,
    () => seen,
  );
}
