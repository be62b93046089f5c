// Between our chains and iptables' text: what iptables-save says of them, and the script that brings one family from there to what is wanted.
import { formatAddress, parseAddress } from "#mesh/address.ts";
import type { TableForm } from "../backend.ts";
import type { Family } from "../family.ts";
import { PREFIX } from "./chain.ts";
import { type Chain, TABLES, type TableName, type Tables } from "./rules.ts";

type Line = { readonly chain: string; readonly index: number; readonly rule: string };

/** Everything of ours in one table. */
export type Saved = {
  readonly chains: readonly string[];
  readonly rules: readonly Line[];
  /** Rules in others' chains that lead to ours. */
  readonly jumps: readonly Line[];
};

const EMPTY: Saved = { chains: [], rules: [], jumps: [] };

const isTable = (name: string): name is TableName => TABLES.some((table) => table === name);

export function parseSaved(text: string): ReadonlyMap<TableName, Saved> {
  const found = new Map<TableName, Saved>();
  for (const section of text.split(/^\*/m).slice(1)) {
    const [table = "", ...lines] = section.split("\n");
    if (!isTable(table.trim())) continue;
    const position = new Map<string, number>();
    const rules = lines.flatMap((line): Line[] => {
      const [, chain, rule] = /^-A (\S+) (.*)$/.exec(line) ?? [];
      if (chain === undefined || rule === undefined) return [];
      const index = position.get(chain) ?? 0;
      position.set(chain, index + 1);
      return [{ chain, index, rule: spelled(rule.trim()) }];
    });
    const ours = lines.flatMap((line) => /^:(\S+) /.exec(line)?.[1] ?? []).filter((name) => name.startsWith(PREFIX));
    const saved: Saved = {
      chains: ours,
      rules: rules.filter(({ chain }) => ours.includes(chain)),
      jumps: rules.filter(({ chain, rule }) => !ours.includes(chain) && leadsToUs(rule)),
    };
    if (saved.chains.length + saved.jumps.length > 0) found.set(table.trim() as TableName, saved);
  }
  return found;
}

const leadsToUs = (rule: string): boolean => new RegExp(`-[jg] ${PREFIX}`).test(rule);

/** One spelling of addresses: the C library writes some IPv6 addresses with dots. */
const spelled = (rule: string): string =>
  rule.replace(/(-[sd]) ([0-9a-f:.]+)\/(\d+)/gi, (whole, side: string, host: string, length: string) => {
    // An IPv4-mapped address is IPv6 here, whatever it is elsewhere.
    const bytes = host.includes(":") && /^::ffff:/i.test(host) ? null : parseAddress(host);
    return bytes === null ? whole : `${side} ${formatAddress(bytes)}/${length}`;
  });

/** One family in lines that can be compared; null when nothing of ours is there. */
export function savedForm(family: Family, saved: ReadonlyMap<TableName, Saved>): TableForm {
  return [...saved].flatMap(([table, { chains, rules, jumps }]) => [
    ...chains.map((name) => chainLine(family, table, name)),
    ...[...rules, ...jumps].map((line) => ruleLine(family, table, line)),
  ]);
}

export function wantedForm(family: Family, tables: Tables): TableForm {
  return TABLES.flatMap((table) =>
    tables[table].flatMap(({ name, hook, rules }) => [
      chainLine(family, table, name),
      ...rules.map((rule, index) => ruleLine(family, table, { chain: name, index, rule })),
      ...(hook === null ? [] : [ruleLine(family, table, { chain: hook, index: 0, rule: `-j ${name}` })]),
    ]),
  );
}

const chainLine = (family: Family, table: TableName, name: string): string => `IPv${family} ${table} chain ${name}`;
const ruleLine = (family: Family, table: TableName, { chain, index, rule }: Line): string =>
  `IPv${family} ${table} rule ${chain} ${String(index).padStart(4, "0")} ${rule}`;

/** For `iptables-restore --noflush`: each table is replaced in one transaction, and nothing of others is named. */
export function renderRestore(wanted: Tables, saved: ReadonlyMap<TableName, Saved>): string {
  return TABLES.map((table) => renderTable(table, wanted[table], saved.get(table) ?? EMPTY)).join("");
}

const NOTHING: Tables = { mangle: [], raw: [], nat: [] };

/** What captures goes first. */
export const renderPurge = (saved: ReadonlyMap<TableName, Saved>): string =>
  TABLES.toReversed()
    .map((table) => renderTable(table, NOTHING[table], saved.get(table) ?? EMPTY))
    .join("");

function renderTable(table: TableName, wanted: readonly Chain[], { chains, jumps }: Saved): string {
  const names = wanted.map(({ name }) => name);
  const dropped = chains.filter((name) => !names.includes(name));
  const lines = [
    // Naming a chain makes it, or empties it.
    ...[...names, ...dropped].map((name) => `:${name} - [0:0]`),
    ...jumps.map(({ chain, rule }) => `-D ${chain} ${rule}`),
    ...wanted.flatMap(({ name, rules }) => rules.map((rule) => `-A ${name} ${rule}`)),
    // First, before whatever else stands there; also when others came before us since.
    ...wanted.flatMap(({ name, hook }) => (hook === null ? [] : [`-I ${hook} 1 -j ${name}`])),
    ...dropped.map((name) => `-X ${name}`),
  ];
  return lines.length === 0 ? "" : `*${table}\n${lines.join("\n")}\nCOMMIT\n`;
}
