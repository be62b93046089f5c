// Where the state to ask about comes from: the daemons that run here, a directory of documents, or a cluster's API server.
import { createInterface } from "node:readline";
import type { V1Deployment } from "@kubernetes/client-node";
import type { CompilerSettings } from "#compile/compiler.ts";
import { kubernetes, product } from "#contract/tables.ts";
import type { EvalResource } from "#inspect/eval/contract.ts";
import { type AskedMesh, compileMesh, meshOf } from "#inspect/eval/mesh.ts";
import type { StateAbout, StateLine } from "#inspect/eval/state.ts";
import { requireDirectory } from "#mesh/directory.ts";
import { ADOPTIONS } from "#mesh/enrolment.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { directorySource } from "#source/directory.ts";
import { connectApi } from "#source/kubernetes/api.ts";
import { controlResources } from "#source/kubernetes/resources.ts";
import { kubernetesSource } from "#source/kubernetes.ts";
import type { Fault, Source } from "#source/source.ts";
import { clusterOf, defaultKubeconfig } from "../cluster/client.ts";
import { type Daemon, openAdmin } from "../daemons.ts";

/** As one node holds it. */
export type NodeState = { readonly about: StateAbout; readonly mesh: AskedMesh };

/** As somebody wrote it: what control would make of it. */
export type WrittenState = {
  readonly from: string;
  readonly objects: readonly MeshObject[];
  /** Documents that are not in force. */
  readonly faults: readonly Fault[];
  readonly compiling: CompilerSettings;
  readonly encryptSameNode: boolean;
};

export type WrittenOptions = {
  readonly directory?: string;
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly trustDomain?: string;
  readonly rootNamespace?: string;
};

/** First part of workloads' uids, as control has it. */
const CLUSTER_ID = "Kubernetes";
const DEFAULTS: CompilerSettings = {
  trustDomain: "cluster.local",
  clusterDomain: "cluster.local",
  rootNamespace: product.controlPlaneNamespace,
  network: "",
  adopt: "none",
  clusterId: CLUSTER_ID,
};
const STATE_MS = 30_000;
/** A large cluster is listed in some seconds; a server that does not answer is told of by then. */
const LIST_MS = 60_000;

export async function nodeState(daemon: Daemon): Promise<NodeState> {
  const response = await openAdmin(daemon, "/v1/state", AbortSignal.timeout(STATE_MS));
  if (response.statusCode !== 200)
    throw new Error(`the daemon at ${daemon.run} does not tell its state (HTTP ${response.statusCode}): it is of an earlier version`);
  let about: StateAbout | null = null;
  const resources: EvalResource[] = [];
  for await (const text of createInterface({ input: response })) {
    const line = JSON.parse(text) as StateLine;
    if ("about" in line) about = line.about;
    else resources.push(line.resource);
  }
  if (about === null) throw new Error(`the daemon at ${daemon.run} said nothing of itself`);
  return { about, mesh: meshOf(about.settings, resources) };
}

export async function writtenState(options: WrittenOptions): Promise<WrittenState> {
  const { directory, trustDomain, rootNamespace } = options;
  const told = { ...(trustDomain === undefined ? {} : { trustDomain }), ...(rootNamespace === undefined ? {} : { rootNamespace }) };
  if (directory !== undefined) {
    requireDirectory("--directory", directory);
    const compiling = { ...DEFAULTS, ...told };
    return { from: `directory ${directory}`, ...(await first(directorySource(directory))), compiling, encryptSameNode: false };
  }
  const file = options.kubeconfig ?? defaultKubeconfig();
  const api = await connectApi(file, options.context === undefined ? {} : { context: options.context });
  try {
    const { compiling, encryptSameNode } = await asControlWasTold(clusterOf(api));
    const source = kubernetesSource({ api, resources: controlResources() });
    return { from: api.server, ...(await first(source)), compiling: { ...compiling, ...told }, encryptSameNode };
  } finally {
    await api.close();
  }
}

/** What the first batch says, which is complete. */
async function first(source: Source): Promise<Pick<WrittenState, "objects" | "faults">> {
  const stop = new AbortController();
  const deadline = AbortSignal.timeout(LIST_MS);
  for await (const { put, faults } of source(AbortSignal.any([stop.signal, deadline]))) {
    stop.abort();
    return { objects: put, faults };
  }
  throw new Error(`the documents could not be read within ${LIST_MS / 1000} s: may this account list them?`);
}

/** Its command line in the cluster; the defaults where it is not installed. */
async function asControlWasTold(
  cluster: Pick<ReturnType<typeof clusterOf>, "get">,
): Promise<Pick<WrittenState, "compiling" | "encryptSameNode">> {
  const control = await cluster.get<V1Deployment>("Deployment", kubernetes.control, product.controlPlaneNamespace);
  const args = control?.spec?.template.spec?.containers.flatMap(({ args = [] }) => args) ?? [];
  const value = (name: string): string | undefined => args.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3);
  const { trustDomain, clusterDomain, rootNamespace } = DEFAULTS;
  return {
    compiling: {
      ...DEFAULTS,
      trustDomain: value("trust-domain") ?? trustDomain,
      clusterDomain: value("cluster-domain") ?? clusterDomain,
      rootNamespace: value("root-namespace") ?? rootNamespace,
      adopt: ADOPTIONS.find((one) => one === value("adopt")) ?? "none",
    },
    encryptSameNode: args.includes("--encrypt-same-node"),
  };
}

export const compiled = ({ objects, compiling, encryptSameNode }: WrittenState): AskedMesh =>
  compileMesh(objects, compiling, encryptSameNode);
