// What policy and identity promise, asked of two nodes under live connections: by tunnel, by relay and in plaintext.
import assert from "node:assert/strict";
import { cpSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ports } from "#contract/tables.ts";
import type { FlowRecord } from "#inspect/flow.ts";
import { until } from "../src/lab/until.ts";
import { address, SERVER_PORT, serve, startTestMesh, type TestMesh } from "./mesh.ts";
import { authorization, faults, flows, peerAuthentication, principal, ROOT_NAMESPACE } from "./policy/documents.ts";
import { findPrivateKeys, searchMemory } from "./policy/keys.ts";
import { type Held, type Prober, startProber } from "./policy/probes.ts";

/** From the write of the document to the reset at the client. */
const CUT_MS = 1000;
const OTHER_PORT = 9001;
const DENIED = "ECONNRESET";
let mesh: TestMesh;
const probers = new Map<string, Prober>();

/** Every way a connection comes to a pod; `from` and `to` are pods. */
const WAYS = {
  tunnel: { from: "app/client", to: "app/server", family: 4 },
  "tunnel of another": { from: "app/neighbour", to: "app/server", family: 4 },
  "tunnel by IPv6": { from: "app/client", to: "app/server", family: 6 },
  relay: { from: "app/client", to: "app/neighbour", family: 4 },
  "relay by IPv6": { from: "app/client", to: "app/neighbour", family: 6 },
  "plaintext from the other node": { from: "legacy/outsider", to: "app/server", family: 4 },
  "plaintext from the same node": { from: "legacy/outsider", to: "app/neighbour", family: 4 },
  "plaintext by IPv6": { from: "legacy/outsider", to: "app/server", family: 6 },
} as const;
type Way = keyof typeof WAYS;
const EVERY = Object.keys(WAYS) as Way[];
const ways = (is: (way: (typeof WAYS)[Way]) => boolean): Way[] => EVERY.filter((name) => is(WAYS[name]));
const PLAIN = ways(({ from }) => from === "legacy/outsider");
const MESHED = ways(({ from }) => from !== "legacy/outsider");
const TO_SERVER = ways(({ to }) => to === "app/server");
const BY_CLIENT = ways(({ from }) => from === "app/client");

before(async () => {
  mesh = await startTestMesh();
  for (const name of ["app/server", "app/neighbour"]) await serve(mesh.lab.pod(name), OTHER_PORT);
  for (const name of ["app/client", "app/neighbour", "legacy/outsider"]) probers.set(name, startProber(mesh.lab.pod(name)));
});
after(() => mesh?.stop());

function ends(way: Way): { readonly prober: Prober; readonly host: string } {
  const { from, to, family } = WAYS[way];
  const prober = probers.get(from);
  if (prober === undefined) throw new Error(`${from} has no prober`);
  return { prober, host: address(mesh.lab.pod(to), family) };
}

const attempt = (way: Way, port = SERVER_PORT): Promise<string> => {
  const { prober, host } = ends(way);
  return prober.attempt(host, port);
};

const holdOne = (way: Way): Promise<Held> => {
  const { prober, host } = ends(way);
  return prober.hold(host, SERVER_PORT);
};

async function holdEach(names: readonly Way[]): Promise<Map<Way, Held>> {
  return new Map(await Promise.all(names.map(async (name) => [name, await holdOne(name)] as const)));
}

/** The ways that are refused now, each by a reset. */
async function refused(port = SERVER_PORT): Promise<Way[]> {
  const results = await Promise.all(EVERY.map(async (name) => [name, await attempt(name, port)] as const));
  for (const [name, result] of results) assert.ok(result === "open" || result === DENIED, `${name}: ${result}`);
  return results.filter(([, result]) => result !== "open").map(([name]) => name);
}

const isRefused = (expected: readonly Way[], port = SERVER_PORT): Promise<unknown> =>
  until(`refused: ${expected.join(", ") || "nothing"}`, async () => {
    const now = await refused(port);
    if (now.join() !== expected.join()) throw new Error(`refused were ${now.join(", ") || "none"}`);
    return true;
  });

