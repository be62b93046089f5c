// New pods of an enrolled namespace never speak in clear: not in their first millisecond, not in init containers, Jobs or StatefulSets.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Cluster, cluster, type List, waitFor } from "../cluster.ts";
import { capture, fetching, IMAGE, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { witness } from "../witness.ts";

const APP = 8080;
const HBONE = 15008;
const LAST_ADDRESSES = "/var/lib/cni/networks/*/last_reserved_ip.*";
const KEPT_ADDRESSES = "/run/last-addresses.tar";
const ECHO = 9000;
/** Five a second: a deletion on a busy machine falls among them. */
const WORDS = 30;

describe("pods born into an enrolled namespace", { concurrency: false }, () => {
  let c: Cluster;
  let shop: Shop;
  before(async () => {
    c = await cluster();
    shop = await openShop(c, "birth", { labels: { "trackbed.dev/mesh": "enabled" } });
    await shop.captured();
  });
  after(() => shop.remove());

  test("pods of a namespace that was enrolled before them are in the mesh", async () => {
    for (const pod of await shop.pods()) assert.equal(capture(pod)?.status, "True", pod.metadata.name);
  });

  test("a Job's init container and container are answered, and none of their packets is in clear", async () => {
    const url = podUrl(await shop.podOn("web", "node2"));
    const seen = await witness(c, "node1", async () => {
      await c.apply(job("first-words", shop.namespace, url));
      await c.kubectl("-n", shop.namespace, "wait", "job/first-words", "--for=condition=Complete", "--timeout=60s");
    });
    const said = await c.kubectl("-n", shop.namespace, "logs", "job/first-words", "-c", "main");
    assert.match(said, new RegExp(MARKER));
    assert.equal(seen.readable(MARKER), 0, "the marker was seen in clear");
    assert.deepEqual(seen.syns(APP), [], "a first packet left in clear");
    assert.ok(seen.syns(HBONE).length > 0);
  });

  test("forty births under churn send nothing in clear", async () => {
    const url = podUrl(await shop.podOn("web", "node2"));
    const seen = await witness(c, "node1", async () => {
      await c.apply(burst("burst", shop.namespace, url));
      await c.kubectl("-n", shop.namespace, "wait", "job/burst", "--for=condition=Complete", "--timeout=110s");
    });
    assert.deepEqual(seen.syns(APP), []);
    assert.equal(seen.readable(MARKER), 0);
  });

  test("a StatefulSet's pods are reached by their own names, before they are ready too, as their Service publishes them", async () => {
    const names = ["db-0", "db-1"];
    await c.apply(statefulSet(shop.namespace));
    await waitFor("both run", async () => (await shop.pods("db")).length === names.length);
    await shop.captured();
    for (const name of names)
      for (const node of c.nodes)
        await waitFor(`${name} is reached from ${node}`, async () =>
          (await shop.get(node, `http://${name}.db.${shop.namespace}.svc.cluster.local:${APP}/`)).includes(`${MARKER} ${name}`),
        );
    for (const { status } of await shop.pods("db")) assert.equal(status?.containerStatuses?.[0]?.ready, false);
    for (const name of names) await c.podExec(shop.namespace, name, "touch /tmp/ready");
    await c.kubectl("-n", shop.namespace, "rollout", "status", "statefulset/db", "--timeout=60s");
  });

  test("a pod that is labelled disabled stays outside", async () => {
    await c.apply(pod("opted-out", shop.namespace, { "trackbed.dev/mesh": "disabled" }));
    await c.kubectl("-n", shop.namespace, "wait", "pod/opted-out", "--for=condition=Ready", "--timeout=60s");
    assert.doesNotMatch(await c.inPod(shop.namespace, "opted-out", "nft list ruleset"), /15001/);
    assert.equal(capture(await c.get("pod", "opted-out", "-n", shop.namespace)), null);
    await c.kubectl("-n", shop.namespace, "delete", "pod", "opted-out", "--wait=false");
  });

  test("a hostNetwork pod starts and is left alone", async () => {
    await c.apply(pod("on-host", shop.namespace, {}, true));
    await c.kubectl("-n", shop.namespace, "wait", "pod/on-host", "--for=condition=Ready", "--timeout=60s");
    for (const node of c.nodes) assert.doesNotMatch(await c.onNode(node, "nft list ruleset | grep -v kube-proxy"), /15001/);
    await c.kubectl("-n", shop.namespace, "delete", "pod", "on-host", "--wait=false");
  });

  test("an address that goes from one pod to another at once never carries the first one's identity", async (t) => {
    await c.apply(onlyFrom(shop.namespace, "client"));
    const url = podUrl(await shop.podOn("web", "node2"));
    await waitFor("only the account client is allowed", async () => shop.reaches("node1", url));
    const names = Array.from({ length: 8 }, (_, index) => `stranger-${index}`);
    const asks = `for i in 1 2 3; do ${fetching(url)} && echo ALLOWED; done; sleep 1000`;
    const born = (suffix: string): Promise<void> =>
      c.apply(names.map((name) => pod(`${name}${suffix}`, shop.namespace, {}, false, asks)).join("\n---\n"));
    // The plugin that gives addresses gives the next one, until it has forgotten which was the last. Pods of later drills go on where it was: to
    // one that has another's address at once and says nothing, its node sends to the other's hardware address for seconds.
    const lowestFirst = (): Promise<string> => c.onNode("node1", `rm -f ${LAST_ADDRESSES}`);
    await c.onNode("node1", `tar -cPf ${KEPT_ADDRESSES} ${LAST_ADDRESSES}`);
    t.after(() => c.onNode("node1", `tar -xPf ${KEPT_ADDRESSES} && rm ${KEPT_ADDRESSES}`));
    const addresses = async (again: boolean): Promise<(string | undefined)[]> => {
      const { items } = await c.get<List>("pods", "-n", shop.namespace, "-l", "app=loose");
      const running = items.filter(({ metadata, status }) => /^stranger-\d/.test(metadata.name) && status?.phase === "Running");
      return running.filter(({ metadata }) => metadata.name.endsWith("-again") === again).map(({ status }) => status?.podIP);
    };
    await lowestFirst();
    await born("");
    await waitFor("they ask", async () => (await addresses(false)).length === names.length);
    const first = await addresses(false);
    await c.kubectl("-n", shop.namespace, "delete", "pods", ...names, "--grace-period=0", "--force");
    const given = (): Promise<string> => c.onNode("node1", "cd /var/lib/cni/networks && ls */");
    await waitFor("their addresses are given back", async () => {
      const now = (await given()).split("\n");
      return first.every((address) => !now.includes(address ?? ""));
    });
    await lowestFirst();
    await born("-again");
    for (const name of names) {
      await c.kubectl("-n", shop.namespace, "wait", `pod/${name}-again`, "--for=condition=Ready", "--timeout=60s");
      assert.doesNotMatch(await c.kubectl("-n", shop.namespace, "logs", `${name}-again`), /ALLOWED/);
    }
    const second = await addresses(true);
    const reused = second.filter((address) => first.includes(address)).length;
    assert.ok(reused > 0, `no address came back: ${first.join(" ")} were followed by ${second.join(" ")}`);
    await c.kubectl("-n", shop.namespace, "delete", "authorizationpolicy", "only-client");
  });

  test("a pod that is deleted with grace keeps its open connections until it ends", async () => {
    await c.apply(pod("echo", shop.namespace, {}, false, `exec nc -ll -p ${ECHO} -e cat`)); // the first process of a pod has no ear for SIGTERM
    await c.kubectl("-n", shop.namespace, "wait", "pod/echo", "--for=condition=Ready", "--timeout=60s");
    await waitFor("it listens", async () => (await c.inPod(shop.namespace, "echo", `ss -Hltn sport = :${ECHO}`)) !== "");
    const client = (await shop.podOn("client", "node2")).metadata.name;
    const to = (await c.get("pod", "echo", "-n", shop.namespace)).status?.podIP;
    let over = false;
    const talk = c
      .podExec(shop.namespace, client, `for i in $(seq ${WORDS}); do echo $i; sleep 0.2; done | nc ${to} ${ECHO}`)
      .finally(() => (over = true));
    await waitFor("they talk", async () => (await c.inPod(shop.namespace, "echo", `ss -Htn state established sport = :${ECHO}`)) !== "");
    await c.kubectl("-n", shop.namespace, "delete", "pod", "echo", "--grace-period=10", "--wait=false");
    assert.ok(!over, "it was over before the pod was deleted");
    assert.equal((await talk).trim(), Array.from({ length: WORDS }, (_, i) => i + 1).join("\n"));
    assert.ok(
      (await c.get("pod", "echo", "-n", shop.namespace)).metadata.deletionTimestamp !== undefined,
      "the pod goes, and is still there",
    );
  });

  test("deleted pods leave no namespace, listener or engine descriptor behind", async () => {
    await c.kubectl("-n", shop.namespace, "delete", "pods", "-l", "app=loose");
    await c.kubectl("-n", shop.namespace, "delete", "jobs", "--all");
    await waitFor("each node has as many namespaces as pods", async () => {
      const pods = (await c.get<List>("pods", "-A")).items;
      for (const node of c.nodes) {
        const expected = pods.filter(
          ({ spec, status }) => spec?.nodeName === node && spec.hostNetwork !== true && status?.phase === "Running",
        ).length;
        assert.equal(Number(await c.onNode(node, "ls /run/netns | wc -l")), expected);
        const open = "for p in $(pgrep -f trackbed-engine); do ls -l /proc/$p/fd | grep -c 'net:\\['; done | sort -n | tail -1";
        assert.ok(Number(await c.onNode(node, `${open}; true`)) <= expected, `the engine of ${node} holds namespaces that are gone`);
      }
      return true;
    });
  });
});

const container = (command: string): object => ({ name: "main", image: IMAGE, imagePullPolicy: "Never", command: ["sh", "-c", command] });

/** On node1, so that what it asks of node2 crosses the witnessed wire. */
const template = (labels: object, command: string, more: object = {}): object => ({
  metadata: { labels: { app: "loose", ...labels } },
  spec: {
    restartPolicy: "Never",
    nodeSelector: { "kubernetes.io/hostname": "node1" },
    terminationGracePeriodSeconds: 1,
    containers: [container(command)],
    ...more,
  },
});

function job(name: string, namespace: string, url: string): string {
  const ask = `${fetching(url)}`;
  const initContainers = [{ ...container(`${ask} || exit 1`), name: "init" }];
  const spec = { backoffLimit: 3, template: template({}, ask, { initContainers }) };
  return JSON.stringify({ apiVersion: "batch/v1", kind: "Job", metadata: { name, namespace }, spec });
}

/** Each pod shouts its first words as soon as it lives and ends; what is refused is refused. */
function burst(name: string, namespace: string, url: string): string {
  const spec = { completions: 40, parallelism: 20, template: template({}, `${fetching(url)} >/dev/null; true`) };
  return JSON.stringify({ apiVersion: "batch/v1", kind: "Job", metadata: { name, namespace }, spec });
}

function pod(name: string, namespace: string, labels: object, hostNetwork = false, command = "sleep 100000"): string {
  const { metadata, spec } = template(labels, command, { hostNetwork }) as { metadata: object; spec: object };
  return JSON.stringify({ apiVersion: "v1", kind: "Pod", metadata: { ...metadata, name, namespace }, spec });
}

const statefulSet = (namespace: string): string => `
apiVersion: v1
kind: Service
metadata: {name: db, namespace: ${namespace}}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: db}, ports: [{port: ${APP}}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: ${namespace}}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: db, image: ${IMAGE}, imagePullPolicy: Never, command: [sh, -c, "mkdir /www && echo ${MARKER} $HOSTNAME >/www/index.html && exec httpd -f -p ${APP} -h /www"], readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}}
`;

const onlyFrom = (namespace: string, account: string): string => `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-client, namespace: ${namespace}}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/${namespace}/sa/${account}]}}]}]
`;
