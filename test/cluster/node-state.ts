// Everything on nodes and in the API that installing something could leave behind, as sorted lines that can be compared.
import type { Cluster } from "./cluster.ts";

export type State = Readonly<Record<string, readonly string[]>>;

/** Objects that come and go by themselves in any cluster. */
const RESTLESS =
  /^(events|leases|pods|endpoints|endpointslices|replicasets|controllerrevisions|componentstatuses|bindings|nodes|csinodes)(\.|$)/;

/**
 * Files are those that a mesh could write on a node; processes go by their program, without what pods of the cluster run; kube-proxy's rules
 * follow the cluster's services and are left out.
 */
const NODE_COMMANDS: Readonly<Record<string, string>> = {
  files:
    "find /opt/cni /etc/cni /var/lib/trackbed /var/lib/kubelet/seccomp /var/lib/cni/results -not -name 'cbr0-*' -not -path '*/results/*' 2>/dev/null | sort",
  run: "ls -A /run | sort",
  processes:
    "for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep -vE '/(bash|sleep|nsenter|find|sort|ls|readlink|grep|pause|busybox|coredns|containerd-shim.*|runc)$' | sort",
  rules: "nft list tables | grep -v kube-proxy | sort",
  routing: "ip rule | sort; ip -6 rule | sort; ip route show table 100 2>/dev/null",
  sysctls:
    "sysctl -a 2>/dev/null | grep -E '^net\\.(ipv4|ipv6)\\.conf\\.(all|default|lo)\\.(route_localnet|rp_filter|accept_local|forwarding)|^net\\.netfilter\\.nf_conntrack_(acct|max) ' | sort",
  mounts: "cut -d' ' -f2 /proc/1/mounts | grep -vE '^/(run/netns|run/containerd|var/lib/kubelet|var/lib/containerd)' | sort",
};
const POD_COMMAND =
  "nft list tables; ip rule; ip -6 rule; ip route show table 100 2>/dev/null; ss -Hltn | awk '{print $4}' | grep -E ':150[0-9][0-9]$'; true";

export async function nodeState(c: Cluster): Promise<State> {
  const state: Record<string, readonly string[]> = {};
  // Columns are as wide as the widest: only the words count.
  const lines = (text: string): string[] =>
    text
      .split("\n")
      .map((line) => line.trim().replace(/\s+/g, " "))
      .filter((line) => line !== "");
  for (const node of c.nodes) {
    for (const [what, command] of Object.entries(NODE_COMMANDS)) state[`${node} ${what}`] = lines(await c.onNode(node, `${command}; true`));
    const inEach = `for f in /run/netns/*; do nsenter --net=$f bash -c ${JSON.stringify(POD_COMMAND).replaceAll("$", "\\$")}; done | sort -u`;
    state[`${node} pods' namespaces`] = lines(await c.onNode(node, inEach));
  }
  const kinds = lines(await c.kubectl("api-resources", "--verbs=list", "-o", "name")).filter((kind) => !RESTLESS.test(kind));
  state["API kinds"] = kinds.sort();
  state["API objects"] = lines(
    await c.kubectl(
      "get",
      kinds.join(","),
      "-A",
      "--ignore-not-found",
      "--no-headers",
      "-o",
      "custom-columns=N:.metadata.namespace,K:.kind,O:.metadata.name",
    ),
  ).sort();
  state["labels of namespaces and nodes"] = lines(
    await c.kubectl(
      "get",
      "namespaces,nodes",
      "--no-headers",
      "-o",
      "custom-columns=K:.kind,O:.metadata.name,L:.metadata.labels,A:.metadata.annotations",
    ),
  ).sort();
  return state;
}

/** One line for each difference: "- " is gone, "+ " is new. */
export function difference(before: State, after: State): string[] {
  return Object.keys({ ...before, ...after }).flatMap((key) => {
    const [old, now] = [new Set(before[key]), new Set(after[key])];
    return [...old.difference(now)].map((line) => `${key}: - ${line}`).concat([...now.difference(old)].map((line) => `${key}: + ${line}`));
  });
}
