// A pod that is captured on its way out alone, as an ingress controller is: the outside reaches it under STRICT, and what it sends goes under its own name.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { capture, fetching, IMAGE, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const HBONE = 15008;

describe("a pod with the annotation trackbed.dev/capture: outbound", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  let outside: Shop;
  let far: string;
  before(async () => {
    c = await cluster();
    [shop, outside] = await Promise.all([
      openShop(c, "outbound", { labels: { "trackbed.dev/mesh": "enabled" } }),
      openShop(c, "outbound-outside"),
    ]);
    await c.apply(gate(shop.namespace));
    await c.kubectl("-n", shop.namespace, "wait", "pod/gate", "--for=condition=Ready", "--timeout=60s");
    await c.apply(policies(shop.namespace));
    await shop.captured();
    far = podUrl(await shop.podOn("web", "node2"));
  });
  after(async () => {
    await Promise.all([shop?.remove(), outside?.remove()]);
  });

  test("is reached in plaintext from outside, in both families, while its neighbours refuse that", async () => {
    await waitFor("STRICT is in force", async () => !(await outside.reaches("node1", far)));
    const pod = await shop.podOn("gate", "node1");
    assert.equal(capture(pod)?.status, "True");
    for (const node of c.nodes)
      for (const family of [0, 1]) assert.match(await outside.get(node, podUrl(pod, family)), new RegExp(`${MARKER} gate`));
  });

  test("is let in where only its own account is, and none of that can be read on the wire", async () => {
    await waitFor("another account is refused", async () => !(await shop.reaches("node1", far)));
    const seen = await witness(c, "node1", async () => {
      assert.match(await c.podExec(shop.namespace, "gate", fetching(far)), new RegExp(MARKER));
    });
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
  });

  test("is reached by tunnel from a pod of the mesh", async () => {
    const url = podUrl(await shop.podOn("gate", "node1"));
    const seen = await witness(c, "node1", async () => {
      assert.match(await shop.get("node2", url), new RegExp(`${MARKER} gate`));
    });
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), []);
    assert.ok(seen.syns(HBONE).length > 0, "no tunnel was opened");
  });
});

const gate = (namespace: string): string => `
apiVersion: v1
kind: ServiceAccount
metadata: {name: gate, namespace: ${namespace}}
---
apiVersion: v1
kind: Pod
metadata: {name: gate, namespace: ${namespace}, labels: {app: gate}, annotations: {trackbed.dev/capture: outbound}}
spec:
  serviceAccountName: gate
  nodeSelector: {kubernetes.io/hostname: node1}
  terminationGracePeriodSeconds: 1
  containers:
    - name: gate
      image: ${IMAGE}
      imagePullPolicy: Never
      command: [sh, -c, "mkdir -p /www && echo ${MARKER} $HOSTNAME >/www/index.html && exec httpd -f -p ${APP} -h /www"]
      ports: [{name: http, containerPort: ${APP}}]
      readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
`;

const policies = (namespace: string): string => `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: ${namespace}}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-gate, namespace: ${namespace}}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/${namespace}/sa/gate]}}]}]
`;
