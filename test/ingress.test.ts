// A pod that only sends into the mesh, as an ingress controller does: what comes from outside reaches it untouched, what it sends is meshed.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { PodPlace } from "../src/lab/api.ts";
import { until } from "../src/lab/until.ts";
import { address, SERVER_PORT, serve, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import { flowsOf, listenersOf, podDocument, untilReady } from "./pods.ts";

const GATE = { name: "gate", ips: ["10.99.2.40", "fd99:2::40"], node: "node-b", mesh: "enabled" } as const;
let mesh: TestMesh;
let gate: PodPlace;

before(async () => {
  mesh = await startTestMesh();
  mesh.document("gate.yaml", podDocument({ ...GATE, annotations: { "trackbed.dev/capture": "outbound" } }));
  mesh.document(
    "strict.yaml",
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: strict, namespace: legacy }\nspec: { mtls: { mode: STRICT } }\n",
  );
  await mesh.lab.reconcile();
  gate = mesh.lab.pod("legacy/gate");
  await serve(gate);
  await untilReady(mesh.lab, gate);
});
after(() => mesh?.stop());

test("nothing listens for plaintext in it, and its own rules redirect nothing that comes in", async () => {
  assert.deepEqual(await listenersOf(gate), [15001, 15008, 15053]);
  const table = await gate.run(["nft", "list", "table", "inet", "trackbed"]);
  assert.doesNotMatch(table, /hook prerouting priority dstnat|15006/);
});

test("a client outside of the mesh reaches it as before, in both families, although plaintext is refused elsewhere in its namespace", async () => {
  const outsider = mesh.lab.pod("legacy/outsider");
  for (const family of [4, 6] as const) {
    const ip = address(gate, family);
    const { ok, error } = await tryConnect(outsider, `${family === 6 ? `[${ip}]` : ip}:${SERVER_PORT}`);
    assert.ok(ok, error);
  }
});

test("what it sends goes under its own name", async () => {
  assert.ok((await tryConnect(gate, `${address(mesh.lab.pod("app/server"))}:${SERVER_PORT}`)).ok);
  await until("the server's node saw who it was", async () =>
    (await flowsOf(mesh.lab, "node-b")).some(
      ({ direction, source }) => direction === "inbound" && source.identity === "spiffe://cluster.local/ns/legacy/sa/gate",
    ),
  );
});

test("a meshed client reaches it by tunnel", async () => {
  assert.ok((await tryConnect(mesh.lab.pod("app/client"), `${address(gate)}:${SERVER_PORT}`)).ok);
  await until("its node saw who the client was", async () =>
    (await flowsOf(mesh.lab, "node-b")).some(
      ({ direction, source, destination }) =>
        direction === "inbound" &&
        source.identity === "spiffe://cluster.local/ns/app/sa/client" &&
        JSON.stringify(destination).includes(address(gate)),
    ),
  );
});
