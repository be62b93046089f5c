// What control costs at size: start, memory, one pod's change, and every node coming back at once. An API server in memory feeds the real process.
//   node bench/scale/control.ts [--services N] [--pods N] [--streams N]
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { controlChannel } from "#xds/channel.ts";
import { type XdsClient, xdsClient } from "#xds/client.ts";
import { ADDRESS_TYPE } from "#xds/resource.ts";
import { type ApiObject, fakeApi } from "../../test/apiserver.ts";
import { addressOf, type Returned, type Returning } from "./returning.ts";

const { values } = parseArgs({
  options: { services: { type: "string" }, pods: { type: "string" }, streams: { type: "string" } },
});
const SERVICES = Number(values.services ?? 10_000);
const PODS = Number(values.pods ?? 100_000);
const STREAMS = Number(values.streams ?? 200);
const CHANGES = 50;
const MAIN = new URL("../../src/control/main.ts", import.meta.url).pathname;
/** Of /proc/PID/stat. */
const TICK_MILLISECONDS = 10;

const address = (block: number, i: number): string => `${block}.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`;
const nodeOf = (i: number): string => `node-${i % STREAMS}`;
const app = (i: number): number => i % SERVICES;

const service = (i: number): ApiObject => ({
  metadata: { name: `service-${i}`, namespace: `ns-${i % 100}`, uid: `s-${i}` },
  spec: {
    type: "ClusterIP",
    clusterIP: address(11, i),
    clusterIPs: [address(11, i)],
    selector: { app: `app-${i}` },
    ports: [{ name: "http", port: 80, targetPort: 8080, protocol: "TCP" }],
  },
});

/** With what a kubelet and a Deployment write besides, about 3 kB. */
const pod = (i: number, ready = true): ApiObject => ({
  metadata: {
    name: `app-${app(i)}-5d4f8c7b9-${i.toString(36).padStart(5, "x")}`,
    namespace: `ns-${app(i) % 100}`,
    uid: `00000000-0000-4000-8000-${i.toString().padStart(12, "0")}`,
    creationTimestamp: "2026-01-01T00:00:00Z",
    labels: { app: `app-${app(i)}`, "pod-template-hash": "5d4f8c7b9" },
    annotations: { "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z" },
    ownerReferences: [{ kind: "ReplicaSet", name: `app-${app(i)}-5d4f8c7b9`, controller: true }],
    managedFields: [{ manager: "kube-controller-manager", fieldsV1: { filler: "f".repeat(1200) } }],
  },
  spec: {
    nodeName: nodeOf(i),
    serviceAccountName: `app-${app(i)}`,
    dnsPolicy: "ClusterFirst",
    containers: [
      {
        name: "main",
        image: "app:1",
        ports: [{ name: "http", containerPort: 8080, protocol: "TCP" }],
        env: [{ name: "A", value: "e".repeat(600) }],
      },
    ],
    volumes: [{ name: "token", projected: { filler: "v".repeat(500) } }],
  },
  status: {
    phase: "Running",
    podIPs: [{ ip: address(10, i) }],
    conditions: [{ type: "Ready", status: ready ? "True" : "False", lastTransitionTime: "2026-01-01T00:00:00Z" }],
  },
});

/** CPU milliseconds so far and resident megabytes of a process. */
function cost(child: ChildProcess): { cpu: number; resident: number } {
  const stat = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  return { cpu: (Number(stat[11]) + Number(stat[12])) * TICK_MILLISECONDS, resident: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024 };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

const api = await fakeApi();
for (const plural of ["authorizationpolicies", "peerauthentications"]) api.serve(`/apis/security.istio.io/v1/${plural}`);
api.serve("/apis/networking.istio.io/v1/serviceentries");
for (let i = 0; i < 100; i++) api.put("/api/v1/namespaces", { metadata: { name: `ns-${i}`, labels: { "trackbed.dev/mesh": "enabled" } } });
for (let i = 0; i < STREAMS; i++) {
  api.put("/api/v1/nodes", { metadata: { name: `node-${i}` } });
  api.put("/api/v1/pods", {
    metadata: { name: `daemon-${i}`, namespace: "trackbed-system", uid: `daemon-${i}` },
    spec: { nodeName: `node-${i}`, hostNetwork: true },
    status: { phase: "Running" },
  });
}
for (let i = 0; i < SERVICES; i++) api.put("/api/v1/services", service(i));
for (let i = 0; i < PODS; i++) api.put("/api/v1/pods", pod(i));
api.answer = ({ collection, body }) => {
  if (!collection.endsWith("tokenreviews")) return {};
  const node = (body as { spec: { token: string } }).spec.token;
  const extra = { "node-name": node, "pod-uid": node.replace("node", "daemon"), "pod-name": node.replace("node", "daemon") };
  const user = {
    username: "system:serviceaccount:trackbed-system:trackbed-daemon",
    extra: Object.fromEntries(Object.entries(extra).map(([name, value]) => [`authentication.kubernetes.io/${name}`, [value]])),
  };
  return { status: { authenticated: true, audiences: ["trackbed"], user } };
};

const dir = mkdtempSync(join(tmpdir(), "scale-"));
const cluster = { server: api.url, "insecure-skip-tls-verify": true };
writeFileSync(
  join(dir, "kubeconfig"),
  JSON.stringify({
    clusters: [{ name: "c", cluster }],
    users: [{ name: "u", user: { token: "t" } }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
    "current-context": "x",
  }),
);
const began = performance.now();
const control = spawn(
  process.execPath,
  [
    ...process.execArgv,
    MAIN,
    "--kubernetes",
    "--kubeconfig",
    join(dir, "kubeconfig"),
    "--listen",
    "127.0.0.1:0",
    "--health",
    "127.0.0.1:0",
  ],
  {
    stdio: ["ignore", "pipe", "inherit"],
  },
);
const stop = new AbortController();
let returning = null as Worker | null;
/** Made while nodes came back. */
let changes = 0;
/** Resources that the node got which is there all the time. */
let news = 0;
// Nothing of ours may outlive us, however we end.
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    control.kill("SIGKILL");
    process.exit(1);
  });
