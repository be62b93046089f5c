import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { type NodeReportSchema, Nodes, PodPhase } from "#contract/gen/control_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import { type Address, AddressSchema, TunnelProtocol } from "#contract/gen/istio/workload_pb.ts";
import { type ControlChannel, controlChannel } from "#xds/channel.ts";
import { type XdsClient, xdsClient } from "#xds/client.ts";
import { createQueue } from "#xds/queue.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type XdsDelta, type XdsResource } from "#xds/resource.ts";

/** Starting a process takes seconds where every core is taken. */
const DEADLINE_MILLISECONDS = 30_000;
const MAIN = new URL("main.ts", import.meta.url).pathname;

const NAMESPACE = `apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { trackbed.dev/mesh: enabled } }
`;

const nodes = (...names: string[]): string =>
  names.map((name) => `apiVersion: v1\nkind: Node\nmetadata: { name: ${name} }\n`).join("---\n");

const pod = (name: string, node: string, ip: string, more = ""): string => `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, uid: uid-${name}, labels: { app: ${name} }, annotations: { trackbed.dev/netns: /run/netns/${name} } }
spec:
  nodeName: ${node}
  serviceAccountName: ${name}
  containers: [{ name: main, ports: [{ containerPort: 8080 }] }]
status:
  phase: Running
  podIP: ${ip}
  podIPs: [{ ip: ${ip} }]
  conditions: [{ type: Ready, status: "True" }]
${more}`;

const POLICY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: cart, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules: [{ from: [{ source: { namespaces: [bank] } }] }]
`;

type Line = Record<string, unknown> & { msg: string };

type Running = { child: ChildProcess; lines: Line[]; address: string; health: string; stop(): Promise<number | null> };

async function until<T>(what: string, probe: () => T | Promise<T>): Promise<Exclude<T, false | null | undefined>> {
  for (const end = Date.now() + DEADLINE_MILLISECONDS; ; await new Promise((resolve) => setTimeout(resolve, 5))) {
    const value = await probe();
    if (value) return value as Exclude<T, false | null | undefined>;
    if (Date.now() > end) assert.fail(`not within ${DEADLINE_MILLISECONDS} ms: ${what}`);
  }
}

async function start(end: AsyncDisposableStack, dir: string, port = 0): Promise<Running> {
  const args = ["--mesh", join(dir, "mesh"), "--state", join(dir, "state"), "--tokens", join(dir, "tokens")];
  const child = spawn(
    process.execPath,
    [MAIN, ...args, "--listen", `127.0.0.1:${port}`, "--listen", "[::1]:0", "--health", "127.0.0.1:0"],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const exited = once(child, "close"); // and not "exit": its last lines may still be on their way then
  const lines: Line[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => lines.push(JSON.parse(line) as Line));
  const stop = async (): Promise<number | null> => {
    child.kill("SIGTERM");
    await exited;
    return child.exitCode;
  };
  end.defer(async () => void (await stop()));
  const serving = await until("control serves", () => {
    assert.equal(child.exitCode, null, "control ended while starting");
    return lines.find(({ msg }) => msg === "control serves");
  });
  return { child, lines, address: (serving["addresses"] as string[])[0] ?? "", health: String(serving["health"]), stop };
}

async function mesh(t: TestContext) {
  const end = new AsyncDisposableStack(); // in reverse order: the directory goes when nobody writes to it any more
  t.after(() => end.disposeAsync());
  const dir = mkdtempSync(join(tmpdir(), "control-"));
  end.defer(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, "mesh"));
  const write = (file: string, text: string): void => writeFileSync(join(dir, "mesh", file), text);
  write("namespace.yaml", NAMESPACE);
  write("nodes.yaml", nodes("node-a", "node-b"));
  write("cart.yaml", pod("cart", "node-a", "10.0.0.1"));
  write("pay.yaml", pod("pay", "node-b", "10.0.0.2"));
  write("policy.yaml", POLICY);
  return { end, dir, write, control: await start(end, dir) };
}

/** A daemon's side of the wire. */
function daemon(end: AsyncDisposableStack, dir: string, address: string, node: string, token = join(dir, "tokens", `${node}.token`)) {
  const channel = controlChannel({ control: `https://${address}`, root: join(dir, "state", "root-cert.pem"), token });
  const held = new Map<string, XdsResource>();
  const deltas: XdsDelta[] = [];
  const client = xdsClient({
    channel,
    node: { id: `daemon~${node}`, metadata: { NODE_NAME: node } },
    held: new Map(),
    onDelta: async (delta) => {
      deltas.push(delta);
      for (const resource of delta.upsert) held.set(resource.name, resource);
      for (const name of delta.remove) held.delete(name);
      return [];
    },
  });
  const stop = new AbortController();
  const running = client.run(stop.signal);
  end.defer(async () => {
    stop.abort();
    await running;
    channel.abort();
  });
  const workload = (name: string) => {
    const resource = held.get(`Kubernetes//Pod/shop/${name}`);
    const address: Address | undefined = resource === undefined ? undefined : fromBinary(AddressSchema, resource.body);
    return address?.type.case === "workload" ? address.type.value : undefined;
  };
  return { channel, client, held, deltas, workload };
}

