// `trackbed uninstall` with pods still enrolled and a waypoint: they go on in clear, and nothing of the mesh is left on nodes or in the API.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { kubernetes } from "#contract/tables.ts";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { execute } from "../command.ts";
import { difference, nodeState, type State } from "../node-state.ts";
import { MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";

const UNINSTALL_MS = 180_000;
/** Dead processes and namespaces are the kernel's to take apart. */
const SETTLE_MS = 30_000;

let c: Cluster;
let shop: Shop;
before(async () => {
  c = await cluster();
  shop = await openShop(c, "uninstall", { labels: { "trackbed.dev/mesh": "enabled" } });
  await shop.captured();
  const { code, stderr } = await execute(trackbed.argv("waypoint", "apply", "-n", shop.namespace, "--use"), {
    env: trackbed.env(c.settings),
    deadlineMs: UNINSTALL_MS,
  });
  assert.equal(code, 0, stderr);
});
after(() => shop?.remove());

/** All but the waypoint's, which goes. */
const enrolled = async () => (await shop.pods()).filter(({ metadata }) => metadata.labels?.[kubernetes.gatewayNameLabel] === undefined);

test("enrolled pods go on without the mesh, not restarted", async () => {
  const uids = (await enrolled()).map(({ metadata }) => metadata.uid).sort();
  const { code, stdout, stderr } = await execute(trackbed.argv("uninstall"), { env: trackbed.env(c.settings), deadlineMs: UNINSTALL_MS });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  assert.match(await shop.get("node1", podUrl(await shop.podOn("web", "node2"))), new RegExp(MARKER));
  const now = await enrolled();
  assert.deepEqual(now.map(({ metadata }) => metadata.uid).sort(), uids);
  const restarted = now.filter(({ status }) => status?.containerStatuses?.every(({ restartCount }) => restartCount === 0) !== true);
  assert.deepEqual(
    restarted.map(({ metadata }) => metadata.name),
    [],
    await c.kubectl("-n", shop.namespace, "get", "events", "--sort-by=.lastTimestamp"),
  );
});

test("what was made for a Gateway is gone, and the Gateway that somebody wrote is there", async () => {
  const made = await c.kubectl(
    "get",
    "deployments,services,serviceaccounts,configmaps,gateways",
    "-A",
    "-l",
    "app.kubernetes.io/managed-by=trackbed",
    "-o",
    "name",
  );
  assert.equal(made, "");
  await c.kubectl("-n", shop.namespace, "get", "gateway", "waypoint");
});

test("no rule, process, file or API object is left", async () => {
  await shop.remove();
  await shop.removed();
  const before = JSON.parse(readFileSync(join(c.settings.state, "before.json"), "utf8")) as State;
  let left: string[] = [];
  await waitFor(
    "the cluster is as it was before the installation",
    async () => {
      left = difference(before, await nodeState(c));
      if (left.length > 0) throw new Error(left.join("\n"));
      return true;
    },
    SETTLE_MS,
  );
});
