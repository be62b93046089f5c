// Finds what is not ours in a namespace and would take packets before our rules do, or shows that another mesh owns the pod.
import type { Foreign } from "./backend.ts";
import { rulesetObjects } from "./form.ts";
import { PREFIX } from "./iptables/chain.ts";
import { TABLE } from "./plan.ts";

/** Names of tables and chains that meshes make, by their beginnings. */
const MESHES: readonly (readonly [RegExp, string])[] = [
  [/^istio[-_]/i, "Istio"],
  [/^PROXY_INIT_/, "Linkerd"],
  [/^linkerd/i, "Linkerd"],
  [/^(?:OLD_)?CILIUM[-_]/i, "Cilium"],
  [/^KUMA_/i, "Kuma"],
  [/^MESH_(?:INBOUND|OUTBOUND)/, "Kuma"],
  [/^CONSUL_/i, "Consul"],
  [/^APPMESH_/i, "App Mesh"],
  [/^ztunnel/i, "Istio"],
];

const DSTNAT = -100;
const MANGLE = -150;
/** A pod has a handful at most; the rest says nothing new. */
const MAX_FOREIGN = 20;

const meshOf = (name: string): string | undefined => MESHES.find(([pattern]) => pattern.test(name))?.[1];

export function foreignRules(ruleset: unknown): Foreign[] {
  const found: Foreign[] = [];
  const objects = rulesetObjects(ruleset);
  const rules = Map.groupBy(
    objects.filter(({ kind, fields }) => kind === "rule" && !leadsToUs(fields["expr"])),
    ({ fields }) => placeOf(fields["family"], fields["table"], fields["chain"]),
  );
  for (const { kind, fields } of objects) {
    const table = kind === "table" ? fields["name"] : fields["table"];
    if (fields["family"] === "inet" && table === TABLE) continue;
    if (kind === "table" || kind === "chain") {
      const mesh = meshOf(String(fields["name"]));
      const where =
        kind === "table" ? `table ${String(fields["family"])} ${String(table)}` : placeOf(fields["family"], table, fields["name"]);
      if (mesh !== undefined) found.push({ kind: "mesh", where, reason: `${mesh} captures this pod` });
    }
    if (kind === "chain") found.push(...precedence(fields, rules.get(placeOf(fields["family"], table, fields["name"])) ?? []));
  }
  return found.slice(0, MAX_FOREIGN);
}

/** iptables-nft hangs our chains into tables that look like anybody's. */
const leadsToUs = (expression: unknown): boolean => new RegExp(`"target":"${PREFIX}`).test(JSON.stringify(expression) ?? "");

const placeOf = (family: unknown, table: unknown, chain: unknown): string =>
  `table ${String(family)} ${String(table)}, chain ${String(chain)}`;

/** Equal priority counts as before ours: which of two runs first depends on which was made first, and ours is made anew at each repair. */
function precedence(
  chain: Readonly<Record<string, unknown>>,
  rules: readonly { readonly fields: Readonly<Record<string, unknown>> }[],
): Foreign[] {
  const { type, hook, prio } = chain;
  if (rules.length === 0 || typeof prio !== "number" || (hook !== "output" && hook !== "prerouting")) return [];
  const where = placeOf(chain["family"], chain["table"], chain["name"]);
  if (type === "nat" && prio <= DSTNAT)
    return [{ kind: "nat", where, reason: `its ${rules.length} nat rules run before ours (priority ${prio})` }];
  const marks = rules.some(({ fields }) => /"tproxy"|"mangle":\{"key":\{"(?:meta|ct)":\{"key":"mark"/.test(JSON.stringify(fields["expr"])));
  if (marks && prio <= MANGLE) return [{ kind: "mark", where, reason: `it changes marks before our rules (priority ${prio})` }];
  return [];
}

/** `tables` from /proc/net/ip_tables_names and its IPv6 twin; `saved` from iptables-legacy-save, null when that cannot be run. */
export function foreignLegacy(tables: readonly string[], saved: string | null): Foreign[] {
  const relevant = [...new Set(tables)].filter((name) => name === "nat" || name === "mangle" || name === "raw");
  if (relevant.length === 0) return [];
  const where = `iptables-legacy tables ${relevant.join(", ")}`;
  if (saved === null) return [{ kind: "legacy", where, reason: "they are in use and cannot be read here; their changes are not noticed" }];
  const mesh = [...saved.matchAll(/^:(\S+) /gm)].map(([, chain = ""]) => meshOf(chain)).find((name) => name !== undefined);
  if (mesh !== undefined) return [{ kind: "mesh", where, reason: `${mesh} captures this pod` }];
  return theirs(saved) ? [{ kind: "legacy", where, reason: "their rules may run before ours, and their changes are not noticed" }] : [];
}

const OURS = new RegExp(`^-A (?:${PREFIX}|\\S+ .*-[jg] ${PREFIX})`);
const theirs = (saved: string): boolean => saved.split("\n").some((line) => line.startsWith("-A ") && !OURS.test(line));

/** Another mesh by its chains in what iptables-save wrote of one family. Rules before ours are no matter: ours are put first again. */
export function foreignChains(family: string, saved: string): Foreign[] {
  const chains = [...saved.matchAll(/^:(\S+) /gm)].map(([, chain = ""]) => chain);
  const found = chains.flatMap((chain): Foreign[] => {
    const mesh = meshOf(chain);
    return mesh === undefined ? [] : [{ kind: "mesh", where: `${family} chain ${chain}`, reason: `${mesh} captures this pod` }];
  });
  return found.slice(0, MAX_FOREIGN);
}