const synced = (client: XdsClient) => until("synced", () => client.connectivity().synced);

const get = async (health: string, path: string): Promise<Response> =>
  fetch(`http://${health}${path}`, { signal: AbortSignal.timeout(5_000) });

function newRequest(dir: string): string {
  const args = [
    "req",
    "-new",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-keyout",
    join(dir, "key.pem"),
    "-subj",
    "/",
  ];
  return execFileSync("openssl", args, { encoding: "utf8", stdio: "pipe" });
}

const sign = (channel: ControlChannel, csr: string, identity: string, podUid: string) =>
  createClient(IstioCertificateService, channel.transport).createCertificate({
    csr,
    validityDuration: 86_400n,
    metadata: { ImpersonatedIdentity: identity, PodUid: podUid },
  });

test("an edited file arrives at a node as one delta within a second", async (t) => {
  const { end, dir, write, control } = await mesh(t);
  const node = daemon(end, dir, control.address, "node-a");
  await synced(node.client);
  assert.ok(node.workload("cart") && node.workload("pay"));
  assert.ok(node.held.has("shop/cart"), "the policy");
  const before = node.deltas.length;
  const edited = performance.now();
  write("pay.yaml", pod("pay", "node-b", "10.0.0.77"));
  await until("the change", () => node.workload("pay")?.addresses[0]?.[3] === 77);
  const took = performance.now() - edited;
  assert.ok(took < 1000, `${took} ms`);
  const [delta, ...more] = node.deltas.slice(before);
  assert.deepEqual(
    [more.length, delta?.typeUrl, delta?.upsert.map(({ name }) => name), delta?.remove],
    [0, ADDRESS_TYPE, ["Kubernetes//Pod/shop/pay"], []],
  );
});

test("a broken file is reported with file, line and reason, and everything else stays in force", async (t) => {
  const { end, dir, write, control } = await mesh(t);
  const node = daemon(end, dir, control.address, "node-a");
  await synced(node.client);
  const held = new Map(node.held);
  write("policy.yaml", POLICY.replace("action: DENY", "action: DENIE"));
  type Listed = { faults: { code: string; file: string; line: number; field: string; reason: string; next: string }[] };
  const [fault] = await until("the fault", async () => {
    const { faults } = (await (await get(control.health, "/v1/faults")).json()) as Listed;
    return faults.length > 0 && faults;
  });
  assert.ok(fault);
  assert.match(fault.file, /policy\.yaml$/);
  assert.ok(fault.line >= 4 && fault.reason !== "" && fault.next !== "", JSON.stringify(fault));
  assert.match(fault.field, /action/);
  const faultLines = () => control.lines.filter(({ msg }) => msg === "fault");
  await until("it is logged", () => faultLines().length > 0); // the answer may overtake the line
  const logged = faultLines();
  assert.deepEqual([logged.length, logged[0]?.["file"], logged[0]?.["level"]], [1, fault.file, "error"]);
  assert.deepEqual(node.held, held);
  write("policy.yaml", POLICY);
  await until("the fault is mended", async () => ((await (await get(control.health, "/v1/faults")).json()) as Listed).faults.length === 0);
  await until("it is told", () => control.lines.some(({ msg }) => msg === "fault is mended"));
});

test("a policy that cannot be enforced as written is reported with the line of its document, also after that moved", async (t) => {
  const { write, control } = await mesh(t);
  type Listed = { faults: { code: string; file: string; line: number; field: string }[] };
  const listed = async () => ((await (await get(control.health, "/v1/faults")).json()) as Listed).faults[0];
  const l7 = POLICY.replace("source: { namespaces: [bank] } }]", "source: { requestPrincipals: [bank] } }]");
  write("policy.yaml", `${l7}---\n${l7.replace("name: cart", "name: other")}`);
  const fault = await until("the fault is listed", listed);
  assert.deepEqual([fault.file, fault.line, fault.field], ["policy.yaml", 1, "spec.rules[0].from[0].source.requestPrincipals"]);
  write("policy.yaml", `# why\n\n${l7}`);
  await until("the fault has moved", async () => (await listed())?.line === 3);
});

