// Plans as the text that nft and ip take: always the whole table in one transaction, never a flush or a delete on its own.
import { marks } from "#contract/tables.ts";
import type { Family } from "./family.ts";
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

export const ROUTE_TABLE = String(marks.routeTable);
const hex = (value: number): string => `0x${value.toString(16)}`;
export const FWMARK = hex(marks.reply);
export const FWMARK_ENGINE = hex(marks.engine);
export const FWMASK = hex(marks.mask);

const TO_TABLE = `pref ${marks.rulePreference} lookup ${ROUTE_TABLE}`;
/** Replies to the engine come back to it. */
const RULE = `fwmark ${FWMARK}/${FWMASK} ${TO_TABLE}`;
/**
 * IPv6 alone: the engine's sockets that are bound to lo find a route there, as IPv4's do by themselves. Only there are ports of spoofed
 * sources used again before their TIME_WAIT is over.
 */
const LO_RULE = `fwmark ${FWMARK_ENGINE}/${FWMASK} oif lo ${TO_TABLE}`;
const route = (family: Family): string => `local ${family === 4 ? "0.0.0.0/0" : "::/0"} dev lo table ${ROUTE_TABLE}`;

/** One family of a namespace, as counted. */
export type Present = { readonly rules: number; readonly loRules: number; readonly routes: number };

/** Lines for `ip -batch` that bring one family from what is there to what is wanted: one of each rule and route, or none. */
export function renderRouting(family: Family, wanted: boolean, present: Present): string {
  const target = wanted ? 1 : 0;
  const loTarget = family === 6 ? target : 0;
  const lines = [
    ...Array<string>(Math.max(0, target - present.routes)).fill(`route add ${route(family)}`),
    ...Array<string>(Math.max(0, target - present.rules)).fill(`rule add ${RULE}`),
    ...Array<string>(Math.max(0, loTarget - present.loRules)).fill(`rule add ${LO_RULE}`),
    ...Array<string>(Math.max(0, present.loRules - loTarget)).fill(`rule del ${LO_RULE}`),
    ...Array<string>(Math.max(0, present.rules - target)).fill(`rule del ${RULE}`),
    ...Array<string>(Math.max(0, present.routes - target)).fill(`route del ${route(family)}`),
  ];
  return lines.map((line) => `${line}\n`).join("");
}
