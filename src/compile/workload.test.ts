// Claims about workloads as peers see them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ADDRESS_TYPE } from "#compile/resource.ts";
import { TunnelProtocol } from "#contract/gen/istio/workload_pb.ts";
import { ENABLED, held, meta, namespace, pod, put, service } from "./specimen.ts";

test("a workload carries its services with the endpoint's own ports, and its locality", () => {
  const mesh = held();
  mesh.apply(
    put(
      {
        kind: "Node",
        metadata: meta("", "n1", { "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z" }),
        addresses: [],
        podCIDRs: [],
      },
      pod("shop", "web-1", { app: "web", "pod-template-hash": "5d4" }, { owner: { kind: "ReplicaSet", name: "web-5d4" } }),
      service(
        "shop",
        "web",
        { app: "web" },
        {
          ports: [
            ...service("", "", {}).ports,
            { name: "other", port: 81, targetPort: "missing", protocol: "TCP", appProtocol: "" },
            { name: "dns", port: 53, targetPort: 53, protocol: "UDP", appProtocol: "" },
          ],
        },
      ),
      service("other", "web", { app: "web" }),
    ),
  );
  const workload = mesh.workload("shop", "web-1");
  assert.deepEqual(
    [workload?.workloadName, workload?.workloadType, workload?.canonicalName, workload?.canonicalRevision],
    ["web", 0, "web", "latest"],
  );
  assert.deepEqual([workload?.locality?.region, workload?.locality?.zone], ["r", "z"]);
  assert.deepEqual(
    Object.entries(workload?.services ?? {}).map(([name, { ports }]) => [
      name,
      ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
    ]),
    [["shop/web.shop.svc.cluster.local", [[80, 8080]]]],
  );
  const web = mesh.service("shop/web.shop.svc.cluster.local");
  assert.deepEqual(
    web?.ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
    [
      [80, 0],
      [81, 0],
    ],
  );
  const [first] = [...mesh.compiler.resources(ADDRESS_TYPE)].filter(({ name }) => name.startsWith("Kubernetes//"));
  assert.deepEqual(first?.aliases, ["/10.0.0.1", "/fd00::1"]);
});

test("pods that are over or have no address are nobody; hostNetwork pods are not found by address", () => {
  const mesh = held();
  mesh.apply(
    put(
      pod("a", "done", {}, { phase: "Succeeded" }),
      pod("a", "new", {}, { podIPs: [] }),
      pod("a", "host", ENABLED, { hostNetwork: true }),
    ),
  );
  assert.deepEqual([mesh.workload("a", "done"), mesh.workload("a", "new")], [undefined, undefined]);
  assert.deepEqual([mesh.workload("a", "host")?.networkMode, mesh.workload("a", "host")?.tunnelProtocol], [1, TunnelProtocol.NONE]);
  assert.deepEqual([...mesh.compiler.resources(ADDRESS_TYPE)][0]?.aliases, []);
});

test("peers must use HBONE until a node has said otherwise, and a broken stream changes nothing", () => {
  const mesh = held();
  const tunnel = () => mesh.workload("shop", "web")?.tunnelProtocol;
  const said = (captured: boolean | null, snapshot = false) =>
    mesh.apply(null, [{ node: "n1", snapshot, pods: [{ uid: "shop-web", captured }] }]);
  mesh.apply(put(namespace("shop", ENABLED), pod("shop", "web"), pod("plain", "web")));
  assert.deepEqual([tunnel(), mesh.workload("plain", "web")?.tunnelProtocol], [TunnelProtocol.HBONE, TunnelProtocol.NONE]);
  said(false, true);
  assert.equal(tunnel(), TunnelProtocol.NONE);
  assert.equal(said(true), 1);
  assert.equal(tunnel(), TunnelProtocol.HBONE);
  mesh.apply(put(pod("shop", "web", { "trackbed.dev/mesh": "disabled" })));
  assert.equal(tunnel(), TunnelProtocol.NONE);
  mesh.apply(put(pod("shop", "web")));
  assert.equal(tunnel(), TunnelProtocol.HBONE);
  said(false);
  assert.equal(tunnel(), TunnelProtocol.NONE);
});

test("a pod of which its node has not spoken yet, or does not speak any more, is never reached in clear", () => {
  const mesh = held();
  const tunnel = () => mesh.workload("shop", "web")?.tunnelProtocol;
  mesh.apply(put(namespace("shop", ENABLED)), [{ node: "n1", snapshot: true, pods: [] }]);
  mesh.apply(put(pod("shop", "web", {}, { podIPs: [] })));
  mesh.apply(put(pod("shop", "web")));
  assert.equal(tunnel(), TunnelProtocol.HBONE, "its address was out before its node's word");
  mesh.apply(null, [{ node: "n1", snapshot: false, pods: [{ uid: "shop-web", captured: true }] }]);
  mesh.apply(null, [{ node: "n1", snapshot: false, pods: [{ uid: "shop-web", captured: null }] }]);
  assert.equal(tunnel(), TunnelProtocol.HBONE, "it is over, and its address may be another's");
  mesh.apply(null, [{ node: "n1", snapshot: true, pods: [] }]);
  assert.equal(tunnel(), TunnelProtocol.HBONE, "its node starts anew");
});

test("a pod that ran before its label came is reached as before until its node says that it is captured", () => {
  const mesh = held();
  const tunnel = () => mesh.workload("shop", "web")?.tunnelProtocol;
  mesh.apply(put(namespace("shop", {}), pod("shop", "web")));
  mesh.apply(put(namespace("shop", ENABLED)), [{ node: "n1", snapshot: true, pods: [] }]);
  assert.equal(tunnel(), TunnelProtocol.NONE);
  mesh.apply(null, [{ node: "n1", snapshot: false, pods: [{ uid: "shop-web", captured: true }] }]);
  assert.equal(tunnel(), TunnelProtocol.HBONE);
  mesh.apply(null, [{ node: "n1", snapshot: true, pods: [] }]);
  assert.equal(tunnel(), TunnelProtocol.HBONE, "it has been in the mesh");
  mesh.apply(put(namespace("shop", {})));
  mesh.apply(put(namespace("shop", ENABLED)));
  assert.equal(tunnel(), TunnelProtocol.NONE, "it was out of it again");
});
