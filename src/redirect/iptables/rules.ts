// Capture in iptables' words: which chains of ours each table of one family holds, every rule spelled as iptables-save gives it back.
// RETURN stands where nftables accepts: an accept there ends one table's chain, here it would end everybody's.
import { addresses, marks, ports } from "#contract/tables.ts";
import { type Cidr, formatCidr, isIpv4 } from "#mesh/address.ts";
import type { CaptureSpec, Exclusion } from "#mesh/capture.ts";
import type { Family } from "../family.ts";
import { PREFIX } from "./chain.ts";

export type TableName = "mangle" | "raw" | "nat";
export type Chain = { readonly name: string; readonly hook: string | null; readonly rules: readonly string[] };
export type Tables = Readonly<Record<TableName, readonly Chain[]>>;

/** Each is a transaction of its own. nat captures, so it comes last and goes first. */
export const TABLES: readonly TableName[] = ["mangle", "raw", "nat"];

const DNS_PORT = 53;

const hex = (value: number): string => `0x${value.toString(16)}`;
const marked = (mark: number): string => `-m mark --mark ${hex(mark)}/${hex(marks.mask)}`;
const ENGINE = marked(marks.engine);
const REPLY = marked(marks.reply);
const OF_ENGINE = `-m connmark --mark ${hex(marks.reply)}/${hex(marks.mask)}`;
const SET_MARK = `-j MARK --set-xmark ${hex(marks.reply)}/0xffffffff`;
const SET_CONNECTION_MARK = `-j CONNMARK --set-xmark ${hex(marks.reply)}/0xffffffff`;
const RETURN = "-j RETURN";
const TO_LOOPBACK = `-o lo ${RETURN}`;
const tcpTo = (port: number): string => `-p tcp -m tcp --dport ${port}`;
const redirect = (port: number): string => `-j REDIRECT --to-ports ${port}`;

const name = (suffix: string): string => `${PREFIX}${suffix}`;

/** The same for both families but for addresses. */
export function tablesOf(capture: CaptureSpec | null, family: Family): Tables {
  const none: readonly Chain[] = [];
  if (capture === null) return { mangle: [holderMarks], raw: none, nat: [chain("OUT_NAT", "OUTPUT", [])] };
  const { inbound, dns } = capture;
  return {
    mangle: [preMark(dns, family), outMark(dns), replyMark, ...(dns ? [dnsMark(capture, family)] : [])],
    raw: dns ? [untracked(capture, family)] : none,
    nat: [...(inbound ? [preNat(capture, family)] : []), outNat(capture, family), ...(dns ? [dnsReply] : [])],
  };
}

const chain = (suffix: string, hook: string | null, rules: readonly string[]): Chain => ({ name: name(suffix), hook, rules });

const comesHome = [`${OF_ENGINE} ${SET_MARK}`, `${OF_ENGINE} ${RETURN}`];

/** A connmark match keeps conntrack at work, an empty nat chain its NAT; see the holder of nftables. */
const holderMarks = chain("OUT_MARK", "OUTPUT", comesHome);

const preMark = (dns: boolean, family: Family): Chain =>
  chain("PRE_MARK", "PREROUTING", [
    `${ENGINE} ${SET_CONNECTION_MARK}`,
    `${ENGINE} ${RETURN}`,
    ...(dns
      ? [
          `-i lo -p udp ${REPLY} -m udp --dport ${DNS_PORT} -j TPROXY --on-port ${ports.dns} --on-ip ${family === 4 ? "0.0.0.0" : "::"} --tproxy-mark 0x0/0x0`,
        ]
      : []),
  ]);

const outMark = (dns: boolean): Chain =>
  chain("OUT_MARK", "OUTPUT", [
    ...comesHome,
    `-o lo -p tcp ${ENGINE} -j ${name("REPLY_MARK")}`,
    ...(dns ? [TO_LOOPBACK, `${ENGINE} ${RETURN}`, `-p udp -m udp --dport ${DNS_PORT} -j ${name("DNS_MARK")}`] : []),
  ]);

