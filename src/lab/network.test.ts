import assert from "node:assert/strict";
import { test } from "node:test";
import type { Documents, LabPod } from "./documents.ts";
import { firstAddress, netnsName, podBatches, underlayAddresses, underlayBatch } from "./network.ts";
import { hostsFile, kubeProxyRules, resolvConf } from "./service.ts";

const node = { name: "node-a", ips: ["172.30.0.11", "fd30::11"], podCIDRs: ["10.80.1.0/24", "fd80:0:0:1::/64"] };
const pod = (name: string, change: Partial<LabPod> = {}): LabPod => ({
  namespace: "shop",
  name,
  labels: { app: "web" },
  node: "node-a",
  netns: `/run/netns/${name}`,
  ips: ["10.80.1.10", "fd80:0:0:1::10"],
  ready: true,
  containers: [
    { name: "c", command: [], args: [], env: [], workingDir: ".", ports: [{ name: "http", containerPort: 8080, protocol: "TCP" }] },
  ],
  ...change,
});
const service = { namespace: "shop", name: "web", clusterIPs: ["10.96.0.10", "fd96::10"], selector: { app: "web" } };
const http = { port: 80, protocol: "tcp", targetPort: "http" } as const;
const documents = (change: Partial<Documents>): Documents => ({ nodes: [node], pods: [], services: [], ...change });

test("the first address of a network is its gateway, whatever bits its text has", () => {
  assert.equal(firstAddress("10.80.1.0/24"), "10.80.1.1");
  assert.equal(firstAddress("10.80.1.77/24"), "10.80.1.1");
  assert.equal(firstAddress("fd80:0:0:1::/64"), "fd80:0:0:1::1");
  assert.throws(() => firstAddress("10.80.1.0/33"), /is not a network/);
});

test("only namespaces under /run/netns are made, and names cannot lead out of it", () => {
  assert.equal(netnsName("/run/netns/web"), "web");
  for (const path of [
    "/proc/1/ns/net",
    "/run/netns/../x",
    "/run/netns/",
    "/run/netns/a b",
    "/run/netns/a\nlink del eth0",
    "/run/netns/-all",
  ])
    assert.throws(() => netnsName(path), /makes only \/run\/netns\/NAME/, path);
});

test("nodes of two networks, or with the underlay's own address, are refused", () => {
  assert.deepEqual(underlayAddresses([node]), ["172.30.0.1", "fd30::1"]);
  assert.throws(() => underlayAddresses([node, { ...node, name: "node-b", ips: ["172.31.0.12"] }]), /must share/);
  assert.throws(() => underlayAddresses([{ ...node, ips: ["172.30.0.1"] }]), /own addresses/);
  assert.throws(
    () => underlayBatch(documents({ nodes: [{ ...node, name: "a-name-that-no-interface-can-have" }] })),
    /must fit an interface/,
  );
});

test("a pod's address needs a pod CIDR of its family on its node", () => {
  const v4 = { ...node, podCIDRs: ["10.80.1.0/24"] };
  assert.throws(() => podBatches(pod("web"), v4, "pod0"), /no pod CIDR of that family/);
  const [onNode, inPod] = podBatches(pod("web", { ips: ["10.80.1.10"] }), v4, "pod0");
  assert.ok(onNode.lines.includes("route add 10.80.1.10/32 dev pod0"));
  assert.ok(inPod.lines.includes("route add 0.0.0.0/0 via 10.80.1.1"));
});

test("a service port leads to its ready endpoints of its own family and namespace, and is refused when there are none", () => {
  const pods = [
    pod("one"),
    pod("two", { ips: ["10.80.1.11"] }),
    pod("starting", { ips: ["10.80.1.12"], ready: false }),
    pod("elsewhere", { ips: ["10.80.1.13"], namespace: "other" }),
    pod("other", { ips: ["10.80.1.14"], labels: { app: "api" } }),
  ];
  const rules = kubeProxyRules(documents({ pods, services: [{ ...service, ports: [http] }] }));
  assert.ok(
    rules.includes("ip daddr 10.96.0.10 tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 10.80.1.10 . 8080, 1 : 10.80.1.11 . 8080 }"),
  );
  assert.ok(rules.includes("ip6 daddr fd96::10 tcp dport 80 dnat ip6 to numgen random mod 1 map { 0 : fd80:0:0:1::10 . 8080 }"));
  for (const ip of ["10.80.1.12", "10.80.1.13", "10.80.1.14"]) assert.ok(!rules.includes(ip));
  const none = kubeProxyRules(documents({ services: [{ ...service, ports: [http] }] }));
  assert.ok(none.includes("ip daddr 10.96.0.10 tcp dport 80 reject with tcp reset"));
});

test("the resolver file searches the pod's namespace first, and a headless service is its pods", () => {
  assert.match(
    resolvConf("shop", "cluster.local", ["172.30.0.1"]),
    /^nameserver 172\.30\.0\.1\nsearch shop\.svc\.cluster\.local svc\.cluster\.local cluster\.local\n/,
  );
  const headless = documents({ pods: [pod("one")], services: [{ ...service, clusterIPs: [], ports: [] }] });
  const text = hostsFile(headless, "cluster.local", { "outside.example": ["192.0.2.1"] });
  assert.deepEqual(text.trim().split("\n"), [
    "192.0.2.1 outside.example",
    "10.80.1.10 web.shop.svc.cluster.local",
    "fd80:0:0:1::10 web.shop.svc.cluster.local",
  ]);
});
