// Hosts outside of the cluster as a meshed pod uses them: by the name of a ServiceEntry, to its endpoints, for clients of its namespace alone.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { until } from "../src/lab/until.ts";
import { address, SERVER_PORT, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import { flowsOf, podDocument, untilReady } from "./pods.ts";
import { type Agent, startAgent } from "./programs/remote.ts";

const HOST = "ledger.bank.example";
const PORT = 8443;
let mesh: TestMesh;
let client: Agent;

const entry = (namespace: string, name: string, spec: object): string =>
  JSON.stringify({
    apiVersion: "networking.istio.io/v1",
    kind: "ServiceEntry",
    metadata: { name, namespace },
    spec: { ports: [{ number: PORT, name: "tcp", targetPort: SERVER_PORT }], ...spec },
  });

before(async () => {
  mesh = await startTestMesh();
  client = await startAgent(mesh.lab.pod("app/client"));
});
after(() => mesh?.stop());

const upstream = (): string => mesh.lab.underlay.ips[0] ?? "";
const addressesOf = async (agent: Agent, name: string, type: "A" | "AAAA"): Promise<readonly string[]> =>
  (await agent.query({ server: upstream(), name, type, transport: "udp" })).addresses;
const known = (name: string): Promise<string> =>
  until(`the mesh knows ${name}`, async () => (await addressesOf(client, name, "A"))[0] ?? null);

test("a host is answered with an address of its own, and a connection to that reaches the endpoint under the host's name", async () => {
  const outsider = address(mesh.lab.pod("legacy/outsider"));
  mesh.document("ledger.yaml", entry("app", "ledger", { hosts: [HOST], resolution: "STATIC", endpoints: [{ address: outsider }] }));
  const own = await known(HOST);
  assert.match(own, /^24[0-7]\./);
  const [six = ""] = await addressesOf(client, HOST, "AAAA");
  assert.match(six, /^2001:2:0:/);
  for (const to of [`${own}:${PORT}`, `[${six}]:${PORT}`]) {
    const { ok, error } = await tryConnect(client.pod, to);
    assert.ok(ok, `${to}: ${error}`);
  }
  await until("the flow names the entry's host", async () =>
    (await flowsOf(mesh.lab, "node-a")).some((flow) => flow.direction === "outbound" && JSON.stringify(flow).includes(HOST)),
  );
  assert.ok(!(await tryConnect(client.pod, `${own}:80`)).ok, "a port that the entry has not");
});

test("clients of another namespace know nothing of it", async () => {
  mesh.document("walker.yaml", podDocument({ name: "walker", ips: ["10.99.1.30", "fd99:1::30"], mesh: "enabled" }));
  await mesh.lab.reconcile();
  const pod = mesh.lab.pod("legacy/walker");
  await untilReady(mesh.lab, pod);
  const walker = await startAgent(pod);
  await known(HOST);
  assert.deepEqual(await addressesOf(walker, HOST, "A"), []);
});

test("an endpoint that is a meshed pod is reached by its tunnel", async () => {
  const server = address(mesh.lab.pod("app/server"));
  mesh.document(
    "inside.yaml",
    entry("app", "inside", { hosts: ["inside.example"], resolution: "STATIC", endpoints: [{ address: server }] }),
  );
  const own = await known("inside.example");
  assert.ok((await tryConnect(client.pod, `${own}:${PORT}`)).ok);
  await until("the server's node saw who it was", async () =>
    (await flowsOf(mesh.lab, "node-b")).some(
      ({ direction, source }) => direction === "inbound" && source.identity === "spiffe://cluster.local/ns/app/sa/client",
    ),
  );
});

test("what another namespace writes about an address changes nothing here, and a name that passes through is the client's server's", async () => {
  const outsider = address(mesh.lab.pod("legacy/outsider"));
  const wide = { hosts: ["*.example.org"], resolution: "NONE", addresses: [`${outsider}/32`, "0.0.0.0/0"] };
  mesh.document("foreign.yaml", entry("legacy", "foreign", wide));
  mesh.document("passing.yaml", entry("app", "passing", { hosts: ["passing.example"], resolution: "NONE", addresses: ["203.0.113.0/24"] }));
  mesh.document(
    "marker.yaml",
    entry("app", "marker", { hosts: ["marker.example"], resolution: "STATIC", endpoints: [{ address: outsider }] }),
  );
  await known("marker.example");
  assert.ok((await tryConnect(client.pod, `${outsider}:${SERVER_PORT}`)).ok);
  const { rcode } = await client.query({ server: upstream(), name: "passing.example", type: "A", transport: "udp" });
  assert.equal(rcode, 5, "the lab's server was asked, and refuses what it does not know");
});