try {
  let line: { msg: string; addresses?: string[] } = { msg: "" };
  createInterface({ input: control.stdout ?? process.stdin }).on("line", (text) => {
    const one = JSON.parse(text) as typeof line & { level: string };
    if (one.msg === "control serves") line = one;
    else if (one.level === "error" || one.level === "fatal") console.error(text);
  });
  await until(() => line.msg !== "" || control.exitCode !== null);
  const ready = cost(control);
  console.log(
    `${SERVICES} services, ${PODS} pods: ready after ${((performance.now() - began) / 1000).toFixed(1)} s, ${(ready.cpu / 1000).toFixed(1)} s of CPU, ${ready.resident.toFixed(0)} MB resident`,
  );

  const place = { control: `https://${line.addresses?.[0]}`, roots: readRoots() };
  const held = new Map<string, string>();
  const first = follow(place, nodeOf(0), held);
  await until(() => first.connectivity().synced);
  const full = cost(control);
  console.log(
    `one node gets all ${held.size} resources: ${full.cpu - ready.cpu} ms of control's CPU, ${full.resident.toFixed(0)} MB resident`,
  );

  const latencies: number[] = [];
  const before = cost(control);
  for (let i = 0; i < CHANGES; i++) {
    latencies.push(await change(i));
  }
  const after = cost(control);
  const median = latencies.sort((a, b) => a - b)[CHANGES / 2] ?? 0;
  console.log(
    `one pod's change: ${((after.cpu - before.cpu) / CHANGES).toFixed(1)} ms of control's CPU, at a node after ${median.toFixed(0)} ms (median)`,
  );

  for (const nothing of [false, true]) await comeBack(place, held, nothing);
} finally {
  stop.abort();
  await returning?.terminate();
  control.kill("SIGTERM");
  await new Promise((resolve) => control.once("exit", resolve));
  await api.close();
  rmSync(dir, { recursive: true });
}
process.exit(0);

function readRoots(): string {
  const data = api.get("/api/v1/secrets", "trackbed-system", "trackbed-ca")?.["data"] as Record<string, string> | undefined;
  return Buffer.from(data?.["root-cert.pem"] ?? "", "base64").toString();
}

/** Milliseconds from the change of the i-th pod at the API server until the node has it. */
async function change(i: number): Promise<number> {
  const seen = news;
  const changed = performance.now();
  api.put("/api/v1/pods", pod((i * 7) % PODS, ((i * 7) / PODS) % 2 >= 1));
  await until(() => news > seen);
  return performance.now() - changed;
}

type Place = Pick<Returning, "control" | "roots">;

function follow({ control: url, roots }: Place, node: string, held: Map<string, string>): XdsClient {
  const [root, token] = [join(dir, "root"), join(dir, node)];
  writeFileSync(root, roots);
  writeFileSync(token, node);
  const client = xdsClient({
    channel: controlChannel({ control: url, root, token, localAddress: addressOf(node) }),
    node: { id: node, metadata: {} },
    held: new Map([[ADDRESS_TYPE, held]]),
    onDelta: async ({ upsert }) => {
      for (const { name, version } of upsert) held.set(name, version);
      news += upsert.length;
      return [];
    },
  });
  void client.run(stop.signal);
  return client;
}

/** All but the first come back at once; meanwhile life goes on at the node that has been there all the time. */
async function comeBack(place: Place, held: ReadonlyMap<string, string>, nothing: boolean): Promise<void> {
  const nodes = Array.from({ length: STREAMS }, (_, i) => nodeOf(i));
  const work: Returning = { ...place, nodes, held: nothing ? new Map() : held };
  const heard: (Returned | "begin")[] = [];
  const gone = Promise.withResolvers<void>();
  returning = new Worker(new URL("returning.ts", import.meta.url), { workerData: work });
  returning.on("message", (message: Returned | "begin") => heard.push(message));
  returning.once("error", gone.reject);
  returning.once("exit", () => gone.resolve());
  await Promise.race([until(() => heard.length > 0), gone.promise]);
  const [quiet, back] = [cost(control), performance.now()];
  const stalls: number[] = [];
  let most = quiet.resident;
  while (heard.length < 2) {
    stalls.push(await Promise.race([change(CHANGES + changes++), gone.promise.then(() => 0)]));
    most = Math.max(most, cost(control).resident);
  }
  const [seconds, all] = [(performance.now() - back) / 1000, cost(control)];
  const [, sent] = heard;
  if (sent === undefined || sent === "begin") throw new Error("the nodes did not say what they were sent");
  await gone.promise;
  console.log(
    `${STREAMS} nodes that hold ${nothing ? "nothing" : "everything"} come back at once: all in sync after ${seconds.toFixed(1)} s, ${((all.cpu - quiet.cpu) / STREAMS).toFixed(1)} ms of control's CPU each, ${sent.resources} resources, ${(sent.bytes / 1e6).toFixed(1)} MB sent, ${sent.broken} connections broke, ${stalls.length} changes meanwhile took ${stalls.sort((a, b) => a - b)[stalls.length >> 1]?.toFixed(0)} ms (median) and ${stalls.at(-1)?.toFixed(0)} ms at worst, ${most.toFixed(0)} MB resident at most`,
  );
}
