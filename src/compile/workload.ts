// A Pod as data planes see it: who it is, where it is, how it is reached, and which policies are its own.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import {
  NetworkMode,
  type PortListSchema,
  TunnelProtocol,
  type Workload,
  WorkloadSchema,
  WorkloadStatus,
  WorkloadType,
} from "#contract/gen/istio/workload_pb.ts";
import { parseAddress } from "#mesh/address.ts";
import type { Node, Pod, Service } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import type { GatewayName } from "#waypoint/waypoint.ts";
import type { CompilerSettings } from "./compiler.ts";
import { appProtocolOf, hostnameOf } from "./service.ts";
import { type EntryHost, entryName, wirePort } from "./service-entry.ts";
import { waypointAt } from "./waypoint-address.ts";

export type WorkloadInputs = {
  readonly pod: Pod;
  readonly node: Node | undefined;
  /** Peers must use HBONE. */
  readonly tunnel: boolean;
  /** Services of the pod's namespace whose selector picks it. */
  readonly services: readonly Service[];
  /** Hosts of ServiceEntries of the pod's namespace whose selector picks it. */
  readonly entries: readonly EntryHost[];
  /** "namespace/name", sorted. */
  readonly policies: readonly string[];
  /** What is addressed to the pod itself passes it; null: nothing of the kind is ready. */
  readonly waypoint: GatewayName | null;
};

export const uidOf = (namespace: string, name: string, settings: CompilerSettings): string =>
  `${settings.clusterId}//Pod/${namespace}/${name}`;

/** A pod that is over or has no address yet is nobody that could be reached. */
export const isReachable = (pod: Pod): boolean => pod.phase !== "Succeeded" && pod.phase !== "Failed" && pod.podIPs.length > 0;

export function compileWorkload(
  { pod, node, tunnel, services, entries, policies, waypoint }: WorkloadInputs,
  settings: CompilerSettings,
): Workload {
  const { metadata } = pod;
  const { type, name } = workloadOf(pod);
  return create(WorkloadSchema, {
    uid: uidOf(metadata.namespace, metadata.name, settings),
    name: metadata.name,
    namespace: metadata.namespace,
    addresses: pod.podIPs.map(parseAddress).filter((bytes) => bytes !== null),
    network: settings.network,
    networkMode: pod.hostNetwork ? NetworkMode.HOST_NETWORK : NetworkMode.STANDARD,
    tunnelProtocol: tunnel ? TunnelProtocol.HBONE : TunnelProtocol.NONE,
    nativeTunnel: gatewayOf(pod, settings.adopt) !== null,
    trustDomain: settings.trustDomain,
    serviceAccount: pod.serviceAccountName,
    node: pod.nodeName,
    canonicalName: label(pod, ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]) ?? name,
    canonicalRevision: label(pod, ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]) ?? "latest",
    workloadType: type,
    workloadName: name,
    authorizationPolicies: [...policies],
    ...(waypoint === null ? {} : { waypoint: waypointAt(waypoint, settings) }),
    status: pod.ready ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
    clusterId: settings.clusterId,
    services: Object.fromEntries(
      [
        ...services.map((service) => [serviceName(service, settings), portsAt(service, pod)] as const),
        ...entries.map(({ entry, host }) => [entryName(entry, host), { ports: entry.ports.map(wirePort) }] as const),
      ].sort(byName),
    ),
    locality: {
      region: node?.metadata.labels["topology.kubernetes.io/region"] ?? "",
      zone: node?.metadata.labels["topology.kubernetes.io/zone"] ?? "",
      subzone: node?.metadata.labels["topology.istio.io/subzone"] ?? "",
    },
  });
}

const serviceName = ({ metadata }: Service, settings: CompilerSettings): string =>
  `${metadata.namespace}/${hostnameOf(metadata.namespace, metadata.name, settings)}`;

/** Sorted, so that equal workloads have equal bytes. */
const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : a > b ? 1 : 0);

/** A port by a name that the pod does not have is not served by this pod. */
function portsAt(service: Service, pod: Pod): MessageInitShape<typeof PortListSchema> {
  return {
    ports: service.ports.filter(isTcp).flatMap((port) => {
      const target = typeof port.targetPort === "number" ? port.targetPort : pod.ports.find(({ name }) => name === port.targetPort)?.port;
      return target === undefined ? [] : [{ servicePort: port.port, targetPort: target, appProtocol: appProtocolOf(port) }];
    }),
  };
}

const label = (pod: Pod, names: readonly string[]): string | undefined =>
  names.map((name) => pod.metadata.labels[name]).find((value) => value !== undefined);

/** What people deployed, not what controllers made of it: the Deployment behind a ReplicaSet, the CronJob behind a Job. */
function workloadOf({ metadata, owner }: Pod): { readonly type: WorkloadType; readonly name: string } {
  if (owner === null) return { type: WorkloadType.POD, name: metadata.name };
  const hash = metadata.labels["pod-template-hash"];
  if (owner.kind === "ReplicaSet" && hash !== undefined && owner.name.endsWith(`-${hash}`))
    return { type: WorkloadType.DEPLOYMENT, name: owner.name.slice(0, -hash.length - 1) };
  // A CronJob names its Jobs by the minute since 1970.
  const scheduled = /^(.+)-\d{8,10}$/.exec(owner.name)?.[1];
  if (owner.kind === "Job")
    return scheduled === undefined ? { type: WorkloadType.JOB, name: owner.name } : { type: WorkloadType.CRONJOB, name: scheduled };
  return { type: owner.kind === "Deployment" ? WorkloadType.DEPLOYMENT : WorkloadType.POD, name: owner.name };
}
