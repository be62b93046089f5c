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

  test("the daemon of a node: its pods go on, a new pod waits for it and then starts in the mesh", async () => {
    await withoutDaemons(c, async () => {
      await works();
      await c.apply(late(shop.namespace));
      await waitFor("the kubelet says why the pod waits", async () =>
        /trackbed/.test(await c.kubectl("-n", shop.namespace, "get", "events", "--field-selector=involvedObject.name=late")),
      );
      assert.equal((await c.get("pod", "late", "-n", shop.namespace)).status?.phase, "Pending");
    });
    await c.kubectl("-n", shop.namespace, "wait", "pod/late", "--for=condition=Ready", `--timeout=${RECOVER_MS / 1000}s`);
    await shop.captured();
    await c.kubectl("-n", shop.namespace, "delete", "pod", "late");
  });

  test("the daemon of a node: nobody is told by its end or its return that pods had left the mesh", async () => {
    const since = async () => (await shop.pods()).map((pod) => capture(pod)?.lastTransitionTime).sort();
    const before = await since();
    await withoutDaemons(c, works);
    await waitFor("the daemons know the pods as they are", async () => {
      const known = (await Promise.all(c.nodes.map((node) => statusOn(c, node)))).flatMap(({ pods }) => pods);
      const ready = known.filter(({ namespace, phase }) => namespace === shop.namespace && phase === "ready");
      return ready.length === before.length;
    });
    assert.deepEqual(await since(), before);
    assert.doesNotMatch(await c.kubectl("-n", shop.namespace, "get", "events"), /E_ENGINE_AWAY/);
  });

  test("the daemon of a node: pods that are not enrolled start without it", async () => {
    const outside = await openShop(c, "faults-outside"); // the daemons know the namespace before they are gone
    await withoutDaemons(c, async () => {
      const [pod] = await outside.pods("client");
      await c.kubectl("-n", outside.namespace, "delete", "pod", pod?.metadata.name ?? "");
      await c.kubectl("-n", outside.namespace, "rollout", "status", "daemonset/client", "--timeout=60s");
    });
    await outside.remove();
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

/** Takes the daemons off every node by a selector that no node has, and brings them back. */
async function withoutDaemons(c: Cluster, during: () => Promise<void>): Promise<void> {
  const patch = (value: string | null): Promise<string> =>
    c.kubectl(
      "-n",
      SYSTEM,
      "patch",
      "daemonset/trackbed-daemon",
      "--type=merge",
      "-p",
      JSON.stringify({ spec: { template: { spec: { nodeSelector: { "trackbed.test/nowhere": value } } } } }),
    );
  await patch("true");
  await waitFor("no daemon is left", async () =>
    (await c.get<List>("pods", "-n", SYSTEM)).items.every(({ metadata }) => !metadata.name.startsWith("trackbed-daemon")),
  );
  try {
    await during();
  } finally {
    await patch(null);
  }
  await c.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/trackbed-daemon", `--timeout=${RECOVER_MS / 1000}s`);
}

const late = (namespace: string): string => `
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: ${namespace}, labels: {app: late}}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  terminationGracePeriodSeconds: 1
  containers: [{name: late, image: ${IMAGE}, imagePullPolicy: Never, command: [sleep, "100000"]}]
`;
