// Endpoints that are named by address, not picked by a selector: the API server behind `kubernetes`, a database outside the cluster.
import { create } from "@bufbuild/protobuf";
import {
  NetworkMode,
  TunnelProtocol,
  type Workload,
  WorkloadSchema,
  WorkloadStatus,
  WorkloadType,
} from "#contract/gen/istio/workload_pb.ts";
import { formatAddress, parseAddress, spellAddress } from "#mesh/address.ts";
import type { EndpointSlice, MeshObject, Pod } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import { appProtocolOf, hostnameOf } from "./service.ts";

/** One workload for each address. Whose address is a pod's gets that pod's identity and tunnel: nobody may ask for plaintext by writing an address. */
export function compileEndpoints(
  slice: EndpointSlice,
  service: MeshObject | undefined,
  cluster: Pick<Cluster, "claims" | "isTunnelled">,
  settings: CompilerSettings,
): Workload[] {
  if (service?.kind !== "Service" || service.type === "ExternalName") return [];
  const { namespace, name } = slice.metadata;
  const ports = service.ports.filter(isTcp).flatMap((port) => {
    const target = slice.ports.find((one) => one.name === port.name);
    return target === undefined ? [] : [{ servicePort: port.port, targetPort: target.port, appProtocol: appProtocolOf(port) }];
  });
  const services = {
    [`${service.metadata.namespace}/${hostnameOf(service.metadata.namespace, service.metadata.name, settings)}`]: { ports },
  };
  const found = slice.endpoints.flatMap((endpoint) =>
    endpoint.addresses.flatMap((text) => {
      const address = parseAddress(text);
      return address === null ? [] : [{ endpoint, address, pod: cluster.claims.podAt(text) }];
    }),
  );
  const byUid = found.map(({ endpoint, address, pod }): [string, Workload] => {
    const uid = `${settings.clusterId}/discovery.k8s.io/EndpointSlice/${namespace}/${name}/${formatAddress(address)}`;
    const workload = create(WorkloadSchema, {
      uid,
      name: pod?.metadata.name ?? name,
      namespace: pod?.metadata.namespace ?? namespace,
      addresses: [address],
      network: settings.network,
      // As for pods in the host's network: found through its service, never by its address.
      networkMode: NetworkMode.HOST_NETWORK,
      status: endpoint.ready ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
      clusterId: settings.clusterId,
      canonicalName: service.metadata.name,
      canonicalRevision: "latest",
      workloadType: WorkloadType.POD,
      workloadName: service.metadata.name,
      node: pod?.nodeName ?? endpoint.nodeName,
      services,
      ...identityOf(pod, cluster, settings),
    });
    return [uid, workload];
  });
  return [...new Map(byUid).values()];
}

export function identityOf(pod: Pod | undefined, { isTunnelled }: Pick<Cluster, "isTunnelled">, { trustDomain }: CompilerSettings) {
  if (pod === undefined) return { tunnelProtocol: TunnelProtocol.NONE };
  const tunnelProtocol = isTunnelled(pod) ? TunnelProtocol.HBONE : TunnelProtocol.NONE;
  return { tunnelProtocol, trustDomain, serviceAccount: pod.serviceAccountName };
}

/** Finds slices by their service, and by an address that they name. */
export type SliceIndex = {
  add(slice: EndpointSlice): void;
  delete(slice: EndpointSlice): void;
  of(namespace: string, service: string): Iterable<EndpointSlice>;
  naming(addresses: readonly string[]): Iterable<EndpointSlice>;
};

export function sliceIndex(): SliceIndex {
  const index = new Map<string, Set<EndpointSlice>>();
  const byService = (namespace: string, service: string): string => `service ${namespace}/${service}`;
  const byAddress = (text: string): string => `address ${spellAddress(text)}`;
  const slots = ({ metadata, service, endpoints }: EndpointSlice): string[] => [
    byService(metadata.namespace, service),
    ...endpoints.flatMap(({ addresses }) => addresses.map(byAddress)),
  ];
  return {
    add: (slice) => {
      for (const slot of slots(slice)) index.set(slot, (index.get(slot) ?? new Set()).add(slice));
    },
    delete: (slice) => {
      for (const slot of slots(slice)) {
        index.get(slot)?.delete(slice);
        if (index.get(slot)?.size === 0) index.delete(slot);
      }
    },
    of: (namespace, service) => index.get(byService(namespace, service)) ?? [],
    naming: (addresses) => (index.size === 0 ? [] : addresses.flatMap((address) => [...(index.get(byAddress(address)) ?? [])])),
  };
}
