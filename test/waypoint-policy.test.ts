// Who may call what at a waypoint between two nodes, and what happens when it gets too much: policies as people write them, in force where a request
// arrives, and no way around them.
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { until } from "../src/lab/until.ts";
import { startTestMesh, type TestMesh } from "./mesh.ts";
import { podDocument, untilReady } from "./pods.ts";
import type { Answer } from "./programs/ask.ts";

const program = (name: string): string => fileURLToPath(new URL(`programs/${name}.ts`, import.meta.url));
const PORT = 8080;
const WEB = "10.96.99.20";
const SERVER = { name: "web-v1", node: "node-a", ips: ["10.99.1.31", "fd99:1::31"] };
const PROPAGATION_MS = 20_000;
const ISSUER = "https://id.example";

let mesh: TestMesh;

const json = (...documents: object[]): string => documents.map((document) => JSON.stringify(document)).join("\n---\n");
const named = (kind: string, name: string, spec: object, apiVersion = "security.istio.io/v1"): object => ({
  apiVersion,
  kind,
  metadata: { name, namespace: "app" },
  spec,
});
const service = (name: string, ips: readonly string[], selector: object, port: object, labels: object = {}): object => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace: "app", labels },
  spec: { clusterIPs: ips, selector, ports: [port] },
});

const GATEWAY = {
  "gateway.networking.k8s.io/gateway-name": "waypoint",
  "gateway.networking.k8s.io/gateway-class-name": "trackbed-waypoint",
};

const DOCUMENTS = json(
  service("web", [WEB], { app: "web-v1" }, { name: "http", port: 80, targetPort: PORT }, { "trackbed.dev/use-waypoint": "waypoint" }),
  service("waypoint", ["10.96.99.29"], { "gateway.networking.k8s.io/gateway-name": "waypoint" }, { name: "hbone", port: 15008 }),
  {
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "Gateway",
    metadata: { name: "waypoint", namespace: "app" },
    spec: { gatewayClassName: "trackbed-waypoint", listeners: [{ name: "mesh", port: 15008, protocol: "HBONE" }] },
  },
  {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "waypoint-0", namespace: "app", labels: GATEWAY, annotations: { "trackbed.dev/netns": "/run/netns/app-waypoint-0" } },
    spec: { nodeName: "node-b", serviceAccountName: "waypoint", containers: [] },
    status: { phase: "Running", podIPs: [{ ip: "10.99.2.39" }], conditions: [{ type: "Ready", status: "True" }] },
  },
);

before(async () => {
  mesh = await startTestMesh();
  mesh.document("web.yaml", DOCUMENTS);
  mesh.document("server.yaml", podDocument({ ...SERVER, namespace: "app" }));
  await mesh.lab.reconcile();
  const pod = mesh.lab.pod(`app/${SERVER.name}`);
  await untilReady(mesh.lab, pod);
  const server = pod.spawn([process.execPath, program("web"), SERVER.name, String(PORT)]);
  let listening = false;
  server.stdout?.once("data", () => {
    listening = true;
  });
  await until("the server listens", () => listening);
  await mesh.lab.startWaypoint("app/waypoint-0");
  await settled("an answer", {}, 200);
});
after(() => mesh?.stop());

type Ask = { readonly url?: string; readonly headers?: readonly string[]; readonly count?: number };

async function ask({ url = `http://${WEB}/`, headers = [], count = 1 }: Ask): Promise<Answer[]> {
  const argv = [process.execPath, program("ask"), url, String(count), ...headers];
  const text = await mesh.lab.pod("app/client").run(argv, { timeoutMs: 60_000 });
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
}

/** A mesh that still learns of its documents may answer otherwise. */
function settled(what: string, asked: Ask, status: number): Promise<Answer> {
  let last: Answer | undefined;
  return until(
    what,
    async () => {
      [last] = await ask(asked);
      return last?.status === status ? last : null;
    },
    PROPAGATION_MS,
    () => `${JSON.stringify(last)}\n${mesh.lab.tailLogs()}`,
  );
}

const statuses = async (asked: Ask): Promise<number[]> => (await ask(asked)).map(({ status }) => status);

const ec = () => generateKeyPairSync("ec", { namedCurve: "P-256" });
const keys = ec();
const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

