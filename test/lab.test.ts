// The lab without a mesh: plain traffic must work in every way that a cluster would carry it, or nothing that is tested on it means much.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Lab, PodPlace } from "../src/lab/api.ts";
import { canCapture } from "../src/lab/capture.ts";
import { startLab } from "../src/lab/lab.ts";
import { holds, notTls, tcpStreams } from "../src/lab/pcap.ts";
import { enterSandbox } from "../src/lab/sandbox.ts";
import { until } from "../src/lab/until.ts";

let lab: Lab;

before(async () => {
  await enterSandbox();
  lab = await startLab({ mesh: join(import.meta.dirname, "../examples/shop") });
});
after(() => lab?.stop());

const get = (pod: PodPlace, url: string, ...options: string[]): Promise<string> =>
  pod.run(["curl", "-sS", "--max-time", "5", ...options, url]);

test("pods reach a service by name, ClusterIP and pod IP, on their own node and on the other, in both families", async () => {
  for (const name of ["shop/shopper", "legacy/outsider"]) {
    const pod = lab.pod(name);
    for (const url of ["http://web.shop/order", "http://10.96.0.10/order", "http://[fd96::10]/order", "http://10.80.1.10:8080/order"])
      assert.match(await get(pod, url), /"receipt":"250/, `${name} ${url}`);
    for (const family of ["-4", "-6"]) assert.match(await get(pod, "http://web.shop.svc.cluster.local/order", family), /"order":/);
  }
});

test("a server sees the pod IP of its client, not an address of the node", async () => {
  const [server, client] = [lab.pod("outsider"), lab.pod("shopper")];
  const listener = server.spawn([
    "node",
    "-e",
    'require("net").createServer(s=>{s.end(s.remoteAddress)}).listen(9999,()=>console.log("up"))',
  ]);
  await until("the listener", () => new Promise((done) => listener.stdout?.once("data", () => done(true))));
  assert.match(await client.run(["bash", "-c", `cat < /dev/tcp/${server.ips[0]}/9999`]), new RegExp(`${client.ips[0]}$`));
  listener.kill();
});

test("a service without a ready endpoint refuses at once", async () => {
  const begun = performance.now();
  const { code } = await lab.pod("shopper").exec(["curl", "-sS", "--max-time", "5", "http://10.96.0.12:26/"]);
  assert.equal(code, 7, "curl could not connect");
  assert.ok(performance.now() - begun < 2000);
});

test("the upstream DNS server knows names outside the cluster and denies others", async () => {
  const pod = lab.pod("shopper");
  assert.match(await pod.run(["getent", "ahosts", "outside.example"]), /172\.30\.0\.1 /);
  assert.notEqual((await pod.exec(["getent", "ahosts", "nobody.example"])).code, 0);
});

test("a pod has its own host name and resolver and sees nothing of the lab or of other pods", async () => {
  const pod = lab.pod("cache");
  assert.equal((await pod.run(["cat", "/proc/sys/kernel/hostname"])).trim(), "cache");
  assert.match(await pod.run(["cat", "/etc/resolv.conf"]), /search shop\.svc\.cluster\.local/);
  assert.deepEqual((await pod.run(["ls", "/run"])).split("\n").filter(Boolean).sort(), ["hosts", "resolv.conf", "tmp"]);
});

const rootOnly = canCapture() ? false : "tcpdump needs root";

test("a capture on the wire holds the payload of a plain call, and its streams are told from TLS", { skip: rootOnly }, async () => {
  const marker = randomUUID();
  const capture = await lab.captureWire("node-b");
  await get(lab.pod("outsider"), `http://web.shop/order?note=${marker}`);
  await capture.stop();
  const file = readFileSync(capture.file);
  assert.ok(holds(file, marker));
  assert.ok(!holds(file, randomUUID()));
  const calls = tcpStreams(file).filter(({ bytes, whole }) => whole && bytes.includes(marker));
  assert.ok(calls.length >= 2, "from outsider to web and from web to api");
  for (const call of calls) assert.match(notTls(call) ?? "", /does not begin/);
});

test("a command that fails is told with its exit code, and one that hangs ends at its deadline", async () => {
  await assert.rejects(lab.pod("shopper").run(["sh", "-c", "echo why >&2; exit 3"]), /exit 3: why/);
  for (const command of [
    ["sleep", "60"],
    ["sh", "-c", "sleep 60; true"],
  ])
    assert.equal((await lab.pod("shopper").exec(command, { timeoutMs: 50 })).signal, "SIGKILL");
});

test("a lab can be taken down and built again in the same sandbox", async () => {
  await lab.stop();
  lab = await startLab({ mesh: lab.mesh });
  assert.match(await get(lab.pod("shopper"), "http://web/ready"), /PONG/);
});
