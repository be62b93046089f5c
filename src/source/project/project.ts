// One Kubernetes document becomes one object of the mesh, or says in full why it does not.
import { createHash } from "node:crypto";
import { z } from "zod";
import { product } from "#contract/tables.ts";
import type { Kind, MeshObject, ObjectKey } from "#mesh/objects.ts";
import { GATEWAY_GROUP } from "#mesh/route.ts";
import { projectAuthorizationPolicy } from "./authorization.ts";
import { projectNamespace, projectNode } from "./cluster.ts";
import { projectEndpointSlice } from "./endpoint-slice.ts";
import { metadata, namespaceOf, objectMeta } from "./fields.ts";
import { projectGateway, projectGatewayClass } from "./gateway.ts";
import { projectMeshConfig } from "./mesh-config.ts";
import { projectPeerAuthentication } from "./peer-authentication.ts";
import { projectPod } from "./pod.ts";
import { projectBackendPolicy } from "./policy/backend-policy.ts";
import { projectRequestPolicy } from "./policy/request-policy.ts";
import { invalid, type Problem, problemsOf, unsupported } from "./problem.ts";
import type { Projector } from "./projector.ts";
import { projectRequestAuthentication } from "./request-authentication.ts";
import { projectGRPCRoute } from "./route/grpc-route.ts";
import { projectHTTPRoute } from "./route/http-route.ts";
import { projectTCPRoute, projectTLSRoute } from "./route/stream-route.ts";
import { projectService } from "./service.ts";
import { projectServiceEntry } from "./service-entry.ts";

export type Projection = {
  /** Null when the document does not say which object it is; also for kinds that the mesh has no use for. */
  readonly key: ObjectKey | null;
  readonly object: MeshObject | null;
  /** False when the document could be any object, so that nobody can say which one it stands for. */
  readonly identified: boolean;
  /** In force when the object is invalid and no valid version of it is known. */
  readonly standIn: MeshObject | null;
  readonly problems: readonly Problem[];
};

/** The projector keeps its document type to itself: it only ever gets what its own schema returned. */
const erase = <T extends MeshObject, D>(projector: Projector<T, D>): Projector => projector as unknown as Projector;

const CORE = ["v1"];
const NETWORKING = ["networking.istio.io/v1", "networking.istio.io/v1beta1"];
const SECURITY = ["security.istio.io/v1", "security.istio.io/v1beta1"];
const OURS = [`${product.apiGroup}/v1alpha1`];
/** What each version of the Gateway API had to say is in all of them the same. */
const GATEWAY = ["v1", "v1beta1"].map((version) => `${GATEWAY_GROUP}/${version}`);
const STREAMS = ["v1", "v1alpha3", "v1alpha2"].map((version) => `${GATEWAY_GROUP}/${version}`);

const KNOWN: Readonly<Record<Kind, { readonly apiVersions: readonly string[]; readonly projector: Projector }>> = {
  Namespace: { apiVersions: CORE, projector: erase(projectNamespace) },
  Node: { apiVersions: CORE, projector: erase(projectNode) },
  Pod: { apiVersions: CORE, projector: erase(projectPod) },
  Service: { apiVersions: CORE, projector: erase(projectService) },
  EndpointSlice: { apiVersions: ["discovery.k8s.io/v1"], projector: erase(projectEndpointSlice) },
  ServiceEntry: { apiVersions: NETWORKING, projector: erase(projectServiceEntry) },
  AuthorizationPolicy: { apiVersions: SECURITY, projector: erase(projectAuthorizationPolicy) },
  RequestAuthentication: { apiVersions: SECURITY, projector: erase(projectRequestAuthentication) },
  PeerAuthentication: { apiVersions: SECURITY, projector: erase(projectPeerAuthentication) },
  ConfigMap: { apiVersions: CORE, projector: erase(projectMeshConfig) },
  BackendPolicy: { apiVersions: OURS, projector: erase(projectBackendPolicy) },
  RequestPolicy: { apiVersions: OURS, projector: erase(projectRequestPolicy) },
  GatewayClass: { apiVersions: GATEWAY, projector: erase(projectGatewayClass) },
  Gateway: { apiVersions: GATEWAY, projector: erase(projectGateway) },
  HTTPRoute: { apiVersions: GATEWAY, projector: erase(projectHTTPRoute) },
  GRPCRoute: { apiVersions: [...GATEWAY, `${GATEWAY_GROUP}/v1alpha2`], projector: erase(projectGRPCRoute) },
  TLSRoute: { apiVersions: STREAMS, projector: erase(projectTLSRoute) },
  TCPRoute: { apiVersions: STREAMS, projector: erase(projectTCPRoute) },
};

