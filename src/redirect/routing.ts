// The routing beside the rules, the same for every back end: what is marked comes home to loopback, and what the kernel says of itself in files.
import { marks } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import type { NetnsPath, Reading, RoutingForm } from "./backend.ts";
import { execute, run } from "./command.ts";
import { type Family, IPV6_SWITCH } from "./family.ts";
import { FWMARK, FWMARK_ENGINE, FWMASK, type Present, ROUTE_TABLE, renderRouting } from "./render.ts";

const LEGACY_TABLES = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/** What the kernel says of the namespace in files, by path; a file that the kernel lacks is not there. */
export type Switches = ReadonlyMap<string, readonly string[]>;

export async function readSwitches(netns: NetnsPath): Promise<Switches> {
  const { code, stdout, stderr } = await execute(netns, ["grep", "-sH", "", IPV6_SWITCH, ...LEGACY_TABLES]);
  // 0, 1 and 2 are grep's own: found, nothing found, some file is missing. No answer must not read as a kernel without IPv6.
  if (code > 2) throw meshError("E_CAPTURE_RULES_FAILED", `the kernel's switches in ${netns} cannot be read: ${stderr.trim()}`);
  const lines = stdout.split("\n").filter((line) => line !== "");
  const cut = (line: string): [string, string] => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)];
  const grouped = Map.groupBy(lines.map(cut), ([path]) => path);
  return new Map([...grouped].map(([path, values]) => [path, values.map(([, value]) => value)]));
}

/** Only what is missing or too much is touched, so that repeating it disturbs nothing. */
export async function bringRouting(netns: NetnsPath, wanted: boolean, known?: Pick<Reading, "routing" | "ipv6">): Promise<void> {
  const { routing, ipv6 } = known ?? (await readRouting(netns, await readSwitches(netns)));
  const { rule4, rule6, lo6, route4, route6 } = routing;
  const lines4 = renderRouting(4, wanted, { rules: rule4, loRules: 0, routes: route4 });
  const lines6 = renderRouting(6, wanted && ipv6, { rules: rule6, loRules: lo6, routes: route6 });
  await Promise.all([
    lines4 === "" ? null : run(netns, ["ip", "-4", "-batch", "-"], lines4),
    lines6 === "" ? null : run(netns, ["ip", "-6", "-batch", "-"], lines6),
  ]);
}

export async function readRouting(netns: NetnsPath, switches: Switches): Promise<Pick<Reading, "routing" | "ipv6">> {
  const disabled = switches.get(IPV6_SWITCH)?.[0];
  // No such file: a kernel without IPv6, where asking for its rules is an error.
  const [v4, v6] = await Promise.all([readFamily(netns, 4), disabled === undefined ? nothing : readFamily(netns, 6)]);
  const routing: RoutingForm = {
    rule4: v4.rules,
    rule6: v6.rules,
    lo6: v6.loRules,
    route4: v4.routes,
    route6: v6.routes,
    strays: [...v4.strays, ...v6.strays],
  };
  return { routing, ipv6: disabled === "0" };
}

type Line = Readonly<Record<string, unknown>>;
type FamilyRouting = Present & { readonly strays: readonly string[] };

const nothing: FamilyRouting = { rules: 0, loRules: 0, routes: 0, strays: [] };

/** "table all": a table that does not exist yet is an error when it is asked for by number. */
const QUERY = "rule show\nroute show table all\n";

async function readFamily(netns: NetnsPath, family: Family): Promise<FamilyRouting> {
  const answers = (await run(netns, ["ip", `-${family}`, "-j", "-batch", "-"], QUERY)).split("\n").filter((line) => line.trim() !== "");
  const [rules, routes] = answers.map(parseLines);
  if (rules === undefined || routes === undefined || answers.length !== 2)
    throw meshError("E_CAPTURE_RULES_FAILED", `ip -${family} in ${netns} answered ${answers.length} times to 2 questions`);
  const inTable = routes.filter(({ table }) => table === ROUTE_TABLE);
  const ours = inTable.filter(({ type, dst, dev }) => type === "local" && dst === "default" && dev === "lo");
  return {
    rules: rules.filter((rule) => isOurRule(rule, FWMARK, undefined)).length,
    loRules: rules.filter((rule) => isOurRule(rule, FWMARK_ENGINE, "lo")).length,
    routes: ours.length,
    strays: inTable
      .filter((line) => !ours.includes(line))
      .map(({ type, dst, dev }) => [type ?? "unicast", dst, "dev", dev].map(String).join(" ")),
  };
}

const isOurRule = ({ priority, fwmark, fwmask, oif, table }: Line, mark: string, device: string | undefined): boolean =>
  priority === marks.rulePreference && fwmark === mark && fwmask === FWMASK && oif === device && table === ROUTE_TABLE;

function parseLines(text: string): readonly Line[] {
  const value: unknown = JSON.parse(text);
  return Array.isArray(value) ? value.filter((line): line is Line => typeof line === "object" && line !== null) : [];
}

/** Rules of iptables-legacy, which no other program lists; null when they are there and cannot be read. */
export async function saveLegacy(
  netns: NetnsPath,
  switches: Switches,
): Promise<{ readonly tables: readonly string[]; readonly saved: string | null }> {
  const tables = LEGACY_TABLES.flatMap((path) => switches.get(path) ?? []);
  if (tables.length === 0) return { tables, saved: "" };
  const saves = await Promise.all(["iptables-legacy-save", "ip6tables-legacy-save"].map((program) => execute(netns, [program])));
  return { tables, saved: saves.every(({ code }) => code === 0) ? saves.map(({ stdout }) => stdout).join("") : null };
}
