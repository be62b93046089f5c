// What is read from the API server, as a table: where each kind is listed, how narrow the question is, and whether it may be absent.
import { kubernetes, labels, product } from "#contract/tables.ts";
import { type Adoption, ISTIO_MODE } from "#mesh/enrolment.ts";
import type { Kind, ObjectKey } from "#mesh/objects.ts";
import { GATEWAY_GROUP } from "#mesh/route.ts";

export type Resource = {
  readonly kind: Kind;
  /** Of the objects: items of a list do not say it themselves. */
  readonly apiVersion: string;
  /** "/api/v1"; the group and version that `plural` is a part of. */
  readonly root: string;
  readonly plural: string;
  /** Selectors: what is not ours is not even sent. */
  readonly query: Readonly<Record<string, string>>;
  /** Name of the CustomResourceDefinition for kinds that a cluster may lack, otherwise null. */
  readonly definition: string | null;
  /** Of such kinds: versions that say the same, for clusters that do not serve the one in `root`. */
  readonly older: readonly string[];
};

const core = (kind: Kind, plural: string, query: Resource["query"] = {}): Resource => ({
  kind,
  apiVersion: "v1",
  root: "/api/v1",
  plural,
  query,
  definition: null,
  older: [],
});

const defined = (group: string, kind: Kind, plural: string, older: readonly string[] = [], version = "v1"): Resource => ({
  kind,
  apiVersion: `${group}/${version}`,
  root: `/apis/${group}/${version}`,
  plural,
  query: {},
  definition: `${plural}.${group}`,
  older,
});

export const NAMESPACES = core("Namespace", "namespaces");
export const PODS = core("Pod", "pods");

/** The mesh makes the endpoints of a selector itself: what the cluster makes of selectors is most of all slices, and is not even sent. */
const SLICES: Resource = {
  kind: "EndpointSlice",
  apiVersion: "discovery.k8s.io/v1",
  root: "/apis/discovery.k8s.io/v1",
  plural: "endpointslices",
  query: { labelSelector: "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io" },
  definition: null,
  older: [],
};

/** The one ConfigMap of the mesh: roots that lead into a namespace list that alone. */
const meshConfig = (namespace: string): Resource => ({
  ...core("ConfigMap", "configmaps", { fieldSelector: `metadata.name=${kubernetes.meshConfigMap}` }),
  root: `/api/v1/namespaces/${namespace}`,
});

/** All that control compiles. Pods that are over are nobody's peer and may be thousands, but certificates are refused to them by name. */
export const controlResources = (ownNamespace: string = product.controlPlaneNamespace): readonly Resource[] => [
  NAMESPACES,
  core("Node", "nodes"),
  core("Service", "services"),
  SLICES,
  PODS,
  meshConfig(ownNamespace),
  defined("networking.istio.io", "ServiceEntry", "serviceentries"),
  defined("security.istio.io", "AuthorizationPolicy", "authorizationpolicies"),
  defined("security.istio.io", "PeerAuthentication", "peerauthentications"),
  defined("security.istio.io", "RequestAuthentication", "requestauthentications"),
  defined(product.apiGroup, "BackendPolicy", "backendpolicies", [], "v1alpha1"),
  defined(product.apiGroup, "RequestPolicy", "requestpolicies", [], "v1alpha1"),
  defined(GATEWAY_GROUP, "GatewayClass", "gatewayclasses", ["v1beta1"]),
  defined(GATEWAY_GROUP, "Gateway", "gateways", ["v1beta1"]),
  defined(GATEWAY_GROUP, "HTTPRoute", "httproutes", ["v1beta1"]),
  defined(GATEWAY_GROUP, "GRPCRoute", "grpcroutes", ["v1alpha2"]),
  defined(GATEWAY_GROUP, "TLSRoute", "tlsroutes", ["v1alpha3", "v1alpha2"]),
  defined(GATEWAY_GROUP, "TCPRoute", "tcproutes", ["v1alpha2"]),
];

/** What one node's daemon must know by itself: which pods it has and what their namespaces ask for. */
export const nodeResources = (node: string): readonly Resource[] => [
  NAMESPACES,
  { ...PODS, query: { fieldSelector: `spec.nodeName=${node}` } },
];

/** Pods that are in the mesh, anywhere in the cluster, by a label of their own: few, for most are by their namespace's. One for each label. */
export const labelledPods = (adopt: Adoption): readonly Resource[] =>
  [`${labels.mesh}=enabled`, ...(adopt === "istio" ? [`${ISTIO_MODE}=ambient`] : [])].map((labelSelector) => ({
    ...PODS,
    query: { labelSelector },
  }));

/** The same resource as another version of its API has it. */
export const inVersion = (resource: Resource, version: string): Resource => ({
  ...resource,
  root: resource.root.replace(/[^/]+$/, version),
});

export const versionOf = ({ root }: Resource): string => root.slice(root.lastIndexOf("/") + 1);

export const listPath = ({ root, plural }: Resource): string => `${root}/${plural}`;

/** Path of one object, for requests and for people. */
export function objectPath(resource: Pick<Resource, "root" | "plural">, namespace: string, name: string): string {
  const place = namespace === "" || resource.root.includes("/namespaces/") ? "" : `/namespaces/${encodeURIComponent(namespace)}`;
  return `${resource.root}${place}/${resource.plural}/${encodeURIComponent(name)}`;
}

export function pathOfKey(resource: Resource, key: ObjectKey): string {
  const [, namespace = "", name = ""] = key.split("/");
  return objectPath(resource, namespace, name);
}

export const definitionPath = (name: string): string => `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${name}`;
