// The documents of a crowd: one node with many pods, one with more peers, each with an identity of its own, or one for all pods of the first.

export const PORT = 9000;
export const CROWDED = "node-a";
export const PEERS = "node-b";

export type Accounts = "own" | "shared";
export type Size = { readonly pods: number; readonly peers: number };
type Side = "pod" | "peer";

/** A /24 each, without the node's own addresses and the broadcast. */
export const MOST = 240;
const FIRST = 10;
const NETWORK = { pod: 1, peer: 2 } as const;
const NODE = { pod: CROWDED, peer: PEERS } as const;

export const address = (side: Side, i: number): string => `10.88.${NETWORK[side]}.${FIRST + i}`;
export const netns = (side: Side, i: number): string => `/run/netns/${side}-${i}`;

const node = (side: Side) => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name: NODE[side] },
  spec: { podCIDRs: [`10.88.${NETWORK[side]}.0/24`, `fd88:${NETWORK[side]}::/64`] },
  status: {
    addresses: [`192.168.88.1${NETWORK[side]}`, `fd88::1${NETWORK[side]}`].map((ip) => ({ type: "InternalIP", address: ip })),
  },
});

const pod = (side: Side, accounts: Accounts) => (i: number) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: `${side}-${i}`, namespace: "crowd", annotations: { "trackbed.dev/netns": netns(side, i) } },
  spec: { nodeName: NODE[side], serviceAccountName: accounts === "own" ? `${side}-${i}` : side, containers: [] },
  status: { phase: "Running", podIPs: [{ ip: address(side, i) }, { ip: `fd88:${NETWORK[side]}::${(FIRST + i).toString(16)}` }] },
});

/** YAML, in which JSON is written too. */
export function documents({ pods, peers }: Size, accounts: Accounts): string {
  const namespace = { apiVersion: "v1", kind: "Namespace", metadata: { name: "crowd", labels: { "trackbed.dev/mesh": "enabled" } } };
  const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
  const all = [node("pod"), node("peer"), namespace, ...numbers(pods).map(pod("pod", accounts)), ...numbers(peers).map(pod("peer", "own"))];
  return all.map((one) => `${JSON.stringify(one)}\n`).join("---\n");
}

/** Which peers a pod talks to: `each` of them in a row, the next pod's row begins where this one ends, so that all have as many clients. */
export function peersOf(i: number, each: number, peers: number): string[] {
  return Array.from({ length: each }, (_, k) => `${address("peer", (i * each + k) % peers)}:${PORT}`);
}
