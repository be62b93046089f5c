// What is put on and taken from a node's disk beside the daemon: the engine's seccomp profile, and at the end everything of ours.
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { privateDirectory } from "#engine/socket.ts";
import { seccompProfile } from "#install/files.ts";
import { type Exit, exit, usage } from "../outcome.ts";

/** `trackbed node profile`: written whole or not at all, because the kubelet may read it at this moment. */
export async function runNodeProfile(directory: string, profile: string, run: string): Promise<Exit> {
  await privateDirectory(run);
  const path = join(directory, profile);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.${process.pid}`, seccompProfile(), { mode: 0o644 });
  renameSync(`${path}.${process.pid}`, path);
  console.log(`${path} is in place`);
  return exit.ok;
}

/** `trackbed node clean`: only directories of our name, so that a wrong mount cannot cost anybody else's files. */
export function runNodeClean(directories: readonly string[]): Exit {
  const foreign = directories.find((path) => !path.endsWith("/trackbed"));
  if (foreign !== undefined) throw usage(`--directory ${foreign} is not named trackbed`);
  for (const path of directories) rmSync(path, { recursive: true, force: true });
  const left = directories.filter((path) => readdirSync(dirname(path)).includes("trackbed"));
  console.log(left.length === 0 ? `gone: ${directories.join(", ")}` : `still there: ${left.join(", ")}`);
  return left.length === 0 ? exit.ok : exit.failed;
}

/** `trackbed node wait`: a pod whose work is done stays until it is told to end. */
export function runNodeWait(): Promise<Exit> {
  return new Promise((resolve) => {
    const alive = setInterval(() => undefined, 60_000);
    for (const signal of ["SIGTERM", "SIGINT"] as const)
      process.once(signal, () => {
        clearInterval(alive);
        resolve(exit.ok);
      });
  });
}
