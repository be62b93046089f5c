// The cgroups of machines: one group for each machine under every v1 controller and in the v2 tree, gone with the machine.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const TREE = "/sys/fs/cgroup";
/** A killed process leaves its group when the kernel has reaped it. */
const LEAVE_MS = 10_000;
const LOOK_AGAIN_MS = 50;

/** Every hierarchy that is mounted; "unified" is the v2 tree, which has no controllers on a v1 machine but can tell processes apart. */
export function hierarchies(): string[] {
  return readdirSync(TREE)
    .map((name) => join(TREE, name))
    .filter((path) => existsSync(join(path, "cgroup.procs")));
}

/** Makes NAME/MACHINE/pods everywhere, and NAME/MACHINE/kubelet in the v2 tree, by which a rule can tell the kubelet's packets. */
export function makeCgroups(name: string, machine: string): void {
  for (const hierarchy of hierarchies()) {
    const v2 = existsSync(join(hierarchy, "cgroup.controllers"));
    for (const group of [name, `${name}/${machine}`, `${name}/${machine}/${v2 ? "kubelet" : "pods"}`]) {
      mkdirSync(join(hierarchy, group), { recursive: true });
      // A cpuset group starts empty and takes no process until it is filled.
      for (const file of ["cpuset.cpus", "cpuset.mems"])
        if (!v2 && existsSync(join(hierarchy, group, file)))
          writeFileSync(join(hierarchy, group, file), readFileSync(join(hierarchy, file)));
    }
  }
}

/** Removes a machine's groups (or all of the cluster's, without `machine`), waiting for the last of the dead to leave. */
export async function removeCgroups(name: string, machine = ""): Promise<void> {
  const deadline = performance.now() + LEAVE_MS;
  for (const hierarchy of hierarchies()) {
    const top = join(hierarchy, name, machine);
    while (!removeTree(top)) {
      if (performance.now() > deadline)
        throw new Error(`cgroup ${top} would not go within ${LEAVE_MS} ms: ${processes(top).join(", ")} still in it`);
      await pause(LOOK_AGAIN_MS);
    }
  }
}

function removeTree(path: string): boolean {
  if (!existsSync(path)) return true;
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeTree(join(path, entry.name));
  try {
    rmdirSync(path);
  } catch {
    // busy: a process is still dying in it
  }
  return !existsSync(path);
}

function processes(path: string): string[] {
  const groups = [
    path,
    ...readdirSync(path, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name)),
  ];
  return groups.flatMap((group) =>
    readFileSync(join(group, "cgroup.procs"), "utf8")
      .split("\n")
      .filter((pid) => pid !== ""),
  );
}