function token(claims: object, key: KeyObject = keys.privateKey, header: object = { alg: "ES256", kid: "one" }): string {
  const soon = Math.floor(Date.now() / 1000) + 600;
  const text = `${encode(header)}.${encode({ iss: ISSUER, sub: "alice", exp: soon, ...claims })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
const bearer = (text: string): readonly string[] => [`authorization:Bearer ${text}`];

const ON_WEB = { targetRefs: [{ group: "", kind: "Service", name: "web" }] };
const POD = { url: `http://${SERVER.ips[0]}:${PORT}/` };

test("a DENY of a path denies it in every spelling and nothing else, by its name", async () => {
  mesh.document(
    "deny.yaml",
    json(named("AuthorizationPolicy", "no-admin", { ...ON_WEB, action: "DENY", rules: [{ to: [{ operation: { paths: ["/admin*"] } }] }] })),
  );
  const denied = await settled("the denial", { url: `http://${WEB}/admin/x` }, 403);
  assert.match(denied.body, /app\/no-admin/);
  for (const path of ["/%61dmin", "/x/../admin", "/admin?x=1"])
    assert.deepEqual(await statuses({ url: `http://${WEB}${path}` }), [403], path);
  assert.deepEqual(await statuses({ count: 3 }), [200, 200, 200]);
});

test("with a policy at its waypoint a service's pods are reached through it alone, and without one they are free", async () => {
  const refused = async (): Promise<boolean> => (await statuses(POD))[0] === 0;
  await until("past the waypoint nobody gets through", refused, PROPAGATION_MS, () => mesh.lab.tailLogs());
  assert.deepEqual(await statuses({}), [200]);
  mesh.document("deny.yaml", null);
  await settled("the pod answers again", POD, 200);
});

test("a route to another service of the waypoint is no way around that service's policies", async () => {
  const path = (value: string) => [{ path: { type: "PathPrefix", value } }];
  const open = { type: "URLRewrite", urlRewrite: { path: { type: "ReplacePrefixMatch", replacePrefixMatch: "/keys" } } };
  const rules = [
    { matches: path("/open"), filters: [open], backendRefs: [{ name: "vault", port: 80 }] },
    { matches: path("/vault"), backendRefs: [{ name: "vault", port: 80 }] },
    { matches: path("/"), backendRefs: [{ name: "web", port: 80 }] },
  ];
  const route = { parentRefs: [{ group: "", kind: "Service", name: "web" }], rules };
  const keys = {
    targetRefs: [{ group: "", kind: "Service", name: "vault" }],
    action: "DENY",
    rules: [{ to: [{ operation: { paths: ["/keys*"] } }] }],
  };
  const port = { name: "http", port: 80, targetPort: PORT };
  const use = { "trackbed.dev/use-waypoint": "waypoint" };
  mesh.document(
    "vault.yaml",
    json(
      service("vault", ["10.96.99.27"], { app: "web-v1" }, port, use),
      named("HTTPRoute", "to-vault", route, "gateway.networking.k8s.io/v1"),
      named("AuthorizationPolicy", "keys", keys),
    ),
  );
  const denied = await settled("the denial behind the route", { url: `http://${WEB}/open/1` }, 403);
  assert.match(denied.body, /app\/keys/);
  const statusOf = async (url: string) => (await statuses({ url }))[0];
  assert.deepEqual([await statusOf(`http://${WEB}/vault/1`), await statusOf(`http://${WEB}/keys`)], [200, 200]);
  assert.equal(await statusOf("http://10.96.99.27/keys"), 403, "as when it is addressed");
  mesh.document("vault.yaml", null);
  await settled("free again", { url: `http://${WEB}/open/1` }, 200);
});

test("a token is asked for, and one that is forged, over, of another or without a signature is refused", async () => {
  const jwks = JSON.stringify({ keys: [{ ...keys.publicKey.export({ format: "jwk" }), kid: "one", alg: "ES256" }] });
  mesh.document(
    "token.yaml",
    json(
      named("RequestAuthentication", "id", { ...ON_WEB, jwtRules: [{ issuer: ISSUER, jwks }] }),
      named("AuthorizationPolicy", "alice", { ...ON_WEB, rules: [{ from: [{ source: { requestPrincipals: [`${ISSUER}/alice`] } }] }] }),
    ),
  );
  await settled("nobody without a token", {}, 403);
  assert.deepEqual(await statuses({ headers: bearer(token({})) }), [200]);
  const past = Math.floor(Date.now() / 1000) - 600;
  const wrong: readonly (readonly [string, number])[] = [
    [token({ sub: "bob" }), 403],
    [token({}, ec().privateKey), 401],
    [token({ exp: past }), 401],
    [token({ iss: "https://other.example" }), 401],
    [`${encode({ alg: "none" })}.${encode({ iss: ISSUER, sub: "alice" })}.`, 401],
    ["nonsense", 401],
  ];
  for (const [text, status] of wrong) assert.deepEqual(await statuses({ headers: bearer(text) }), [status], text);
  mesh.document("token.yaml", null);
  await settled("free again", {}, 200);
});

test("what cannot be compiled denies what it targets, and nothing else than its correction opens it", async () => {
  const asking = { ...ON_WEB, action: "CUSTOM", provider: { name: "nobody" }, rules: [{}] };
  mesh.document("custom.yaml", json(named("AuthorizationPolicy", "asking", asking)));
  const denied = await settled("the denial", {}, 403);
  assert.match(denied.body, /app\/asking/);
  mesh.document("custom.yaml", null);
  await settled("free again", {}, 200);
});

test("who may come in is asked of a service of the mesh that the ConfigMap names; without its answer nobody may", async () => {
  const provider = { service: "check.app.svc.cluster.local", port: 80, timeout: "2s", includeRequestHeadersInCheck: ["x-word"] };
  const config = {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "trackbed-mesh", namespace: "trackbed-system" },
    data: { mesh: JSON.stringify({ extensionProviders: [{ name: "door", envoyExtAuthzHttp: provider }] }) },
  };
  const asking = { ...ON_WEB, action: "CUSTOM", provider: { name: "door" }, rules: [{ to: [{ operation: { paths: ["/vault*"] } }] }] };
  const vault = `http://${WEB}/vault`;
  mesh.document("check.yaml", podDocument({ name: "check", node: "node-b", ips: ["10.99.2.32", "fd99:2::32"], namespace: "app" }));
  await mesh.lab.reconcile();
  const pod = mesh.lab.pod("app/check");
  await untilReady(mesh.lab, pod);
  mesh.document(
    "door.yaml",
    json(
      config,
      service("check", ["10.96.99.26"], { app: "check" }, { name: "http", port: 80, targetPort: PORT }),
      named("AuthorizationPolicy", "door", asking),
    ),
  );
  await settled("nobody answers, so nobody gets in", { url: vault }, 403);
  const door = pod.spawn([process.execPath, program("check"), String(PORT)]);
  let listening = false;
  door.stdout?.once("data", () => {
    listening = true;
  });
  await until("the door listens", () => listening);
  await settled("the word opens", { url: vault, headers: ["x-word:sesame"] }, 200);
  const [denied] = await ask({ url: vault });
  assert.deepEqual([denied?.status, denied?.body], [418, "say the word"]);
  assert.deepEqual(await statuses({}), [200], "what the policy does not speak of is not asked about");
  mesh.document("door.yaml", null);
  await settled("free again", { url: vault }, 200);
});

test("a rate limit admits so many, and a policy for a whole waypoint gives way to one for the service", async () => {
  const limit = (requests: number) => ({ rateLimit: { local: { rules: [{ limit: { requests, unit: "Hour" } }] } } });
  const gateway = { targetRefs: [{ group: "gateway.networking.k8s.io", kind: "Gateway", name: "waypoint" }] };
  const ours = (name: string, spec: object): object => named("RequestPolicy", name, spec, "trackbed.dev/v1alpha1");
  mesh.document("limit.yaml", json(ours("everybody", { ...gateway, ...limit(0) })));
  await settled("nobody is admitted", {}, 429);
  mesh.document("limit.yaml", json(ours("everybody", { ...gateway, ...limit(0) }), ours("web", { ...ON_WEB, ...limit(7) })));
  await settled("the service's own limit", {}, 200);
  const answers = await statuses({ count: 10 });
  assert.deepEqual(
    answers.map((status) => status === 200),
    Array.from({ length: 10 }, (_, i) => i < 6),
    answers.join(),
  );
  assert.equal(answers.at(-1), 429);
  mesh.document("limit.yaml", null);
  await settled("without limit", {}, 200);
});
