// What is ours among the chains of iptables: everything with our prefix, and the rules of others' chains that lead there.
import { rulesetObjects } from "../form.ts";

export const PREFIX = "TRACKBED_";

/** A chain of ours in what iptables-save writes. */
export const CHAIN = new RegExp(`^:${PREFIX}`, "m");

const FAMILIES: readonly unknown[] = ["ip", "ip6"];

/** Whether nft sees chains that we made by iptables-nft, which lie in tables of their own. */
export const holdsChains = (ruleset: unknown): boolean =>
  rulesetObjects(ruleset).some(
    ({ kind, fields }) => kind === "chain" && FAMILIES.includes(fields["family"]) && String(fields["name"]).startsWith(PREFIX),
  );
