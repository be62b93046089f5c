// Kills one program of a machine, for good or until its keeper starts it again: etcd, kube-apiserver … on cp, containerd, kubelet, kube-proxy on a node.
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execute, run } from "../command.ts";
import type { Settings } from "../settings.ts";
import { machinePid } from "./power.ts";

export const ACTIONS = ["stop", "start", "restart"] as const;
export type ProgramAction = (typeof ACTIONS)[number];

/** While this file exists the keeper (keep.sh) does not start the program. */
export const holdFile = (settings: Settings, machine: string, name: string): string => join(settings.logs, `hold-${machine}-${name}`);

export async function program(settings: Settings, action: ProgramAction, machine: string, name: string): Promise<void> {
  if (!existsSync(join(settings.logs, `${machine}-${name}.log`))) throw new Error(`${machine} has no program ${name}`);
  const hold = holdFile(settings, machine, name);
  if (action === "stop") writeFileSync(hold, "");
  else rmSync(hold, { force: true });
  if (action === "start") return;
  const pid = await machinePid(settings, machine);
  if (pid === null) throw new Error(`${machine} is off`);
  const inside = ["nsenter", "-t", String(pid), "-m", "-p", "--"];
  const { stdout } = await execute([...inside, "pidof", name]);
  const pids = stdout.split(/\s+/).filter((word) => word !== "");
  if (pids.length > 0) await run([...inside, "kill", "-9", ...pids]);
}
