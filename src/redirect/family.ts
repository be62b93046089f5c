// Which address families this kernel has, and what the programs of iptables are called for each.
import { existsSync } from "node:fs";

export type Family = 4 | 6;

/** Not there in a kernel without IPv6; otherwise 0 or 1, in each namespace. */
export const IPV6_SWITCH = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/** Two places in the kernel: the old tables, and tables of nftables that look like them. */
export type Variant = "legacy" | "nft";

/** A kernel without IPv6 needs no rules for it, and has no tables to put them in. */
export const familiesHere = (): readonly Family[] => (existsSync(IPV6_SWITCH) ? [4, 6] : [4]);

export const programOf = (family: Family): string => (family === 4 ? "iptables" : "ip6tables");
