// Everything that the checks look at, read from the API server once. What an account may not read is a finding, not an end.
import type { V1ConfigMap, V1Deployment, V1Namespace, V1NetworkPolicy, V1Node, V1Pod } from "@kubernetes/client-node";
import { kubernetes, product } from "#contract/tables.ts";
import { calicoFindings, ciliumFindings, isLinux, meshFindings, nodeFindings, versionFindings } from "#install/check/cluster.ts";
import { type GatewayDocument, gatewayFindings } from "#install/check/gateway.ts";
import { networkPolicyFindings } from "#install/check/network-policy.ts";
import { policyFindings } from "#install/check/policies.ts";
import { type Finding, finding } from "#install/finding.ts";
import type { KindName } from "#install/kinds.ts";
import { ADOPTIONS, type Adoption, wishOf } from "#mesh/enrolment.ts";
import { isApiFailure } from "#source/kubernetes/failure.ts";
import type { Cluster, Held } from "./client.ts";

export type Facts = {
  readonly version: { readonly major?: string; readonly minor?: string; readonly gitVersion?: string };
  readonly nodes: readonly V1Node[];
  readonly namespaces: readonly V1Namespace[];
  readonly pods: readonly V1Pod[];
  readonly networkPolicies: readonly V1NetworkPolicy[];
  /** Of Istio's API, with kind and apiVersion. */
  readonly policies: readonly Held[];
  readonly cilium: V1ConfigMap | null;
  readonly felix: { readonly spec?: object } | null;
  readonly crds: readonly Held[];
  /** Null where the cluster does not have the Gateway API. */
  readonly gateways: readonly GatewayDocument[] | null;
  /** Whose labels the installed mesh follows beside ours. */
  readonly adopt: Adoption;
  /** Kinds that this account may not read. */
  readonly forbidden: readonly string[];
};

/** As control was told; a mesh that is not installed follows nobody's. */
export async function readAdoption(cluster: Pick<Cluster, "get">): Promise<Adoption> {
  const control = await cluster.get<V1Deployment>("Deployment", kubernetes.control, product.controlPlaneNamespace);
  const args = control?.spec?.template.spec?.containers.flatMap(({ args = [] }) => args) ?? [];
  return ADOPTIONS.find((one) => args.includes(`--adopt=${one}`)) ?? "none";
}

const POLICY_KINDS = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"] as const;
const DEFINITIONS: Readonly<Record<(typeof POLICY_KINDS)[number], string>> = {
  AuthorizationPolicy: "authorizationpolicies.security.istio.io",
  PeerAuthentication: "peerauthentications.security.istio.io",
  RequestAuthentication: "requestauthentications.security.istio.io",
};

export async function readFacts(cluster: Cluster): Promise<Facts> {
  const forbidden: string[] = [];
  const allowed = async <T>(what: string, absent: T, ask: Promise<T | null>): Promise<T> => {
    try {
      return (await ask) ?? absent;
    } catch (error) {
      if (!isApiFailure(error) || error.code !== "E_API_FORBIDDEN") throw error;
      forbidden.push(what);
      return absent;
    }
  };
  const all = <T>(kind: KindName): Promise<T[]> => allowed<T[]>(kind, [], cluster.list<T>(kind));
  const [version, nodes, namespaces, pods, networkPolicies, cilium, felix, adopt] = await Promise.all([
    cluster.raw("/version") as Promise<Facts["version"]>,
    all<V1Node>("Node"),
    all<V1Namespace>("Namespace"),
    all<V1Pod>("Pod"),
    all<V1NetworkPolicy>("NetworkPolicy"),
    allowed("ConfigMap kube-system/cilium-config", null, cluster.get<V1ConfigMap>("ConfigMap", "cilium-config", "kube-system")),
    allowed("FelixConfiguration", null, cluster.get<{ spec?: object }>("FelixConfiguration", "default")),
    allowed<Adoption>(`Deployment ${kubernetes.control}`, "none", readAdoption(cluster)),
  ]);
  // What is not there and what may not be read are not the same here.
  const listed = cluster.list<GatewayDocument>("Gateway").then((list) => ({ list }));
  const gateways = await allowed<{ readonly list: readonly GatewayDocument[] | null }>("Gateway", { list: [] }, listed);
  const policies = await Promise.all(
    POLICY_KINDS.map(async (kind) => (await all<Held>(kind)).map((item) => ({ ...item, kind, apiVersion: "security.istio.io/v1" }))),
  );
  const crds = await Promise.all(
    POLICY_KINDS.map((kind) => {
      const name = DEFINITIONS[kind];
      return allowed(`CustomResourceDefinition ${name}`, null, cluster.get<Held>("CustomResourceDefinition", name));
    }),
  );
  return {
    version,
    nodes,
    namespaces,
    pods,
    networkPolicies,
    policies: policies.flat(),
    cilium,
    felix,
    crds: crds.filter((crd) => crd !== null),
    gateways: gateways.list,
    adopt,
    forbidden,
  };
}

/** What stands against the mesh in this cluster, whether it is installed or not. */
export function clusterFindings(facts: Facts): Finding[] {
  const inMesh = new Set(facts.pods.filter((pod) => isWanted(facts, pod)).map(({ metadata }) => metadata?.namespace ?? ""));
  return [
    ...facts.forbidden.map((what) => finding("CLUSTER_FORBIDDEN", what, "this account may not read it, so it was not checked")),
    ...versionFindings(facts.version),
    ...nodeFindings(facts.nodes),
    ...ciliumFindings(facts.cilium),
    ...calicoFindings(facts.felix),
    ...meshFindings(facts.namespaces, ({ metadata }) => asks(metadata?.labels, facts.adopt) === "enabled", facts.adopt),
    ...networkPolicyFindings(
      facts.networkPolicies,
      facts.pods.filter((pod) => isWanted(facts, pod)),
    ),
    ...gatewayFindings(facts.gateways, facts.namespaces),
    ...policyFindings(facts.policies, (namespace) => inMesh.has(namespace), product.controlPlaneNamespace),
    ...facts.crds
      .filter((crd) => crd.metadata.labels?.["app.kubernetes.io/part-of"] !== "trackbed")
      .map((crd) => finding("CRD_FOREIGN", `CustomResourceDefinition ${crd.metadata.name}`, "it is another installation's")),
  ];
}

/** By labels alone: what stands against it is the pod's condition's to say. */
export function isWanted({ namespaces, adopt }: Pick<Facts, "namespaces" | "adopt">, { metadata }: V1Pod): boolean {
  const namespace = namespaces.find((one) => one.metadata?.name === metadata?.namespace);
  return (asks(metadata?.labels, adopt) ?? asks(namespace?.metadata?.labels, adopt)) === "enabled";
}

const asks = (written: Readonly<Record<string, string>> | undefined, adopt: Adoption): string | undefined =>
  wishOf({ labels: written ?? {} }, adopt)?.value;

export const linuxNodes = ({ nodes }: Facts): string[] => nodes.filter(isLinux).map(({ metadata }) => metadata?.name ?? "");

export const capturedCondition = (pod: V1Pod) => pod.status?.conditions?.find(({ type }) => type === kubernetes.capturedCondition);
