// Claims about ServiceEntries: what clients of which namespace get, who has a host, and what pods are to them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadBalancing_Mode, Service_Visibility, TunnelProtocol } from "#contract/gen/istio/workload_pb.ts";
import { formatAddress } from "#mesh/address.ts";
import { ENABLED, entry, held, meta, namespace, pod, put, remove } from "./specimen.ts";

const vips = (mesh: ReturnType<typeof held>, name: string): string[] =>
  mesh.service(name)?.addresses.map(({ address, length }) => `${formatAddress(address)}${length === undefined ? "" : `/${length}`}`) ?? [];

test("a host becomes a service of its namespace alone, with addresses of its own that are the same everywhere and always", () => {
  const mesh = held();
  mesh.apply(put(entry("shop", "db", { hosts: ["db.example.com", "replica.example.com"] })));
  const db = mesh.service("shop/db.example.com");
  assert.equal(db?.visibility, Service_Visibility.NAMESPACE);
  assert.equal(db?.canonical, false);
  assert.deepEqual(
    db?.ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
    [[5432, 5432]],
  );
  const [v4 = "", v6 = ""] = vips(mesh, "shop/db.example.com");
  assert.match(v4, /^24[0-7]\./);
  assert.match(v6, /^2001:2:0:/);
  const again = held();
  again.apply(put(entry("shop", "db", { hosts: ["db.example.com"] }), entry("pay", "db")));
  assert.deepEqual(vips(again, "shop/db.example.com"), [v4, v6]);
  assert.notDeepEqual(vips(again, "pay/db.example.com"), [v4, v6]);
  assert.notDeepEqual(vips(mesh, "shop/replica.example.com"), [v4, v6]);
  assert.equal(mesh.entryEndpoint("shop/db", "db.example.com", "192.0.2.1")?.tunnelProtocol, TunnelProtocol.NONE);
  mesh.apply(remove(entry("shop", "db")));
  assert.equal(mesh.service("shop/db.example.com"), undefined);
  assert.equal(mesh.entryEndpoint("shop/db", "db.example.com", "192.0.2.1"), undefined);
});

test("only the root namespace speaks for clients of every namespace, and who else tries is told", () => {
  const mesh = held();
  mesh.apply(put(entry("root", "a"), entry("root", "b", { exportTo: ["."] }), entry("shop", "c", { exportTo: ["*"] })));
  const seen = ["root/a", "root/b", "shop/c"].map((name) => mesh.service(`${name}.example.com`)?.visibility);
  assert.deepEqual(seen, [Service_Visibility.PUBLIC, Service_Visibility.NAMESPACE, Service_Visibility.NAMESPACE]);
  assert.deepEqual(
    mesh.compiler.faults().map(({ key, field, code }) => [key, field, code]),
    [["ServiceEntry/shop/c", "spec.exportTo", "E_SOURCE_UNSUPPORTED"]],
  );
});

test("a host belongs to the oldest entry of its namespace, goes to the next when that goes, and is never a name of the cluster", () => {
  const mesh = held();
  const old = entry("shop", "z", { hosts: ["x.example.com"], metadata: meta("shop", "z", {}, "2026-01-01T00:00:00Z") });
  const young = entry("shop", "a", { hosts: ["x.example.com", "web.shop.svc.cluster.local"] });
  mesh.apply(put(young, old));
  assert.equal(mesh.service("shop/x.example.com")?.name, "z");
  assert.equal(mesh.service("shop/web.shop.svc.cluster.local"), undefined);
  const fields = () => mesh.compiler.faults().map(({ key, field }) => `${key} ${field}`);
  assert.deepEqual(fields(), ["ServiceEntry/shop/a spec.hosts[0]", "ServiceEntry/shop/a spec.hosts[1]"]);
  mesh.apply(remove(old));
  assert.equal(mesh.service("shop/x.example.com")?.name, "a");
  assert.deepEqual(fields(), ["ServiceEntry/shop/a spec.hosts[1]"]);
});

test("an endpoint that is a pod's address is that pod, by its tunnel and under its name, as soon as it is there", () => {
  const mesh = held();
  const target = pod("pay", "ledger", ENABLED, { serviceAccountName: "ledger" });
  const [address = ""] = target.podIPs;
  mesh.apply(put(entry("shop", "db", { endpoints: [{ address, ports: { tcp: 6000 }, locality: "eu/a", weight: 3 }] })));
  const endpoint = () => mesh.entryEndpoint("shop/db", "db.example.com", address);
  assert.equal(endpoint()?.tunnelProtocol, TunnelProtocol.NONE);
  assert.equal(endpoint()?.capacity, 3);
  assert.equal(endpoint()?.locality?.zone, "a");
  assert.deepEqual(endpoint()?.services["shop/db.example.com"]?.ports[0]?.targetPort, 6000);
  mesh.apply(put(target, namespace("pay")));
  assert.equal(endpoint()?.tunnelProtocol, TunnelProtocol.HBONE);
  assert.equal(endpoint()?.serviceAccount, "ledger");
  mesh.apply(remove(target));
  assert.equal(endpoint()?.tunnelProtocol, TunnelProtocol.NONE);
});

test("names mean what they resolved to, each address an endpoint, and one without an address is told", () => {
  const mesh = held();
  const named = entry("shop", "db", { resolution: "DNS", endpoints: [] });
  mesh.apply(put(named));
  assert.equal(mesh.service("shop/db.example.com")?.ports.length, 1);
  mesh.apply(put({ ...named, resolved: { "db.example.com": ["198.51.100.7", "2001:db8::7"] } }));
  assert.ok(
    mesh.entryEndpoint("shop/db", "db.example.com", "198.51.100.7") && mesh.entryEndpoint("shop/db", "db.example.com", "2001:db8::7"),
  );
  mesh.apply(put({ ...named, resolved: { "db.example.com": [] } }));
  assert.equal(mesh.entryEndpoint("shop/db", "db.example.com", "198.51.100.7"), undefined);
  assert.match(mesh.compiler.faults()[0]?.reason ?? "", /db\.example\.com has no address/);
});

test("resolution NONE passes on to where the client wanted, inside the entry's own blocks", () => {
  const mesh = held();
  mesh.apply(
    put(entry("shop", "net", { hosts: ["*.example.com"], resolution: "NONE", endpoints: [], addresses: ["198.51.100.0/24", "192.0.2.9"] })),
  );
  assert.equal(mesh.service("shop/*.example.com")?.loadBalancing?.mode, LoadBalancing_Mode.PASSTHROUGH);
  assert.deepEqual(vips(mesh, "shop/*.example.com"), ["198.51.100.0/24", "192.0.2.9"]);
});

test("a selector makes pods of the namespace endpoints, and only of hosts that the entry has", () => {
  const mesh = held();
  const old = entry("shop", "old", { hosts: ["x.example.com"], metadata: meta("shop", "old", {}, "2026-01-01T00:00:00Z") });
  const picking = entry("shop", "pods", { hosts: ["x.example.com", "y.example.com"], endpoints: [], selector: { app: "db" } });
  mesh.apply(put(pod("shop", "db-0", { app: "db" }), pod("pay", "db-0", { app: "db" }), old, picking));
  const services = (ns: string) => Object.keys(mesh.workload(ns, "db-0")?.services ?? {});
  assert.deepEqual([services("shop"), services("pay")], [["shop/y.example.com"], []]);
  mesh.apply(remove(old));
  assert.deepEqual(services("shop"), ["shop/x.example.com", "shop/y.example.com"]);
  mesh.apply(remove(picking));
  assert.deepEqual(services("shop"), []);
});
