// What is put on and taken from a node's disk beside the daemon: the engine's seccomp profile, and at the end everything of ours.
import { existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { paths } from "#contract/tables.ts";
import { privateDirectory } from "#engine/socket.ts";
import { seccompProfile } from "#install/files.ts";
import { type Exit, exit, usage } from "../outcome.ts";

const DIRECTORY = "trackbed";
/**
 * In our directory when nothing else was in the one above it as we came: the kubelet itself makes no directory of profiles, it came with our
 * volume. Without this note the directory above is somebody else's.
 */
const ALONE = "parent-was-empty";

/** `trackbed node profile`: written whole or not at all, because the kubelet may read it at this moment. */
export async function runNodeProfile(directory: string, profile: string, run: string): Promise<Exit> {
  await privateDirectory(run);
  const path = join(directory, profile);
  const alone = readdirSync(directory).length === 0;
  mkdirSync(dirname(path), { recursive: true });
  if (alone) writeFileSync(join(dirname(path), ALONE), "");
  writeFileSync(`${path}.${process.pid}`, seccompProfile(), { mode: 0o644 });
  renameSync(`${path}.${process.pid}`, path);
  console.log(`${path} is in place`);
  return exit.ok;
}

/** `trackbed node clean`: only what has our name, so that a wrong mount cannot cost anybody else's files, and empty directories that came with us. */
export function runNodeClean(directories: readonly string[], files: readonly string[]): Exit {
  const foreign = [
    ...directories.filter((path) => basename(path) !== DIRECTORY),
    ...files.filter((path) => basename(path) !== paths.cniPlugin),
  ];
  if (foreign.length > 0)
    throw usage(`${foreign.join(", ")}: only directories named ${DIRECTORY} and files named ${paths.cniPlugin} are removed`);
  const all = [...directories, ...files];
  const parents = directories.filter((path) => existsSync(join(path, ALONE))).map(dirname);
  for (const path of all) rmSync(path, { recursive: true, force: true });
  const left = all.filter((path) => lstatSync(path, { throwIfNoEntry: false }) !== undefined);
  for (const parent of parents) if (readdirSync(parent).length === 0) rmdirSync(parent);
  console.log(left.length === 0 ? `gone: ${all.join(", ")}` : `still there: ${left.join(", ")}`);
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
