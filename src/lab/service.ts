// Stand-ins for kube-proxy and the cluster's DNS, as text: what pods that are not captured use to find a service.
import { type Documents, endpointsOf, readyPods } from "./documents.ts";
import { isV6 } from "./network.ts";

const TABLE = "inet kube-proxy";

/** The whole table, replaced in one transaction. Like kube-proxy: one random ready endpoint per connection, a reset when there is none. */
export function kubeProxyRules({ services, pods }: Documents): string {
  const dnat: string[] = [];
  const reject: string[] = [];
  const hairpins = new Set<string>();
  for (const service of services)
    for (const vip of service.clusterIPs)
      for (const { port, protocol, targetPort } of service.ports) {
        const ip = isV6(vip) ? "ip6" : "ip";
        const match = `${ip} daddr ${vip} ${protocol} dport ${port}`;
        const endpoints = endpointsOf(service, targetPort, pods, isV6(vip));
        if (endpoints.length === 0) reject.push(`${match} reject${protocol === "tcp" ? " with tcp reset" : ""}`);
        else dnat.push(`${match} dnat ${ip} to numgen random mod ${endpoints.length} map { ${choices(endpoints)} }`);
        for (const [address] of endpoints) hairpins.add(`ct status dnat ${ip} saddr ${address} ${ip} daddr ${address} masquerade`);
      }
  return `table ${TABLE} {}
delete table ${TABLE}
table ${TABLE} {
  chain services { ${dnat.join("\n    ")}
  }
  chain prerouting { type nat hook prerouting priority -100; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain postrouting { type nat hook postrouting priority 100; ${[...hairpins].join("\n    ")}
  }
  chain forward { type filter hook forward priority 0; ${reject.join("\n    ")}
  }
}
`;
}

const choices = (endpoints: readonly [string, number][]): string =>
  endpoints.map(([ip, port], index) => `${index} : ${ip} . ${port}`).join(", ");

/** A hosts file for the upstream DNS server: every service by its cluster name, and names of the outside. */
export function hostsFile(
  { services, pods }: Documents,
  clusterDomain: string,
  external: Readonly<Record<string, readonly string[]>>,
): string {
  const lines = Object.entries(external).flatMap(([name, ips]) => ips.map((ip) => `${ip} ${name}`));
  for (const service of services) {
    const addresses = service.clusterIPs.length > 0 ? service.clusterIPs : readyPods(service, pods).flatMap(({ ips }) => ips);
    lines.push(...addresses.map((ip) => `${ip} ${service.name}.${service.namespace}.svc.${clusterDomain}`));
  }
  return `${lines.join("\n")}\n`;
}

/** As a kubelet writes it with dnsPolicy ClusterFirst. */
export function resolvConf(namespace: string, clusterDomain: string, servers: readonly string[]): string {
  const search = [`${namespace}.svc`, "svc"].map((prefix) => `${prefix}.${clusterDomain}`);
  return [...servers.map((ip) => `nameserver ${ip}`), `search ${[...search, clusterDomain].join(" ")}`, "options ndots:5", ""].join("\n");
}