/** Every held connection of `cut` was reset within a second of `written`; the others still answer. */
async function areCut(held: Map<Way, Held>, cut: readonly Way[], written: number): Promise<void> {
  await until(`cut: ${cut.join(", ")}`, () => cut.every((name) => held.get(name)?.over() !== null));
  for (const [name, connection] of held) {
    const over = connection.over();
    if (!cut.includes(name)) assert.ok(await connection.echo(), `${name} was not denied and ended with ${over?.end}`);
    else {
      assert.equal(over?.end, DENIED, name);
      assert.ok(over.time - written < CUT_MS, `${name} was cut after ${over.time - written} ms`);
    }
  }
}

/** The record in which the destination's node says how a connection ended. */
function closedFlow(way: Way, since: number, is: (flow: FlowRecord) => boolean = () => true): Promise<FlowRecord> {
  const { from, to, family } = WAYS[way];
  const [source, destination] = [address(mesh.lab.pod(from), family), address(mesh.lab.pod(to), family)];
  return until(`a flow of ${way}`, async () =>
    (await flows(mesh.lab, mesh.lab.pod(to).node, since)).findLast(
      (flow) =>
        flow.phase === "closed" &&
        flow.direction === "inbound" &&
        flow.source.address === source &&
        flow.destination.address === destination &&
        is(flow),
    ),
  );
}

/** Puts a document there for the time of `body` and waits until it has no effect any more. */
async function withDocument(text: string, body: (written: number) => Promise<void>): Promise<void> {
  const written = Date.now();
  mesh.document("case.yaml", text);
  try {
    await body(written);
  } finally {
    mesh.document("case.yaml", null);
  }
  await isRefused([]);
}

/** A restarted control is found again by each daemon at its own time. */
const nodesConnected = (): Promise<unknown> =>
  until(
    "both nodes are connected to control",
    async () => {
      const nodes = await Promise.all(["node-a", "node-b"].map((name) => mesh.lab.status(name)));
      return nodes.every(({ control }) => control.connected);
    },
    30_000, // the pause before a daemon tries again grows while control starts on a busy machine
  );

test("a DENY cuts live connections of whom it denies within a second, names policy and rule, and touches nobody else", async () => {
  const held = await holdEach(EVERY);
  const since = Date.now();
  const rules = [
    { from: [{ source: { principals: [principal("nobody")] } }] },
    { from: [{ source: { principals: [principal("client")] } }] },
    { from: [{ source: { ipBlocks: [address(mesh.lab.pod("legacy/outsider"))] } }] },
  ];
  const v4 = PLAIN.filter((name) => WAYS[name].family === 4);
  const denied = EVERY.filter((name) => BY_CLIENT.includes(name) || v4.includes(name));
  await withDocument(authorization("deny-client", "DENY", rules), async (written) => {
    await areCut(held, denied, written);
    for (const name of denied) {
      const flow = await closedFlow(name, since, ({ verdict }) => verdict === "denied");
      const expected = { policy: "app/deny-client", rule: BY_CLIENT.includes(name) ? 1 : 2, code: "E_POLICY_DENIED", closedBy: "engine" };
      const { policy, rule, code, closedBy } = flow;
      assert.deepEqual({ policy, rule, code, closedBy }, expected, name);
      assert.ok(flow.bytesSent > 0, `${name} had moved bytes`);
      const path = PLAIN.includes(name) ? "plain" : WAYS[name].to === "app/server" ? "tunnel" : "relay";
      assert.equal(flow.path, path, name);
    }
    await isRefused(denied);
    const fresh = await closedFlow("tunnel", since, ({ bytesSent }) => bytesSent === 0);
    assert.equal(fresh.code, "E_POLICY_DENIED");
  });
  for (const name of EVERY.filter((name) => !denied.includes(name))) assert.ok(await held.get(name)?.echo(), name);
});

