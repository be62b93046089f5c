// ServiceEntries as data planes see them: a service for each host and a workload for each endpoint, for clients of one namespace unless the
// root namespace says otherwise. All of a namespace are compiled together, since they compete for hosts.
import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import {
  AppProtocol,
  IPFamilies,
  LoadBalancing_Mode,
  LoadBalancingSchema,
  NetworkMode,
  Service_Visibility,
  ServiceSchema,
  type Service as WireService,
  type Workload,
  WorkloadSchema,
  WorkloadStatus,
  WorkloadType,
} from "#contract/gen/istio/workload_pb.ts";
import { formatAddress, parseAddress, parseCidr } from "#mesh/address.ts";
import { compareAge } from "#mesh/age.ts";
import { type EntryEndpoint, type EntryPort, keyOf, type ServiceEntry } from "#mesh/objects.ts";
import type { Standing } from "#waypoint/standing.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import { identityOf } from "./endpoint.ts";
import type { ObjectFault } from "./resource.ts";
import { waypointsAt } from "./waypoint-address.ts";

export type CompiledEntries = {
  readonly services: readonly WireService[];
  readonly workloads: readonly Workload[];
  readonly faults: readonly ObjectFault[];
};

type Settings = CompilerSettings;
type Known = Pick<Cluster, "claims" | "isTunnelled">;

/** Who has a host, and which addresses it has: the oldest entry, then the first by name. */
export type EntryHost = { readonly entry: ServiceEntry; readonly host: string; readonly addresses: readonly Net[] };

type Net = { readonly address: Uint8Array; readonly length: number };

export function compileEntries(
  entries: Iterable<ServiceEntry>,
  standing: (entry: ServiceEntry) => Standing,
  cluster: Known,
  settings: Settings,
): CompiledEntries {
  const { hosts, faults } = settleHosts(entries, settings);
  return {
    services: hosts.map((one) => serviceOf(one, standing(one.entry), settings)),
    workloads: hosts.flatMap((one) => workloadsOf(one, cluster, settings)),
    faults,
  };
}

/** "namespace/host", as resources and workloads name it. */
export const entryName = ({ metadata }: ServiceEntry, host: string): string => `${metadata.namespace}/${host}`;

export function settleHosts(
  entries: Iterable<ServiceEntry>,
  settings: Settings,
): { readonly hosts: readonly EntryHost[]; readonly faults: readonly ObjectFault[] } {
  const owners = new Map<string, ServiceEntry>();
  const hosts: EntryHost[] = [];
  const faults: ObjectFault[] = [];
  const refuse = (entry: ServiceEntry, field: string, reason: string, code: ObjectFault["code"] = "E_SOURCE_INVALID"): void =>
    void faults.push({ key: keyOf(entry), code, field, reason });
  for (const entry of [...entries].sort(compareAge)) {
    if (entry.exportTo.includes("*") && entry.metadata.namespace !== settings.rootNamespace)
      refuse(
        entry,
        "spec.exportTo",
        `"*" is for entries in ${settings.rootNamespace}: elsewhere an entry counts for clients of its own namespace, and does so here`,
        "E_SOURCE_UNSUPPORTED",
      );
    for (const [i, host] of entry.hosts.entries()) {
      const field = `spec.hosts[${i}]`;
      const addresses = addressesOf(entry, host);
      // Competing for an address of our own making is as rare as two equal hashes, and as wrong.
      const wanted = [host, ...(entry.addresses.length === 0 ? addresses.map(({ address }) => formatAddress(address)) : [])];
      const taken = wanted.map((one) => owners.get(one)).find((owner) => owner !== undefined);
      if (isOfCluster(host, settings)) refuse(entry, field, `${host} is a name of the cluster's own services, which an entry cannot take`);
      else if (taken !== undefined)
        refuse(
          entry,
          field,
          `${host} belongs to ServiceEntry ${taken.metadata.namespace}/${taken.metadata.name}, which is older or comes first by name`,
        );
      else {
        for (const one of wanted) owners.set(one, entry);
        hosts.push({ entry, host, addresses });
      }
    }
    for (const name of namesOf(entry)) {
      const found = entry.resolved[name];
      if (found !== undefined && found.length === 0)
        refuse(entry, "spec.resolution", `${name} has no address: connections to it are refused until it has one`);
    }
  }
  return { hosts, faults };
}

