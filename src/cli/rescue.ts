// `trackbed rescue`: the way out when nothing else works. Takes Trackbed's rules and routes out of network namespaces with nft, iptables and ip
// alone: no daemon, no engine, no control, no document is asked.
import { execFile } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { marks } from "#contract/tables.ts";
import { BACKENDS, backendOf } from "#redirect/choose.ts";
import { execute } from "#redirect/command.ts";
import { CHAIN } from "#redirect/iptables/chain.ts";
import { runningLabs } from "../lab/find.ts";
import { type Exit, exit, type Format } from "./outcome.ts";
import { paint, table } from "./table.ts";

const run = promisify(execFile);
const COMMAND_MS = 5000;
const TABLES = ["trackbed", "trackbed_host"];
const FAMILIES = ["-4", "-6"] as const;
const hex = (value: number): string => `0x${value.toString(16)}`;
const TO_TABLE = ["pref", String(marks.rulePreference), "lookup", String(marks.routeTable)];
const marked = (mark: number): string => `fwmark ${hex(mark)}/${hex(marks.mask)}`;
const RULES = [
  [...marked(marks.reply).split(" "), ...TO_TABLE],
  [...marked(marks.engine).split(" "), "oif", "lo", ...TO_TABLE],
];

export type RescueOptions = { readonly netns: readonly string[]; readonly yes: boolean };

type Finding = { readonly netns: string; readonly found: readonly string[]; readonly removed: boolean; readonly error: string | null };

export async function runRescue({ netns, yes }: RescueOptions, format: Format): Promise<Exit> {
  const missing = netns.filter((path) => !existsSync(path));
  if (missing.length > 0) throw new Error(`no such network namespace: ${missing.join(", ")}`);
  const looked = await Promise.all((netns.length > 0 ? netns : namespaces()).map((path) => rescue(path, yes)));
  const findings = looked.filter(({ found, error }) => found.length > 0 || error !== null);
  const done = findings.every(({ removed, error }) => removed && error === null);
  if (format === "json") console.log(JSON.stringify({ looked: looked.length, changed: yes, findings }, null, 2));
  else console.log(report(looked.length, findings, yes));
  return done ? exit.ok : exit.failed;
}

function report(looked: number, findings: readonly Finding[], yes: boolean): string {
  if (findings.length === 0) return `none of ${looked} network namespaces holds anything of Trackbed`;
  const what = ({ removed, error }: Finding): string => (error !== null ? paint(error, "red") : removed ? "removed" : "found");
  const rows = findings.map((finding) => [finding.netns, finding.found.join(", "), what(finding)]);
  const next = yes
    ? "Connections that were captured are cut. A daemon that still runs captures its pods again: end it first, or label them disabled."
    : "Nothing was changed. With --yes this is removed; connections that are captured now are cut, and traffic goes unencrypted after it.";
  return `${table(["NAMESPACE", "HOLDS", "RESULT"], rows)}\n\n${next}`;
}

async function rescue(netns: string, yes: boolean): Promise<Finding> {
  try {
    const found = await look(netns);
    if (yes && found.length > 0) await remove(netns);
    const left = yes ? await look(netns) : found;
    const error = yes && left.length > 0 ? `still there: ${left.join(", ")} (does a daemon put it back?)` : null;
    return { netns, found, removed: yes && left.length === 0, error };
  } catch (error) {
    if (!existsSync(netns)) return { netns, found: [], removed: false, error: null }; // gone, and what it held with it
    return { netns, found: [], removed: false, error: error instanceof Error ? error.message.trim() : String(error) };
  }
}

const inside = (netns: string, command: readonly string[]): Promise<{ stdout: string }> =>
  run("nsenter", [`--net=${netns}`, "--", ...command], { timeout: COMMAND_MS });

