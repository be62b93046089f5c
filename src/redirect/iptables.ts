// The iptables backend, for kernels without nftables: plans go in by iptables-restore, family by family, and come back by iptables-save.
import type { Backend, BackendName, Foreign, Known, NetnsPath, TableForm } from "./backend.ts";
import { run } from "./command.ts";
import { compare } from "./compare.ts";
import { type Family, IPV6_SWITCH, programOf, type Variant } from "./family.ts";
import { foreignChains, foreignLegacy, foreignRules } from "./foreign.ts";
import { tableForm } from "./form.ts";
import { CHAIN, holdsChains } from "./iptables/chain.ts";
import { tablesOf } from "./iptables/rules.ts";
import { parseSaved, renderPurge, renderRestore, savedForm, wantedForm } from "./iptables/saved.ts";
import { readRuleset } from "./nft.ts";
import { holderPlan, type Plan } from "./plan.ts";
import { bringRouting, readRouting, readSwitches, type Switches, saveLegacy } from "./routing.ts";

/** Another program of the namespace may hold the lock; less than the deadline of a command. */
const LOCK_SECONDS = "1";

export type IptablesOptions = {
  readonly variant: Variant;
  /** Whether this node has an nft that works: then what it lists is looked at too. */
  readonly nft: boolean;
};

export function iptablesBackend({ variant, nft }: IptablesOptions): Backend {
  const program = (family: Family, what: "save" | "restore"): string => `${programOf(family)}-${variant}-${what}`;
  const save = (netns: NetnsPath, family: Family): Promise<string> => run(netns, [program(family, "save")]);
  const restore = async (netns: NetnsPath, family: Family, script: string): Promise<void> => {
    if (script !== "") await run(netns, [program(family, "restore"), "--noflush", "--wait", LOCK_SECONDS], script);
  };
  const replace = async (netns: NetnsPath, plan: Plan, known?: Known): Promise<void> => {
    await bringRouting(netns, true, known);
    for (const family of familiesOf(await readSwitches(netns)))
      await restore(netns, family, renderRestore(tablesOf(plan.capture, family), parseSaved(await save(netns, family))));
  };
  const purge = async (netns: NetnsPath): Promise<void> => {
    for (const family of familiesOf(await readSwitches(netns)))
      await restore(netns, family, renderPurge(parseSaved(await save(netns, family))));
  };

  return {
    name: `iptables-${variant}`,
    apply: replace,
    holder: (netns) => replace(netns, holderPlan),
    remove: async (netns) => {
      await purge(netns);
      await bringRouting(netns, false);
    },
    read: async (netns) => {
      const switches = await readSwitches(netns);
      const families = familiesOf(switches);
      const [saves, { routing, ipv6 }, elsewhere] = await Promise.all([
        Promise.all(families.map(async (family) => [family, await save(netns, family)] as const)),
        readRouting(netns, switches),
        readElsewhere(netns, switches),
      ]);
      const lines = saves.flatMap(([family, text]) => savedForm(family, parseSaved(text)));
      const foreign = saves.flatMap(([family, text]) => foreignChains(`IPv${family}`, text));
      return {
        table: formOf(lines, families),
        routing,
        ipv6,
        foreign: [...foreign, ...elsewhere.foreign],
        leftovers: elsewhere.leftovers,
      };
    },
    compare: (reading, plan) => compare(expectedFor(reading.table), reading, plan),
    purge,
  };

  /** What this variant's own programs do not show: nftables, and the other kind of iptables. */
  async function readElsewhere(
    netns: NetnsPath,
    switches: Switches,
  ): Promise<{ readonly foreign: readonly Foreign[]; readonly leftovers: readonly BackendName[] }> {
    const leftovers: BackendName[] = [];
    const foreign: Foreign[] = [];
    if (nft) {
      const ruleset = await readRuleset(netns);
      foreign.push(...foreignRules(ruleset));
      if (tableForm(ruleset) !== null) leftovers.push("nft");
      if (variant !== "nft" && holdsChains(ruleset)) leftovers.push("iptables-nft");
    }
    if (variant !== "legacy") {
      const { tables, saved } = await saveLegacy(netns, switches);
      foreign.push(...foreignLegacy(tables, saved));
      if (saved !== null && CHAIN.test(saved)) leftovers.push("iptables-legacy");
    }
    return { foreign, leftovers };
  }
}

/** A kernel without IPv6 has no ip6tables either. */
const familiesOf = (switches: Switches): readonly Family[] => (switches.has(IPV6_SWITCH) ? [4, 6] : [4]);

/** Says itself which families were looked at: a kernel without IPv6 is not a namespace whose IPv6 rules are gone. */
const FAMILIES = "families ";

const formOf = (lines: TableForm, families: readonly Family[]): TableForm | null =>
  lines.length === 0 ? null : [...lines, `${FAMILIES}${families.join(" ")}`].sort();

const expectedFor =
  (found: TableForm | null) =>
  (plan: Plan): TableForm => {
    const said = found?.find((line) => line.startsWith(FAMILIES)) ?? `${FAMILIES}4 6`;
    const families = ([4, 6] as const).filter((family) => said.includes(String(family)));
    return [...families.flatMap((family) => wantedForm(family, tablesOf(plan.capture, family))), said].sort();
  };
