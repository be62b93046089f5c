// Plans as the text that nft and ip take: always the whole table in one transaction, never a flush or a delete on its own.
import { marks } from "#contract/tables.ts";
import { type ChainPlan, holderPlan, type Plan, type SetPlan, TABLE } from "./plan.ts";

/** Create-if-missing first, so that the delete after it never fails; with what follows it is one transaction. */
const REPLACE = `table inet ${TABLE} {}\ndelete table inet ${TABLE}\n`;

export const renderNft = (plan: Plan): string =>
  `${REPLACE}table inet ${TABLE} {\n${[...plan.sets.map(renderSet), ...plan.chains.map(renderChain)].join("")}}\n`;

export const renderHolder = (): string => renderNft(holderPlan);

/** Only without captured connections: they would die, or go on in clear. */
export const renderRemoval = (): string => REPLACE;

function renderSet({ name, type, interval, elements }: SetPlan): string {
  const flags = interval ? " flags interval;" : "";
  const list = elements.length === 0 ? "" : ` elements = { ${elements.map(({ text }) => text).join(", ")} }`;
  return `\tset ${name} { type ${type};${flags}${list} }\n`;
}

function renderChain({ name, base, rules }: ChainPlan): string {
  const hook = base === null ? "" : `\t\ttype ${base.type} hook ${base.hook} priority ${base.priority}; policy accept;\n`;
  return `\tchain ${name} {\n${hook}${rules.map((rule) => `\t\t${rule.map(({ text }) => text).join(" ")}\n`).join("")}\t}\n`;
}

export type Family = 4 | 6;

export const ROUTE_TABLE = String(marks.routeTable);
export const FWMARK = `0x${marks.reply.toString(16)}`;
export const FWMASK = `0x${marks.mask.toString(16)}`;

const RULE = `fwmark ${FWMARK}/${FWMASK} pref ${marks.rulePreference} lookup ${ROUTE_TABLE}`;
const route = (family: Family): string => `local ${family === 4 ? "0.0.0.0/0" : "::/0"} dev lo table ${ROUTE_TABLE}`;

/** Lines for `ip -batch` that bring one family from what is there to what is wanted: one rule and one route, or none. */
export function renderRouting(family: Family, wanted: boolean, present: { readonly rules: number; readonly routes: number }): string {
  const target = wanted ? 1 : 0;
  const lines = [
    ...Array<string>(Math.max(0, target - present.routes)).fill(`route add ${route(family)}`),
    ...Array<string>(Math.max(0, target - present.rules)).fill(`rule add ${RULE}`),
    ...Array<string>(Math.max(0, present.rules - target)).fill(`rule del ${RULE}`),
    ...Array<string>(Math.max(0, present.routes - target)).fill(`route del ${route(family)}`),
  ];
  return lines.map((line) => `${line}\n`).join("");
}