test("a node gets certificates for its own pods only; openssl verifies them; a refusal tells the caller nothing", async (t) => {
  const { end, dir, control } = await mesh(t);
  const { channel } = daemon(end, dir, control.address, "node-a");
  const { certChain } = await sign(channel, newRequest(dir), "spiffe://cluster.local/ns/shop/sa/cart", "uid-cart");
  assert.equal(certChain.length, 3);
  const [leaf = "", issuer = "", roots = ""] = certChain;
  assert.equal(roots, readFileSync(join(dir, "state", "root-cert.pem"), "utf8"));
  writeFileSync(join(dir, "leaf.crt"), leaf);
  writeFileSync(join(dir, "issuer.crt"), issuer);
  const files = ["-CAfile", join(dir, "state", "root-cert.pem"), "-untrusted", join(dir, "issuer.crt"), join(dir, "leaf.crt")];
  assert.match(execFileSync("openssl", ["verify", "-x509_strict", "-purpose", "sslclient", ...files], { encoding: "utf8" }), /: OK/);
  assert.equal(new X509Certificate(leaf).subjectAltName, "URI:spiffe://cluster.local/ns/shop/sa/cart");

  const refused: [string, string, string, RegExp][] = [
    ["the pod of another node", "spiffe://cluster.local/ns/shop/sa/pay", "uid-pay", /runs on node "node-b"/],
    ["another identity for an own pod", "spiffe://cluster.local/ns/shop/sa/pay", "uid-cart", /has service account/],
    ["a pod that does not exist", "spiffe://cluster.local/ns/shop/sa/cart", "uid-none", /no pod has uid/],
    ["no identity", "cart", "uid-cart", /is not an identity/],
  ];
  for (const [title, identity, uid, reason] of refused) {
    const error = await sign(channel, newRequest(dir), identity, uid).then(() => null, ConnectError.from);
    assert.deepEqual([error?.code, error?.rawMessage], [Code.Unauthenticated, "certificate request refused"], title);
    await until(`the reason is logged: ${title}`, () =>
      control.lines.some((line) => line.msg === "certificate refused" && reason.test(String(line["reason"]))),
    );
  }
  const metrics = await (await get(control.health, "/metrics")).text();
  assert.match(metrics, /trackbed_certificates_issued_total 1\n/);
  assert.match(metrics, /trackbed_certificates_refused_total\{code="E_IDENTITY_REFUSED"\} 3\n/);
});

test("a wrong token gets no resources and no certificate", async (t) => {
  const { end, dir, control } = await mesh(t);
  writeFileSync(join(dir, "wrong"), "w".repeat(43));
  const node = daemon(end, dir, control.address, "node-a", join(dir, "wrong"));
  await until("the refusal", () => node.client.connectivity().error?.code === "E_CONTROL_UNAUTHENTICATED");
  const error = await sign(node.channel, newRequest(dir), "spiffe://cluster.local/ns/shop/sa/cart", "uid-cart").then(
    () => null,
    ConnectError.from,
  );
  assert.deepEqual([error?.code, error?.rawMessage, node.held.size], [Code.Unauthenticated, "not authenticated", 0]);
});

test("what a node reports of its own pods decides how peers reach them; what it says of others' pods does not", async (t) => {
  const { end, dir, control } = await mesh(t);
  const a = daemon(end, dir, control.address, "node-a");
  const b = daemon(end, dir, control.address, "node-b");
  await synced(a.client);
  const tunnel = (name: string) => a.workload(name)?.tunnelProtocol;
  assert.deepEqual([tunnel("cart"), tunnel("pay")], [TunnelProtocol.HBONE, TunnelProtocol.HBONE], "a node that never reported: closed");

  const reports = createQueue<MessageInitShape<typeof NodeReportSchema>>();
  end.defer(() => reports.end());
  const attach = createClient(Nodes, b.channel.transport).attach(reports);
  const settings = attach[Symbol.asyncIterator]();
  const report = (name: string, phase: PodPhase, code = "") => ({
    uid: `uid-${name}`,
    namespace: "shop",
    name,
    phase,
    netnsCookie: 7n,
    code,
    reason: "",
  });
  const foreign = "E_CAPTURE_FOREIGN_MESH";
  reports.push({
    node: "node-b",
    snapshot: true,
    pods: [report("pay", PodPhase.ABSENT, foreign), report("cart", PodPhase.ABSENT, foreign)],
  });
  const first = await settings.next();
  assert.deepEqual([first.value?.trustDomain, first.value?.clusterDomain], ["cluster.local", "cluster.local"]);
  await until("the plain path", () => tunnel("pay") === TunnelProtocol.NONE);
  assert.equal(tunnel("cart"), TunnelProtocol.HBONE);
  reports.push({ node: "node-b", snapshot: false, pods: [report("pay", PodPhase.READY)] });
  await until("the tunnel", () => tunnel("pay") === TunnelProtocol.HBONE);
  reports.push({ node: "node-b", snapshot: false, pods: [report("pay", PodPhase.ABSENT, foreign)] });
  await until("the plain path again", () => tunnel("pay") === TunnelProtocol.NONE);
  reports.end();
  await settings.return?.();
  const { nodes: listed } = (await (await get(control.health, "/v1/nodes")).json()) as { nodes: { node: string; pods: unknown[] }[] };
  assert.deepEqual(
    listed.map(({ node }) => node),
    ["node-b"],
  );
  assert.equal(tunnel("pay"), TunnelProtocol.NONE, "the last known state is kept");
});

