// Finds destinations by key, by host and by the name that data planes know, as the cluster is now.
import { serviceHostname } from "#mesh/dns.ts";
import { type Destination, type DestinationKey, destinationOfEntry, destinationOfService } from "#waypoint/destination.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import { countsEverywhere, type EntryHost, entryName, settleHosts } from "./service-entry.ts";

export type Destinations = {
  find(key: DestinationKey): Destination | undefined;
  /** Who has this host, as clients of the namespace find it: its own ServiceEntries, those for everybody, the cluster's Services. */
  host(host: string, namespace: string): Destination | undefined;
  /** The hosts of a namespace's ServiceEntries. */
  hostsOf(namespace: string): readonly EntryHost[];
  /** By "namespace/hostname". */
  named(name: string): DestinationKey | undefined;
  /** Something of the namespace's ServiceEntries changed. */
  forget(namespace: string): void;
};

export function createDestinations(cluster: Cluster, settings: CompilerSettings): Destinations {
  const { clusterDomain, rootNamespace } = settings;
  const settled = new Map<string, readonly EntryHost[]>();

  function hostsOf(namespace: string): readonly EntryHost[] {
    const known = settled.get(namespace);
    if (known !== undefined) return known;
    const { hosts } = settleHosts(cluster.entries.of(namespace), settings);
    settled.set(namespace, hosts);
    return hosts;
  }

  function find(key: DestinationKey): Destination | undefined {
    const found = cluster.objects.get(key);
    if (found?.kind === "Service")
      return destinationOfService(found, serviceHostname(found.metadata.namespace, found.metadata.name, clusterDomain));
    if (found?.kind !== "ServiceEntry") return undefined;
    const { namespace } = found.metadata;
    const hosts = hostsOf(namespace).flatMap(({ entry, host }) => (entry === found ? [host] : []));
    return destinationOfEntry(found, hosts, countsEverywhere(found, rootNamespace) ? null : namespace);
  }

  const entryWith = (host: string, namespace: string): EntryHost | undefined => hostsOf(namespace).find((one) => one.host === host);

  const keyOfEntry = ({ entry: { metadata } }: EntryHost): DestinationKey => `ServiceEntry/${metadata.namespace}/${metadata.name}`;

  /** "web.shop.svc.cluster.local" */
  function serviceAt(host: string): DestinationKey | undefined {
    const [name = "", namespace = "", more] = host.endsWith(`.svc.${clusterDomain}`)
      ? host.slice(0, -`.svc.${clusterDomain}`.length).split(".")
      : [];
    return name === "" || namespace === "" || more !== undefined ? undefined : `Service/${namespace}/${name}`;
  }

  return {
    find,
    host: (host, namespace) => {
      const public_ = entryWith(host, rootNamespace);
      const found =
        entryWith(host, namespace) ?? (public_ !== undefined && countsEverywhere(public_.entry, rootNamespace) ? public_ : undefined);
      const key = found === undefined ? serviceAt(host) : keyOfEntry(found);
      return key === undefined ? undefined : find(key);
    },
    hostsOf,
    named: (name) => {
      const at = name.indexOf("/");
      const [namespace, host] = [name.slice(0, at), name.slice(at + 1)];
      const found = entryWith(host, namespace);
      return found !== undefined && entryName(found.entry, host) === name ? keyOfEntry(found) : serviceAt(host);
    },
    forget: (namespace) => void settled.delete(namespace),
  };
}