const isOfCluster = (host: string, { clusterDomain }: Settings): boolean => `.${host}`.endsWith(`.svc.${clusterDomain}`);

/** The names that resolution DNS asks for. */
export function namesOf({ resolution, hosts, endpoints }: ServiceEntry): readonly string[] {
  if (resolution !== "DNS") return [];
  const names = endpoints.map(({ address }) => address).filter((address) => parseAddress(address) === null);
  return endpoints.length === 0 ? hosts : [...new Set(names)];
}

/** 240.0.0.0/5, which nobody routes, and 2001:2::/48, which is for benchmarks: 2^27 and 2^80 addresses. */
function addressesOf(entry: ServiceEntry, host: string): readonly Net[] {
  const given = entry.addresses.map(parseCidr).filter((block) => block !== null);
  if (given.length > 0) return given;
  const hash = createHash("sha256").update(entryName(entry, host)).digest();
  const v4 = Uint8Array.of(240 | (hash.readUInt8(0) & 7), ...hash.subarray(1, 4));
  const v6 = Uint8Array.of(0x20, 0x01, 0x00, 0x02, 0x00, 0x00, ...hash.subarray(4, 14));
  return [v4, v6].map((address) => ({ address, length: address.length * 8 }));
}

/** Nobody routes the traffic of another namespace, except who may govern the whole mesh. */
export const countsEverywhere = ({ metadata, exportTo }: ServiceEntry, rootNamespace: string): boolean =>
  metadata.namespace === rootNamespace && !exportTo.includes(".");

function serviceOf({ entry, host, addresses }: EntryHost, standing: Standing, settings: Settings): WireService {
  return create(ServiceSchema, {
    name: entry.metadata.name,
    namespace: entry.metadata.namespace,
    hostname: host,
    addresses: addresses.map(({ address, length }) => ({
      network: settings.network,
      address,
      ...(length === address.length * 8 ? {} : { length }),
    })),
    ports: entry.ports.map(wirePort),
    subjectAltNames: [...entry.subjectAltNames],
    ...(entry.resolution === "NONE" ? { loadBalancing: create(LoadBalancingSchema, { mode: LoadBalancing_Mode.PASSTHROUGH }) } : {}),
    ipFamilies: IPFamilies.AUTOMATIC,
    canonical: false,
    visibility: countsEverywhere(entry, settings.rootNamespace) ? Service_Visibility.PUBLIC : Service_Visibility.NAMESPACE,
    ...(standing.kind === "ready" ? waypointsAt(standing, settings) : {}),
  });
}

const APP_PROTOCOLS: Readonly<Record<string, AppProtocol>> = {
  HTTP: AppProtocol.HTTP11,
  HTTP2: AppProtocol.HTTP2,
  GRPC: AppProtocol.GRPC,
  HTTPS: AppProtocol.TLS,
  TLS: AppProtocol.TLS,
  TCP: AppProtocol.TCP,
};

export const wirePort = ({ port, targetPort, protocol }: EntryPort) => ({
  servicePort: port,
  targetPort,
  appProtocol: APP_PROTOCOLS[protocol] ?? AppProtocol.UNKNOWN,
});

function workloadsOf(one: EntryHost, cluster: Known, settings: Settings): Workload[] {
  const { entry, host } = one;
  const given = entry.resolution === "DNS" && entry.endpoints.length === 0 ? [anywhere(host)] : entry.endpoints;
  const found = given.flatMap((endpoint) => {
    const addresses = parseAddress(endpoint.address) === null ? (entry.resolved[endpoint.address] ?? []) : [endpoint.address];
    return addresses.flatMap((text): [string, Workload][] => {
      const address = parseAddress(text);
      if (address === null) return [];
      const workload = workloadOf(one, endpoint, address, cluster, settings);
      return [[workload.uid, workload]];
    });
  });
  return [...new Map(found).values()];
}

