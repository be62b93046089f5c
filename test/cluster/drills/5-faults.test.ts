// The processes of the mesh die one after the other: what lives goes on, nothing speaks in clear, and what waited is served afterwards.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, type List, waitFor } from "../cluster.ts";
import { statusOn } from "../daemon.ts";
import { capture, IMAGE, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const SYSTEM = "trackbed-system";
const RECOVER_MS = 120_000;

describe("with the mesh's processes killed", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  let far: string;
  before(async () => {
    c = await cluster();
    shop = await openShop(c, "faults", { labels: { "trackbed.dev/mesh": "enabled" } });
    await shop.captured();
    far = podUrl(await shop.podOn("web", "node2"));
  });
  after(async () => {
    await shop.remove();
  });

  const works = async (): Promise<void> => assert.match(await shop.get("node1", far), new RegExp(MARKER));

  describe("the daemons of all nodes are away", { concurrency: false }, () => {
    let outside: Shop;
    let told: readonly (readonly [string, string | undefined])[];
    const since = async () => (await shop.pods()).map((pod) => [pod.metadata.name, capture(pod)?.lastTransitionTime] as const).sort();
    before(async () => {
      outside = await openShop(c, "faults-outside"); // the daemons know the namespace before they are gone
      told = await since();
      await removeDaemons(c);
      await c.apply(late(shop.namespace)); // the plugin waits for a daemon for a while before it gives up
    });
    after(async () => {
      await returnDaemons(c);
      await outside?.remove();
    });

    test("pods of the mesh go on", works);

    test("pods that are not enrolled start without them", async () => {
      const [pod] = await outside.pods("client");
      await c.kubectl("-n", outside.namespace, "delete", "pod", pod?.metadata.name ?? "");
      await c.kubectl("-n", outside.namespace, "rollout", "status", "daemonset/client", "--timeout=60s");
    });

    test("a new pod of the mesh waits, and the kubelet says why", async () => {
      await waitFor("the kubelet says why the pod waits", async () =>
        /trackbed/.test(await c.kubectl("-n", shop.namespace, "get", "events", "--field-selector=involvedObject.name=late")),
      );
      assert.equal((await c.get("pod", "late", "-n", shop.namespace)).status?.phase, "Pending");
    });

    test("it starts in the mesh when they are back", async () => {
      await returnDaemons(c);
      await c.kubectl("-n", shop.namespace, "wait", "pod/late", "--for=condition=Ready", `--timeout=${RECOVER_MS / 1000}s`);
      await shop.captured();
      await c.kubectl("-n", shop.namespace, "delete", "pod", "late", "--wait=false");
    });

    test("nobody was told by their end or their return that pods had left the mesh", async () => {
      await waitFor("the daemons know the pods as they are", async () => {
        const known = (await Promise.all(c.nodes.map((node) => statusOn(c, node)))).flatMap(({ pods }) => pods);
        const ready = known.filter(({ namespace, phase }) => namespace === shop.namespace && phase === "ready").map(({ name }) => name);
        return told.every(([name]) => ready.includes(name));
      });
      assert.deepEqual(
        (await since()).filter(([name]) => name !== "late"),
        told,
      );
      assert.doesNotMatch(await c.kubectl("-n", shop.namespace, "get", "events"), /E_ENGINE_AWAY/);
    });
  });

  test("all of control: connections go on, policy stays in force, and two replicas come back", async () => {
    const pods = async (): Promise<string[]> =>
      (await c.get<List>("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trackbed-control")).items.map(({ metadata }) => metadata.name);
    await c.kubectl("-n", SYSTEM, "scale", "deployment/trackbed-control", "--replicas=0");
    await waitFor("control is gone", async () => (await pods()).length === 0);
    for (const node of c.nodes) assert.match(await shop.get(node, far), new RegExp(MARKER));
    await c.kubectl("-n", SYSTEM, "scale", "deployment/trackbed-control", "--replicas=2");
    await c.kubectl("-n", SYSTEM, "rollout", "status", "deployment/trackbed-control", `--timeout=${RECOVER_MS / 1000}s`);
    await shop.captured();
    await works();
  });

  test("the engine of a node: nothing is said in clear while it is away, and its pods are served again by themselves", async () => {
    const seen = await witness(c, "node1", async () => {
      await c.onNode("node1", "kill -9 $(pidof trackbed-engine)");
      await waitFor("connections are served again", () => works().then(() => true), RECOVER_MS);
    });
    assert.deepEqual(seen.syns(APP), []);
    assert.equal(seen.readable(MARKER), 0);
    await shop.captured();
  });
});

/** Takes the daemons off every node by a selector that no node has. */
async function removeDaemons(c: Cluster): Promise<void> {
  await placeDaemons(c, "true");
  await waitFor("no daemon is left", async () =>
    (await c.get<List>("pods", "-n", SYSTEM)).items.every(({ metadata }) => !metadata.name.startsWith("trackbed-daemon")),
  );
}

async function returnDaemons(c: Cluster): Promise<void> {
  await placeDaemons(c, null);
  await c.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/trackbed-daemon", `--timeout=${RECOVER_MS / 1000}s`);
}

const placeDaemons = (c: Cluster, nowhere: string | null): Promise<string> =>
  c.kubectl(
    ...["-n", SYSTEM, "patch", "daemonset/trackbed-daemon", "--type=merge", "-p"],
    JSON.stringify({ spec: { template: { spec: { nodeSelector: { "trackbed.test/nowhere": nowhere } } } } }),
  );

const late = (namespace: string): string => `
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: ${namespace}, labels: {app: late}}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  terminationGracePeriodSeconds: 1
  containers: [{name: late, image: ${IMAGE}, imagePullPolicy: Never, command: [sleep, "100000"]}]
`;
