// The mesh as a release of Helm's: installed, upgraded and forgotten by Helm itself, in a cluster that never saw another way.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chart } from "#install/chart.ts";
import { writeChart } from "#install/chart-directory.ts";
import { baseFiles, crdFiles } from "#install/files.ts";
import { ensure, helm as helmPart } from "../build.ts";
import { type Cluster, cluster, type List, waitFor } from "../cluster.ts";
import { execute, run } from "../command.ts";
import { load } from "../load.ts";
import { difference, nodeState, type State } from "../node-state.ts";
import { ROOT } from "../settings.ts";
import { openShop, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";

const SYSTEM = "trackbed-system";
const UNINSTALL_MS = 180_000;
const SETTLE_MS = 30_000;
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };

const directory = mkdtempSync(join(tmpdir(), "trackbed-release-"));
let c: Cluster;
let shop: Shop | undefined;
let program = "";
let untouched: State = {};
before(async () => {
  c = await cluster();
  program = join(await ensure(c.settings, helmPart, console.log), "helm");
  writeChart(directory, chart(baseFiles(), crdFiles(), version));
  await load(c.settings, [join(ROOT, ".cache/images/trackbed.tar")]);
  untouched = await nodeState(c);
});
after(async () => {
  rmSync(directory, { recursive: true });
  await shop?.remove();
});

/** The release lives beside the mesh's namespace, which is part of it. */
const helm = (verb: string, ...more: readonly string[]): Promise<string> =>
  run([program, verb, ...more, "--namespace", "kube-system", "--kubeconfig", c.settings.kubeconfig]);

const engines = async (): Promise<string[]> =>
  (await c.get<List>("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trackbed-engine")).items
    .map(({ metadata }) => metadata.uid)
    .sort();

/** Helm's own waiting leaves out as many daemons as may be away at a time. */
const finds = (nothing: string): Promise<boolean> =>
  waitFor(nothing, async () => {
    const { code, stdout, stderr } = await execute(trackbed.argv("check"), { env: trackbed.env(c.settings) });
    if (code !== 0) throw new Error(`${stdout}\n${stderr}`);
    return true;
  });

test("helm install brings up a mesh that works", async () => {
  await helm("install", "trackbed", directory, "--wait", "--timeout", "3m");
  assert.match(await helm("status", "trackbed"), /STATUS: deployed/);
  await finds("nothing is wrong with what Helm installed");
  shop = await openShop(c, "release", { labels: { "trackbed.dev/mesh": "enabled" } });
  await shop.captured();
});

test("helm upgrade with another value rolls control and leaves the engines alone", async () => {
  const before = await engines();
  await helm("upgrade", "trackbed", directory, "--set", "adopt=istio", "--wait", "--timeout", "3m");
  const { items } = await c.get<List>("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trackbed-control");
  for (const { spec } of items) assert.match(JSON.stringify(spec), /--adopt[="\s,]+istio/);
  assert.deepEqual(await engines(), before);
  await shop?.captured();
});

test("trackbed uninstall, then helm uninstall, leave nothing", async () => {
  const { code, stdout, stderr } = await execute(trackbed.argv("uninstall"), { env: trackbed.env(c.settings), deadlineMs: UNINSTALL_MS });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  await helm("uninstall", "trackbed");
  assert.equal((await helm("list", "--all", "--short")).trim(), "");
  await shop?.remove();
  await shop?.removed();
  let left: string[] = [];
  await waitFor(
    "the cluster is as it was before the release",
    async () => {
      left = difference(untouched, await nodeState(c));
      if (left.length > 0) throw new Error(left.join("\n"));
      return true;
    },
    SETTLE_MS,
  );
});
