// Two replicas of control: the one that holds a node's stream is deleted, and nothing that runs or shows notices.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, type Document, type List, waitFor } from "../cluster.ts";
import { MARKER, openShop, type Shop } from "../shop.ts";

const CONTROL = ["-n", "trackbed-system", "pods", "-l", "app.kubernetes.io/name=trackbed-control"];
type Dated = { readonly type: string; readonly status: string; readonly message?: string; readonly lastTransitionTime?: string };

describe("two replicas of control", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    shop = await openShop(c, "replicas", { labels: { "trackbed.dev/mesh": "enabled" } });
    await shop.captured();
  });
  after(async () => {
    await shop.remove();
  });

  const replicas = async (): Promise<readonly Document[]> =>
    (await c.get<List>(...CONTROL)).items.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  const metric = async (pod: Document, name: string): Promise<number> => {
    const ip = pod.status?.podIP ?? "";
    const host = ip.includes(":") ? `[${ip}]` : ip;
    const text = await (await fetch(`http://${host}:15014/metrics`, { signal: AbortSignal.timeout(5_000) })).text();
    return text.split("\n").reduce((sum, line) => (line.startsWith(name) ? sum + Number(line.split(" ").at(-1)) : sum), 0);
  };
  const holder = async () => {
    for (const pod of await replicas()) if ((await metric(pod, "trackbed_xds_streams")) > 0) return pod;
    return undefined;
  };
  const conditions = async () =>
    new Map(
      (await shop.pods()).map(({ metadata, status }) => {
        const found = (status?.conditions as readonly Dated[] | undefined)?.find(({ type }) => type === "trackbed.dev/Captured");
        return [metadata.name, JSON.stringify([found?.status, found?.message, found?.lastTransitionTime])];
      }),
    );

  test("both are ready, one holds the Lease, and names of objects are for its own host alone", async () => {
    const two = await replicas();
    assert.equal(two.length, 2);
    const leaders = await waitFor("one leads", async () => {
      const found = await Promise.all(two.map((pod) => metric(pod, "trackbed_leader")));
      return found.filter((one) => one === 1).length === 1 && found;
    });
    assert.equal(leaders.length, 2);
    const ip = two[0]?.status?.podIP ?? "";
    assert.equal((await fetch(`http://${ip.includes(":") ? `[${ip}]` : ip}:15014/v1/nodes`)).status, 403);
  });

  test("the holder of a node's stream goes: no request fails, no condition changes, and the nodes are with the other one", async () => {
    const before = await conditions();
    const held = await waitFor("somebody holds a node", holder);
    const requests: Promise<string>[] = [];
    const client = c.nodes[0] ?? "";
    const deleted = c.kubectl("-n", "trackbed-system", "delete", "pod", held.metadata.name, "--wait=false");
    for (let i = 0; i < 20; i++) {
      requests.push(shop.get(client, "http://web/"));
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    await deleted;
    for (const answer of await Promise.all(requests)) assert.match(answer, new RegExp(MARKER));
    const next = await waitFor("another one holds its nodes", async () => {
      const found = await holder();
      return found !== undefined && found.metadata.uid !== held.metadata.uid && found;
    });
    assert.notEqual(next.metadata.name, held.metadata.name);
    await waitFor("two again", async () => (await replicas()).length === 2);
    assert.deepEqual(await conditions(), before);
  });

  test("pods that are created meanwhile are in the mesh", async () => {
    await c.kubectl("-n", shop.namespace, "rollout", "restart", "deployment/web");
    await c.kubectl("-n", shop.namespace, "rollout", "status", "deployment/web", "--timeout=120s");
    await shop.captured();
  });
});
