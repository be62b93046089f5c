// A cluster that comes from Istio's ambient mode: its labels mean nothing until the operator chooses to follow them, and nothing again afterwards.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { execute, type Output } from "../command.ts";
import { capture, IMAGE, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const INSTALL_MS = 240_000;
/** Outside of the mesh whatever is adopted: by Istio's own word, by ours, and because Istio still has it. */
const APART = ["none", "disabled", "theirs"];

describe("a namespace labelled istio.io/dataplane-mode: ambient", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  let uids: readonly string[];
  before(async () => {
    c = await cluster();
    shop = await openShop(c, "istio", { labels: { "istio.io/dataplane-mode": "ambient" } });
    await c.apply(apart(shop.namespace));
    for (const name of APART) await c.kubectl("-n", shop.namespace, "wait", `pod/${name}`, "--for=condition=Ready", "--timeout=60s");
    uids = await identities();
  });
  after(() => shop?.remove());

  const ask = (...args: readonly string[]): Promise<Output> =>
    execute(trackbed.argv(...args), { env: trackbed.env(c.settings), deadlineMs: INSTALL_MS });
  const install = async (...args: readonly string[]): Promise<void> => {
    const { code, stdout, stderr } = await ask("install", ...args);
    assert.equal(code, 0, `${stdout}\n${stderr}`);
  };
  const found = async (): Promise<readonly string[]> => {
    const { findings } = JSON.parse((await ask("check", "-o", "json")).stdout) as { findings: { code: string; subject: string }[] };
    return findings.filter(({ subject }) => subject.includes(shop.namespace)).map(({ code, subject }) => `${code} ${subject}`);
  };
  const workload = async () => [...(await shop.pods("web")), ...(await shop.pods("client"))];
  const identities = async (): Promise<readonly string[]> => (await shop.pods()).map(({ metadata }) => metadata.uid).sort();
  const rulesOf = (pod: string): Promise<string> => c.inPod(shop.namespace, pod, "nft list ruleset; ip rule");

  test("is left alone, and check says whose it is", async () => {
    for (const pod of await shop.pods()) assert.equal(capture(pod), null, pod.metadata.name);
    assert.ok((await found()).includes(`MESH_OTHER namespace ${shop.namespace}`));
  });

  test("is in the mesh once `trackbed install --adopt istio` says so: without a restart, and nothing of it can be read", async () => {
    await install("--adopt", "istio");
    await waitFor("its pods are in the mesh", async () => (await workload()).every((pod) => capture(pod)?.status === "True"));
    assert.deepEqual(await identities(), uids);
    const url = podUrl(await shop.podOn("web", "node2"));
    const seen = await witness(c, "node1", async () => assert.match(await shop.get("node1", url), new RegExp(MARKER)));
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
    assert.ok(!(await found()).includes(`MESH_OTHER namespace ${shop.namespace}`));
  });

  test("keeps apart the pods that say none, those that ours says disabled of, and those that Istio still has", async () => {
    for (const name of APART) assert.doesNotMatch(await rulesOf(name), /trackbed|15001|0x111/, name);
    const theirs = capture(await c.get("pod", "theirs", "-n", shop.namespace));
    assert.deepEqual([theirs?.status, theirs?.reason], ["False", "E_CAPTURE_FOREIGN_MESH"]);
  });

  test("has its new pods in the mesh from the start", async () => {
    const { metadata } = await shop.podOn("client", "node1");
    await c.kubectl("-n", shop.namespace, "delete", "pod", metadata.name);
    await c.kubectl("-n", shop.namespace, "rollout", "status", "daemonset/client", "--timeout=60s");
    const born = await shop.podOn("client", "node1");
    assert.match(await rulesOf(born.metadata.name), /15001/);
    uids = await identities();
  });

  test("is left alone again when the choice is taken back, and no rule is left", async () => {
    await install();
    await waitFor("its pods are out of the mesh", async () => (await shop.pods()).every((pod) => capture(pod) === null));
    for (const { metadata } of await shop.pods())
      await waitFor(`${metadata.name} has no rule of ours`, async () => !/trackbed|15001|0x111/.test(await rulesOf(metadata.name)));
    assert.match(await shop.get("node1", podUrl(await shop.podOn("web", "node2"))), new RegExp(MARKER));
    assert.deepEqual(await identities(), uids);
  });
});

const pod = (namespace: string, name: string, labels: string, annotations = "{}"): string => `
apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: ${namespace}, labels: {app: apart, ${labels}}, annotations: ${annotations}}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: ${IMAGE}, imagePullPolicy: Never, command: [sleep, "1000000"]}]
`;

const apart = (namespace: string): string =>
  [
    pod(namespace, "none", "istio.io/dataplane-mode: none"),
    pod(namespace, "disabled", "trackbed.dev/mesh: disabled"),
    pod(namespace, "theirs", "istio: has-it", "{ambient.istio.io/redirection: enabled}"),
  ].join("---");
