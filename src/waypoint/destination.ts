// What clients address and routes attach to: a Service, or the hosts of a ServiceEntry.
import type { ObjectKey, ObjectMeta, Service, ServiceEntry, ServicePort } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";
import type { ObjectRef, ParentRef } from "#mesh/route.ts";

export type DestinationKind = "Service" | "ServiceEntry";

/** Its ObjectKey, there or not. */
export type DestinationKey = Extract<ObjectKey, `${DestinationKind}/${string}`>;

export type Destination = {
  readonly key: DestinationKey;
  readonly metadata: ObjectMeta;
  /** "namespace/hostname", as tables and data planes call it: of a ServiceEntry one for each host that it has. */
  readonly names: readonly string[];
  /** TCP ones. */
  readonly ports: readonly ServicePort[];
  /** Why nothing that is addressed to it can pass a waypoint; empty: it can. */
  readonly unroutable: string;
  /** Why no route can send to it; empty: one can. */
  readonly unusable: string;
  /** The namespace whose clients alone know it; null: everybody does. */
  readonly onlyFor: string | null;
};

export const ENTRY_GROUP = "networking.istio.io";

const GROUPS: Readonly<Record<DestinationKind, string>> = { Service: "", ServiceEntry: ENTRY_GROUP };

const kindOf = ({ group, kind }: Pick<ObjectRef, "group" | "kind">): DestinationKind | null =>
  (kind === "Service" || kind === "ServiceEntry") && GROUPS[kind] === group ? kind : null;

/** What the reference names; null for what is none of ours. */
export function destinationKey(ref: Pick<ObjectRef | ParentRef, "group" | "kind" | "namespace" | "name">): DestinationKey | null {
  const kind = kindOf(ref);
  return kind === null ? null : `${kind}/${ref.namespace}/${ref.name}`;
}

/** For people: "Service shop/web". */
export const titleOf = (key: DestinationKey): string => key.replace("/", " ");

export function destinationOfService(service: Service, hostname: string): Destination {
  const { namespace, name } = service.metadata;
  const alias = service.type === "ExternalName";
  const headless = service.clusterIPs.length === 0;
  return {
    key: `Service/${namespace}/${name}`,
    metadata: service.metadata,
    names: [`${namespace}/${hostname}`],
    ports: service.ports.filter(isTcp),
    unroutable: alias
      ? "is an ExternalName: nothing is reached through it"
      : headless
        ? "is headless: its clients address pods, not the service"
        : "",
    unusable: alias ? "is an ExternalName: it has no endpoints" : "",
    onlyFor: null,
  };
}

/** Of ServiceEntries: others of its protocols are bytes to a waypoint. */
const APP_PROTOCOLS: Readonly<Record<string, string>> = { HTTP: "http", HTTP2: "http2", GRPC: "grpc", HTTPS: "https", TLS: "tls" };

/** `hosts`: those of its hosts that no other entry of its namespace has. */
export function destinationOfEntry(entry: ServiceEntry, hosts: readonly string[], onlyFor: string | null): Destination {
  const { namespace, name } = entry.metadata;
  const open = entry.resolution === "NONE" ? "has resolution NONE: each of its clients says itself where to" : "";
  const taken = hosts.length === 0 ? "has no host that another ServiceEntry has not" : "";
  return {
    key: `ServiceEntry/${namespace}/${name}`,
    metadata: entry.metadata,
    names: hosts.map((host) => `${namespace}/${host}`),
    ports: entry.ports.map(({ name: port, port: number, targetPort, protocol }) => ({
      name: port,
      port: number,
      targetPort,
      protocol: "TCP",
      appProtocol: APP_PROTOCOLS[protocol] ?? "tcp",
    })),
    unroutable: open || taken,
    unusable: open || taken,
    onlyFor,
  };
}