test("a node that loses its document loses its stream, and gets it back with the document", async (t) => {
  const { end, dir, write, control } = await mesh(t);
  const b = daemon(end, dir, control.address, "node-b");
  await synced(b.client);
  write("nodes.yaml", nodes("node-a"));
  await until("the refusal", () => b.client.connectivity().error?.code === "E_CONTROL_UNAUTHENTICATED");
  write("nodes.yaml", nodes("node-a", "node-b"));
  await synced(b.client);
});

test("control ends within seconds on SIGTERM under open streams, and its successor is believed and sends nothing twice", async (t) => {
  const { end, dir, control } = await mesh(t);
  const node = daemon(end, dir, control.address, "node-a");
  await synced(node.client);
  const asked = performance.now();
  assert.equal(await control.stop(), 0);
  assert.ok(performance.now() - asked < 6_000);
  assert.deepEqual(control.lines.at(-1)?.["cut"], 0);
  const before = node.deltas.length;
  await start(end, dir, Number(control.address.split(":")[1]));
  await synced(node.client);
  const again = node.deltas.slice(before).flatMap(({ upsert, remove }) => [...upsert.map(({ name }) => name), ...remove]);
  assert.deepEqual(again, []);
  assert.deepEqual(new Set(node.deltas.slice(before).map(({ typeUrl }) => typeUrl)), new Set([ADDRESS_TYPE, AUTHORIZATION_TYPE]));
});

test("health answers on loopback, reads only", async (t) => {
  const { control } = await mesh(t);
  assert.equal((await get(control.health, "/healthz/ready")).status, 200);
  assert.equal((await get(control.health, "/nothing")).status, 404);
  const posted = await fetch(`http://${control.health}/v1/faults`, { method: "POST" });
  assert.equal(posted.status, 405);
  const metrics = await (await get(control.health, "/metrics")).text();
  for (const name of ["trackbed_documents", "trackbed_compile_seconds", "trackbed_xds_streams", "trackbed_certificate_expiry_seconds"])
    assert.match(metrics, new RegExp(`^${name}`, "m"));
});

test("control that cannot read its documents, or cannot listen, says so and exits 1", async (t) => {
  const { dir, control } = await mesh(t);
  const run = async (...args: string[]) => {
    const child = spawn(
      process.execPath,
      [MAIN, "--state", join(dir, "other"), "--tokens", join(dir, "other-tokens"), "--health", "127.0.0.1:0", ...args],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    let text = "";
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
    await once(child, "close");
    return [child.exitCode, text] as const;
  };
  const [unread, why] = await run("--mesh", join(dir, "nowhere"), "--listen", "127.0.0.1:0");
  assert.equal(unread, 1);
  assert.match(why, /nowhere \(--mesh\) does not exist.*E_DIRECTORY_UNUSABLE; create the directory/);
  for (const option of ["--state", "--tokens"]) {
    const [code, text] = await run("--mesh", join(dir, "mesh"), "--listen", "127.0.0.1:0", option, "/proc/x");
    assert.deepEqual([code, text.trim().split("\n").length], [1, 1], text);
    assert.match(text, new RegExp(`/proc/x \\(${option}\\) cannot be made`));
  }
  const [taken, reason] = await run("--mesh", join(dir, "mesh"), "--listen", control.address);
  assert.equal(taken, 1);
  assert.match(reason, /E_CONTROL_LISTEN_FAILED/);
});
