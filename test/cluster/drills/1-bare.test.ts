// The cluster itself, before any mesh: everything that the other drills build on is as on a real one.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Cluster, cluster, type Document, type List, waitFor } from "../cluster.ts";
import { readyNodes } from "../up.ts";

const NAMESPACE = "bare";
const MANIFEST = join(import.meta.dirname, "../manifests/bare.yaml");
/** A power cut on a busy machine took 9 s to a serving pod. */
const REBOOT_MS = 120_000;

let c: Cluster;
const pods = async (app: string): Promise<readonly Document[]> => (await c.get<List>("pods", "-n", NAMESPACE, "-l", `app=${app}`)).items;
const podOn = async (app: string, node: string): Promise<Document> => {
  const found = (await pods(app)).find(({ spec }) => spec?.nodeName === node);
  assert.ok(found, `no pod of ${app} on ${node}`);
  return found;
};
const inAgent = async (command: string): Promise<string> => c.podExec(NAMESPACE, (await podOn("agent", "node1")).metadata.name, command);
const inWeb = async (node: string, command: string): Promise<string> =>
  c.podExec(NAMESPACE, (await podOn("web", node)).metadata.name, command);
const ip = async (app: string, node: string, family = 0): Promise<string> => {
  const address = (await podOn(app, node)).status?.podIPs?.[family]?.ip;
  assert.ok(address !== undefined, `pod of ${app} on ${node} has no address of family ${family}`);
  return address;
};
const clusterIps = async (): Promise<readonly string[]> =>
  (await c.get<{ spec: { clusterIPs: string[] } }>("service", "web", "-n", NAMESPACE)).spec.clusterIPs;
const fetched = (url: string): string => `timeout 3 wget -qO- ${url}`; // busybox 1.35: wget -T crashes

before(async () => {
  c = await cluster();
  await c.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found");
  for (const node of c.nodes)
    await c.onNode(
      node,
      `rm -f /var/log/cni-trace.log; cd /etc/cni/net.d && jq '.plugins += [{type: "cni-trace", log: "/var/log/cni-trace.log"}]' 10-cluster.conflist >new && mv new 10-cluster.conflist`,
    );
  await c.kubectl("apply", "--server-side", "-f", MANIFEST);
  await c.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/web", "--timeout=60s");
  await c.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/agent", "--timeout=60s");
});

after(async () => {
  for (const node of c.nodes)
    await c.onNode(
      node,
      `cd /etc/cni/net.d && jq '.plugins |= map(select(.type != "cni-trace"))' 10-cluster.conflist >new && mv new 10-cluster.conflist; rm -rf /var/log/cni-trace.log /var/lib/bare-agent`,
    );
  await c.kubectl("delete", "namespace", NAMESPACE);
});

test("every node is Ready and kube-proxy has rules", async () => {
  assert.equal(readyNodes(await c.get<List>("nodes")), c.nodes.length);
  await c.onNode("node1", c.settings.proxyMode === "nftables" ? "nft list table ip kube-proxy" : "iptables-save | grep KUBE-SERVICES");
});

test("hostPID shows the node's processes and no other machine's", async () => {
  const list = await inAgent("ps -o args");
  assert.match(list, /kubelet --config/);
  assert.doesNotMatch(list, /kube-apiserver/);
});

test("capabilities are exactly those asked for", async () => {
  assert.match(await inAgent("grep CapEff /proc/self/status"), /0000000000283000/);
});

test("an agent enters another pod's network namespace by its path", async () => {
  const address = await ip("web", "node1");
  const looks = `for f in /host/netns/*; do nsenter --net=$f ip -4 addr show dev eth0 2>/dev/null | grep -qF 'inet ${address}/' && exit 0; done; exit 1`;
  await inAgent(looks);
});

test("host paths are each node's own", async () => {
  for (const node of c.nodes) assert.equal((await c.onNode(node, "cat /var/lib/bare-agent/agent")).trim(), node);
});

test("a chained CNI plugin sees ADD with the namespace's path, and DEL", async () => {
  const seen = (command: string, pod: string): Promise<string> =>
    c.onNode(
      "node1",
      `jq -es --arg p ${pod} 'any(.[]; .command == "${command}" and .k8s_pod_name == $p and .prevResult and (.netns | startswith("/var/run/netns/")))' /var/log/cni-trace.log`,
    );
  const { metadata } = await podOn("web", "node1");
  await seen("ADD", metadata.name);
  await c.kubectl("-n", NAMESPACE, "delete", "pod", metadata.name);
  await waitFor("DEL reaches the plugin", () => seen("DEL", metadata.name));
  await c.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/web", "--timeout=60s");
});

test("a cluster IP reaches both replicas, over IPv4 and IPv6", async () => {
  for (const address of await clusterIps()) {
    const url = address.includes(":") ? `http://[${address}]/` : `http://${address}/`;
    const answers = (await inAgent(`for i in $(seq 24); do ${fetched(url)}; done`)).trim().split("\n");
    assert.equal(new Set(answers).size, 2, `${url} answered ${answers.join(" ")}`);
  }
});

