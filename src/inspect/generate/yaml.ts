// Least-privilege policies as YAML that people read before they apply it: what was seen, how often, and what to look at, as comments.
import { DRY_RUN } from "#mesh/dry-run.ts";
import type { Observations, Observed } from "../observed.ts";
import type { Least, LeastRule, LeastWorkload } from "./least.ts";

/** Of what was refused, and of what was never seen, this much is listed. */
const LISTED = 20;
/** Names are DNS subdomains. */
const NAME_CHARACTERS = 253;
export const NOTHING_ELSE = "least-nothing-else";

export type Coverage = Pick<Observations, "unnamed" | "missing"> & {
  readonly requests: number;
  readonly edges: number;
  readonly connections: number;
  readonly first: string | null;
  readonly last: string | null;
};

export const coverageOf = ({ edges, requests, unnamed, missing }: Observations, namespace: string): Coverage => {
  const here = edges.filter(({ destination }) => destination.namespace === namespace);
  const [first] = here.map(({ first }) => first).sort();
  return {
    edges: here.length,
    connections: here.reduce((sum, { connections }) => sum + connections, 0),
    first: first ?? null,
    last:
      here
        .map(({ last }) => last)
        .sort()
        .at(-1) ?? null,
    requests: requests.filter(({ service }) => service?.startsWith(`${namespace}/`)).reduce((sum, { requests }) => sum + requests, 0),
    unnamed,
    missing,
  };
};

export function leastYaml(least: Least, coverage: Coverage, dryRun: boolean): string {
  const { namespace, workloads, unselectable } = least;
  const all = [
    ...workloads.map((one) => workloadYaml(one, namespace, dryRun)),
    ...(unselectable.length > 0 ? [] : [nothingElse(namespace, dryRun)]),
  ];
  return `${headOf(least, coverage, dryRun)}---\n${all.join("---\n")}`;
}

function headOf({ namespace, unselectable, neverSeen }: Least, coverage: Coverage, dryRun: boolean): string {
  const { edges, connections, first, last, unnamed, requests, missing } = coverage;
  const lines = [
    `Least privilege for namespace ${namespace}, from what was seen.`,
    edges === 0
      ? "Nothing was seen: these policies admit nobody."
      : `Seen: ${connections} connections of ${edges} edges, ${first} to ${last}${lasting(first, last)}.`,
    ...missing.map((one) => `Not in it: ${one}.`),
    ...(unnamed > 0 ? [`${unnamed} connections were not told apart when they were counted: who made them is not in here.`] : []),
    ...(requests > 0
      ? [`${requests} requests passed a waypoint. At its pods the waypoint is the client: who may ask what of it is not in here.`]
      : []),
    ...(unselectable.length > 0
      ? [
          `Not in here, because their pods have no labels by which a policy could pick them: ${unselectable.join(", ")}. Others are therefore not refused.`,
        ]
      : []),
    ...(neverSeen.length > 0
      ? ["Declared and never seen:", ...neverSeen.slice(0, LISTED).map((one) => `  ${one}`), ...more(neverSeen.length)]
      : []),
    dryRun
      ? `${DRY_RUN}: nothing is refused yet. trackbed_policy_dry_run_denied_total and \`trackbed flows\` say what would be.`
      : "These policies are enforced.",
  ];
  return lines.map((line) => `# ${line}\n`).join("");
}

function lasting(first: string | null, last: string | null): string {
  if (first === null || last === null) return "";
  const minutes = Math.round((Date.parse(last) - Date.parse(first)) / 60_000);
  const hours = Math.round(minutes / 60);
  return ` (${minutes < 120 ? `${minutes} minutes` : hours < 72 ? `${hours} hours` : `${Math.round(hours / 24)} days`})`;
}

const more = (count: number): string[] => (count > LISTED ? [`  and ${count - LISTED} more`] : []);

function workloadYaml({ names, selector, rules, refused }: LeastWorkload, namespace: string, dryRun: boolean): string {
  const name = `least-${names.join("-").toLowerCase()}`.slice(0, NAME_CHARACTERS).replace(/[^a-z0-9]+$/, "");
  const labels = Object.entries(selector).map(([key, value]) => `      ${JSON.stringify(key)}: ${JSON.stringify(value)}\n`);
  const left = refused
    .slice(0, LISTED)
    .map((edge) => `# Refused while it was watched, and left out: ${sourceOf(edge)} at port ${edge.port}, ${times(edge.connections)}\n`);
  const seen = rules.length === 0 ? "  # Nobody was seen.\n  rules: []\n" : `  rules:\n${rules.map(ruleYaml).join("")}`;
  return `${left.join("")}${head(name, namespace, dryRun)}  selector:\n    matchLabels:\n${labels.join("")}  action: ALLOW\n${seen}`;
}

function ruleYaml({ principals, addresses, plaintext, ports, rare, connections }: LeastRule): string {
  const comment = `    # ${rare ? "RARE, look at it: " : ""}seen ${times(connections)}${plaintext ? ", without an identity: clients outside the mesh" : ""}\n`;
  const blocks =
    addresses.length === 0 ? "" : `            ipBlocks: [${addresses.map((address) => JSON.stringify(address)).join(", ")}]\n`;
  const source = plaintext
    ? `            notPrincipals: ["*"]\n${blocks}`
    : `            principals:\n${principals.map((principal) => `              - ${JSON.stringify(principal)}\n`).join("")}`;
  return `${comment}    - from:\n        - source:\n${source}      to:\n        - operation:\n            ports: [${ports.map((port) => `"${port}"`).join(", ")}]\n`;
}

/** An ALLOW that admits nobody: what no other ALLOW admits is refused. */
const nothingElse = (namespace: string, dryRun: boolean): string =>
  `# Whatever no policy above admits.\n${head(NOTHING_ELSE, namespace, dryRun)}  action: ALLOW\n  rules: []\n`;

const head = (name: string, namespace: string, dryRun: boolean): string => `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: ${name}
  namespace: ${namespace}
  annotations:
    ${DRY_RUN}: "${dryRun}"
spec:
`;

const times = (count: number): string => (count === 1 ? "once" : `${count} times`);

const sourceOf = ({ source }: Observed): string =>
  source.identity ?? `plaintext from ${source.addresses.join(", ") || "an address that is not known"}`;
