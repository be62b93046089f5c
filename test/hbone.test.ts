// The engine's HBONE against an independent client and server on Node's own TLS and HTTP/2, from inside pods of the two-node mesh.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { LocalAuthority } from "#ca/local.ts";
import { until } from "../src/lab/until.ts";
import type { Attempt, Outcome } from "./hbone/client.ts";
import { credentials, meshAuthority, strangerAuthority } from "./hbone/credentials.ts";
import { address, SERVER_PORT, startTestMesh, type TestMesh, tryConnect } from "./mesh.ts";
import { flows } from "./policy/documents.ts";

const HBONE = 15008;
const SERVER_IDENTITY = "spiffe://cluster.local/ns/app/sa/server";
/** First byte of the sink's protocol: echo. */
const ECHO = "e";
const CLIENT = fileURLToPath(new URL("hbone/client.ts", import.meta.url));
const SERVER = fileURLToPath(new URL("hbone/server.ts", import.meta.url));
let mesh: TestMesh;
let authority: LocalAuthority;

before(async () => {
  mesh = await startTestMesh();
  authority = meshAuthority(mesh.lab);
});
after(() => mesh.stop());

async function attempt(attempts: readonly Attempt[]): Promise<Outcome[]> {
  const output = await mesh.lab.pod("app/peer").run([process.execPath, CLIENT], { input: JSON.stringify(attempts), timeoutMs: 60_000 });
  const outcomes = JSON.parse(output) as Outcome[];
  assert.equal(outcomes.length, attempts.length);
  return outcomes;
}

/** A well-formed attempt on the server pod's HBONE port; each test changes what it is about. */
async function towardsServer(name: string, change: Partial<Attempt> = {}): Promise<Attempt> {
  const host = address(mesh.lab.pod("app/server"));
  return {
    name,
    host,
    port: HBONE,
    credentials: await credentials(authority, authority, "peer"),
    authority: `${host}:${SERVER_PORT}`,
    payload: `${ECHO}payload`,
    ...change,
  };
}

test("an independent client is served, sees exactly the pod's identity and gets its bytes back to the end", async () => {
  const v6 = address(mesh.lab.pod("app/server"), 6);
  const outcomes = await attempt([
    await towardsServer("IPv4"),
    await towardsServer("IPv6", { host: v6, authority: `[${v6}]:${SERVER_PORT}` }),
    await towardsServer("64 KiB", { payload: ECHO + "x".repeat(65_536) }),
  ]);
  for (const { name, status, answer, peerUris, error } of outcomes) {
    assert.equal(error, null, name);
    assert.equal(status, 200, name);
    assert.deepEqual(peerUris, [SERVER_IDENTITY], name);
    assert.equal(answer.length, name === "64 KiB" ? 65_536 : "payload".length, name);
  }
});

test("a CONNECT authority that is not this pod's application is refused with the right status", async () => {
  const server = address(mesh.lab.pod("app/server"));
  const other = address(mesh.lab.pod("app/client"));
  const expected: Readonly<Record<string, readonly number[]>> = {
    [`${other}:${SERVER_PORT}`]: [400],
    [`127.0.0.1:${SERVER_PORT}`]: [400],
    [`[::1]:${SERVER_PORT}`]: [400],
    [`0.0.0.0:${SERVER_PORT}`]: [400],
    [`[::ffff:${server}]:${SERVER_PORT}`]: [400],
    "169.254.169.254:80": [400],
    [`${server}:0`]: [400],
    [`${server}:15001`]: [400, 503],
    [`${server}:15008`]: [400, 503],
    [`${server}:70000`]: [400],
    [server]: [400],
    "no-such-host.example:80": [400, 503],
    [`${server}:9`]: [503],
  };
  const outcomes = await attempt(await Promise.all(Object.keys(expected).map((name) => towardsServer(name, { authority: name }))));
  for (const { name, status, error } of outcomes) {
    const allowed = expected[name] ?? [];
    assert.ok(status !== null && allowed.includes(status), `${name}: ${status ?? error}, expected ${allowed.join(" or ")}`);
  }
});

test("peers that do not prove a workload of this trust domain get no stream", async () => {
  const stranger = strangerAuthority();
  const outcomes = await attempt([
    await towardsServer("no client certificate", { credentials: null }),
    await towardsServer("another root", { credentials: await credentials(stranger, authority, "peer") }),
    await towardsServer("another trust domain", {
      credentials: await credentials(authority, authority, "peer", { trustDomain: "other.example" }),
    }),
    await towardsServer("TLS 1.2", { maxVersion: "TLSv1.2" }),
    await towardsServer("ALPN http/1.1", { alpn: ["http/1.1"] }),
  ]);
  for (const { name, status, error } of outcomes) {
    assert.equal(status, null, `${name} was answered with ${status}`);
    assert.match(error ?? "", /alert/, `${name} was not told why`);
  }
});

