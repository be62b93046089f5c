// Names in DNS: what services are called, and how a pod's resolver completes short names, with the same list that the kubelet would write.
import type { Pod } from "./objects.ts";

/** The cluster's list first, unless the pod's dnsPolicy says otherwise, then what dnsConfig adds. */
export function searchList({ metadata: { namespace }, clusterSearch, dnsSearch }: Pod, clusterDomain: string): string[] {
  const cluster = clusterSearch ? [`${namespace}.svc.${clusterDomain}`, `svc.${clusterDomain}`, clusterDomain] : [];
  return [...new Set([...cluster, ...dnsSearch])];
}

export const serviceHostname = (namespace: string, name: string, clusterDomain: string): string =>
  `${name}.${namespace}.svc.${clusterDomain}`;
