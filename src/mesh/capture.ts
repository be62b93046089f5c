// What of a pod's traffic is captured: the pod's annotations, read strictly and typed, so that nothing behind this file sees their text.
import { annotations } from "#contract/tables.ts";
import { type Cidr, parseCidr } from "./address.ts";
import type { Namespace, ObjectMeta, Pod } from "./objects.ts";

export type Exclusion = { readonly ports: readonly number[]; readonly cidrs: readonly Cidr[] };

export type CaptureSpec = {
  /** False for pods that only send into the mesh, such as ingress controllers. */
  readonly inbound: boolean;
  readonly dns: boolean;
  readonly excludeOutbound: Exclusion;
  readonly excludeInbound: Exclusion;
  /** Ports on which the kubelet's probe address passes without the mesh. */
  readonly probePorts: readonly number[];
};

/** An annotation that is not honoured. The pod is captured as if it were absent: more is captured, never less. */
export type AnnotationFault = { readonly annotation: string; readonly value: string; readonly reason: string };

/** Longest list in one annotation: far above any real one, and its rules stay below a page of netlink messages. */
const LIST_ITEMS = 256;

export function captureSpec(
  namespace: Namespace | undefined,
  pod: Pod,
): { readonly spec: CaptureSpec; readonly faults: readonly AnnotationFault[] } {
  const faults: AnnotationFault[] = [];
  const read = <T>(meta: ObjectMeta | undefined, annotation: string, absent: T, parse: (value: string) => T | string): T => {
    const value = meta?.annotations[annotation];
    if (value === undefined) return absent;
    const parsed = parse(value);
    if (typeof parsed !== "string") return parsed;
    faults.push({ annotation, value, reason: parsed });
    return absent;
  };
  const exclusion = (ports: string, cidrs: string): Exclusion => ({
    ports: read(pod.metadata, ports, [], (value) => parseList(value, parsePort, "a port from 1 to 65535")),
    cidrs: read(pod.metadata, cidrs, [], (value) => parseList(value, parseCidr, "an IP address or CIDR block")),
  });
  const dnsOfNamespace = read(namespace?.metadata, annotations.dnsCapture, { on: true }, parseSwitch);
  const spec: CaptureSpec = {
    inbound: read(pod.metadata, annotations.capture, { inbound: true }, parseCapture).inbound,
    dns: read(pod.metadata, annotations.dnsCapture, dnsOfNamespace, parseSwitch).on,
    excludeOutbound: exclusion(annotations.excludeOutboundPorts, annotations.excludeOutboundCidrs),
    excludeInbound: exclusion(annotations.excludeInboundPorts, annotations.excludeInboundCidrs),
    probePorts: pod.probePorts,
  };
  return { spec, faults };
}

/** A decimal port from 1 to 65535 without sign, space or leading zero; null otherwise. */
export function parsePort(text: string): number | null {
  const port = /^[1-9][0-9]{0,4}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65535 ? port : null;
}

const parseSwitch = (value: string): { readonly on: boolean } | string =>
  value === "enabled" ? { on: true } : value === "disabled" ? { on: false } : "must be enabled or disabled";

const parseCapture = (value: string): { readonly inbound: boolean } | string =>
  value === "outbound" ? { inbound: false } : "must be outbound";

/** Comma list; blanks around items are allowed, empty items are not. One bad item refuses the list. */
export function parseList<T>(value: string, parse: (item: string) => T | null, expected: string): T[] | string {
  if (value.trim() === "") return [];
  const items = value.split(",").map((item) => item.trim());
  if (items.length > LIST_ITEMS) return `has ${items.length} items, at most ${LIST_ITEMS} are allowed`;
  const parsed: T[] = [];
  for (const item of items) {
    const one = parse(item);
    if (one === null) return `${JSON.stringify(item)} is not ${expected}`;
    parsed.push(one);
  }
  return parsed;
}