test("a peer that gives up ends the engine's wait for the application", async () => {
  const server = mesh.lab.pod("app/server");
  const port = 9555;
  await server.run(["nft", "-f", "-"], {
    input: `table inet hole { chain in { type filter hook input priority 0; tcp dport ${port} drop; }; }`,
  });
  const since = Date.now();
  const [outcome] = await attempt([await towardsServer("given up", { authority: `${address(server)}:${port}`, answerMs: 200 })]);
  assert.match(outcome?.error ?? "", /no answer to CONNECT/);
  const flow = await until("the engine gave up too", async () =>
    (await flows(mesh.lab, "node-b", since)).find(({ destination, phase }) => phase === "closed" && destination.port === port),
  );
  assert.equal(flow.code, "E_TUNNEL_LOST");
  await server.run(["nft", "delete", "table", "inet", "hole"]);
});

test("a policy that denies the peer's identity answers 401, and the flow names policy and port", async () => {
  const since = Date.now();
  mesh.document(
    "deny-peer.yaml",
    `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: deny-peer, namespace: app }
spec:
  selector: { matchLabels: { app: server } }
  action: DENY
  rules: [{ from: [{ source: { principals: ["cluster.local/ns/app/sa/peer"] } }] }]
`,
  );
  await until("the policy is enforced", async () => (await attempt([await towardsServer("denied")]))[0]?.status === 401);
  const denied = await until("the refusal is a flow", async () =>
    (await flows(mesh.lab, "node-b", since)).findLast(({ policy }) => policy === "app/deny-peer"),
  );
  const { code, direction, destination } = denied;
  assert.deepEqual([code, direction, destination.port], ["E_POLICY_DENIED", "inbound", SERVER_PORT]);
  mesh.document("deny-peer.yaml", null);
  await until("the policy is gone", async () => (await attempt([await towardsServer("allowed")]))[0]?.status === 200);
});

test("the engine dials an independent server as its pod's identity and names the pod it wants", async () => {
  const foreign = mesh.lab.pod("app/foreign");
  const server = foreign.spawn([process.execPath, SERVER]);
  const lines: string[] = [];
  let log = "";
  server.stderr?.on("data", (text) => {
    log += String(text);
  });
  if (server.stdout === null || server.stdin === null) throw new Error("the server has no pipes");
  createInterface(server.stdout).on("line", (line) => lines.push(line));
  const own = await credentials(authority, authority, "foreign");
  server.stdin.write(`${JSON.stringify({ host: "::", port: HBONE, credentials: own })}\n`);
  await until(
    "the independent server listens",
    () => lines.shift(),
    10_000,
    () => log,
  );
  const target = `${address(foreign)}:${SERVER_PORT}`;
  const { ok, error } = await tryConnect(mesh.lab.pod("app/client"), target);
  assert.ok(ok, error);
  const request = JSON.parse(await until("the server saw the CONNECT", () => lines[0])) as { authority: string; peerUris: string[] };
  assert.equal(request.authority, target);
  assert.deepEqual(request.peerUris, ["spiffe://cluster.local/ns/app/sa/client"]);
  server.kill("SIGKILL");
  await until("the independent server is gone", () => server.exitCode !== null || server.signalCode !== null);
});

test("a server that proves another identity than the destination's gets no byte", async () => {
  const foreign = mesh.lab.pod("app/foreign");
  const server = foreign.spawn([process.execPath, SERVER]);
  const lines: string[] = [];
  if (server.stdout === null || server.stdin === null) throw new Error("the server has no pipes");
  createInterface(server.stdout).on("line", (line) => lines.push(line));
  const impostor = await credentials(authority, authority, "client");
  server.stdin.write(`${JSON.stringify({ host: "::", port: HBONE, credentials: impostor })}\n`);
  await until("the impostor listens", () => lines.shift());
  const { ok } = await tryConnect(mesh.lab.pod("app/client"), `${address(foreign)}:${SERVER_PORT}`);
  assert.ok(!ok, "the impostor was served");
  assert.deepEqual(lines, [], "no CONNECT may reach an impostor");
  server.kill("SIGKILL");
});
