// Starts what `make arm64` built under qemu: the programs are arm64's, find their libraries, know their version, and the CNI plugin answers as
// the runtime asks it. What they do to a kernel is not shown by this: qemu translates system calls.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "../..");
const TARGET = "aarch64-unknown-linux-gnu/release";
/** Of ELF headers: machine 183 is AArch64, a program header of type 3 names the dynamic loader. */
const AARCH64 = 183;
const INTERPRETER = 3;
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };

type Program = {
  readonly name: string;
  readonly machine: number;
  readonly isStatic: boolean;
  run(env: NodeJS.ProcessEnv, ...args: string[]): string;
};

function program(name: string, directory: string): Program {
  const path = join(ROOT, "native/target", directory, TARGET, name);
  const elf = readFileSync(path);
  const [start, size, count] = [Number(elf.readBigUInt64LE(32)), elf.readUInt16LE(54), elf.readUInt16LE(56)];
  const types = Array.from({ length: count }, (_, index) => elf.readUInt32LE(start + index * size));
  return {
    name,
    machine: elf.readUInt16LE(18),
    isStatic: !types.includes(INTERPRETER),
    run(env, ...args) {
      const { status, stdout, stderr, error } = spawnSync("qemu-aarch64-static", ["-L", "/usr/aarch64-linux-gnu", path, ...args], {
        env: { ...process.env, ...env },
        encoding: "utf8",
        input: JSON.stringify({ cniVersion: "1.0.0" }),
        timeout: 30_000,
      });
      assert.equal(error, undefined, `${name}: ${error?.message}`);
      assert.equal(status, 0, `${name} ${args.join(" ")}: ${stderr}`);
      return stdout;
    },
  };
}

const engine = program("trackbed-engine", "arm64");
const netns = program("trackbed-netns", "arm64");
const cni = program("trackbed-cni", "arm64-static");
for (const { name, machine } of [engine, netns, cni]) assert.equal(machine, AARCH64, name);
assert.ok(cni.isStatic, "the CNI plugin runs on the node itself, whatever its libraries are");
assert.match(engine.run({}, "--version"), new RegExp(version.replaceAll(".", "\\.")));
const answer = JSON.parse(cni.run({ CNI_COMMAND: "VERSION" })) as { supportedVersions: string[] };
assert.ok(answer.supportedVersions.includes("1.0.0"), JSON.stringify(answer));
console.log(`trackbed-engine ${version} and trackbed-cni (CNI ${answer.supportedVersions.join(", ")}) start as arm64 programs`);
