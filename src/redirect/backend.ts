// The seam between what shall be captured and how a kernel is told: nftables, or iptables where a kernel has no better, behind the same verbs.
import type { Plan } from "./plan.ts";

/** nft wherever the kernel can; the two kinds of iptables are different places in the kernel, and neither sees the other's rules. */
export type BackendName = "nft" | "iptables-legacy" | "iptables-nft";

/** Path of an open namespace: "/proc/self/fd/N" of this process, /run/netns/NAME, or any path that leads to one. */
export type NetnsPath = string;

/** Something in the namespace that is not ours and stands before our rules or belongs to another mesh. */
export type Foreign = {
  /** mesh: never touch this pod. nat, mark, legacy: may take packets before our rules do. */
  readonly kind: "mesh" | "nat" | "mark" | "legacy";
  /** "table ip nat, chain ISTIO_OUTPUT" */
  readonly where: string;
  readonly reason: string;
};

/** A namespace as read back, already compared with nothing: see `compare`. */
export type Reading = {
  /** Our table in normal form, null when there is none. */
  readonly table: TableForm | null;
  readonly routing: RoutingForm;
  /** False where IPv6 is switched off or absent: routing for it is neither possible nor needed. */
  readonly ipv6: boolean;
  readonly foreign: readonly Foreign[];
  /** Back ends other than the one that reads whose rules of ours stand here: left by a daemon that took another. */
  readonly leftovers: readonly BackendName[];
};

/** Sorted lines, each one set, chain or rule with its place; counters and handles left out. */
export type TableForm = readonly string[];

/** The rules and routes that bring marked packets home and the engine's to the application, as counted in the namespace. */
export type RoutingForm = {
  readonly rule4: number;
  readonly rule6: number;
  /** IPv6: what the engine binds to lo is routed there. IPv4 needs no such rule. */
  readonly lo6: number;
  readonly route4: number;
  readonly route6: number;
  /** Routes of other hands in our routing table. */
  readonly strays: readonly string[];
};

/** What decides what has to be done besides the rules themselves. */
export type Known = Pick<Reading, "routing" | "ipv6" | "leftovers">;

export type Comparison = {
  /** holder: what stays after un-enrolment. different: our table by name, not by content. */
  readonly rules: "none" | "equal" | "different" | "holder";
  /** Exactly one of each rule and route per address family that the namespace has. */
  readonly routing: boolean;
  /** What is missing ("-") and what is too much ("+"), for people; bounded. */
  readonly differences: readonly string[];
};

export type Backend = {
  readonly name: BackendName;
  /**
   * Routing where it is missing, then the whole table in one transaction. May be repeated at any time. `known` is what was read just before, and spares a
   * second look; where it does not hold any more the kernel refuses, or what is read back afterwards differs.
   */
  apply(netns: NetnsPath, plan: Plan, known?: Known): Promise<void>;
  /** Replaces the table by the one that keeps captured connections alive and captures nothing new. */
  holder(netns: NetnsPath): Promise<void>;
  /** Table first, then routing. Only without captured connections: they would go on in clear. */
  remove(netns: NetnsPath): Promise<void>;
  read(netns: NetnsPath): Promise<Reading>;
  compare(reading: Reading, plan: Plan): Comparison;
  /** Takes its rules away and nothing else: for a namespace in which another back end has its own. */
  purge(netns: NetnsPath): Promise<void>;
};
