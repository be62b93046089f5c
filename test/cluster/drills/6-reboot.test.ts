// A node loses power: its pods come back with the same UID in a new namespace, are captured before their containers start, and say nothing in clear.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, type List, waitFor } from "../cluster.ts";
import { statusOn } from "../daemon.ts";
import { capture, fetching, IMAGE, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const SYSTEM = "trackbed-system";
const BACK_MS = 180_000;
/** More of them look for what happens seldom: TRACKBED_REBOOTS=15 takes some five minutes. */
const REBOOTS = Number(process.env["TRACKBED_REBOOTS"] || 1);

describe(REBOOTS === 1 ? "a node reboots" : `a node reboots ${REBOOTS} times`, { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    shop = await openShop(c, "reboot", { labels: { "trackbed.dev/mesh": "enabled" } });
    // Asks in its first millisecond and then without end: a packet in clear at any moment of the reboot would be seen.
    await c.apply(chatter("chatter", "node2", shop.namespace, `http://web.${shop.namespace}/`));
    // The other way too: whoever stays up must not speak in clear to pods that are away, or to whoever has their addresses.
    await c.apply(chatter("listener", "node1", shop.namespace, `http://web.${shop.namespace}/`));
    for (const name of ["chatter", "listener"])
      await c.kubectl("-n", shop.namespace, "wait", `pod/${name}`, "--for=condition=Ready", "--timeout=60s");
    await shop.captured();
  });
  after(() => shop.remove());

  const restarts = async (): Promise<number> =>
    (await c.get("pod", "chatter", "-n", shop.namespace)).status?.containerStatuses?.[0]?.restartCount ?? 0;

  test("its pods return with their UID, captured, and not one byte of them was in clear", async () => {
    const uid = (await c.get("pod", "chatter", "-n", shop.namespace)).metadata.uid;
    // Tapped on the other node: the rebooting one's cable goes with it.
    const seen = await witness(c, "node1", async () => {
      for (let times = 1; times <= REBOOTS; times++) {
        await c.powerCut("node2");
        await waitFor("the chatter runs again", async () => (await restarts()) === times, BACK_MS);
        await waitFor(
          "it is served again",
          async () => /platypus/.test(await c.kubectl("-n", shop.namespace, "logs", "chatter", "--tail=3")),
          BACK_MS,
        );
      }
    });
    assert.equal((await c.get("pod", "chatter", "-n", shop.namespace)).metadata.uid, uid);
    assert.deepEqual(seen.syns(APP), [], "a connection crossed the wire in clear");
    assert.equal(seen.readable(MARKER), 0);
    await shop.captured();
    for (const node of c.nodes) assert.match(await shop.get(node, podUrl(await shop.podOn("web", "node2"))), new RegExp(MARKER));
  });

  test("with control unreachable its pods refuse traffic, and say so, until a certificate can be had", async () => {
    await c.kubectl("-n", SYSTEM, "scale", "deployment/trackbed-control", "--replicas=0");
    await waitFor(
      "control is gone",
      async () => (await c.get<List>("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trackbed-control")).items.length === 0,
    );
    const seen = await witness(c, "node1", async () => {
      await c.powerCut("node2");
      await waitFor("the chatter runs again", async () => (await restarts()) === REBOOTS + 1, BACK_MS);
      const { metadata } = await waitFor("the client is there", () => shop.podOn("client", "node2"), BACK_MS);
      await waitFor("the client's container answers", () => c.podExec(shop.namespace, metadata.name, "true").then(() => true), BACK_MS);
      const { stdout } = await c.tryKubectl(
        "-n",
        shop.namespace,
        "exec",
        metadata.name,
        "--",
        "sh",
        "-c",
        `${fetching(podUrl(await shop.podOn("web", "node1")))} && echo ANSWERED; true`,
      );
      assert.doesNotMatch(stdout, /ANSWERED/);
      const told = await statusOn(c, "node2");
      assert.equal(told.control.connected, false);
      const pod = told.pods.find(({ name }) => name === metadata.name);
      assert.ok(pod !== undefined && pod.phase !== "ready", `the daemon calls a pod without a certificate ${pod?.phase ?? "nothing"}`);
      assert.match(pod.problem?.code ?? told.control.problem?.code ?? "", /^E_/, "nobody says why");
    });
    assert.deepEqual(seen.syns(APP), []);
    assert.equal(seen.readable(MARKER), 0);
    await c.kubectl("-n", SYSTEM, "scale", "deployment/trackbed-control", "--replicas=2");
    await c.kubectl("-n", SYSTEM, "rollout", "status", "deployment/trackbed-control", "--timeout=120s");
    // Conditions may still be those of before: the daemon that is new has the first word.
    await waitFor(
      "every pod of the node is ready in the mesh",
      async () => {
        const own = (await statusOn(c, "node2")).pods.filter(({ namespace }) => namespace === shop.namespace);
        return own.length > 0 && own.every(({ phase }) => phase === "ready");
      },
      BACK_MS,
    );
    await waitFor("traffic flows", () => shop.reaches("node2", `http://web.${shop.namespace}/`), BACK_MS);
    await waitFor(
      "every pod shows that it is ready",
      async () => (await shop.pods()).every((pod) => capture(pod)?.reason === "Ready"),
      BACK_MS,
    );
  });
});

const chatter = (name: string, node: string, namespace: string, url: string): string => `
apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: ${namespace}, labels: {app: chatter}}
spec:
  nodeSelector: {kubernetes.io/hostname: ${node}}
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: ${IMAGE}, imagePullPolicy: Never, command: [sh, -c, "while :; do ${fetching(url)}; sleep 0.1; done"]}]
`;
