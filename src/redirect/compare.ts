// What was read back against what was planned.
import type { Comparison, Reading, TableForm } from "./backend.ts";
import { holderPlan, type Plan } from "./plan.ts";

/** Enough to see what happened; a flushed table differs in every line. */
const MAX_DIFFERENCES = 20;

/** `expected` spells a plan as its back end reads it. */
export function compare(expected: (plan: Plan) => TableForm, reading: Reading, plan: Plan): Comparison {
  const { rule4, rule6, lo6, route4, route6, strays } = reading.routing;
  const wanted = [
    ["IPv4 rule", rule4, 1],
    ["IPv4 route", route4, 1],
    ...(reading.ipv6
      ? ([
          ["IPv6 rule", rule6, 1],
          ["IPv6 rule of the engine", lo6, 1],
          ["IPv6 route", route6, 1],
        ] as const)
      : []),
  ] as const;
  const off = wanted.filter(([, count, want]) => count !== want);
  const planned = expected(plan);
  const table = reading.table;
  const rules = judge(expected, reading, planned);
  const differences = [
    ...(rules === "equal" || rules === "holder" ? [] : lineDifferences(planned, table ?? [])),
    ...reading.leftovers.map((name) => `+ rules of ours by ${name}`),
    ...off.map(([what, count, want]) => `${count < want ? "-" : "+"} ${what} to loopback: ${count} instead of ${want}`),
    ...strays.map((stray) => `+ route in our table: ${stray}`),
  ];
  return { rules, routing: off.length === 0, differences: differences.slice(0, MAX_DIFFERENCES) };
}

function judge(expected: (plan: Plan) => TableForm, { table, leftovers }: Reading, planned: TableForm): Comparison["rules"] {
  if (leftovers.length > 0) return "different";
  if (table === null) return "none";
  if (same(table, planned)) return "equal";
  return same(table, expected(holderPlan)) ? "holder" : "different";
}

const same = (a: TableForm, b: TableForm): boolean => a.length === b.length && a.every((line, i) => line === b[i]);

function lineDifferences(planned: TableForm, found: TableForm): string[] {
  const have = new Set(found);
  const want = new Set(planned);
  return [
    ...planned.filter((line) => !have.has(line)).map((line) => `- ${line}`),
    ...found.filter((line) => !want.has(line)).map((line) => `+ ${line}`),
  ];
}
