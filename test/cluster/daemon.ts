// What a node's daemon tells whoever asks on the node: its status and its flow records.
import assert from "node:assert/strict";
import type { FlowLine, FlowRecord } from "#inspect/flow.ts";
import type { NodeStatus } from "#inspect/status.ts";
import type { Cluster, List } from "./cluster.ts";

const SYSTEM = "trackbed-system";

/** What `trackbed status` says on the node itself. */
export async function statusOn(c: Cluster, node: string): Promise<NodeStatus> {
  const text = await trackbedOn(c, node, "status");
  const answer = JSON.parse(text) as NodeStatus | { readonly nodes: readonly NodeStatus[] };
  const [status] = "nodes" in answer ? answer.nodes : [answer];
  assert.ok(status, `no status in ${text}`);
  return status;
}

/** The connections that the daemon has heard of since it started. */
export async function flowsOn(c: Cluster, node: string): Promise<readonly FlowRecord[]> {
  const lines = (await trackbedOn(c, node, "flows")).split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as FlowLine).flatMap((line) => (line.type === "flow" ? [line.flow] : []));
}

/** `status` exits with 1 while something is wrong, which may be what is asked about: only the answer counts. */
async function trackbedOn(c: Cluster, node: string, command: string): Promise<string> {
  const daemons = (await c.get<List>("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trackbed-daemon")).items;
  const daemon = daemons.find(({ spec }) => spec?.nodeName === node);
  assert.ok(daemon, `no daemon on ${node}`);
  const argv = ["trackbed", command, "--run", "/run/trackbed", "-o", "json"];
  return (await c.tryKubectl("-n", SYSTEM, "exec", daemon.metadata.name, "-c", "daemon", "--", ...argv)).stdout;
}