test("an ALLOW lets in whom it names and cuts everybody else of what it selects, with the code that says so", async () => {
  const held = await holdEach(EVERY);
  const since = Date.now();
  const rules = [{ from: [{ source: { principals: [principal("client")] } }] }];
  const others = TO_SERVER.filter((name) => !BY_CLIENT.includes(name));
  await withDocument(authorization("only-client", "ALLOW", rules, { selector: { app: "server" } }), async (written) => {
    await areCut(held, others, written);
    await isRefused(others);
    for (const name of others) {
      const flow = await closedFlow(name, since, ({ verdict }) => verdict === "denied");
      assert.deepEqual([flow.code, flow.policy, flow.destination.port], ["E_POLICY_NO_ALLOW", "app/only-client", SERVER_PORT], name);
    }
    const allowed = await closedFlow("tunnel", since, ({ verdict }) => verdict === "allowed");
    assert.deepEqual([allowed.policy, allowed.rule], ["app/only-client", 0]);
  });
});

test("a policy acts on its selection, on its namespace, or from the root namespace on the mesh, and nowhere else", async () => {
  const all = [{}];
  const scopes: [string, Way[]][] = [
    [authorization("selector", "DENY", all, { selector: { app: "server" } }), TO_SERVER],
    [authorization("namespace", "DENY", all), EVERY],
    [authorization("mesh", "DENY", all, { namespace: ROOT_NAMESPACE }), EVERY],
    [authorization("mesh-selector", "DENY", all, { namespace: ROOT_NAMESPACE, selector: { app: "server" } }), TO_SERVER],
  ];
  for (const [text, expected] of scopes) await withDocument(text, async () => void (await isRefused(expected)));
  mesh.document("elsewhere.yaml", authorization("elsewhere", "DENY", all, { namespace: "legacy" }));
  // The second document proves that the first is known.
  await withDocument(authorization("after", "DENY", all, { selector: { app: "server" } }), async () => void (await isRefused(TO_SERVER)));
  mesh.document("elsewhere.yaml", null);
});

test("every field that L4 can enforce denies exactly what it matches, whichever path a connection takes", async () => {
  const source = (fields: object): object => ({ from: [{ source: fields }] });
  const client = address(mesh.lab.pod("app/client"));
  const client6 = address(mesh.lab.pod("app/client"), 6);
  const server = address(mesh.lab.pod("app/server"));
  const v4 = ways(({ family }) => family === 4);
  const v6 = ways(({ family }) => family === 6);
  const both = (a: readonly Way[], b: readonly Way[]): Way[] => a.filter((name) => b.includes(name));
  const notClient = EVERY.filter((name) => !BY_CLIENT.includes(name));
  const cases: [object, readonly Way[]][] = [
    [source({ principals: ["*"] }), MESHED],
    [source({ notPrincipals: ["*"] }), PLAIN],
    [source({ principals: ["*/sa/client"] }), BY_CLIENT],
    [source({ principals: ["cluster.local/ns/app/*"] }), MESHED],
    [source({ principals: ["other.example/ns/app/sa/client"] }), []],
    [source({ notPrincipals: [principal("client")] }), notClient],
    [source({ namespaces: ["app"] }), MESHED],
    [source({ notNamespaces: ["app"] }), PLAIN],
    [source({ namespaces: ["legacy"] }), []],
    [source({ serviceAccounts: ["app/client"] }), BY_CLIENT],
    [source({ serviceAccounts: ["client"] }), BY_CLIENT],
    [source({ serviceAccounts: ["legacy/client"] }), []],
    [source({ ipBlocks: [client] }), both(BY_CLIENT, v4)],
    [source({ ipBlocks: [`${client6}/128`] }), both(BY_CLIENT, v6)],
    [source({ ipBlocks: ["10.99.1.0/24"] }), v4],
    [source({ notIpBlocks: ["0.0.0.0/0"] }), v6],
    [source({ ipBlocks: ["10.99.1.0/24"], namespaces: ["app"] }), both(MESHED, v4)],
    [{ to: [{ operation: { ports: [String(SERVER_PORT)] } }] }, EVERY],
    [{ to: [{ operation: { notPorts: [String(SERVER_PORT)] } }] }, []],
    [{ ...source({ namespaces: ["app"] }), to: [{ operation: { ports: [String(SERVER_PORT)] } }] }, MESHED],
    [{ when: [{ key: "source.ip", values: ["10.99.1.0/24"], notValues: [client] }] }, both(notClient, v4)],
    [{ when: [{ key: "source.namespace", values: ["app"] }] }, MESHED],
    [{ when: [{ key: "source.principal", notValues: ["*"] }] }, PLAIN],
    [{ when: [{ key: "destination.ip", values: [server] }] }, both(TO_SERVER, v4)],
    [{ when: [{ key: "destination.port", values: [String(SERVER_PORT)] }] }, EVERY],
  ];
  for (const [rule, expected] of cases) {
    // Once the second rule acts at every destination, the first has been in force as long.
    const known = { to: [{ operation: { ports: [String(OTHER_PORT)] } }] };
    mesh.document("case.yaml", authorization("field", "DENY", [rule, known]));
    await isRefused(EVERY, OTHER_PORT);
    assert.deepEqual(await refused(), expected, JSON.stringify(rule));
    mesh.document("case.yaml", null);
    await isRefused([], OTHER_PORT);
    assert.deepEqual(await refused(), [], `after ${JSON.stringify(rule)}`);
  }
});