/** What of ours the namespace holds, in words. */
async function look(netns: string): Promise<string[]> {
  const [tables, chains, ...routing] = await Promise.all([
    listTables(netns),
    chainsIn(netns),
    ...FAMILIES.flatMap((family) => [
      inside(netns, ["ip", family, "rule", "show", "pref", String(marks.rulePreference)]),
      inside(netns, ["ip", family, "route", "show", "table", "all", "type", "local"]),
    ]),
  ]);
  const names = TABLES.filter((name) => tables.split("\n").includes(`table inet ${name}`)).map((name) => `table inet ${name}`);
  const [rule4, route4, rule6, route6] = routing.map(({ stdout }) => stdout);
  const isRule = (text = ""): boolean => text.includes(marked(marks.reply));
  const isEngineRule = (text = ""): boolean => text.includes(marked(marks.engine));
  const isRoute = (text = ""): boolean => new RegExp(`^local default dev lo table ${marks.routeTable}\\b`, "m").test(text);
  return [
    ...names,
    ...chains.map((name) => `chains of ${name}`),
    ...(isRule(rule4) ? ["IPv4 rule"] : []),
    ...(isRoute(route4) ? ["IPv4 route"] : []),
    ...(isRule(rule6) ? ["IPv6 rule"] : []),
    ...(isEngineRule(rule6) ? ["IPv6 rule of the engine"] : []),
    ...(isRoute(route6) ? ["IPv6 route"] : []),
  ];
}

/** A kernel without nftables holds no table of ours. */
async function listTables(netns: string): Promise<string> {
  const { code, stdout, stderr } = await execute(netns, ["nft", "list", "tables", "inet"]);
  if (code === 0 || /Protocol not supported/.test(stderr)) return stdout;
  throw new Error(stderr.trim() || `nft list tables ended with ${code}`);
}

const IPTABLES = BACKENDS.filter((name) => name !== "nft");

/** Which of the two kinds of iptables hold chains of ours. One that cannot be run is passed over, unless the kernel says that it is in use. */
async function chainsIn(netns: string): Promise<typeof IPTABLES> {
  const legacy = (await execute(netns, ["grep", "-sh", "^nat$", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"])).stdout !== "";
  const found = await Promise.all(
    IPTABLES.map(async (name) => {
      const saves = await Promise.all([name, name.replace("ip", "ip6")].map((program) => execute(netns, [`${program}-save`])));
      if (name === "iptables-legacy" && legacy && saves.some(({ code }) => code !== 0))
        throw new Error("tables of iptables-legacy are in use and iptables-legacy-save cannot be run: install it");
      return saves.some(({ stdout }) => CHAIN.test(stdout)) ? [name] : [];
    }),
  );
  return found.flat();
}

/** Tables in one transaction, then routing. What is not there is not missed: look() afterwards is what counts. */
async function remove(netns: string): Promise<void> {
  const script = TABLES.map((name) => `table inet ${name} {}; delete table inet ${name}`).join("; ");
  if ((await listTables(netns)) !== "") await inside(netns, ["nft", script]);
  for (const name of await chainsIn(netns)) await backendOf(name, false).purge(netns);
  for (const family of FAMILIES) {
    await Promise.allSettled([
      ...RULES.map((rule) => inside(netns, ["ip", family, "rule", "del", ...rule])),
      inside(netns, ["ip", family, "route", "del", "local", "default", "dev", "lo", "table", String(marks.routeTable)]),
    ]);
  }
}

/** One path for every network namespace that a process lives in or that has a name, here or in a lab. */
function namespaces(): string[] {
  const found = new Map<string, string>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) note(found, `/proc/${pid}/ns/net`);
  const roots = ["/", ...runningLabs().flatMap(({ init }) => (init === null ? [] : [`/proc/${init}/root`]))];
  const directories = roots.map((root) => join(root, "run/netns")).filter((path) => existsSync(path));
  for (const directory of directories) for (const name of readdirSync(directory)) note(found, join(directory, name)); // a name says more
  return [...found.values()];
}

function note(found: Map<string, string>, path: string): void {
  try {
    found.set(`${statSync(path).dev}:${statSync(path).ino}`, path);
  } catch {
    // ended while we looked
  }
}
