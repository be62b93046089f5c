// Envoy on both sides of a waypoint: as its client's node, as a node behind it, and as a server of HTTP in no mesh.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { LocalAuthority } from "#ca/local.ts";
import { kubernetes, labels, ports } from "#contract/tables.ts";
import { until } from "../src/lab/until.ts";
import { client, server, WEB_BODY_BYTES, web } from "./envoy/config.ts";
import { credentials, meshAuthority } from "./hbone/credentials.ts";
import { startTestMesh, type TestMesh } from "./mesh.ts";
import { podDocument, untilReady } from "./pods.ts";
import type { Answer } from "./programs/ask.ts";

const ENVOY = fileURLToPath(new URL("../.cache/envoy/envoy", import.meta.url));
const skip = existsSync(ENVOY) ? false : "Envoy is not there: make envoy";
const program = (name: string): string => fileURLToPath(new URL(`programs/${name}.ts`, import.meta.url));
const identity = (account: string): string => `spiffe://cluster.local/ns/app/sa/${account}`;
const PORT = 8080;
/** Where Envoy takes connections that it tunnels: to the service's address, and to its name. */
const CAPTURED = { "10.96.99.20:80": 9701, "web.app.svc.cluster.local:80": 9702 };
const [WEB = ""] = Object.keys(CAPTURED);
const WAYPOINT = "10.99.2.39";

let mesh: TestMesh;
let authority: LocalAuthority;
let directory: string;

const json = (...documents: object[]): string => documents.map((document) => JSON.stringify(document)).join("\n---\n");

function service(name: string, ip: string, selector: object, port: object, marks: object = {}): object {
  const metadata = { name, namespace: "app", labels: marks };
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata,
    spec: { clusterIPs: [`10.96.99.${ip}`, `fd96:99::${ip}`], selector, ports: [port] },
  };
}

const HTTP = { name: "http", port: 80, targetPort: PORT };
const OF_GATEWAY = { [kubernetes.gatewayNameLabel]: "waypoint", [kubernetes.gatewayClassLabel]: kubernetes.waypointClass };

function waypoint(): string {
  const metadata = { name: "waypoint", namespace: "app" };
  const listeners = [{ name: "mesh", port: ports.hbone, protocol: "HBONE" }];
  const pod = JSON.parse(podDocument({ name: "waypoint", namespace: "app", node: "node-b", ips: [WAYPOINT, "fd99:2::39"] }));
  Object.assign(pod.metadata, { labels: OF_GATEWAY });
  Object.assign(pod.status, { conditions: [{ type: "Ready", status: "True" }] });
  return json(
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "Gateway",
      metadata,
      spec: { gatewayClassName: kubernetes.waypointClass, listeners },
    },
    service("waypoint", "29", { [kubernetes.gatewayNameLabel]: "waypoint" }, { name: "hbone", port: ports.hbone, targetPort: ports.hbone }),
    pod,
  );
}

function route(): string {
  const rule = (prefix: string, name: string) => ({
    matches: [{ path: { type: "PathPrefix", value: prefix } }],
    backendRefs: [{ name, port: 80 }],
  });
  const rules = [rule("/mesh", "envoy"), rule("/h2", "envoy-h2"), rule("/plain", "envoy-plain"), rule("/", "web")];
  const parentRefs = [{ group: "", kind: "Service", name: "web" }];
  return json({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name: "web", namespace: "app" },
    spec: { parentRefs, rules },
  });
}

