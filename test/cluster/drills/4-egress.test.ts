// Hosts outside of the mesh by the name that a ServiceEntry gives them, with the cluster's own DNS beside it, and what its status says.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, type Condition, cluster, type Document, waitFor } from "../cluster.ts";
import { flowsOn } from "../daemon.ts";
import { MARKER, openShop, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const ACCEPTED = "trackbed.dev/Accepted";
/** Names are asked for again when their answers expire: after 5 s in this cluster. */
const RENAMED_MS = 60_000;

describe("a ServiceEntry", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  let outside: Shop;
  before(async () => {
    c = await cluster();
    [shop, outside] = await Promise.all([
      openShop(c, "egress", { labels: { "trackbed.dev/mesh": "enabled" } }),
      openShop(c, "egress-outside"),
    ]);
    await shop.captured();
  });
  after(async () => {
    await Promise.all([shop?.remove(), outside?.remove()]);
  });

  const entry = (name: string, spec: object): Promise<void> =>
    c.apply(
      JSON.stringify({
        apiVersion: "networking.istio.io/v1",
        kind: "ServiceEntry",
        metadata: { name, namespace: shop.namespace },
        spec: { ports: [{ number: 80, name: "tcp", targetPort: APP }], ...spec },
      }),
    );
  const accepted = (name: string): Promise<Condition> =>
    waitFor(`${name} has a status`, async () => {
      const { status } = await c.get<Document>("-n", shop.namespace, `serviceentries.networking.istio.io/${name}`);
      return status?.conditions?.find(({ type }) => type === ACCEPTED);
    });
  const addressOf = async (of: Shop): Promise<string> => (await of.podOn("web", "node2")).status?.podIP ?? "";

  test("gives a host a name and an address, and its flows are called by that name", async () => {
    await entry("ledger", { hosts: ["ledger.bank.example"], resolution: "STATIC", endpoints: [{ address: await addressOf(outside) }] });
    assert.equal((await accepted("ledger")).status, "True");
    await waitFor("the host is reached", () => shop.reaches("node1", "http://ledger.bank.example/"));
    const flow = await waitFor("its flow is told of", async () =>
      (await flowsOn(c, "node1")).find(
        ({ service, verdict }) => service?.includes("ledger.bank.example") === true && verdict === "allowed",
      ),
    );
    assert.equal(flow.path, "plain");
    assert.ok(!(await outside.reaches("node1", "http://ledger.bank.example/")), "a pod outside of the mesh knows the name");
  });

  test("whose endpoint is a pod of the mesh leads into that pod's tunnel", async () => {
    await entry("inside", { hosts: ["inside.bank.example"], resolution: "STATIC", endpoints: [{ address: await addressOf(shop) }] });
    await waitFor("the host is reached", () => shop.reaches("node1", "http://inside.bank.example/"));
    const seen = await witness(c, "node1", async () => {
      assert.match(await shop.get("node1", "http://inside.bank.example/"), new RegExp(MARKER));
    });
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
  });

  test("whose endpoint is a name follows what the cluster's DNS says of it", async () => {
    const name = `web-direct.${outside.namespace}.svc.cluster.local`;
    await entry("archive", { hosts: ["archive.bank.example"], resolution: "DNS", endpoints: [{ address: name }] });
    await waitFor("the host is reached", () => shop.reaches("node2", "http://archive.bank.example/"));
    const before = (await outside.pods("web")).map(({ metadata }) => metadata.name);
    await c.kubectl("-n", outside.namespace, "delete", "pods", "-l", "app=web");
    await c.kubectl("-n", outside.namespace, "rollout", "status", "deployment/web", "--timeout=60s");
    const answer = await waitFor("its successors are reached", () => shop.get("node2", "http://archive.bank.example/"), RENAMED_MS);
    assert.ok(!before.some((old) => answer.includes(old)), answer);
  });

  test("that asks for what cannot be honoured is not in force, and its status names the field", async () => {
    await entry("far", { hosts: ["far.bank.example"], resolution: "DYNAMIC_DNS" });
    const { status, message } = await accepted("far");
    assert.equal(status, "False");
    assert.match(message ?? "", /spec\.resolution/);
    assert.ok(!(await shop.reaches("node1", "http://far.bank.example/")));
  });

  test("that is deleted takes its name along", async () => {
    await c.kubectl("-n", shop.namespace, "delete", "serviceentries.networking.istio.io", "ledger");
    await waitFor("the name is unknown", async () => !(await shop.reaches("node1", "http://ledger.bank.example/")));
  });
});
