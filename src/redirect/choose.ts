// Which back end this node can use: tried with a pod's own rules in a namespace that ends with the trial.
import { meshError } from "#mesh/error.ts";
import type { Backend, BackendName } from "./backend.ts";
import { execute } from "./command.ts";
import { familiesHere, programOf, type Variant } from "./family.ts";
import { type HostRules, hostRules } from "./host.ts";
import { iptablesHostRules } from "./iptables/host.ts";
import { tablesOf } from "./iptables/rules.ts";
import { renderRestore } from "./iptables/saved.ts";
import { iptablesBackend } from "./iptables.ts";
import { nftBackend } from "./nft.ts";
import { plan } from "./plan.ts";
import { renderNft } from "./render.ts";
import { inCharge } from "./several.ts";

/** In order of preference: one transaction for both families, then one for each table of a family. */
export const BACKENDS: readonly BackendName[] = ["nft", "iptables-legacy", "iptables-nft"];

export type Choice = {
  readonly backend: Backend;
  readonly hostRules: HostRules;
  /** Why the ones before it were not taken. */
  readonly refused: readonly { readonly name: BackendName; readonly reason: string }[];
};

/** Each kind of rule that a pod can have. */
const nothing = { ports: [], cidrs: [] };
const TRIAL = plan({ inbound: true, dns: true, excludeOutbound: nothing, excludeInbound: nothing, probePorts: [8080] });

/** `asked` is taken or refused, never replaced by another. */
export async function chooseBackend(asked: BackendName | "auto"): Promise<Choice> {
  const tried = await Promise.all(BACKENDS.map(async (name) => ({ name, reason: await trial(name) })));
  const works = (name: BackendName): boolean => tried.some((one) => one.name === name && one.reason === null);
  const usable = BACKENDS.filter(works).map((name) => backendOf(name, works("nft")));
  const chosen = usable.find(({ name }) => asked === "auto" || name === asked);
  const refused = tried.flatMap(({ name, reason }) => (reason === null ? [] : [{ name, reason }]));
  if (chosen !== undefined)
    return {
      backend: inCharge(chosen, usable),
      hostRules: hostRulesBy(
        chosen.name,
        usable.map(({ name }) => name),
      ),
      refused,
    };
  const said = refused.filter(({ name }) => asked === "auto" || name === asked).map(({ name, reason }) => `${name}: ${reason}`);
  throw meshError("E_CAPTURE_RULES_FAILED", `no pod can be captured on this node: ${said.join("; ")}`);
}

export function backendOf(name: BackendName, nft: boolean): Backend {
  if (name === "nft") return nftBackend();
  return iptablesBackend({ variant: variantOf(name), nft });
}

/** Null when it works. No shell: an image may have none. */
async function trial(name: BackendName): Promise<string | null> {
  const steps: readonly (readonly [program: string, ...more: string[]])[] =
    name === "nft"
      ? [["nft", "-f", "-"]]
      : familiesHere().map((family) => [`${programOf(family)}-${variantOf(name)}-restore`, "--noflush"]);
  const inputs =
    name === "nft" ? [renderNft(TRIAL)] : familiesHere().map((family) => renderRestore(tablesOf(TRIAL.capture, family), new Map()));
  try {
    for (const [i, step] of steps.entries()) {
      const { code, stderr } = await execute("/proc/self/ns/net", ["unshare", "--net", "--", ...step], inputs[i]);
      if (code !== 0) return stderr.trim().split("\n")[0] ?? `${step[0]} ended with ${code}`;
    }
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const variantOf = (name: BackendName): Variant => (name === "iptables-legacy" ? "legacy" : "nft");

/** The host's rules by the same choice; what another back end left goes once ours stand. */
function hostRulesBy(chosen: BackendName, usable: readonly BackendName[]): HostRules {
  const rulesOf = (name: BackendName): HostRules => (name === "nft" ? hostRules() : iptablesHostRules(variantOf(name)));
  const others = usable.filter((name) => name !== chosen).map(rulesOf);
  const rules = rulesOf(chosen);
  const clear = async (): Promise<void> => {
    for (const other of others) if ((await other.list()) !== null) await other.remove();
  };
  return {
    apply: async (prober, probed) => {
      const listing = await rules.apply(prober, probed);
      await clear();
      return listing;
    },
    list: rules.list,
    remove: async () => {
      await rules.remove();
      await clear();
    },
  };
}