before(async () => {
  if (skip !== false) return;
  mesh = await startTestMesh();
  authority = meshAuthority(mesh.lab);
  directory = mkdtempSync(join(tmpdir(), "trackbed-waypoint-envoy-"));
  const pods = [
    { name: "web", node: "node-a", ips: ["10.99.1.31", "fd99:1::31"] },
    // nobody's engine is on node-c: what it holds is its own HBONE peer
    { name: "envoy", node: "node-c", ips: ["10.99.3.31", "fd99:3::31"] },
    { name: "envoy-plain", node: "node-b", ips: ["10.99.2.32", "fd99:2::32"], mesh: "disabled" },
  ] as const;
  for (const pod of pods) mesh.document(`${pod.name}.yaml`, podDocument({ ...pod, namespace: "app" }));
  mesh.document(
    "services.yaml",
    json(
      service("web", "20", { app: "web" }, HTTP, { [labels.useWaypoint]: "waypoint" }),
      service("envoy", "21", { app: "envoy" }, HTTP),
      service("envoy-h2", "22", { app: "envoy" }, { ...HTTP, appProtocol: "kubernetes.io/h2c" }),
      service("envoy-plain", "23", { app: "envoy-plain" }, HTTP),
    ),
  );
  mesh.document("waypoint.yaml", waypoint());
  mesh.document("route.yaml", route());
  await mesh.lab.reconcile();
  const pod = mesh.lab.pod("app/web");
  await untilReady(mesh.lab, pod);
  const child = pod.spawn([process.execPath, program("web"), "web", String(PORT)]);
  let listening = false;
  child.stdout?.once("data", () => {
    listening = true;
  });
  await until("web listens", () => listening);
  await mesh.lab.startWaypoint("app/waypoint");
});
after(async () => {
  if (skip !== false) return;
  await mesh.stop();
  rmSync(directory, { recursive: true });
});

/** Envoy in a pod, until the lab ends; its last words are told when it does not answer there. */
async function envoy(name: string, config: object): Promise<void> {
  const file = join(directory, `${name}.json`);
  writeFileSync(file, JSON.stringify(config));
  const child = mesh.lab.pod(`app/${name}`).spawn([ENVOY, "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text) => {
    said = (said + String(text)).slice(-4000);
  });
  const serves = async (): Promise<boolean> => (await ask(name, `http://127.0.0.1:${PORT}/`))[0]?.status === 200;
  await until(`Envoy in ${name} serves`, serves, 30_000, () => said);
}

async function ask(from: string, url: string, count = 1): Promise<Answer[]> {
  const argv = [process.execPath, program("ask"), url, String(count)];
  const text = await mesh.lab.pod(`app/${from}`).run(argv, { timeoutMs: 60_000 });
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
}

/** Everybody answers the same, once the mesh has learnt of its documents. */
async function answers(from: string, url: string, by: string): Promise<Answer> {
  let last: Answer | undefined;
  const is = async (): Promise<boolean> => {
    [last] = await ask(from, url);
    return last?.status === 200 && last.by === by;
  };
  await until(`${url} is answered by ${by}`, is, 20_000, () => `${JSON.stringify(last)}\n${mesh.lab.tailLogs()}`);
  const all = await ask(from, url, 50);
  assert.deepEqual([...new Set(all.map((answer) => `${answer.status} ${answer.by} ${answer.error}`))], [`200 ${by} `]);
  const [one] = all;
  assert.ok(one !== undefined);
  return one;
}

test("requests in an Envoy's tunnels are served, whether it asks for the service's address or its name", { skip }, async () => {
  const pod = mesh.lab.pod("app/peer");
  const own = await credentials(authority, authority, "peer");
  for (const [asked, port] of Object.entries(CAPTURED)) {
    const peer = { host: WAYPOINT, port: ports.hbone, identity: identity("waypoint") };
    const name = `peer-${port}`;
    const file = join(directory, `${name}.json`);
    writeFileSync(file, JSON.stringify(client(own, port, peer, asked)));
    pod.spawn([ENVOY, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--base-id", String(port), "-l", "warning"]);
    const { body } = await answers("peer", `http://127.0.0.1:${port}/x?y=z`, "web");
    assert.equal((JSON.parse(body) as { url: string }).url, "/x?y=z");
  }
});

test("a waypoint's tunnels to an Envoy carry requests in both versions of HTTP", { skip }, async () => {
  const own = await credentials(authority, authority, "envoy");
  const config = web(PORT, server(own, ports.hbone, identity("waypoint"), { host: "127.0.0.1", port: PORT }));
  await envoy("envoy", config);
  const { body } = await answers("client", `http://${WEB}/mesh`, "envoy HTTP/1.1");
  assert.equal(body.length, WEB_BODY_BYTES);
  await answers("client", `http://${WEB}/h2`, "envoy HTTP/2");
});

test("an Envoy in no mesh answers a waypoint's requests in plain HTTP", { skip }, async () => {
  await envoy("envoy-plain", web(PORT));
  await answers("client", `http://${WEB}/plain`, "envoy HTTP/1.1");
});
