// What would become of a connection, as people read it: where it leads, each way with every policy, and the verdict.
import type { ExplainedConnection } from "#inspect/eval/ask-connection.ts";
import type { Considered, Effect, Judgement, Resolution, ToldRequest, Verdict, Way } from "#inspect/eval/contract.ts";
import { paint, type Style, table } from "../table.ts";

const STYLE: Readonly<Record<Verdict, Style>> = { allowed: "green", denied: "red", failed: "yellow", depends: "yellow" };

const SAYS: Readonly<Record<Effect, string>> = {
  denies: "DENY, and it matches",
  invalid: "cannot be used, so it denies",
  unknown: "is named by the workload and not known, so it denies",
  allows: "ALLOW, and it matches",
  allowsOthers: "ALLOW, and no rule matches",
  deniesOthers: "DENY, and no rule matches",
  asks: "CUSTOM, and it matches: its provider is asked",
};

export function connectionPage({ source, destination, answer, rejected, contradicted }: ExplainedConnection, from: string): string {
  const who =
    "workload" in source ? `${nameOf(source.workload.uid)} (${source.workload.identity}, ${source.workload.node})` : source.address;
  const { resolution, ways, moreWays, requests } = answer;
  const to = destination.host.includes(":") ? `[${destination.host}]:${destination.port}` : `${destination.host}:${destination.port}`;
  return [
    `${paint(`${who} → ${to}`, "bold")}\n${paint(`asked of ${from}`, "dim")}`,
    resolution === null ? "" : resolutionPage(resolution),
    ...ways.map((way) => wayPage(way, "")),
    ...requests.map(requestText),
    moreWays ? "and further endpoints of the same service" : "",
    ...contradicted.map(
      (one) => `${paint(`${one.node} holds another state and has the last word`, "yellow")}: ${nameOf(one.endpoint)}: ${judged(one)}`,
    ),
    ...rejected.map(({ name, code, reason }) => `${code}: ${name} cannot be used: ${reason}`),
    judged(answer),
  ]
    .filter(Boolean)
    .join("\n\n");
}

function resolutionPage({ hostname, addresses, service, waypoints, endpoints, moreEndpoints }: Resolution): string {
  const facts = [
    hostname === null ? "" : `${hostname} is ${addresses.join(", ")}`,
    service === null ? (hostname === null ? `${addresses.join(", ")} is no service's address` : "") : `service ${service}`,
    waypoints.length === 0 ? "" : `by waypoint ${waypoints.join(" or ")}`,
  ].filter(Boolean);
  if (endpoints.length === 0) return facts.join("\n");
  const rows = endpoints.map(({ workload, node, addresses, port, inMesh, rank, unusable }) => [
    nameOf(workload),
    node,
    `${addresses[0] ?? "-"}${port === null ? "" : ` port ${port}`}`,
    inMesh ? "yes" : "no",
    unusable === null ? (rank === 0 || rank === null ? "yes" : `after nearer ones (rank ${rank})`) : paint(UNUSABLE[unusable], "yellow"),
  ]);
  const more = moreEndpoints === 0 ? "" : `\nand ${moreEndpoints} more`;
  return `${facts.join("\n")}\n\n${table(["ENDPOINT", "NODE", "ADDRESS", "IN THE MESH", "CAN BE CHOSEN"], rows)}${more}`;
}

const UNUSABLE = {
  failed: "failed just now",
  elsewhere: "no address on this network",
  unhealthy: "not ready",
  withoutPort: "does not serve the port",
  far: "outside the service's locality",
} as const;

function wayPage(way: Way, indent: string): string {
  const { path, endpoint, node, address, considered, behind } = way;
  const to = endpoint === null ? address : `${nameOf(endpoint)} on ${node}, ${address}`;
  const head = `${indent}${paint(path, "bold")} to ${to}: ${judged(way)}`;
  const policies = considered.map((one) => policyText(one, `${indent}  `));
  const none =
    considered.length > 0 || path === "waypoint"
      ? []
      : [`${indent}  ${paint(path === "plain" ? "outside the mesh: nothing of it decides" : "no policy applies", "dim")}`];
  return [head, ...policies, ...none, ...behind.map((one) => wayPage(one, `${indent}  `))].join("\n");
}

function policyText({ policy, effect, dryRun, rules }: Considered, indent: string): string {
  const decides = effect === "allows" || effect === "denies";
  const head = `${indent}${policy.name}: ${SAYS[effect]}${dryRun ? " (dry run: only told of)" : ""}`;
  const said = rules.flatMap(({ rule, matches, misses }) =>
    matches ? [`${indent}  rule ${rule} matches`] : misses.map((miss) => `${indent}  rule ${rule}: ${missText(miss)}`),
  );
  return [decides ? paint(head, effect === "denies" ? "red" : "green") : head, ...said].join("\n");
}

function missText({ field, wants, has }: Considered["rules"][number]["misses"][number]): string {
  if (has === "") return `${field}: ${wants}`;
  return field.includes(".not_") ? `${field} leaves out ${wants}, and it is ${has}` : `${field} wants ${wants}, has ${has}`;
}

function requestText(told: ToldRequest): string {
  const { service, port, considered, asked, route, backends } = told;
  const policies = considered.flatMap(({ policy, effect, dryRun, rules }) => [
    `  ${policy.name}: ${SAYS[effect]}${dryRun ? " (dry run: only told of)" : ""}`,
    ...rules.map(({ matches, clause, fields }, rule) =>
      matches
        ? `    rule ${rule} matches`
        : `    rule ${rule}: clause ${clause}: ${fields.join(" and ")} ${fields.length === 1 ? "does" : "do"} not hold`,
    ),
  ]);
  const to = backends
    .map(({ service, port, weight }) => `${service} port ${port}${backends.length === 1 ? "" : ` (weight ${weight})`}`)
    .join(", ");
  const rule = route === null ? (to === "" ? "" : `  no route is attached: to ${to}`) : `  ${route}${to === "" ? "" : `: to ${to}`}`;
  return [
    `${paint("request", "bold")} for ${service} port ${port}: ${judged(told)}`,
    ...asked.map((one) => `  asks ${one}`),
    ...policies,
    ...(considered.length === 0 && told.verdict === "allowed" ? [`  ${paint("no policy applies", "dim")}`] : []),
    rule,
  ]
    .filter(Boolean)
    .join("\n");
}

function judged({ verdict, code, reason, policy, audit }: Judgement): string {
  const by = policy === null || reason !== "" ? "" : `by ${policy.name}${policy.rule === null ? "" : ` rule ${policy.rule}`}`;
  const dry = audit === null ? "" : paint(`; dry run would deny: ${audit.code}: ${audit.reason}`, "yellow");
  return `${[paint(verdict, STYLE[verdict]), by, [code, reason].filter(Boolean).join(": ")].filter(Boolean).join(" ")}${dry}`;
}

/** "shop/web" of "Kubernetes//Pod/shop/web"; what is no pod as it is. */
const nameOf = (uid: string): string => /^[^/]*\/\/Pod\/(.+)$/.exec(uid)?.[1] ?? uid;