/** A chain of its own, since the first rule's mark would keep a second rule with the same match from matching. */
const replyMark = chain("REPLY_MARK", null, [SET_CONNECTION_MARK, SET_MARK]);

const dnsMark = (capture: CaptureSpec, family: Family): Chain =>
  chain("DNS_MARK", null, [...passedDns(capture.excludeOutbound, family), SET_MARK]);

/**
 * iptables cannot rewrite a port without conntrack. So the question goes untracked, and the answer is a connection of its own that NAT lets
 * leave from port 53; with a tracked question NAT would find that port taken.
 */
const untracked = (capture: CaptureSpec, family: Family): Chain =>
  chain("DNS_RAW", "OUTPUT", [
    TO_LOOPBACK,
    `${ENGINE} ${RETURN}`,
    ...passedDns(capture.excludeOutbound, family),
    `-p udp -m udp --dport ${DNS_PORT} -j CT --notrack`,
  ]);

const dnsReply = chain("DNS_REPLY", "POSTROUTING", [`-p udp ${ENGINE} -m udp --sport ${ports.dns} -j SNAT --to-source :${DNS_PORT}`]);

const passedDns = ({ ports: excluded, cidrs }: Exclusion, family: Family): string[] => [
  ...(excluded.includes(DNS_PORT) ? [RETURN] : []),
  ...blocks("-d", cidrs, family),
];

const NOT_NEW_TCP = [`-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN ${RETURN}`, `! -p tcp ${RETURN}`];

const preNat = (capture: CaptureSpec, family: Family): Chain =>
  chain("PRE_NAT", "PREROUTING", [
    ...NOT_NEW_TCP,
    `${ENGINE} ${RETURN}`,
    `-d ${family === 4 ? "127.0.0.0/8" : "::1/128"} ${RETURN}`,
    `${tcpTo(ports.hbone)} ${RETURN}`,
    ...unique(capture.probePorts).map((port) => `-s ${probe(family)} ${tcpTo(port)} ${RETURN}`),
    ...unique(capture.excludeInbound.ports).map((port) => `${tcpTo(port)} ${RETURN}`),
    ...blocks("-s", capture.excludeInbound.cidrs, family),
    `-p tcp ${redirect(ports.inboundPlain)}`,
  ]);

const outNat = (capture: CaptureSpec, family: Family): Chain =>
  chain("OUT_NAT", "OUTPUT", [
    ...NOT_NEW_TCP,
    `${REPLY} ${RETURN}`,
    `${ENGINE} ${RETURN}`,
    TO_LOOPBACK,
    // Before the exclusions: 169.254.0.0/16 is excluded often, and the proof must still arrive.
    `-d ${proof(family)} ${tcpTo(addresses.proofPort)} ${redirect(ports.outbound)}`,
    `-d ${probe(family)} ${RETURN}`,
    ...blocks("-d", capture.excludeOutbound.cidrs, family),
    ...unique(capture.excludeOutbound.ports).map((port) => `${tcpTo(port)} ${RETURN}`),
    ...(capture.dns ? [`${tcpTo(DNS_PORT)} ${redirect(ports.dns)}`] : []),
    `-p tcp ${redirect(ports.outbound)}`,
  ]);

const probe = (family: Family): string => (family === 4 ? `${addresses.probeV4}/32` : `${addresses.probeV6}/128`);
const proof = (family: Family): string => (family === 4 ? `${addresses.proofV4}/32` : `${addresses.proofV6}/128`);

const unique = (numbers: readonly number[]): number[] => [...new Set(numbers)].sort((a, b) => a - b);

/** A block of everything is written as no condition at all. */
function blocks(side: "-s" | "-d", cidrs: readonly Cidr[], family: Family): string[] {
  const mine = cidrs.filter(({ address }) => isIpv4(address) === (family === 4));
  const conditions = mine.map((cidr) => (cidr.length === 0 ? RETURN : `${side} ${formatCidr(cidr)} ${RETURN}`));
  return [...new Set(conditions)];
}
