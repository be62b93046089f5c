// What one node can and cannot do for the mesh, as its own check saw it; travels to the API server as a container's termination message.
import { z } from "zod";
import { type CheckCode, checks, type Finding, finding } from "./finding.ts";

/** What was tried on the node. A text is the reason why it failed. */
export type NodeFacts = {
  readonly kernel: string;
  /** Our rules, loaded into a network namespace made for it. */
  readonly rules: "work" | { readonly failed: string };
  readonly netns: "work" | { readonly failed: string };
  readonly cniBin: "writable" | { readonly failed: string };
  readonly cniConf: "writable" | { readonly failed: string };
  /** Names of other CNI configurations. */
  readonly cniConfigurations: readonly string[];
  readonly selinuxEnforcing: boolean;
  readonly cgroup: "v1" | "v2" | "both";
};

/** SO_NETNS_COOKIE, by which a namespace is told from its successor, is there since 5.14. */
const OLDEST_KERNEL = [5, 14] as const;
/** The kubelet keeps 4096 bytes of a termination message and cuts the rest, which would be no JSON any more. */
const MESSAGE_BYTES = 4096;
const REASON_CHARACTERS = 400;

const entry = z.object({ code: z.enum(Object.keys(checks) as [CheckCode, ...CheckCode[]]), message: z.string() });
const report = z.object({ trackbedNodeCheck: z.literal(1), kernel: z.string(), found: z.array(entry) });

export type NodeReport = z.infer<typeof report>;

export function kernelIsOld(release: string): boolean {
  const [, major = "0", minor = "0"] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  return Number(major) < OLDEST_KERNEL[0] || (Number(major) === OLDEST_KERNEL[0] && Number(minor) < OLDEST_KERNEL[1]);
}

export function nodeReport(facts: NodeFacts): NodeReport {
  const found: NodeReport["found"] = [];
  const note = (code: CheckCode, message: string): void => void found.push({ code, message: message.slice(0, REASON_CHARACTERS) });
  if (kernelIsOld(facts.kernel)) note("NODE_KERNEL", `Linux ${facts.kernel} is older than ${OLDEST_KERNEL.join(".")}`);
  if (facts.netns !== "work") note("NODE_NETNS", `a network namespace cannot be made and entered: ${facts.netns.failed}`);
  else if (facts.rules !== "work") note("NODE_RULES", `our capture rules cannot be loaded: ${facts.rules.failed}`);
  if (facts.cniBin !== "writable") note("NODE_CNI_BIN", `the CNI plugin directory cannot be written: ${facts.cniBin.failed}`);
  if (facts.cniConf !== "writable") note("NODE_CNI_CONF", `the CNI configuration directory cannot be written: ${facts.cniConf.failed}`);
  else if (facts.cniConfigurations.length === 0) note("NODE_CNI_NONE", "there is no CNI configuration that ours could be chained to");
  if (facts.selinuxEnforcing) note("NODE_SELINUX", "SELinux is enforcing");
  if (facts.cgroup === "v1") note("NODE_CGROUP", "the node has cgroup v1 only, so the kubelet cannot be told from other root processes");
  return { trackbedNodeCheck: 1, kernel: facts.kernel, found };
}

export const isUsable = ({ found }: NodeReport): boolean => found.every(({ code }) => checks[code].level !== "error");

/** Never longer than what the kubelet keeps: the least important entries go first. */
export function formatReport(whole: NodeReport): string {
  const found = [...whole.found].sort((a, b) => Number(checks[b.code].level === "error") - Number(checks[a.code].level === "error"));
  for (let count = found.length; ; count--) {
    const text = JSON.stringify({ ...whole, found: found.slice(0, count) });
    if (Buffer.byteLength(text) <= MESSAGE_BYTES || count === 0) return text;
  }
}

/** Null when the message is not a report: the container ended before it could write one. */
export function parseReport(message: string): NodeReport | null {
  try {
    return report.parse(JSON.parse(message));
  } catch {
    return null;
  }
}

export const reportFindings = (node: string, { found }: NodeReport): Finding[] =>
  found.map(({ code, message }) => finding(code, `node ${node}`, message));
