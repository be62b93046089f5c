// The lab's network as data: which links, addresses and routes the documents ask for, as `ip -batch` text for each namespace.
//
// Nodes hang on one bridge, the underlay. Each pod has a veth to its node and reaches everything, its neighbours too, by routing through
// it, as with the usual CNIs: so NetworkPolicy-like rules and kube-proxy on the node see every packet.
import { formatAddress, parseCidr } from "#mesh/address.ts";
import type { Documents, LabNode, LabPod } from "./documents.ts";

/** Commands for one namespace; null is the underlay, the sandbox's own. */
export type Batch = { readonly netns: string | null; readonly lines: readonly string[] };

// Interface names: the bridge and, on each side, what it leads to.
export const UNDERLAY = "underlay";
export const UPLINK = "eth0";
const NETNS_DIRECTORY = "/run/netns/";
const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/;
const LONGEST_INTERFACE = 15;

/** Forwarding on; no duplicate address detection, so that an address can be used at once. */
export const nodeSysctls = [
  "net.ipv6.conf.all.accept_dad=0",
  "net.ipv6.conf.default.accept_dad=0",
  "net.ipv6.conf.all.forwarding=1",
  "net.ipv4.ip_forward=1",
];
export const podSysctls = ["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0", "net.ipv4.ip_unprivileged_port_start=0"];

/** Name under /run/netns; only such names are made, so that nothing outside the sandbox's tmpfs can be meant. */
export function netnsName(path: string): string {
  const name = path.startsWith(NETNS_DIRECTORY) ? path.slice(NETNS_DIRECTORY.length) : "";
  if (!NAME.test(name)) throw new Error(`network namespace ${JSON.stringify(path)}: the lab makes only ${NETNS_DIRECTORY}NAME`);
  return name;
}

export const isV6 = (address: string): boolean => address.includes(":");

/** The first address of a network: the gateway of a pod CIDR, the underlay's own address in a node's. */
export function firstAddress(cidr: string): string {
  const parsed = parseCidr(cidr);
  if (parsed === null) throw new Error(`"${cidr}" is not a network like 10.80.1.0/24 or fd80::/64`);
  const first = Uint8Array.from(parsed.address);
  first[first.length - 1] = (first.at(-1) ?? 0) | 1;
  return formatAddress(first);
}

/** Nodes' addresses carry no length in their documents: the underlay is the /24 and the /64 around them. */
const underlayLength = (address: string): 24 | 64 => (isV6(address) ? 64 : 24);

const gateway = (nodeIp: string): string => firstAddress(`${nodeIp}/${underlayLength(nodeIp)}`);

/** The underlay's own addresses: the first of the networks that the nodes are in. */
export function underlayAddresses(nodes: readonly LabNode[]): string[] {
  const own = new Set(nodes.flatMap(({ ips }) => ips.map(gateway)));
  if (nodes.some(({ ips }) => ips.some((ip) => own.has(ip))))
    throw new Error(`nodes cannot have the underlay's own addresses ${[...own].join(", ")}`);
  if (own.size > 2) throw new Error(`nodes must share one /24 and one /64; found the networks of ${[...own].join(", ")}`);
  return [...own];
}

const everything = (address: string): string => (isV6(address) ? "::/0" : "0.0.0.0/0");
const host = (address: string): string => `${address}/${isV6(address) ? 128 : 32}`;
const nodad = (address: string): string => (isV6(address) ? " nodad" : "");

function gatewayFor(pod: LabPod, node: LabNode, ip: string): string {
  const cidr = node.podCIDRs.find((candidate) => isV6(candidate) === isV6(ip));
  if (cidr === undefined)
    throw new Error(`pod ${pod.namespace}/${pod.name} has ${ip}, but node ${node.name} has no pod CIDR of that family`);
  return firstAddress(cidr);
}

export function underlayBatch({ nodes }: Documents): Batch {
  const lines = [
    "link set lo up",
    `link add ${UNDERLAY} type bridge mcast_snooping 0`,
    ...underlayAddresses(nodes).map((ip) => `address add ${ip}/${underlayLength(ip)} dev ${UNDERLAY}${nodad(ip)}`),
    `link set ${UNDERLAY} up`,
  ];
  for (const { name, ips, podCIDRs } of nodes) {
    if (!NAME.test(name) || name.length > LONGEST_INTERFACE)
      throw new Error(`node ${name}: its name must fit an interface (${LONGEST_INTERFACE} letters)`);
    lines.push(`link add ${name} type veth peer name ${UPLINK} netns ${name}`, `link set ${name} master ${UNDERLAY} up`);
    lines.push(...routesTo(podCIDRs, ips));
  }
  return { netns: null, lines };
}

const routesTo = (podCIDRs: readonly string[], nodeIps: readonly string[]): string[] =>
  podCIDRs.flatMap((cidr) => {
    const via = nodeIps.find((ip) => isV6(ip) === isV6(cidr));
    return via === undefined ? [] : [`route add ${cidr} via ${via}`];
  });

export function nodeBatch(node: LabNode, { nodes }: Documents): Batch {
  const others = nodes.filter(({ name }) => name !== node.name);
  const lines = [
    "link set lo up",
    `link set ${UPLINK} up`,
    ...node.ips.map((ip) => `address add ${ip}/${underlayLength(ip)} dev ${UPLINK}${nodad(ip)}`),
    ...node.ips.map((ip) => `route add ${everything(ip)} via ${gateway(ip)}`),
    ...others.flatMap(({ podCIDRs, ips }) => routesTo(podCIDRs, ips)),
  ];
  return { netns: node.name, lines };
}

/** The node's end of a pod's link, then the pod's own. `link` is the interface's name on the node. */
export function podBatches(pod: LabPod, node: LabNode, link: string): [node: Batch, pod: Batch] {
  const netns = netnsName(pod.netns);
  const onNode = [`link add ${link} type veth peer name ${UPLINK} netns ${netns}`];
  const inPod = ["link set lo up", `link set ${UPLINK} up`];
  for (const ip of pod.ips) {
    const gateway = gatewayFor(pod, node, ip);
    onNode.push(`address add ${host(gateway)} dev ${link}${nodad(ip)}`);
    inPod.push(`address add ${host(ip)} dev ${UPLINK}${nodad(ip)}`);
    inPod.push(`route add ${host(gateway)} dev ${UPLINK}`, `route add ${everything(ip)} via ${gateway}`);
  }
  onNode.push(`link set ${link} up`, ...pod.ips.map((ip) => `route add ${host(ip)} dev ${link}`));
  return [
    { netns: node.name, lines: onNode },
    { netns, lines: inPod },
  ];
}
