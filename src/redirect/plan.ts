// Capture as data: which sets, chains and rules a pod's namespace shall hold. Order and hooks are what keeps live connections alive.
import { addresses, marks, ports } from "#contract/tables.ts";
import { type Cidr, cidrContains, formatAddress, formatCidr, isIpv4 } from "#mesh/address.ts";
import type { CaptureSpec } from "#mesh/capture.ts";
import {
  accept,
  addressIn,
  addressIs,
  connectionMarkIs,
  family,
  fromLoopback,
  isTcp,
  jump,
  leave,
  markIs,
  markIsOneOf,
  notSyn,
  notTcp,
  portIn,
  portIs,
  prefixIs,
  redirectTo,
  type Statement,
  setConnectionMark,
  setMark,
  setSourcePort,
  toLoopback,
  tproxyTo,
} from "./statement.ts";

export const TABLE = "trackbed";

/** `text` is nft's spelling of the element, `json` the one in which nft gives it back. */
export type Element = { readonly text: string; readonly json: unknown };

export type SetPlan = {
  readonly name: string;
  readonly type: "inet_service" | "ipv4_addr" | "ipv6_addr";
  readonly interval: boolean;
  readonly elements: readonly Element[];
};

export type Hook = { readonly type: "filter" | "nat" | "route"; readonly hook: "output" | "prerouting"; readonly priority: number };

export type ChainPlan = { readonly name: string; readonly base: Hook | null; readonly rules: readonly (readonly Statement[])[] };

export type Plan = {
  /** Null: capture nothing, and keep alive what is captured. */
  readonly capture: CaptureSpec | null;
  /** The same for nftables. */
  readonly sets: readonly SetPlan[];
  readonly chains: readonly ChainPlan[];
};

/** Priorities of the kernel's own stages: before conntrack, mangle, destination NAT. */
const RAW = -300;
const MANGLE = -150;
const DSTNAT = -100;

const DNS_PORT = 53;

const engineMark = markIs(marks.mask, marks.engine);
const families = ["ip", "ip6"] as const;
const probeSet = { ip: "probe_v4", ip6: "probe_v6" } as const;

export function plan(spec: CaptureSpec): Plan {
  const { inbound, dns } = spec;
  return {
    capture: spec,
    sets: [
      portSet("skip_out_ports", spec.excludeOutbound.ports, true),
      ...addressSets("skip_out", spec.excludeOutbound.cidrs),
      ...(inbound ? [portSet("skip_in_ports", spec.excludeInbound.ports, true), ...addressSets("skip_in", spec.excludeInbound.cidrs)] : []),
      ...(inbound ? [portSet("probe_ports", spec.probePorts, false)] : []),
      { name: probeSet.ip, type: "ipv4_addr", interval: false, elements: [{ text: addresses.probeV4, json: addresses.probeV4 }] },
      { name: probeSet.ip6, type: "ipv6_addr", interval: false, elements: [{ text: addresses.probeV6, json: addresses.probeV6 }] },
    ],
    chains: [...(dns ? [dnsReply] : []), preMark(dns), ...(dns ? [dnsMark] : []), outMark(dns), ...(inbound ? [preNat] : []), outNat(dns)],
  };
}

/**
 * What stays while captured connections live after un-enrolment: an output nat chain and a ct rule keep conntrack and its NAT alive, the mark
 * brings answers to spoofed sources home. Each of the three is needed.
 */
export const holderPlan: Plan = {
  capture: null,
  sets: [],
  chains: [
    { name: "h", base: { type: "nat", hook: "output", priority: DSTNAT }, rules: [] },
    {
      name: "m",
      base: { type: "route", hook: "output", priority: MANGLE },
      rules: [[connectionMarkIs(marks.mask, marks.reply), setMark(marks.reply)]],
    },
  ],
};

/** Before conntrack: the answer of the one DNS socket leaves as if from the server's port. */
const dnsReply: ChainPlan = {
  name: "dns_reply",
  base: { type: "filter", hook: "output", priority: RAW },
  rules: [[engineMark, portIs("udp", "sport", ports.dns), setSourcePort(DNS_PORT)]],
};

/** Prerouting only, where a mark can only stand on what came over lo: in output it would send the engine's own connections to loopback. */
const preMark = (dns: boolean): ChainPlan => ({
  name: "pre_mark",
  base: { type: "filter", hook: "prerouting", priority: MANGLE },
  rules: [
    [engineMark, setConnectionMark(marks.reply), accept],
    ...(dns
      ? families.map((ip) => [
          fromLoopback,
          markIs(marks.mask, marks.reply),
          family(ip),
          portIs("udp", "dport", DNS_PORT),
          tproxyTo(ip, ports.dns),
          accept,
        ])
      : []),
  ],
});

