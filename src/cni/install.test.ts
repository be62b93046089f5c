// Claims about plugin and configuration on the node: put there whole, and put back when somebody else touches them.
import assert from "node:assert/strict";
import { watch } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { MeshError } from "#mesh/error.ts";
import { decisionFile } from "./decisions.ts";
import { type Installation, install, removeConflist } from "./install.ts";

const DEADLINE_MS = 5000;
const OURS = "00-trackbed.conflist";

async function node(t: TestContext, more: { readonly conf?: boolean; readonly sweepMilliseconds?: number } = {}) {
  const root = await mkdtemp(join(tmpdir(), "trackbed-install-"));
  const [bin, conf, plugin] = [join(root, "bin"), join(root, "conf"), join(root, "plugin")];
  await mkdir(bin);
  if (more.conf !== false) await mkdir(conf);
  await writeFile(plugin, "version 1");
  const told: (MeshError | null)[] = [];
  const placed: string[] = [];
  let changed: () => void = () => undefined;
  const installation: Installation = install({
    plugin,
    bin,
    conf,
    placed: (what) => {
      placed.push(what);
      changed();
    },
    trouble: (error) => {
      told.push(error);
      changed();
    },
    sweepMilliseconds: more.sweepMilliseconds ?? 200,
  });
  t.after(async () => {
    await installation.stop();
    await rm(root, { recursive: true });
  });
  const cluster = (bridge: string, name = "10-cluster.conflist") =>
    writeFile(join(conf, name), JSON.stringify({ cniVersion: "1.0.0", name: "cluster", plugins: [{ type: "bridge", bridge }] }));
  const ours = async (): Promise<string> => readFile(join(conf, OURS), "utf8").catch(() => "");
  async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
    const ended = Date.now() + DEADLINE_MS;
    while (!(await holds())) {
      if (Date.now() > ended) assert.fail(`never: ${what}; placed ${placed.join(", ")}; told ${told.map(String).join(", ")}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 50);
        changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
  return { root, bin, conf, plugin, told, placed, installation, cluster, ours, until };
}

test("plugin and configuration are put in place, and a second look changes nothing", async (t) => {
  const { bin, cluster, installation, ours, placed, told } = await node(t);
  await cluster("cni0");
  await installation.mend();
  assert.equal(await readFile(join(bin, "trackbed-cni"), "utf8"), "version 1");
  assert.equal((await stat(join(bin, "trackbed-cni"))).mode & 0o777, 0o755);
  assert.match(await ours(), /"bridge": "cni0".*"type": "trackbed-cni"/s);
  const before = placed.length;
  await installation.mend();
  assert.deepEqual([placed.length, told, installation.problem], [before, [null], null]);
});

test("a network that comes after us, changes or loses our file is followed by itself", async (t) => {
  const { cluster, conf, installation, ours, told, until } = await node(t);
  await installation.mend();
  assert.equal(told[0]?.code, "E_CNI_NO_NETWORK");
  await cluster("cni0");
  await until("the first copy", async () => (await ours()).includes("cni0"));
  assert.equal(told.at(-1), null);
  await cluster("cni1");
  await until("the change", async () => (await ours()).includes("cni1"));
  await rm(join(conf, OURS));
  await until("our file again", async () => (await ours()).includes("cni1"));
  await writeFile(join(conf, OURS), "{}");
  await until("our content again", async () => (await ours()).includes("cni1"));
  // As providers do it: written beside and renamed.
  await cluster("cni2", "new");
  await rename(join(conf, "new"), join(conf, "10-cluster.conflist"));
  await until("the rename", async () => (await ours()).includes("cni2"));
});

test("when the node's network goes, ours does not stand alone", async (t) => {
  const { cluster, conf, installation, ours, told, until } = await node(t);
  await cluster("cni0");
  await installation.mend();
  await rm(join(conf, "10-cluster.conflist"));
  await until("ours gone", async () => (await ours()) === "");
  assert.equal(told.at(-1)?.code, "E_CNI_NO_NETWORK");
});

/** The kernel gives 128 of these to one user by default, and a busy machine may have none left. */
const noNotices = ((): string | false => {
  try {
    watch(tmpdir()).close();
    return false;
  } catch (error) {
    return `no inotify instance is left: ${String(error)}`;
  }
})();

test("a change is noticed at once, long before the sweep", { skip: noNotices }, async (t) => {
  const { cluster, installation, ours, until } = await node(t, { sweepMilliseconds: 3_600_000 });
  await cluster("cni0");
  await installation.mend();
  await cluster("cni1");
  await until("the change", async () => (await ours()).includes("cni1"));
});

test("a directory that is made later is found by the sweep", async (t) => {
  const { conf, cluster, installation, ours, told, until } = await node(t, { conf: false, sweepMilliseconds: 20 });
  await installation.mend();
  assert.equal(told[0]?.code, "E_CNI_INSTALL_FAILED");
  await mkdir(conf);
  await cluster("cni0");
  await until("the copy", async () => (await ours()).includes("cni0"));
});

test("another version of the plugin takes the place of the old one while it may be running, and lost rights come back", async (t) => {
  const { bin, cluster, installation, plugin, conf } = await node(t);
  await cluster("cni0");
  await installation.mend();
  const old = (await stat(join(bin, "trackbed-cni"))).ino;
  await writeFile(plugin, "version 2");
  await installation.mend();
  assert.equal(await readFile(join(bin, "trackbed-cni"), "utf8"), "version 2");
  assert.notEqual((await stat(join(bin, "trackbed-cni"))).ino, old, "written into the file that a process may be executing");
  await chmod(join(bin, "trackbed-cni"), 0o644);
  await installation.mend();
  assert.equal((await stat(join(bin, "trackbed-cni"))).mode & 0o777, 0o755);
  assert.deepEqual((await readdir(bin)).sort(), ["trackbed-cni"]);
  assert.deepEqual((await readdir(conf)).sort(), [OURS, "10-cluster.conflist"]);
});

test("a configuration that a runtime would read before ours is an error that names it", async (t) => {
  const { cluster, installation, told } = await node(t);
  await cluster("cni0", "00-multus.conflist");
  await installation.mend();
  assert.equal(told[0]?.code, "E_CNI_INSTALL_FAILED");
  assert.match(told[0]?.message ?? "", /00-multus.conflist in .* comes before 00-trackbed.conflist/);
});

test("a network of a version without chaining goes on without us, and is chained once its version is raised", async (t) => {
  const { conf, cluster, ours, until, told } = await node(t);
  await cluster("br0");
  await until("ours is there", async () => (await ours()) !== "");
  const old = { cniVersion: "0.2.0", name: "cluster", type: "bridge", bridge: "br0" };
  await writeFile(join(conf, "10-cluster.conflist"), JSON.stringify({ ...old, plugins: [old] }));
  await until("ours is gone", async () => (await ours()) === "");
  assert.equal(told.at(-1)?.code, "E_CNI_VERSION");
  assert.match(String(told.at(-1)), /10-cluster\.conflist is of cniVersion 0\.2\.0/);
  await cluster("br0");
  await until("ours is back", async () => (await ours()) !== "");
  assert.equal(told.at(-1), null);
});

test("the configuration goes when the mesh leaves, and going twice is no error", async (t) => {
  const { cluster, conf, installation, ours } = await node(t);
  await cluster("cni0");
  await installation.mend();
  await installation.stop();
  await removeConflist(conf);
  await removeConflist(conf);
  assert.equal(await ours(), "");
});

test("after the stop nothing is written any more, also when it came in the middle of it", async (t) => {
  for (let i = 0; i < 20; i++) {
    const { bin, conf, cluster, installation, ours } = await node(t, { sweepMilliseconds: 3_600_000 });
    await cluster("cni0");
    void installation.mend();
    await installation.stop();
    await removeConflist(conf);
    await rm(join(bin, "trackbed-cni"), { force: true });
    await new Promise(setImmediate);
    assert.deepEqual([await ours(), await readdir(bin)], ["", []]);
  }
});

test("decisions are replaced whole, only when they changed, and readable to nobody's harm", async (t) => {
  const { root } = await node(t);
  const path = join(root, "state/cni/namespaces.json");
  const decisions = decisionFile(path);
  await decisions.write(
    new Map([
      ["shop", true],
      ["bank", false],
    ]),
  );
  assert.deepEqual(JSON.parse(await readFile(path, "utf8")), {
    kind: "trackbed-namespaces",
    format: 1,
    namespaces: { bank: false, shop: true },
  });
  const { ino } = await stat(path);
  await decisions.write(
    new Map([
      ["bank", false],
      ["shop", true],
    ]),
  );
  assert.equal((await stat(path)).ino, ino);
  await decisions.write(new Map([["bank", true]]));
  assert.notEqual((await stat(path)).ino, ino);
  await decisions.remove();
  await assert.rejects(stat(path), { code: "ENOENT" });
});

test("decisions that cannot be written leave no older ones behind, by which a pod could pass", async (t) => {
  const { root } = await node(t);
  const path = join(root, "state/namespaces.json");
  const decisions = decisionFile(path);
  await decisions.write(new Map([["shop", false]]));
  const next = `${path}.${process.pid}.next`;
  await mkdir(next); // as a disk that is full: no new file
  await assert.rejects(decisions.write(new Map([["shop", true]])));
  await assert.rejects(stat(path), { code: "ENOENT" });
  await rm(next, { recursive: true });
  await decisions.write(new Map([["shop", true]]));
  assert.match(await readFile(path, "utf8"), /"shop":true/);
});

test("decisions that are written at once come one after another, and the last one counts", async (t) => {
  const { root } = await node(t);
  const path = join(root, "state/namespaces.json");
  const decisions = decisionFile(path);
  const turns = Array.from({ length: 20 }, (_, i) => decisions.write(new Map([[`n${i}`, true]])));
  assert.deepEqual(
    (await Promise.allSettled(turns)).map(({ status }) => status),
    turns.map(() => "fulfilled"),
  );
  assert.match(await readFile(path, "utf8"), /"namespaces":\{"n19":true\}/);
});
