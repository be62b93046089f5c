// The Kubernetes objects that the mesh reads, projected to the fields it needs. Every source (directory, later the API server) produces
// exactly these, so nothing behind a source knows which one it was.
import type { AuthorizationPolicy, RequestAuthentication } from "./authorization.ts";
import type { Gateway, GatewayClass } from "./gateway.ts";
import type { MeshConfig } from "./mesh-config.ts";
import type { Route } from "./route.ts";
import type { BackendPolicy, RequestPolicy } from "./traffic.ts";

export type Labels = Readonly<Record<string, string>>;

export type ObjectMeta = {
  readonly name: string;
  /** Empty for objects without a namespace (Namespace, Node). */
  readonly namespace: string;
  readonly uid: string;
  readonly labels: Labels;
  readonly annotations: Readonly<Record<string, string>>;
  /** RFC 3339, empty when the source does not know it; the oldest object wins ties. */
  readonly creationTimestamp: string;
};

export type Namespace = { readonly kind: "Namespace"; readonly metadata: ObjectMeta };

export type Node = {
  readonly kind: "Node";
  readonly metadata: ObjectMeta;
  /** status.addresses of type InternalIP. */
  readonly addresses: readonly string[];
  readonly podCIDRs: readonly string[];
};

export type PodPhase = "Pending" | "Running" | "Succeeded" | "Failed" | "Unknown";

export type ContainerPort = { readonly name: string; readonly port: number };

export type Pod = {
  readonly kind: "Pod";
  readonly metadata: ObjectMeta;
  readonly nodeName: string;
  readonly serviceAccountName: string;
  readonly hostNetwork: boolean;
  readonly phase: PodPhase;
  readonly ready: boolean;
  readonly podIPs: readonly string[];
  readonly ports: readonly ContainerPort[];
  /** TCP ports that a liveness, readiness or startup probe uses. */
  readonly probePorts: readonly number[];
  /** Short names are looked up below the cluster's domain first (dnsPolicy ClusterFirst). */
  readonly clusterSearch: boolean;
  /** dnsConfig.searches */
  readonly dnsSearch: readonly string[];
  /** First ownerReference with controller = true, when there is one. */
  readonly owner: { readonly kind: string; readonly name: string } | null;
  /** What control wrote about the pod's capture last, null when nothing. */
  readonly captured: CaptureCondition | null;
};

/** The condition trackbed.dev/Captured of a pod's status. */
export type CaptureCondition = {
  readonly status: "True" | "False" | "Unknown";
  readonly reason: string;
  readonly message: string;
  /** lastTransitionTime, RFC 3339: since when the status is this one. */
  readonly since: string;
};

export type ServicePort = {
  readonly name: string;
  readonly port: number;
  /** A number, or the name of a container port. */
  readonly targetPort: number | string;
  readonly protocol: "TCP" | "UDP" | "SCTP";
  readonly appProtocol: string;
};

export type Service = {
  readonly kind: "Service";
  readonly metadata: ObjectMeta;
  readonly type: "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName";
  /** Empty = headless. */
  readonly clusterIPs: readonly string[];
  readonly selector: Labels;
  readonly ports: readonly ServicePort[];
  readonly trafficDistribution: string;
  readonly publishNotReadyAddresses: boolean;
};

export type Endpoint = {
  readonly addresses: readonly string[];
  readonly ready: boolean;
  readonly nodeName: string;
};

/** Endpoints that somebody named by hand, or a controller of the cluster's own: of Services without a selector. */
export type EndpointSlice = {
  readonly kind: "EndpointSlice";
  readonly metadata: ObjectMeta;
  /** Name of the Service in the same namespace. */
  readonly service: string;
  readonly endpoints: readonly Endpoint[];
  /** TCP ports, by the name that the Service's port has. */
  readonly ports: readonly ContainerPort[];
};

export type MutualTlsMode = "UNSET" | "DISABLE" | "PERMISSIVE" | "STRICT";

export type PeerAuthentication = {
  readonly kind: "PeerAuthentication";
  readonly metadata: ObjectMeta;
  readonly selector: Labels;
  readonly mode: MutualTlsMode;
  readonly portModes: Readonly<Record<number, MutualTlsMode>>;
  /** It governs nobody: what it would refuse is told of. */
  readonly dryRun: boolean;
};

export type EntryPort = { readonly name: string; readonly port: number; readonly targetPort: number; readonly protocol: string };

export type EntryEndpoint = {
  /** An IP address, or with resolution DNS a host name. */
  readonly address: string;
  /** Where it serves a port of the entry, by that port's name. */
  readonly ports: Readonly<Record<string, number>>;
  /** region/zone/subzone */
  readonly locality: string;
  readonly weight: number;
};

/** Hosts that the mesh shall know beside the cluster's own services. */
export type ServiceEntry = {
  readonly kind: "ServiceEntry";
  readonly metadata: ObjectMeta;
  readonly hosts: readonly string[];
  /** Addresses or blocks by which it is reached; empty: it is given one of its own. */
  readonly addresses: readonly string[];
  readonly ports: readonly EntryPort[];
  /** NONE: to where the client wanted. STATIC: to the endpoints. DNS: to what the endpoints' names, or else the hosts, mean. */
  readonly resolution: "NONE" | "STATIC" | "DNS";
  readonly endpoints: readonly EntryEndpoint[];
  /** Pods of the namespace that are endpoints too. */
  readonly selector: Labels;
  readonly subjectAltNames: readonly string[];
  readonly exportTo: readonly string[];
  /** With resolution DNS: what each name meant when it was asked last. Filled by control; a name that is not there was never answered. */
  readonly resolved: Readonly<Record<string, readonly string[]>>;
};

export type MeshObject =
  | Namespace
  | Node
  | Pod
  | Service
  | EndpointSlice
  | ServiceEntry
  | AuthorizationPolicy
  | RequestAuthentication
  | PeerAuthentication
  | MeshConfig
  | BackendPolicy
  | RequestPolicy
  | GatewayClass
  | Gateway
  | Route;

export type Kind = MeshObject["kind"];

export type ObjectOf<K extends Kind> = Extract<MeshObject, { kind: K }>;

/** "kind/namespace/name": unique over everything a source holds. */
export type ObjectKey = `${Kind}/${string}/${string}`;

export const keyOf = (object: MeshObject): ObjectKey => `${object.kind}/${object.metadata.namespace}/${object.metadata.name}`;