/** UDP cannot be redirected without losing the server that was asked: marked, routed to lo, taken there by tproxy. */
const dnsMark: ChainPlan = {
  name: "dns_mark",
  base: null,
  rules: [
    [portIn("udp", "dport", "skip_out_ports"), leave],
    [addressIn("ip", "daddr", "skip_out_v4"), leave],
    [addressIn("ip6", "daddr", "skip_out_v6"), leave],
    [setMark(marks.reply)],
  ],
};

/**
 * Type route: a changed mark makes the kernel route again. Already the first packet to the pod's own application needs it: a socket bound to
 * lo has no route of type local to the pod's address, and a kernel answers what came by another route without a RST when nobody listens.
 */
const outMark = (dns: boolean): ChainPlan => ({
  name: "out_mark",
  base: { type: "route", hook: "output", priority: MANGLE },
  rules: [
    [connectionMarkIs(marks.mask, marks.reply), setMark(marks.reply), accept],
    [engineMark, isTcp, toLoopback, setConnectionMark(marks.reply), setMark(marks.reply), accept],
    ...(dns
      ? [
          [toLoopback, accept],
          [engineMark, accept],
          [portIs("udp", "dport", DNS_PORT), jump("dns_mark")],
        ]
      : []),
  ],
});

const preNat: ChainPlan = {
  name: "pre_nat",
  base: { type: "nat", hook: "prerouting", priority: DSTNAT },
  rules: [
    [notSyn, accept],
    [notTcp, accept],
    [engineMark, accept],
    [prefixIs("ip", "daddr", "127.0.0.0", 8), accept],
    [addressIs("ip6", "daddr", "::1"), accept],
    [portIs("tcp", "dport", ports.hbone), accept],
    ...families.map((ip) => [addressIn(ip, "saddr", probeSet[ip]), portIn("tcp", "dport", "probe_ports"), accept]),
    [portIn("tcp", "dport", "skip_in_ports"), accept],
    [addressIn("ip", "saddr", "skip_in_v4"), accept],
    [addressIn("ip6", "saddr", "skip_in_v6"), accept],
    [isTcp, redirectTo(ports.inboundPlain)],
  ],
};

const outNat = (dns: boolean): ChainPlan => ({
  name: "out_nat",
  base: { type: "nat", hook: "output", priority: DSTNAT },
  rules: [
    [notSyn, accept],
    [notTcp, accept],
    [markIsOneOf(marks.mask, [marks.reply, marks.engine]), accept],
    [toLoopback, accept],
    // Before the exclusions: 169.254.0.0/16 is excluded often, and the proof must still arrive.
    [addressIs("ip", "daddr", addresses.proofV4), portIs("tcp", "dport", addresses.proofPort), redirectTo(ports.outbound)],
    [addressIs("ip6", "daddr", addresses.proofV6), portIs("tcp", "dport", addresses.proofPort), redirectTo(ports.outbound)],
    ...families.map((ip) => [addressIn(ip, "daddr", probeSet[ip]), accept]),
    [addressIn("ip", "daddr", "skip_out_v4"), accept],
    [addressIn("ip6", "daddr", "skip_out_v6"), accept],
    [portIn("tcp", "dport", "skip_out_ports"), accept],
    ...(dns ? [[portIs("tcp", "dport", DNS_PORT), redirectTo(ports.dns)]] : []),
    [isTcp, redirectTo(ports.outbound)],
  ],
});

const portSet = (name: string, wanted: readonly number[], interval: boolean): SetPlan => ({
  name,
  type: "inet_service",
  interval,
  elements: [...new Set(wanted)].sort((a, b) => a - b).map((port) => ({ text: String(port), json: port })),
});

/** nft refuses blocks that overlap, so what another block contains is left out. */
function addressSets(prefix: string, cidrs: readonly Cidr[]): SetPlan[] {
  const unique = [...new Map(cidrs.map((cidr) => [formatCidr(cidr), cidr])).values()];
  const outer = unique.filter((cidr) => !unique.some((other) => other !== cidr && cidrContains(other, cidr)));
  const elements = (v4: boolean): Element[] => outer.filter(({ address }) => isIpv4(address) === v4).map(blockElement);
  return [
    { name: `${prefix}_v4`, type: "ipv4_addr", interval: true, elements: elements(true) },
    { name: `${prefix}_v6`, type: "ipv6_addr", interval: true, elements: elements(false) },
  ];
}

function blockElement({ address, length }: Cidr): Element {
  const addr = formatAddress(address);
  if (length === address.length * 8) return { text: addr, json: addr };
  return { text: `${addr}/${length}`, json: { prefix: { addr, len: length } } };
}
