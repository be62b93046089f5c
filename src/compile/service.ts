// A Service as data planes see it: name, addresses, ports, and how to choose among its endpoints.
import { create } from "@bufbuild/protobuf";
import {
  AppProtocol,
  IPFamilies,
  type LoadBalancing,
  LoadBalancing_HealthPolicy,
  LoadBalancing_Mode,
  LoadBalancing_Scope,
  LoadBalancingSchema,
  ServiceSchema,
  type Service as WireService,
} from "#contract/gen/istio/workload_pb.ts";
import { parseAddress } from "#mesh/address.ts";
import { serviceHostname } from "#mesh/dns.ts";
import { keyOf, type Service, type ServicePort } from "#mesh/objects.ts";
import { isTcp, type PortProtocol, protocolOf } from "#mesh/protocol.ts";
import type { Standing } from "#waypoint/standing.ts";
import type { CompilerSettings } from "./compiler.ts";
import type { ObjectFault } from "./resource.ts";
import { waypointsAt } from "./waypoint-address.ts";

export const hostnameOf = (namespace: string, name: string, settings: CompilerSettings): string =>
  serviceHostname(namespace, name, settings.clusterDomain);

export type CompiledService = { readonly service: WireService | null; readonly faults: readonly ObjectFault[] };

/** Null for ExternalName: it is a DNS alias, not something with endpoints. */
export function compileService(service: Service, standing: Standing, settings: CompilerSettings): CompiledService {
  if (service.type === "ExternalName") return { service: null, faults: [] };
  const addresses = service.clusterIPs.map(parseAddress).filter((bytes) => bytes !== null);
  const { loadBalancing, faults } = loadBalancingOf(service);
  return {
    service: create(ServiceSchema, {
      name: service.metadata.name,
      namespace: service.metadata.namespace,
      hostname: hostnameOf(service.metadata.namespace, service.metadata.name, settings),
      addresses: addresses.map((address) => ({ network: settings.network, address })),
      ports: service.ports.filter(isTcp).map((port) => ({
        servicePort: port.port,
        // A name means another number at each endpoint: 0 sends the reader to the endpoint's own list.
        targetPort: typeof port.targetPort === "number" ? port.targetPort : 0,
        appProtocol: appProtocolOf(port),
      })),
      ...(loadBalancing === null ? {} : { loadBalancing }),
      ...(standing.kind === "ready" ? waypointsAt(standing, settings) : {}),
      ipFamilies: familiesOf(addresses),
      canonical: true,
    }),
    faults,
  };
}

const { NETWORK, REGION, ZONE, SUBZONE, NODE } = LoadBalancing_Scope;

const DISTRIBUTIONS: Readonly<Record<string, readonly LoadBalancing_Scope[]>> = {
  PreferClose: [NETWORK, REGION, ZONE],
  PreferSameZone: [NETWORK, REGION, ZONE],
  PreferSameNode: [NETWORK, REGION, ZONE, SUBZONE, NODE],
};

function loadBalancingOf(service: Service): { readonly loadBalancing: LoadBalancing | null; readonly faults: readonly ObjectFault[] } {
  const wanted = service.trafficDistribution;
  const scopes = Object.hasOwn(DISTRIBUTIONS, wanted) ? DISTRIBUTIONS[wanted] : undefined;
  const faults: ObjectFault[] =
    wanted === "" || scopes !== undefined
      ? []
      : [
          {
            key: keyOf(service),
            code: "E_SOURCE_UNSUPPORTED",
            field: "spec.trafficDistribution",
            reason: `${JSON.stringify(wanted)} is not one of ${Object.keys(DISTRIBUTIONS).join(", ")}: endpoints are chosen without preference`,
          },
        ];
  if (scopes === undefined && !service.publishNotReadyAddresses) return { loadBalancing: null, faults };
  const loadBalancing = create(LoadBalancingSchema, {
    routingPreference: [...(scopes ?? [])],
    mode: scopes === undefined ? LoadBalancing_Mode.UNSPECIFIED_MODE : LoadBalancing_Mode.FAILOVER,
    healthPolicy: service.publishNotReadyAddresses ? LoadBalancing_HealthPolicy.ALLOW_ALL : LoadBalancing_HealthPolicy.ONLY_HEALTHY,
  });
  return { loadBalancing, faults };
}

function familiesOf(addresses: readonly Uint8Array[]): IPFamilies {
  const v4 = addresses.some((one) => one.length === 4);
  const v6 = addresses.some((one) => one.length === 16);
  if (v4 && v6) return IPFamilies.DUAL;
  return v4 ? IPFamilies.IPV4_ONLY : v6 ? IPFamilies.IPV6_ONLY : IPFamilies.AUTOMATIC;
}

const APP_PROTOCOLS: Readonly<Record<PortProtocol, AppProtocol>> = {
  http: AppProtocol.HTTP11,
  http2: AppProtocol.HTTP2,
  grpc: AppProtocol.GRPC,
  tcp: AppProtocol.TCP,
  tls: AppProtocol.TLS,
};

export function appProtocolOf(port: ServicePort): AppProtocol {
  const protocol = protocolOf(port);
  return protocol === null ? AppProtocol.UNKNOWN : APP_PROTOCOLS[protocol];
}
