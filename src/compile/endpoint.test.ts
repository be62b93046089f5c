// Claims about endpoints that are named by address.
import assert from "node:assert/strict";
import { test } from "node:test";
import { NetworkMode, TunnelProtocol, WorkloadStatus } from "#contract/gen/istio/workload_pb.ts";
import { ENABLED, held, pod, put, remove, service, slice } from "./specimen.ts";

const HOST = "default/kubernetes.default.svc.cluster.local";
const kubernetes = service(
  "default",
  "kubernetes",
  {},
  { ports: [{ name: "http", port: 443, targetPort: 6443, protocol: "TCP", appProtocol: "" }] },
);

test("the API server behind `kubernetes` is an endpoint in plaintext, at the slice's port, and not found by its own address", () => {
  const mesh = held();
  mesh.apply(put(kubernetes, slice("default", "kubernetes", "kubernetes", ["192.0.2.1", "2001:db8::1"])));
  for (const ip of ["192.0.2.1", "2001:db8::1"]) {
    const found = mesh.endpoint("default/kubernetes", ip);
    assert.deepEqual(
      [found?.tunnelProtocol, found?.networkMode, found?.status],
      [TunnelProtocol.NONE, NetworkMode.HOST_NETWORK, WorkloadStatus.HEALTHY],
    );
    assert.deepEqual(
      found?.services[HOST]?.ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
      [[443, 6443]],
    );
  }
  mesh.apply(put(slice("default", "kubernetes", "kubernetes", ["192.0.2.1"], false)));
  assert.deepEqual(
    [mesh.endpoint("default/kubernetes", "192.0.2.1")?.status, mesh.endpoint("default/kubernetes", "2001:db8::1")],
    [WorkloadStatus.UNHEALTHY, undefined],
  );
  mesh.apply(remove(kubernetes));
  assert.equal(mesh.endpoint("default/kubernetes", "192.0.2.1"), undefined);
});

test("whoever writes a meshed pod's address into a slice gets that pod's identity and tunnel, not plaintext", () => {
  const mesh = held();
  const target = pod("bank", "vault", ENABLED, { serviceAccountName: "vault" });
  const [ip = ""] = target.podIPs;
  mesh.apply(put(service("shop", "hand", {}), slice("shop", "hand", "hand", [ip])));
  assert.equal(mesh.endpoint("shop/hand", ip)?.tunnelProtocol, TunnelProtocol.NONE);
  mesh.apply(put(target));
  const found = mesh.endpoint("shop/hand", ip);
  assert.deepEqual([found?.tunnelProtocol, found?.namespace, found?.serviceAccount], [TunnelProtocol.HBONE, "bank", "vault"]);
  mesh.apply(null, [{ node: "n1", snapshot: true, pods: [{ uid: target.metadata.uid, captured: false }] }]);
  assert.equal(mesh.endpoint("shop/hand", ip)?.tunnelProtocol, TunnelProtocol.NONE, "as the pod itself");
  mesh.apply(null, [{ node: "n1", snapshot: false, pods: [{ uid: target.metadata.uid, captured: true }] }]);
  assert.equal(mesh.endpoint("shop/hand", ip)?.tunnelProtocol, TunnelProtocol.HBONE);
  mesh.apply(remove(target));
  assert.equal(mesh.endpoint("shop/hand", ip)?.tunnelProtocol, TunnelProtocol.NONE);
});
