// The host's rules for kubelet probes: what the kubelet sends to a captured pod's probe port leaves with the probe address as its source,
// which the pod's own rules let pass. The only rules outside of pods, there only while a pod needs them.
import { addresses, marks } from "#contract/tables.ts";
import { formatAddress, isIpv4, parseAddress } from "#mesh/address.ts";
import type { NetnsPath } from "./backend.ts";
import { execute, run } from "./command.ts";

export const HOST_TABLE = "trackbed_host";

export type Probed = { readonly address: string; readonly port: number };

/** Whose connections count as probes: those of one cgroup, or of any process of root where the kubelet's cgroup cannot be matched. */
export type Prober = { readonly cgroup: { readonly path: string; readonly level: number } | null };

export type HostRules = {
  /** Replaces everything in one transaction; resolves to the listing by which changes are told later. */
  apply(prober: Prober, probed: readonly Probed[]): Promise<string>;
  /** What is there now as nft writes it, null when nothing is. */
  list(): Promise<string | null>;
  /** Also when there are none. */
  remove(): Promise<void>;
};

const REPLACE = `table inet ${HOST_TABLE} {}\ndelete table inet ${HOST_TABLE}\n`;

const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`;
const OTHER_BITS = hex(~marks.mask);
/** The bits of others (kube-proxy, network providers) stay as they are. */
const MARK = `meta mark set meta mark & ${OTHER_BITS} | ${hex(marks.probe)}`;
const MARKED = `meta mark & ${hex(marks.mask)} == ${hex(marks.probe)}`;
/** Before the masquerading of others (100): a connection gets one source only. */
const BEFORE_SRCNAT = 99;
const MANGLE = -150;

/**
 * nft looks paths of cgroups up below this directory, which shows a container only its own: the kernel wants the number behind the path, so any
 * path to it will do.
 */
const CGROUPS = "/sys/fs/cgroup";

export function renderHost({ cgroup }: Prober, probed: readonly Probed[]): string {
  const from = cgroup === null ? "meta skuid 0" : `socket cgroupv2 level ${cgroup.level} ${quoted(relativeTo(cgroup.path))}`;
  const elements = (v4: boolean): string => {
    const list = probed.flatMap(({ address, port }) => {
      const bytes = parseAddress(address);
      return bytes === null || isIpv4(bytes) !== v4 ? [] : [`${formatAddress(bytes)} . ${port}`];
    });
    return list.length === 0 ? "" : ` elements = { ${[...new Set(list)].sort().join(", ")} }`;
  };
  return `${REPLACE}table inet ${HOST_TABLE} {
	set probed_v4 { type ipv4_addr . inet_service;${elements(true)} }
	set probed_v6 { type ipv6_addr . inet_service;${elements(false)} }
	chain mark_probes {
		type filter hook output priority ${MANGLE}; policy accept;
		meta l4proto != tcp return
		${from} ip daddr . tcp dport @probed_v4 ${MARK}
		${from} ip6 daddr . tcp dport @probed_v6 ${MARK}
	}
	chain probe_source {
		type nat hook postrouting priority ${BEFORE_SRCNAT}; policy accept;
		${MARKED} meta nfproto ipv4 snat ip to ${addresses.probeV4}
		${MARKED} meta nfproto ipv6 snat ip6 to ${addresses.probeV6}
	}
}
`;
}

const relativeTo = (path: string): string => (path.startsWith(`${CGROUPS}/`) ? path.slice(CGROUPS.length + 1) : `../../..${path}`);

/** A unit's name may hold what nft reads as something else; a quote cannot be escaped. */
function quoted(path: string): string {
  if (/["\n\\]/.test(path)) throw new TypeError(`the cgroup ${JSON.stringify(path)} cannot be written in a rule`);
  return `"${path}"`;
}

export function hostRules(netns: NetnsPath = "/proc/self/ns/net"): HostRules {
  const list = async (): Promise<string | null> => {
    const { code, stdout, stderr } = await execute(netns, ["nft", "list", "table", "inet", HOST_TABLE]);
    if (code === 0) return stdout;
    if (/No such file or directory/.test(stderr)) return null;
    throw new Error(`nft list table inet ${HOST_TABLE} ended with ${code}: ${stderr.trim()}`);
  };
  return {
    apply: async (prober, probed) => {
      await run(netns, ["nft", "-f", "-"], renderHost(prober, probed));
      const listing = await list();
      const missing = probed.filter(({ address, port }) => !listing?.includes(`${spelled(address)} . ${port}`));
      if (listing === null || missing.length > 0)
        throw new Error(`the host's rules were applied and are not there: ${JSON.stringify(missing)}`);
      return listing;
    },
    list,
    remove: async () => {
      if ((await list()) !== null) await run(netns, ["nft", "-f", "-"], REPLACE);
    },
  };
}

const spelled = (address: string): string => formatAddress(parseAddress(address) ?? new Uint8Array());
