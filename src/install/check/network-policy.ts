// NetworkPolicies that admit ports of applications but not the mesh's own: between enrolled pods everything arrives on TCP 15008.
import type { V1LabelSelector, V1NetworkPolicy, V1NetworkPolicyPort, V1Pod } from "@kubernetes/client-node";
import { ports } from "#contract/tables.ts";
import { type Finding, finding } from "../finding.ts";

/** `pods` are those that are, or are to be, in the mesh. */
export const networkPolicyFindings = (policies: readonly V1NetworkPolicy[], pods: readonly V1Pod[]): Finding[] =>
  policies.flatMap((policy) => {
    const { namespace, name } = policy.metadata ?? {};
    const hit = pods.filter(
      ({ metadata }) => metadata?.namespace === namespace && selects(policy.spec?.podSelector, metadata?.labels ?? {}),
    );
    const shut = hit.length === 0 ? [] : closedRules(policy);
    if (shut.length === 0) return [];
    const whom = hit.length === 1 ? `pod ${hit[0]?.metadata?.name}` : `${hit.length} pods`;
    return [
      finding(
        "NETWORK_POLICY_HBONE",
        `NetworkPolicy ${namespace}/${name}`,
        `${shut.join(", ")} ${shut.length === 1 ? "admits" : "admit"} ports but not TCP ${ports.hbone}, for ${whom}`,
      ),
    ];
  });

/** Rules that let somebody in or out, only not to the port by which enrolled pods reach each other. */
function closedRules({ spec }: V1NetworkPolicy): string[] {
  const { ingress = [], egress = [] } = spec ?? {};
  return [
    ...ingress.flatMap(({ ports: list }, i) => (closes(list) ? [`spec.ingress[${i}]`] : [])),
    ...egress.flatMap(({ ports: list }, i) => (closes(list) && !isOnlyDns(list) ? [`spec.egress[${i}]`] : [])),
  ];
}

/** No list = every port. Only TCP rules count: what a rule admits for UDP alone is nobody's mesh traffic. */
function closes(list: readonly V1NetworkPolicyPort[] | undefined): boolean {
  if (list === undefined || list.length === 0) return false;
  const tcp = list.filter(({ protocol = "TCP" }) => protocol === "TCP");
  return tcp.length > 0 && !tcp.some(admitsHbone);
}

function admitsHbone({ port, endPort }: V1NetworkPolicyPort): boolean {
  if (port === undefined) return true;
  if (typeof port === "string") return port === String(ports.hbone); // a name is a port of the application's
  return port === ports.hbone || (endPort !== undefined && port <= ports.hbone && ports.hbone <= endPort);
}

/** The usual "may ask the DNS" rule: its server is outside the mesh or asked by our own capture, on port 53. */
const isOnlyDns = (list: readonly V1NetworkPolicyPort[] | undefined): boolean => (list ?? []).every(({ port }) => port === 53);

export function selects(selector: V1LabelSelector | undefined, labels: Readonly<Record<string, string>>): boolean {
  const { matchLabels = {}, matchExpressions = [] } = selector ?? {};
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values = [] }) => {
      const value = labels[key];
      if (operator === "Exists") return value !== undefined;
      if (operator === "DoesNotExist") return value === undefined;
      const among = value !== undefined && values.includes(value);
      return operator === "In" ? among : !among;
    })
  );
}