test("a policy that a changed label binds to a pod cuts its live connections", async () => {
  const documents = readFileSync(join(mesh.lab.mesh, "mesh.yaml"), "utf8");
  const labelled = documents.replace("labels: { app: server }", "labels: { app: server, quarantine: now }");
  assert.notEqual(labelled, documents);
  mesh.document("quarantine.yaml", authorization("quarantine", "DENY", [{}], { selector: { quarantine: "now" } }));
  await withDocument(
    authorization("after", "DENY", [{}], { selector: { app: "neighbour" } }),
    async () => void (await isRefused(EVERY.filter((name) => !TO_SERVER.includes(name)))),
  );
  const held = await holdEach(EVERY);
  const [since, written] = [Date.now(), Date.now()];
  mesh.document("mesh.yaml", labelled);
  await areCut(held, TO_SERVER, written);
  assert.equal((await closedFlow("tunnel", since)).policy, "app/quarantine");
  await isRefused(TO_SERVER);
  mesh.document("mesh.yaml", documents);
  await isRefused([]);
  mesh.document("quarantine.yaml", null);
});

test("STRICT turns plaintext away and cuts it, leaves the mesh alone, and PERMISSIVE lets plaintext in again", async () => {
  const held = await holdEach(EVERY);
  const since = Date.now();
  const written = Date.now();
  mesh.document("case.yaml", peerAuthentication("default", { mtls: { mode: "STRICT" } }));
  await areCut(held, PLAIN, written);
  await isRefused(PLAIN);
  for (const name of PLAIN) {
    const flow = await closedFlow(name, since, ({ verdict }) => verdict === "denied");
    assert.deepEqual([flow.code, flow.policy], ["E_POLICY_STRICT", `${ROOT_NAMESPACE}/istio_converted_static_strict`], name);
  }
  mesh.document("case.yaml", peerAuthentication("default", { mtls: { mode: "PERMISSIVE" } }));
  await isRefused([]);
  for (const name of MESHED) assert.ok(await held.get(name)?.echo(), name);
  mesh.document("case.yaml", null);
});

