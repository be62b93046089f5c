// Enrolment: running pods join and leave the mesh by a label, and what they then say to each other is read by nobody.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, holds, waitFor } from "../cluster.ts";
import { MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const HBONE = 15008;
const APP = 8080;
/** More than three periods of the probes: a failing one would show. */
const PROBES_MS = 5000;
const URLS = (namespace: string): string[] => ["http://web/", `http://web.${namespace}.svc.cluster.local/`, `http://web-direct:${APP}/`];

describe("a labelled namespace", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  let outside: Shop;
  before(async () => {
    c = await cluster();
    [shop, outside] = await Promise.all([openShop(c, "enrol"), openShop(c, "enrol-outside")]);
  });
  after(async () => {
    await Promise.all([shop.remove(), outside.remove()]);
  });

  test("traffic is in clear before (so the witness can see)", async () => {
    const seen = await witness(c, "node1", async () => {
      await shop.get("node1", podUrl(await shop.podOn("web", "node2")));
    });
    assert.ok(seen.readable(MARKER) > 0, "the marker was not seen in clear");
    assert.deepEqual(seen.syns(HBONE), []);
  });

  test("its running pods are in the mesh without a restart", async () => {
    const uids = (await shop.pods()).map(({ metadata }) => metadata.uid).sort();
    await shop.label("enabled");
    await shop.captured();
    const now = await shop.pods();
    assert.deepEqual(now.map(({ metadata }) => metadata.uid).sort(), uids);
    for (const { status } of now)
      assert.deepEqual(
        status?.containerStatuses?.map(({ restartCount }) => restartCount),
        [0],
      );
  });

  test("the pods of another namespace are left alone", async () => {
    for (const { metadata } of await outside.pods()) {
      const rules = await c.inPod(outside.namespace, metadata.name, "nft list ruleset; ip rule");
      assert.doesNotMatch(rules, /trackbed|15001|0x111/);
    }
  });

  test("its connections between nodes are mutual TLS on 15008 and nothing of them can be read", async () => {
    const [near, far] = [await shop.podOn("web", "node1"), await shop.podOn("web", "node2")];
    const seen = await witness(c, "node1", async () => {
      for (let i = 0; i < 4; i++) for (const url of URLS(shop.namespace)) assert.match(await shop.get("node1", url), new RegExp(MARKER));
      for (const family of [0, 1])
        for (const pod of [near, far]) assert.match(await shop.get("node1", podUrl(pod, family)), new RegExp(MARKER));
    });
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), [], "a connection to the application crossed the wire by itself");
    assert.ok(seen.syns(HBONE).length > 0, "no tunnel was opened");
  });

  test("pods outside reach it in PERMISSIVE, and it reaches them", async () => {
    assert.match(await outside.get("node1", `http://web.${shop.namespace}/`), new RegExp(MARKER));
    assert.match(await shop.get("node1", `http://web.${outside.namespace}/`), new RegExp(MARKER));
  });

  test("it reaches the API server and DNS", async () => {
    const { metadata } = await shop.podOn("client", "node1");
    await c.podExec(
      shop.namespace,
      metadata.name,
      `timeout 5 wget -qO- --no-check-certificate https://kubernetes.default/version && nslookup web.${shop.namespace}.svc.cluster.local && ! nslookup example.com`,
    );
  });

  test("exec, logs and port-forward work", async () => {
    const { metadata } = await shop.podOn("web", "node2");
    assert.equal((await c.podExec(shop.namespace, metadata.name, "hostname")).trim(), metadata.name);
    assert.match(await c.kubectl("-n", shop.namespace, "logs", metadata.name), /serving/);
    await using forward = await c.portForward(shop.namespace, metadata.name, APP);
    assert.match(await (await fetch(forward.url)).text(), new RegExp(MARKER));
  });

  describe("under STRICT", () => {
    before(() => c.apply(strict(shop.namespace)));
    after(() => c.kubectl("-n", shop.namespace, "delete", "peerauthentication", "strict"));

    test("plaintext from outside is refused and its own pods go on", async () => {
      await waitFor("the outside is refused", async () => !(await outside.reaches("node1", `http://web.${shop.namespace}/`)));
      for (const node of c.nodes) assert.match(await shop.get(node, "http://web/"), new RegExp(MARKER));
    });

    test("kubelet's probes pass: no pod becomes unready or restarts", async () => {
      await holds(async () => {
        for (const { status, metadata } of await shop.pods("web"))
          assert.ok(
            status?.containerStatuses?.every(({ ready, restartCount }) => ready && restartCount === 0),
            `${metadata.name} is not ready or restarted`,
          );
      }, PROBES_MS);
    });

    test("exec and port-forward still work", async () => {
      const { metadata } = await shop.podOn("web", "node1");
      await using forward = await c.portForward(shop.namespace, metadata.name, APP);
      assert.match(await (await fetch(forward.url)).text(), new RegExp(MARKER));
    });
  });

  test("unlabelled, its pods leave: no rule is left and traffic is in clear again", async () => {
    const uids = (await shop.pods()).map(({ metadata }) => metadata.uid).sort();
    await shop.label(null);
    await shop.released();
    for (const { metadata } of await shop.pods())
      await waitFor(
        `${metadata.name} has no rule of ours`,
        async () => !/trackbed|15001|0x111/.test(await c.inPod(shop.namespace, metadata.name, "nft list ruleset; ip rule; ip -6 rule")),
      );
    const seen = await witness(c, "node1", async () => {
      assert.match(await shop.get("node1", podUrl(await shop.podOn("web", "node2"))), new RegExp(MARKER));
    });
    assert.deepEqual(seen.syns(HBONE), []);
    assert.ok(seen.readable(MARKER) > 0);
    assert.deepEqual((await shop.pods()).map(({ metadata }) => metadata.uid).sort(), uids);
  });
});

const strict = (namespace: string): string => `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: ${namespace}}
spec: {mtls: {mode: STRICT}}
`;