test("DNS knows short and full names and nothing outside", async () => {
  await inAgent(fetched("http://web/"));
  await inAgent("nslookup web.bare.svc.cluster.local");
  await inAgent("! nslookup example.com");
});

test("a pod reaches its own service, itself included", async () => {
  const [address] = await clusterIps();
  await inWeb("node1", `for i in $(seq 12); do ${fetched(`http://${address}/`)} || exit 1; done`);
});

test("pods reach pods of another node over IPv4 and IPv6, and the API server its pods", async () => {
  const [v4, v6] = [await ip("web", "node1"), await ip("web", "node1", 1)];
  await inWeb("node2", `${fetched(`http://${v4}:8080/`)} && ${fetched(`'http://[${v6}]:8080/'`)}`);
  assert.equal((await fetch(`http://${v4}:8080/`)).status, 200);
});

test("pods reach the API server by its service", async () => {
  assert.match(await inWeb("node1", `${fetched("--no-check-certificate https://kubernetes.default/version")}`), /v1\./);
});

test("exec, logs and port-forward work", async () => {
  const { metadata } = await podOn("web", "node2");
  assert.equal((await c.podExec(NAMESPACE, metadata.name, "hostname")).trim(), metadata.name);
  assert.match(await c.kubectl("-n", NAMESPACE, "logs", metadata.name), /serving/);
  await using forward = await c.portForward(NAMESPACE, metadata.name, 8080);
  assert.equal((await (await fetch(forward.url)).text()).trim(), metadata.name);
});

test("a projected token names audience, account and node, and token review tells audiences apart", async () => {
  const token = (await inAgent("cat /var/run/secrets/trackbed/token")).trim();
  const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
  assert.deepEqual(claims.aud, ["trackbed"]);
  assert.equal(claims["kubernetes.io"].node.name, "node1");
  for (const [audience, accepted] of [
    ["trackbed", true],
    ["other", false],
  ] as const) {
    const review = { apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec: { token, audiences: [audience] } };
    const answer = JSON.parse(await c.kubectlInput(JSON.stringify(review), "create", "-o", "json", "-f", "-"));
    assert.equal(answer.status.authenticated ?? false, accepted);
  }
});

test("server-side apply reports the fields of another manager", async () => {
  const config = (value: string): string =>
    `{apiVersion: v1, kind: ConfigMap, metadata: {name: contested, namespace: ${NAMESPACE}}, data: {key: ${value}}}`;
  await c.apply(config("one"), "--field-manager=one");
  await assert.rejects(c.apply(config("two"), "--field-manager=two"), /conflict/i);
});

test("a failing readiness probe takes the pod out of the service and a passing one puts it back", async () => {
  const ready = async (): Promise<number> => {
    const slices = await c.get<List<{ addressType: string; endpoints?: { conditions: { ready: boolean } }[] }>>(
      "endpointslices",
      "-n",
      NAMESPACE,
      "-l",
      "kubernetes.io/service-name=web",
    );
    return slices.items
      .filter(({ addressType }) => addressType === "IPv4")
      .flatMap(({ endpoints = [] }) => endpoints)
      .filter(({ conditions }) => conditions.ready).length;
  };
  await inWeb("node1", "rm /www/ready");
  await waitFor("one endpoint is left", async () => (await ready()) === 1);
  await inWeb("node1", "touch /www/ready");
  await waitFor("both endpoints are back", async () => (await ready()) === 2);
});

test("after a power cut the same pod runs again in a new network namespace and serves", async () => {
  const victim = await podOn("web", "node2");
  const began = performance.now();
  await c.powerCut("node2");
  const back = await waitFor(
    "the pod is back",
    async () => {
      const now = await c.get("pod", victim.metadata.name, "-n", NAMESPACE);
      const [container] = now.status?.containerStatuses ?? [];
      const again = container?.restartCount === 1 && container.ready && now.status?.podIP !== victim.status?.podIP;
      return again ? now : null;
    },
    REBOOT_MS,
  );
  console.log(`back after ${Math.round(performance.now() - began)} ms`);
  assert.equal(back.metadata.uid, victim.metadata.uid);
  await waitFor("it serves", async () => (await fetch(`http://${back.status?.podIP}:8080/`)).ok);
  await waitFor("every node is Ready", async () => readyNodes(await c.get<List>("nodes")) === c.nodes.length, REBOOT_MS);
});

test("pods of the other node reach it at once over IPv4 and IPv6: a machine keeps its hardware address", async () => {
  const [v4, v6] = [await ip("web", "node2"), await ip("web", "node2", 1)];
  await inWeb("node1", `${fetched(`http://${v4}:8080/`)} && ${fetched(`'http://[${v6}]:8080/'`)}`);
});