test("STRICT for the mesh yields to PERMISSIVE for a workload, and ports may differ from their pod in both directions", async () => {
  const selector = { app: "server" };
  const toNeighbour = PLAIN.filter((name) => !TO_SERVER.includes(name));
  const plainToServer = PLAIN.filter((name) => TO_SERVER.includes(name));
  const permissive = peerAuthentication("server", { mtls: { mode: "PERMISSIVE" } }, { selector });
  mesh.document("mesh-wide.yaml", peerAuthentication("default", { mtls: { mode: "STRICT" } }, { namespace: ROOT_NAMESPACE }));
  await withDocument(permissive, async () => {
    await isRefused(toNeighbour);
    mesh.document("mesh-wide.yaml", null);
  });
  const open = { mtls: { mode: "STRICT" }, portLevelMtls: { [OTHER_PORT]: { mode: "PERMISSIVE" } } };
  await withDocument(peerAuthentication("server", open, { selector }), async () => {
    await isRefused(plainToServer);
    await isRefused([], OTHER_PORT);
  });
  const shut = { mtls: { mode: "PERMISSIVE" }, portLevelMtls: { [OTHER_PORT]: { mode: "STRICT" } } };
  await withDocument(peerAuthentication("server", shut, { selector }), async () => {
    await isRefused(plainToServer, OTHER_PORT);
    await isRefused([]);
  });
});

test("a policy that cannot be enforced as written denies all that it selects, and control says which field", async () => {
  const wrong: [string, string, string][] = [
    [
      "l7-deny",
      authorization("l7-deny", "DENY", [{ to: [{ operation: { methods: ["DELETE"] } }] }], { selector: { app: "server" } }),
      "methods",
    ],
    [
      "bad-cidr",
      authorization("bad-cidr", "ALLOW", [{ from: [{ source: { ipBlocks: ["10.99.1.0/33"] } }] }], { selector: { app: "server" } }),
      "ipBlocks",
    ],
    [
      "bad-cidr-deny",
      authorization("bad-cidr-deny", "DENY", [{ from: [{ source: { ipBlocks: ["10.99.1/24"] } }] }], { selector: { app: "server" } }),
      "ipBlocks",
    ],
  ];
  for (const [name, text, field] of wrong) {
    await withDocument(text, async () => {
      await isRefused(TO_SERVER);
      const fault = await until(`a fault of ${name}`, async () => (await faults()).find(({ key }) => key?.endsWith(`app/${name}`)));
      assert.equal(fault.code, "E_POLICY_INVALID");
      assert.match(fault.field, new RegExp(field));
    });
    await until("the fault is mended", async () => (await faults()).length === 0);
  }
});

test("no private key is in a file, log, answer or process but the engine", async () => {
  const { lab } = mesh;
  for (const node of lab.nodes.filter(({ name }) => name !== "node-c")) {
    assert.deepEqual(findPrivateKeys(node.runDirectory), [], node.name);
    const [daemon] = node.pidsOf("daemon");
    const [worker] = node.pidsOf("worker");
    assert.ok(daemon !== undefined && worker !== undefined);
    assert.ok(searchMemory(worker) > 0, "the search finds the keys where they must be");
    assert.equal(searchMemory(daemon), 0, `a private key of a workload in the daemon of ${node.name}`);
    const answers = JSON.stringify([await lab.status(node.name), await flows(lab, node.name, 0)]);
    assert.doesNotMatch(answers, /PRIVATE KEY/);
  }
  assert.deepEqual(findPrivateKeys(join(lab.directory, "logs")), []);
  assert.deepEqual(findPrivateKeys(join(lab.directory, "tokens")), []);
  for (const file of readdirSync(join(lab.directory, "control"))) {
    const path = join(lab.directory, "control", file);
    const holds = findPrivateKeys(path).length > 0;
    assert.ok(!holds || (statSync(path).mode & 0o077) === 0, `${file} holds a private key and others may read it`);
  }
});

