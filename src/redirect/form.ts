// One normal form for tables, from a plan and from what nft reads back, so that comparing them is comparing lines.
import { formatAddress, parseAddress } from "#mesh/address.ts";
import type { TableForm } from "./backend.ts";
import { type Plan, TABLE } from "./plan.ts";

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

/** The objects of `nft -j list ruleset`, each with its kind: table, chain, rule, set ... */
export function rulesetObjects(ruleset: unknown): readonly { readonly kind: string; readonly fields: Fields }[] {
  if (!isFields(ruleset) || !Array.isArray(ruleset["nftables"])) throw new TypeError("nft -j wrote no ruleset");
  return ruleset["nftables"]
    .filter(isFields)
    .flatMap((entry) => Object.entries(entry).flatMap(([kind, fields]) => (isFields(fields) ? [{ kind, fields }] : [])));
}

/** What the plan's table looks like once it is in the kernel. */
export function expected(plan: Plan): TableForm {
  const owner = { family: "inet", table: TABLE };
  return normalise([
    { kind: "table", fields: { family: "inet", name: TABLE } },
    ...plan.sets.map(({ name, type, interval, elements }) => ({
      kind: "set",
      fields: {
        ...owner,
        name,
        type,
        ...(interval ? { flags: ["interval"] } : {}),
        ...(elements.length === 0 ? {} : { elem: elements.map(({ json }) => json) }),
      },
    })),
    ...plan.chains.flatMap(({ name, base, rules }) => [
      {
        kind: "chain",
        fields: { ...owner, name, ...(base === null ? {} : { type: base.type, hook: base.hook, prio: base.priority, policy: "accept" }) },
      },
      ...rules.map((statements) => ({ kind: "rule", fields: { ...owner, chain: name, expr: statements.map(({ json }) => json) } })),
    ]),
  ]);
}

/** Our table out of a ruleset, null when there is none. */
export function tableForm(ruleset: unknown): TableForm | null {
  const ours = rulesetObjects(ruleset).filter(
    ({ kind, fields }) => fields["family"] === "inet" && (kind === "table" ? fields["name"] : fields["table"]) === TABLE,
  );
  return ours.length === 0 ? null : normalise(ours);
}

function normalise(objects: readonly { readonly kind: string; readonly fields: Fields }[]): TableForm {
  const position = new Map<string, number>();
  const lines = objects.map(({ kind, fields: { handle: _handle, ...fields } }) => {
    if (kind !== "rule") return `${kind} ${String(fields["name"])} ${canonical(kind === "set" ? setForm(fields) : fields)}`;
    const chain = String(fields["chain"]);
    const index = position.get(chain) ?? 0;
    position.set(chain, index + 1);
    return `rule ${chain} ${String(index).padStart(4, "0")} ${canonical(fields)}`;
  });
  return lines.sort();
}

/** Elements in one order and one spelling: the kernel sorts them, and nft writes some IPv6 addresses with dots. */
function setForm(set: Fields): Fields {
  const elements: unknown[] = Array.isArray(set["elem"]) ? set["elem"] : [];
  const { elem: _elem, ...rest } = set;
  return elements.length === 0 ? rest : { ...rest, elem: elements.map((one) => canonical(spell(one))).sort() };
}

function spell(element: unknown): unknown {
  if (typeof element === "string") {
    const bytes = parseAddress(element);
    return bytes === null ? element : formatAddress(bytes);
  }
  if (!isFields(element) || !isFields(element["prefix"])) return element;
  return { prefix: { ...element["prefix"], addr: spell(element["prefix"]["addr"]) } };
}

/** nft names protocols by /etc/protocols, which an image may not have. */
const PROTOCOLS: ReadonlyMap<unknown, string> = new Map([
  [6, "tcp"],
  [17, "udp"],
]);
const isProtocol = (left: unknown): boolean => isFields(left) && isFields(left["meta"]) && left["meta"]["key"] === "l4proto";

/** JSON with sorted keys; counters without their values; one spelling for what nft versions write differently. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (key, inner: unknown) => {
    if (key === "counter") return null;
    if (key === "flags" && typeof inner === "string") return [inner];
    if (!isFields(inner)) return inner;
    if (Array.isArray(inner["|"])) return inner["|"].flat(Infinity);
    const named = isProtocol(inner["left"]) ? { ...inner, right: PROTOCOLS.get(inner["right"]) ?? inner["right"] } : inner;
    return Object.fromEntries(Object.entries(named).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  });
}
