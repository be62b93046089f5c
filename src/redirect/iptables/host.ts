// The host's rules for kubelet probes in iptables' words: the same four verbs as by nftables, one rule for each probed address and port.
import { existsSync, statSync } from "node:fs";
import { addresses, marks } from "#contract/tables.ts";
import { formatAddress, isIpv4, parseAddress } from "#mesh/address.ts";
import type { NetnsPath } from "../backend.ts";
import { run } from "../command.ts";
import { type Family, familiesHere, programOf, type Variant } from "../family.ts";
import type { HostRules, Probed, Prober } from "../host.ts";
import { PREFIX } from "./chain.ts";
import type { Tables } from "./rules.ts";
import { parseSaved, renderPurge, renderRestore, savedForm } from "./saved.ts";

/** What everybody who changes the host's iptables holds; as the node's first process sees it, since a container has a /run of its own. */
const HOST_LOCK = existsSync("/proc/1/root/run") ? "/proc/1/root/run/xtables.lock" : "/run/xtables.lock";
const LOCK_SECONDS = "1";
/** include/linux/proc_ns.h: the cgroup namespace in which the machine began has a fixed number. */
const FIRST_CGROUPS = 0xeffffffb;

/** The kernel reads paths of cgroups from the root of the caller's cgroup namespace, and a container's begins further down than the node's. */
const underNode = (command: readonly string[]): readonly string[] =>
  statSync("/proc/self/ns/cgroup").ino === FIRST_CGROUPS ? command : ["nsenter", "--cgroup=/proc/1/ns/cgroup", "--", ...command];

const hex = (value: number): string => `0x${value.toString(16)}`;
const MASK = hex(marks.mask);
const PROBE = hex(marks.probe);

export function hostTables({ cgroup }: Prober, probed: readonly Probed[], family: Family): Tables {
  const from = cgroup === null ? "-m owner --uid-owner 0" : `-m cgroup --path ${quoted(groupOf(cgroup))}`;
  const mine = probed.flatMap(({ address, port }) => {
    const bytes = parseAddress(address);
    return bytes === null || isIpv4(bytes) !== (family === 4)
      ? []
      : [`-d ${formatAddress(bytes)}/${family === 4 ? 32 : 128} ${PORT(port)}`];
  });
  const source = family === 4 ? addresses.probeV4 : addresses.probeV6;
  return {
    mangle: [
      {
        name: `${PREFIX}PROBES`,
        hook: "OUTPUT",
        rules: [...new Set(mine)].sort().map((to) => `${to} ${from} -j MARK --set-xmark ${PROBE}/${MASK}`),
      },
    ],
    raw: [],
    nat: [{ name: `${PREFIX}PROBE_SOURCE`, hook: "POSTROUTING", rules: [`-m mark --mark ${PROBE}/${MASK} -j SNAT --to-source ${source}`] }],
  };
}

const PORT = (port: number): string => `-p tcp -m tcp --dport ${port}`;

/** The last names of the path, as many as the group is deep. */
const groupOf = ({ path, level }: { readonly path: string; readonly level: number }): string => path.split("/").slice(-level).join("/");

/** A unit's name may hold what iptables-restore reads as something else. */
function quoted(path: string): string {
  if (!/^[A-Za-z0-9@:._/\\-]+$/.test(path) || path.startsWith("-"))
    throw new TypeError(`the cgroup ${JSON.stringify(path)} cannot be written in a rule`);
  return path;
}

export function iptablesHostRules(variant: Variant, netns: NetnsPath = "/proc/self/ns/net"): HostRules {
  const save = (family: Family): Promise<string> => run(netns, [`${programOf(family)}-${variant}-save`]);
  const restore = async (family: Family, script: string, byCgroup = false): Promise<void> => {
    const command = [`${programOf(family)}-${variant}-restore`, "--noflush", "--wait", LOCK_SECONDS];
    if (script !== "") await run(netns, byCgroup ? underNode(command) : command, script, HOST_LOCK);
  };
  const listed = async (): Promise<string[]> =>
    (await Promise.all(familiesHere().map(async (family) => savedForm(family, parseSaved(await save(family)))))).flat().sort();
  const list = async (): Promise<string | null> => {
    const lines = await listed();
    return lines.length === 0 ? null : lines.join("\n");
  };
  return {
    apply: async (prober, probed) => {
      for (const family of familiesHere())
        await restore(family, renderRestore(hostTables(prober, probed, family), parseSaved(await save(family))), prober.cgroup !== null);
      const lines = await listed();
      const missing = probed.filter(({ address, port }) => !lines.some((line) => line.includes(` -d ${spelled(address)} ${PORT(port)} `)));
      if (missing.length > 0) throw new Error(`the host's rules were applied and are not there: ${JSON.stringify(missing)}`);
      return lines.join("\n");
    },
    list,
    remove: async () => {
      for (const family of familiesHere()) await restore(family, renderPurge(parseSaved(await save(family))));
    },
  };
}

const spelled = (address: string): string => {
  const bytes = parseAddress(address) ?? new Uint8Array();
  return `${formatAddress(bytes)}/${bytes.length * 8}`;
};
