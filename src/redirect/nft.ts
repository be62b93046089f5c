// The nftables backend: plans go in by `nft -f -`, and come back by their JSON.
import type { Backend, BackendName, NetnsPath } from "./backend.ts";
import { run } from "./command.ts";
import { compare } from "./compare.ts";
import { foreignLegacy, foreignRules } from "./foreign.ts";
import { expected, tableForm } from "./form.ts";
import { CHAIN, holdsChains } from "./iptables/chain.ts";
import { renderHolder, renderNft, renderRemoval } from "./render.ts";
import { bringRouting, readRouting, readSwitches, saveLegacy } from "./routing.ts";

export function nftBackend(): Backend {
  const purge = async (netns: NetnsPath): Promise<void> => {
    await run(netns, ["nft", "-f", "-"], renderRemoval());
  };
  return {
    name: "nft",
    apply: async (netns, plan, known) => {
      await bringRouting(netns, true, known);
      await run(netns, ["nft", "-f", "-"], renderNft(plan));
    },
    holder: async (netns) => {
      await bringRouting(netns, true);
      await run(netns, ["nft", "-f", "-"], renderHolder());
    },
    remove: async (netns) => {
      await purge(netns);
      await bringRouting(netns, false);
    },
    read: async (netns) => {
      const [ruleset, switches] = await Promise.all([readRuleset(netns), readSwitches(netns)]);
      const [{ routing, ipv6 }, { tables, saved }] = await Promise.all([readRouting(netns, switches), saveLegacy(netns, switches)]);
      const leftovers: BackendName[] = [];
      if (holdsChains(ruleset)) leftovers.push("iptables-nft");
      if (saved !== null && CHAIN.test(saved)) leftovers.push("iptables-legacy");
      const foreign = [...foreignRules(ruleset), ...foreignLegacy(tables, saved)];
      return { table: tableForm(ruleset), routing, ipv6, foreign, leftovers };
    },
    compare: (reading, plan) => compare(expected, reading, plan),
    purge,
  };
}

export const readRuleset = async (netns: NetnsPath): Promise<unknown> => JSON.parse(await run(netns, ["nft", "-j", "list", "ruleset"]));
