// A node whose daemon captures by iptables beside one that does it by nftables: running pods are taken over, new ones are born into it, and back.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, holds, type List, waitFor } from "../cluster.ts";
import { fetching, IMAGE, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const ECHO = 9000;
const SYSTEM = "trackbed-system";
const NODE = "node2";
/** A daemon that starts anew looks at every pod before it is ready. */
const DAEMON_MS = 120_000;
/** More than three periods of the probes: a failing one would show. */
const PROBES_MS = 5000;
const LEGACY = "iptables-legacy-save; ip6tables-legacy-save";

describe(`${NODE} with iptables instead of nftables`, { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    shop = await openShop(c, "iptables", { labels: { "trackbed.dev/mesh": "enabled" } });
    await c.apply(echo(shop.namespace));
    await c.kubectl("-n", shop.namespace, "wait", "pod/echo", "--for=condition=Ready", "--timeout=60s");
    await shop.captured();
    await strategy({ type: "OnDelete", rollingUpdate: null });
  });
  after(async () => {
    await redirect(null);
    await strategy({ type: "RollingUpdate", rollingUpdate: { maxUnavailable: "10%" } });
    await c.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/trackbed-daemon", `--timeout=${DAEMON_MS / 1000}s`);
    await shop?.remove();
  });

  const patch = (spec: object): Promise<string> =>
    c.kubectl("-n", SYSTEM, "patch", "daemonset/trackbed-daemon", "--type=merge", "-p", JSON.stringify({ spec }));
  const strategy = (updateStrategy: object): Promise<string> => patch({ updateStrategy });
  const redirect = (backend: string | null): Promise<string> =>
    c.kubectl(
      "-n",
      SYSTEM,
      "set",
      "env",
      "daemonset/trackbed-daemon",
      "-c",
      "daemon",
      `TRACKBED_REDIRECT${backend === null ? "-" : `=${backend}`}`,
    );
  const daemon = async () =>
    (await c.get<List>("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=trackbed-daemon")).items.find(
      ({ spec, metadata }) => spec?.nodeName === NODE && metadata.deletionTimestamp === undefined,
    );
  /** The other nodes' daemons stay what they are until somebody deletes them. */
  async function startAnew(): Promise<void> {
    const old = await daemon();
    await c.kubectl("-n", SYSTEM, "delete", "pod", old?.metadata.name ?? "");
    await waitFor(
      `another daemon is ready on ${NODE}`,
      async () => {
        const now = await daemon();
        return now?.metadata.uid !== old?.metadata.uid && now?.status?.containerStatuses?.every(({ ready }) => ready) === true;
      },
      DAEMON_MS,
    );
  }
  const namesOf = async (node: string): Promise<readonly string[]> =>
    (await shop.pods()).filter(({ spec }) => spec?.nodeName === node).map(({ metadata }) => metadata.name);
  const rulesOf = (pod: string): Promise<string> => c.inPod(shop.namespace, pod, `nft list tables; ${LEGACY}`);

  /** What a new rule set would cut, were captured connections not the kernel's own. */
  async function whileConnected(during: () => Promise<void>): Promise<void> {
    const client = (await shop.podOn("client", "node1")).metadata.name;
    const to = (await shop.podOn("echo", NODE)).status?.podIP;
    const talk = c.podExec(
      shop.namespace,
      client,
      `{ i=0; while [ ! -e /tmp/enough ]; do echo $((i=i+1)); sleep 0.2; done; echo end; } | nc ${to} ${ECHO}; rm /tmp/enough`,
    );
    // A rejection has to find its way into the test that is still at something else.
    const heard = talk.then(
      (text) => ({ text }),
      (error: unknown) => ({ error }),
    );
    try {
      await during();
    } finally {
      await c.podExec(shop.namespace, client, "touch /tmp/enough");
    }
    const said = await heard;
    if ("error" in said) throw said.error;
    const lines = said.text.trim().split("\n");
    assert.equal(lines.pop(), "end", "the connection was cut");
    assert.deepEqual(
      lines,
      lines.map((_, i) => String(i + 1)),
    );
    assert.ok(lines.length > 2, "it was not open for long enough to be cut");
  }

  async function exchange(): Promise<void> {
    const [near, far] = [await shop.podOn("web", "node1"), await shop.podOn("web", NODE)];
    const seen = await witness(c, "node1", async () => {
      for (const family of [0, 1]) {
        assert.match(await shop.get("node1", podUrl(far, family)), new RegExp(MARKER));
        assert.match(await shop.get(NODE, podUrl(near, family)), new RegExp(MARKER));
      }
      for (let i = 0; i < 4; i++) assert.match(await shop.get(NODE, "http://web/"), new RegExp(MARKER));
    });
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
  }

  test("its running pods are taken over, and a connection that is open meanwhile goes on", async () => {
    await redirect("iptables-legacy");
    await whileConnected(startAnew);
    await shop.captured();
    for (const pod of await namesOf(NODE)) {
      const rules = await rulesOf(pod);
      assert.match(rules, /-A OUTPUT -j TRACKBED_OUT_NAT[\s\S]*-A OUTPUT -j TRACKBED_OUT_NAT/, pod);
      assert.doesNotMatch(rules, /table inet trackbed/, pod);
    }
    for (const pod of await namesOf("node1")) assert.match(await rulesOf(pod), /table inet trackbed/, "the other node has what it had");
  });

  test("its pods speak with the other node's by mutual TLS, in both families, and find each other by name", exchange);

  test("a pod that is born there is captured before its first word", async () => {
    const url = podUrl(await shop.podOn("web", "node1"));
    const seen = await witness(c, "node1", async () => {
      await c.apply(firstWords(shop.namespace, url));
      await c.kubectl("-n", shop.namespace, "wait", "job/first-words", "--for=condition=Complete", "--timeout=60s");
    });
    assert.match(await c.kubectl("-n", shop.namespace, "logs", "job/first-words"), new RegExp(MARKER));
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
  });

  test("under STRICT the kubelet's probes pass, by rules of the same kind on the host", async () => {
    await c.apply(strict(shop.namespace));
    try {
      assert.match(await c.onNode(NODE, LEGACY), /TRACKBED_PROBES/);
      assert.doesNotMatch(await c.onNode(NODE, "nft list tables"), /trackbed/);
      await holds(async () => {
        for (const { status, metadata } of await shop.pods("web"))
          assert.ok(
            status?.containerStatuses?.every(({ ready, restartCount }) => ready && restartCount === 0),
            metadata.name,
          );
      }, PROBES_MS);
    } finally {
      await c.kubectl("-n", shop.namespace, "delete", "peerauthentication", "strict");
    }
  });

  test("a daemon that is told of no back end takes nftables again, and nothing of iptables is left", async () => {
    await redirect(null);
    await whileConnected(startAnew);
    await shop.captured();
    for (const pod of await namesOf(NODE)) {
      const rules = await rulesOf(pod);
      assert.match(rules, /table inet trackbed/, pod);
      assert.doesNotMatch(rules, /TRACKBED/, pod);
    }
    await waitFor("the host has nothing of it", async () => !/TRACKBED/.test(await c.onNode(NODE, LEGACY)));
    await exchange();
  });
});

const echo = (namespace: string): string => `
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: ${namespace}, labels: {app: echo}}
spec:
  nodeSelector: {kubernetes.io/hostname: ${NODE}}
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: ${IMAGE}, imagePullPolicy: Never, command: [nc, -ll, -p, "${ECHO}", -e, cat]}]
`;

const firstWords = (namespace: string, url: string): string => `
apiVersion: batch/v1
kind: Job
metadata: {name: first-words, namespace: ${namespace}}
spec:
  backoffLimit: 3
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {kubernetes.io/hostname: ${NODE}}
      containers: [{name: main, image: ${IMAGE}, imagePullPolicy: Never, command: [sh, -c, "${fetching(url)}"]}]
`;

const strict = (namespace: string): string => `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: ${namespace}}
spec: {mtls: {mode: STRICT}}
`;
