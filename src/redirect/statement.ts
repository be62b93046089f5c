// One nftables statement in both of its spellings: the text that is applied and the JSON in which nft gives it back. Everything that is not
// a constant comes in as a number or from a closed set, so no text from outside can become a rule.
export type Statement = { readonly text: string; readonly json: unknown };

type Ip = "ip" | "ip6";

const hex = (value: number): string => `0x${value.toString(16)}`;

const match = (text: string, left: unknown, right: unknown, op = "=="): Statement => ({ text, json: { match: { op, left, right } } });
const meta = (key: string) => ({ meta: { key } });
const payload = (protocol: string, field: string) => ({ payload: { protocol, field } });

export const accept: Statement = { text: "accept", json: { accept: null } };
export const leave: Statement = { text: "return", json: { return: null } };
export const jump = (target: string): Statement => ({ text: `jump ${target}`, json: { jump: { target } } });

/** True for every packet but the first of a connection: what was open before the rules came stays as it is. */
export const notSyn: Statement = match(
  "tcp flags & (fin|syn|rst|ack) != syn",
  { "&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]] },
  "syn",
  "!=",
);
export const notTcp: Statement = match("meta l4proto != tcp", meta("l4proto"), "tcp", "!=");
export const isTcp: Statement = match("meta l4proto tcp", meta("l4proto"), "tcp");
export const family = (ip: Ip): Statement => {
  const name = ip === "ip" ? "ipv4" : "ipv6";
  return match(`meta nfproto ${name}`, meta("nfproto"), name);
};
export const fromLoopback: Statement = match('iifname "lo"', meta("iifname"), "lo");
export const toLoopback: Statement = match('oifname "lo"', meta("oifname"), "lo");

export const markIs = (mask: number, mark: number): Statement =>
  match(`meta mark & ${hex(mask)} == ${hex(mark)}`, { "&": [meta("mark"), mask] }, mark);
export const markIsOneOf = (mask: number, marks: readonly number[]): Statement =>
  match(`meta mark & ${hex(mask)} == { ${marks.map(hex).join(", ")} }`, { "&": [meta("mark"), mask] }, { set: marks });
export const connectionMarkIs = (mask: number, mark: number): Statement =>
  match(`ct mark & ${hex(mask)} == ${hex(mark)}`, { "&": [{ ct: { key: "mark" } }, mask] }, mark);
export const setMark = (mark: number): Statement => ({
  text: `meta mark set ${hex(mark)}`,
  json: { mangle: { key: meta("mark"), value: mark } },
});
export const setConnectionMark = (mark: number): Statement => ({
  text: `ct mark set ${hex(mark)}`,
  json: { mangle: { key: { ct: { key: "mark" } }, value: mark } },
});

export const portIs = (protocol: "tcp" | "udp", field: "sport" | "dport", port: number): Statement =>
  match(`${protocol} ${field} ${port}`, payload(protocol, field), port);
export const portIn = (protocol: "tcp" | "udp", field: "sport" | "dport", set: string): Statement =>
  match(`${protocol} ${field} @${set}`, payload(protocol, field), `@${set}`);
export const setSourcePort = (port: number): Statement => ({
  text: `udp sport set ${port}`,
  json: { mangle: { key: payload("udp", "sport"), value: port } },
});

export const addressIs = (ip: Ip, field: "saddr" | "daddr", address: string): Statement =>
  match(`${ip} ${field} ${address}`, payload(ip, field), address);
export const addressIn = (ip: Ip, field: "saddr" | "daddr", set: string): Statement =>
  match(`${ip} ${field} @${set}`, payload(ip, field), `@${set}`);
export const prefixIs = (ip: Ip, field: "saddr" | "daddr", address: string, length: number): Statement =>
  match(`${ip} ${field} ${address}/${length}`, payload(ip, field), { prefix: { addr: address, len: length } });

export const redirectTo = (port: number): Statement => ({ text: `redirect to :${port}`, json: { redirect: { port } } });
export const tproxyTo = (ip: Ip, port: number): Statement => ({ text: `tproxy ${ip} to :${port}`, json: { tproxy: { family: ip, port } } });
