// The kubelet of a node without containers: gives each pod of the API a namespace by CNI and a process in it, tells its status, and takes both
// away again. Its addresses are few, and the one that came back last is given out first.
import { appendFileSync } from "node:fs";
import { connectApi } from "#source/kubernetes/api.ts";
import { addressesOf, NAMESPACE } from "./addresses.ts";
import { type ApiPod, follow } from "./follow.ts";
import { type Life, live } from "./life.ts";
import { createPool } from "./pool.ts";
import type { Record } from "./records.ts";

const node = process.env["MACHINE"] ?? "";
const records = `${process.env["LOGS"]}/churn-${node}.jsonl`;
const write = (record: Record): void => appendFileSync(records, `${JSON.stringify(record)}\n`);

const api = await connectApi(`/etc/kubernetes/${node}.kubeconfig`);
const pool = createPool(addressesOf(node));
const lives = new Map<string, Life>();
const told = new Set<string>();

const never = new AbortController().signal;
await follow(api, { fieldSelector: `spec.nodeName=${node}` }, apply, never);

function apply(pods: ReadonlyMap<string, ApiPod>): void {
  for (const pod of pods.values()) {
    const { uid, namespace, deletionTimestamp } = pod.metadata;
    if (namespace === NAMESPACE) begin(pod);
    else if (pod.spec.hostNetwork === true && !told.has(uid)) standIn(pod);
    if (deletionTimestamp !== undefined) lives.get(uid)?.end(pod.metadata.deletionGracePeriodSeconds ?? 0);
  }
  for (const [uid, life] of lives) if (!pods.has(uid)) life.end(0);
}

function begin(pod: ApiPod): void {
  const { uid } = pod.metadata;
  if (lives.has(uid)) return;
  const life = live(pod, { api, pool, write, node });
  lives.set(uid, life);
  void life.over.then(() => lives.delete(uid));
}

/** The daemon of this node runs beside us; its pod is what its token is bound to. */
function standIn({ metadata: { uid, namespace, name } }: ApiPod): void {
  told.add(uid);
  const status = { phase: "Running", conditions: [{ type: "Ready", status: "True" }] };
  const path = `/api/v1/namespaces/${namespace}/pods/${name}/status`;
  api.call({ method: "PATCH", path, type: "application/strategic-merge-patch+json", body: { status } }).catch((error: unknown) => {
    told.delete(uid);
    console.error(`the status of ${name} was not written: ${String(error)}`);
  });
}