test("a pod that the authority refuses to certify is not ready, says why, and refuses what comes to it", async () => {
  const { lab } = mesh;
  const controls = `${lab.mesh}-control`;
  const newcomer = (node: string, phase: string): string =>
    JSON.stringify({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "newcomer", namespace: "app", annotations: { "trackbed.dev/netns": "/run/netns/app-newcomer" } },
      spec: { nodeName: node, serviceAccountName: "newcomer", containers: [] },
      status: { phase, podIPs: [{ ip: "10.99.2.30" }, { ip: "fd99:2::30" }] },
    });
  // Control is told another story than the node: that is what a node that lies, or is late, looks like.
  for (const [node, phase] of [
    ["node-a", "Running"],
    ["node-b", "Succeeded"],
  ] as const) {
    cpSync(lab.mesh, controls, { recursive: true });
    const story = newcomer(node, phase);
    mesh.document("newcomer.yaml", null);
    await lab.stopControl();
    writeFileSync(join(controls, "newcomer.yaml"), story);
    await lab.startControl(["--mesh", controls]);
    mesh.document("newcomer.yaml", newcomer("node-b", "Running"));
    await lab.reconcile();
    const problem = await until(`E_IDENTITY_REFUSED for a pod that is ${phase} on ${node}`, async () => {
      const pod = (await lab.status("node-b")).pods.find(({ name }) => name === "newcomer");
      assert.notEqual(pod?.phase, "ready");
      return pod?.problem?.code === "E_IDENTITY_REFUSED" ? pod.problem : null;
    });
    assert.match(problem.reason, /newcomer/);
    mesh.document("newcomer.yaml", null);
    await until("the pod is gone", async () => (await lab.status("node-b")).pods.every(({ name }) => name !== "newcomer"));
    rmSync(controls, { recursive: true, force: true });
  }
  await lab.stopControl();
  await lab.startControl();
  await nodesConnected();
});

test("a policy that is only tried refuses nobody, and whom it would refuse is in the flow and counted on the node", async () => {
  const { lab } = mesh;
  const counted = async (): Promise<number> => {
    const text = await lab.node("node-b").run(["curl", "-sS", "--max-time", "5", `http://127.0.0.1:${ports.engineMetrics}/metrics`]);
    return Number(/^trackbed_policy_dry_run_denied_total\{policy="app\/tried"\} (\d+)$/m.exec(text)?.[1] ?? 0);
  };
  const rules = [{ from: [{ source: { principals: [principal("neighbour")] } }] }];
  const document = JSON.parse(authorization("tried", "ALLOW", rules)) as { metadata: object };
  const tried = { ...document, metadata: { ...document.metadata, annotations: { "istio.io/dry-run": "true" } } };
  const held = await holdEach(MESHED);
  await withDocument(JSON.stringify(tried), async () => {
    const flow = await until("a flow that says what would be", async () => {
      const since = Date.now();
      assert.equal(await attempt("tunnel"), "open");
      const found = await closedFlow("tunnel", since, () => true);
      return found.audit === null ? null : found;
    });
    assert.deepEqual(
      [flow.verdict, flow.audit],
      ["allowed", { verdict: "denied", policy: "app/tried", rule: 0, code: "E_POLICY_NO_ALLOW" }],
    );
    assert.ok((await counted()) > 0);
    // Whom it admits it would not refuse.
    const since = Date.now();
    assert.equal(await attempt("tunnel of another"), "open");
    assert.equal((await closedFlow("tunnel of another", since)).audit, null);
    await isRefused([]);
    for (const [name, connection] of held) assert.ok(await connection.echo(), `${name} was cut by a policy that is only tried`);
  });
});

test("a control that encrypts on the node too sends same-node connections by tunnel, with the same verdicts", async () => {
  const { lab } = mesh;
  await lab.stopControl();
  await lab.startControl(["--encrypt-same-node"]);
  await nodesConnected();
  await until("the same node is crossed by tunnel", async () => {
    const since = Date.now();
    assert.equal(await attempt("relay"), "open");
    return (await closedFlow("relay", since)).path === "tunnel";
  });
  const held = await holdEach(EVERY);
  const rules = [{ from: [{ source: { principals: [principal("client")] } }] }];
  await withDocument(authorization("deny-client", "DENY", rules), async (written) => {
    await areCut(held, BY_CLIENT, written);
    await isRefused(BY_CLIENT);
  });
});