const anywhere = (host: string): EntryEndpoint => ({ address: host, ports: {}, locality: "", weight: 1 });

/** Whose address is a pod's gets that pod's identity and tunnel: nobody may ask for plaintext by writing an address. */
function workloadOf(
  { entry, host }: EntryHost,
  endpoint: EntryEndpoint,
  address: Uint8Array,
  cluster: Known,
  settings: Settings,
): Workload {
  const { namespace, name } = entry.metadata;
  const text = formatAddress(address);
  const pod = cluster.claims.podAt(text);
  const [region = "", zone = "", subzone = ""] = endpoint.locality.split("/");
  const ports = entry.ports.map((port) => wirePort({ ...port, targetPort: endpoint.ports[port.name] ?? port.targetPort }));
  return create(WorkloadSchema, {
    uid: `${settings.clusterId}/networking.istio.io/ServiceEntry/${namespace}/${name}/${host}/${text}`,
    name: pod?.metadata.name ?? name,
    namespace: pod?.metadata.namespace ?? namespace,
    addresses: [address],
    network: settings.network,
    // As for pods in the host's network: found through its service, never by its address.
    networkMode: NetworkMode.HOST_NETWORK,
    status: WorkloadStatus.HEALTHY,
    clusterId: settings.clusterId,
    canonicalName: name,
    canonicalRevision: "latest",
    workloadType: WorkloadType.POD,
    workloadName: name,
    node: pod?.nodeName ?? "",
    capacity: endpoint.weight,
    locality: { region, zone, subzone },
    services: { [entryName(entry, host)]: { ports } },
    ...identityOf(pod, cluster, settings),
  });
}

/** Finds entries by an address of a pod that they name. */
export type EntryIndex = {
  add(entry: ServiceEntry): void;
  delete(entry: ServiceEntry): void;
  /** Namespaces with an entry that has one of these addresses as an endpoint. */
  naming(addresses: readonly string[]): ReadonlySet<string>;
  of(namespace: string): Iterable<ServiceEntry>;
};

export function entryIndex(): EntryIndex {
  const byAddress = new Map<string, Set<ServiceEntry>>();
  const byNamespace = new Map<string, Set<ServiceEntry>>();
  const spelled = (text: string): string | null => {
    const bytes = parseAddress(text);
    return bytes === null ? null : formatAddress(bytes);
  };
  const slots = ({ endpoints, resolved }: ServiceEntry): string[] =>
    [...endpoints.map(({ address }) => address), ...Object.values(resolved).flat()].map(spelled).filter((one) => one !== null);
  const put = (index: Map<string, Set<ServiceEntry>>, slot: string, entry: ServiceEntry): void =>
    void index.set(slot, (index.get(slot) ?? new Set()).add(entry));
  const take = (index: Map<string, Set<ServiceEntry>>, slot: string, entry: ServiceEntry): void => {
    index.get(slot)?.delete(entry);
    if (index.get(slot)?.size === 0) index.delete(slot);
  };
  return {
    add: (entry) => {
      put(byNamespace, entry.metadata.namespace, entry);
      for (const slot of slots(entry)) put(byAddress, slot, entry);
    },
    delete: (entry) => {
      take(byNamespace, entry.metadata.namespace, entry);
      for (const slot of slots(entry)) take(byAddress, slot, entry);
    },
    naming: (addresses) =>
      byAddress.size === 0
        ? new Set()
        : new Set(addresses.flatMap((text) => [...(byAddress.get(spelled(text) ?? "") ?? [])].map(({ metadata }) => metadata.namespace))),
    of: (namespace) => byNamespace.get(namespace) ?? [],
  };
}
