// The engine as the manifest runs it: with the two capabilities and the system calls that it is given there, and no others.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { findBinary } from "#engine/binary.ts";
import { inOwnSandbox } from "../src/lab/sandbox.ts";
import { until } from "../src/lab/until.ts";
import { address, hold, SERVER_PORT, SERVICE, SERVICE_V6, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";

const RUN = fileURLToPath(new URL("confined/run.py", import.meta.url));
const PROFILE = fileURLToPath(new URL("../daemonset/seccomp/engine.json", import.meta.url));
const MANIFEST = fileURLToPath(new URL("../daemonset/base/engine.yaml", import.meta.url));
const BITS: Readonly<Record<string, bigint>> = { NET_ADMIN: 12n, SYS_ADMIN: 21n };

type DaemonSet = { spec: { template: { spec: { containers: { securityContext: { capabilities: { add: string[] } } }[] } } } };
const [engine] = (parse(readFileSync(MANIFEST, "utf8")) as DaemonSet).spec.template.spec.containers;
const capabilities = engine?.securityContext.capabilities.add ?? [];
let mesh: TestMesh;

before(async () => {
  if (inOwnSandbox()) process.env["TRACKBED_ENGINE"] = wrapper();
  mesh = await startTestMesh(); // outside of one, it runs this file again inside
});
after(() => mesh.stop());

/** A program that puts the confinement before the engine. */
function wrapper(): string {
  const directory = mkdtempSync(join(tmpdir(), "trackbed-confined-"));
  after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "trackbed-engine");
  writeFileSync(path, `#!/bin/sh\nexec "${RUN}" "${PROFILE}" ${capabilities.join(",")} "${findBinary("trackbed-engine")}" "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

test("the keeper and its worker run with exactly the manifest's capabilities, filtered, and can gain none", () => {
  const wanted = capabilities.reduce((mask, name) => mask | (1n << (BITS[name] ?? assert.fail(name))), 0n);
  for (const role of ["engine", "worker"] as const)
    for (const pid of mesh.lab.node("node-a").pidsOf(role)) {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const field = (name: string): string => new RegExp(`^${name}:\\s+(\\S+)`, "m").exec(status)?.[1] ?? assert.fail(name);
      for (const set of ["CapEff", "CapPrm", "CapBnd"]) assert.equal(BigInt(`0x${field(set)}`), wanted, `${role}: ${set}`);
      assert.deepEqual([field("NoNewPrivs"), field("Seccomp")], ["1", "2"], role);
    }
});

test("so confined it carries connections on every path, answers names and survives its worker", async () => {
  const { lab } = mesh;
  const client = lab.pod("app/client");
  for (const to of [SERVICE, SERVICE_V6, `${address(lab.pod("app/neighbour"))}:${SERVER_PORT}`]) {
    const tried = await tryConnect(client, to);
    assert.ok(tried.ok, `${to}: ${tried.error}`);
  }
  const held = await hold(client, SERVICE, 50);
  assert.equal(await held.alive(), 50);
  held.close();
  const [worker] = lab.node("node-a").kill("worker");
  await until(
    "another worker serves",
    async () =>
      !lab
        .node("node-a")
        .pidsOf("worker")
        .includes(worker ?? 0) && (await tryConnect(client, SERVICE)).ok,
  );
  await lab.ready();
});

test("what is not in the profile does not work: the confinement confines", () => {
  const run = (...command: string[]) => spawnSync(RUN, [PROFILE, capabilities.join(","), ...command], { encoding: "utf8" });
  // a program so small that it starts with the engine's calls; mount(2) is not among them
  const mount = run("/bin/mount", "-t", "tmpfs", "none", "/mnt");
  assert.match(mount.stderr, /not implemented/i);
  assert.equal(run("/bin/true").status, 0, "while a program that needs nothing else runs");
});