/** Kinds that may lie beside ours and say nothing about the mesh. */
const IRRELEVANT: ReadonlySet<string> = new Set([
  "ClusterRole",
  "ClusterRoleBinding",
  "CronJob",
  "DaemonSet",
  "Deployment",
  "Endpoints",
  "HorizontalPodAutoscaler",
  "Job",
  "Kustomization",
  "PersistentVolumeClaim",
  "PodDisruptionBudget",
  // Routes of a mesh need no leave for their backends (GEP-1294, namespace boundaries): a waypoint reaches what a pod could reach.
  "ReferenceGrant",
  "ReplicaSet",
  "Role",
  "RoleBinding",
  "Secret",
  "ServiceAccount",
  "StatefulSet",
]);

const envelope = z.object({ apiVersion: z.string(), kind: z.string() });
const identified = z.object({ metadata });
const named = z.object({ metadata: metadata.pick({ name: true, namespace: true }) });

const isKnown = (kind: string): kind is Kind => Object.hasOwn(KNOWN, kind);

const isNothing = (problems: readonly Problem[], identified: boolean, key: ObjectKey | null = null): Projection => ({
  key,
  object: null,
  identified,
  standIn: null,
  problems,
});

export function projectDocument(raw: unknown): Projection {
  const head = envelope.safeParse(raw);
  if (!head.success) return isNothing(problemsOf(head.error), false);
  const { apiVersion, kind } = head.data;
  if (IRRELEVANT.has(kind)) return isNothing([], true);
  if (!isKnown(kind)) return isNothing([unsupported(["kind"], `kind ${kind} (${apiVersion}) is not supported`)], true);
  const { apiVersions, projector } = KNOWN[kind];
  const value = projector.refusesNull === true ? withoutNullMetadata(raw) : withoutNulls(raw);
  const name = named.safeParse(value);
  if (!name.success) return isNothing(problemsOf(name.error), false);
  const key: ObjectKey = `${kind}/${namespaceOf(projector.scope, name.data.metadata)}/${name.data.metadata.name}`;
  if (projector.scope === "cluster" && name.data.metadata.namespace !== undefined)
    return isNothing([invalid(["metadata", "namespace"], `a ${kind} has no namespace`)], true, key);
  const misread = apiVersions.includes(apiVersion)
    ? []
    : [unsupported(["apiVersion"], `${kind} is read as ${apiVersions.join(" or ")}, not ${apiVersion}`)];
  return projectKind(projector, key, value, misread);
}

function projectKind(projector: Projector, key: ObjectKey, value: unknown, misread: readonly Problem[]): Projection {
  const parsed = projector.schema.safeParse(value);
  const meta = objectMeta(projector.scope, readableMetadata(value), derivedUid(key));
  const projected = parsed.success ? projector.project(parsed.data, meta) : { object: null, problems: problemsOf(parsed.error) };
  const problems = [...misread, ...projected.problems];
  const [first] = problems;
  if (first === undefined) return { key, object: projected.object, identified: true, standIn: null, problems };
  return { key, object: null, identified: true, standIn: projector.standIn?.(value, meta, first) ?? null, problems };
}

/** The whole metadata, or as much of it as names the object. */
function readableMetadata(value: unknown): z.infer<typeof metadata> {
  const full = identified.safeParse(value);
  if (full.success) return full.data.metadata;
  const { name, namespace } = named.parse(value).metadata;
  return { name, namespace, labels: {}, annotations: {}, creationTimestamp: "", ownerReferences: [] };
}

/** Stable over restarts, different for every object: what an API server would have given. */
const derivedUid = (key: ObjectKey): string =>
  `dir-${createHash("sha256")
    .update(key.slice(key.indexOf("/") + 1))
    .digest("hex")
    .slice(0, 32)}`;

function withoutNullMetadata(value: unknown): unknown {
  if (typeof value !== "object" || value === null || !("metadata" in value)) return value;
  return { ...value, metadata: withoutNulls(value.metadata) };
}

/** A field that is null counts as left out, as an API server prunes it. Items of lists stay, so that their schema refuses them. */
function withoutNulls(value: unknown): unknown {
  // Nearly no document has any, and copying each of a hundred thousand costs seconds.
  return holdsNull(value) ? pruned(value) : value;
}

function holdsNull(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const values = Array.isArray(value) ? value.filter((item) => item !== null) : Object.values(value);
  return values.some((one) => one === null || holdsNull(one));
}

function pruned(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(pruned);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== null)
      .map(([name, field]) => [name, pruned(field)]),
  );
}
