// One connection asked about as it would happen: decided by its source's node, then by the node of each endpoint, each from what that node holds.
import type { AskedRequest, ConnectAnswer, Judgement, RejectedResource, Way } from "./contract.ts";
import { type DestinationName, pickWorkload, type SourceName } from "./ends.ts";
import type { Evaluator } from "./evaluator.ts";
import { type AskedMesh, difference, type Known, load, workloadsOf } from "./mesh.ts";

/** What is asked, and of whom. With `others` the endpoints' nodes answer for themselves where they hold something else. */
export type AskedConnection = {
  readonly source: SourceName;
  readonly destination: DestinationName;
  readonly request?: AskedRequest;
  /** By node; the one under "" stands for every node that is not named. */
  readonly meshes: ReadonlyMap<string, AskedMesh>;
};

export type ExplainedConnection = {
  readonly source: { readonly workload: Known } | { readonly address: string };
  readonly destination: { readonly host: string; readonly port: number };
  readonly answer: ConnectAnswer;
  /** Resources that no engine can use. */
  readonly rejected: readonly RejectedResource[];
  /** Endpoints whose own node says something else than the source's node knows: it has the last word. */
  readonly contradicted: readonly (Judgement & { readonly node: string; readonly endpoint: string })[];
};

/** Null when a name means nobody; `missing` says which. */
export type Unknown = { readonly missing: string };

export async function askConnection(evaluator: Evaluator, asked: AskedConnection): Promise<ExplainedConnection | Unknown> {
  const any = asked.meshes.get("") ?? [...asked.meshes.values()][0];
  if (any === undefined) throw new Error("no mesh to ask about");
  const known = workloadsOf(any);
  const workload = pickWorkload(asked.source, known);
  if (workload === null && asked.source.kind !== "address") return { missing: `nobody here is ${nameOf(asked.source)}` };
  const host = hostOf(asked.destination, known);
  if (host === null) return { missing: "pod" in asked.destination ? `nobody here is ${nameOf(asked.destination.pod)}` : "no destination" };
  const { port } = asked.destination;
  const own = (workload === null ? undefined : asked.meshes.get(workload.node)) ?? any;
  const rejected = await load(evaluator, own);
  const source = workload === null ? { address: "address" in asked.source ? asked.source.address : "" } : { workload: workload.uid };
  const answer = await evaluator.connect({
    id: "",
    source,
    host,
    port,
    ...(asked.request === undefined ? {} : { request: asked.request }),
  });
  const contradicted = workload === null ? [] : await otherNodes(evaluator, own, asked.meshes, workload, answer.ways);
  return {
    source: workload === null ? { address: "address" in source ? source.address : "" } : { workload },
    destination: { host, port },
    answer,
    rejected,
    contradicted,
  };
}

async function otherNodes(
  evaluator: Evaluator,
  own: AskedMesh,
  meshes: AskedConnection["meshes"],
  { identity, addresses }: Known,
  ways: readonly Way[],
): Promise<ExplainedConnection["contradicted"]> {
  const said: (Judgement & { node: string; endpoint: string })[] = [];
  let held = own;
  for (const { path, node, endpoint, address, verdict } of ways) {
    const theirs = node === null ? undefined : meshes.get(node);
    if (theirs === undefined || theirs === held || endpoint === null || node === null || (path !== "tunnel" && path !== "relay")) continue;
    const change = difference(held, theirs);
    if (change.upsert.length + change.remove.length === 0) continue;
    await evaluator.change(change);
    held = theirs;
    const port = Number(address.slice(address.lastIndexOf(":") + 1));
    const family = (text: string): boolean => text.includes(":") === address.startsWith("[");
    const from = addresses.find(family) ?? addresses[0] ?? null;
    const [judged] = await evaluator.admit([{ id: "", identity, address: from, workload: endpoint, port }]);
    if (judged !== undefined && judged.verdict !== verdict) said.push({ ...judged, node, endpoint });
  }
  return said;
}

/** A name of a pod means its first address. */
function hostOf(destination: DestinationName, known: readonly Known[]): string | null {
  if ("host" in destination) return destination.host;
  return pickWorkload(destination.pod, known)?.addresses[0] ?? null;
}

const nameOf = (name: SourceName): string =>
  name.kind === "address"
    ? name.address
    : name.kind === "identity"
      ? name.identity
      : `${name.kind === "pod" ? "pod" : "workload"} ${name.namespace === null ? "" : `${name.namespace}/`}${name.name}`;
