// One back end in charge, the others only to clean up after: a daemon may choose another one than the daemon before it did.
import { meshError } from "#mesh/error.ts";
import type { Backend, BackendName, Known, NetnsPath } from "./backend.ts";

/** The others' rules go after ours stand, so that there is no moment without. Captured connections live on: their NAT is the kernel's. */
export function inCharge(chosen: Backend, usable: readonly Backend[]): Backend {
  const purge = async (netns: NetnsPath, known?: Known): Promise<void> => {
    for (const name of (known ?? (await chosen.read(netns))).leftovers) await named(name, usable, netns).purge(netns);
  };
  return {
    ...chosen,
    apply: async (netns, plan, known) => {
      await chosen.apply(netns, plan, known);
      await purge(netns, known);
    },
    holder: async (netns) => {
      await chosen.holder(netns);
      await purge(netns);
    },
    remove: async (netns) => {
      await purge(netns);
      await chosen.remove(netns);
    },
  };
}

function named(name: BackendName, usable: readonly Backend[], netns: NetnsPath): Backend {
  const backend = usable.find((one) => one.name === name);
  if (backend !== undefined) return backend;
  throw meshError(
    "E_CAPTURE_RULES_FAILED",
    `rules of ours by ${name} stand in ${netns}, and ${name} cannot be used on this node: install it`,
  );
}
