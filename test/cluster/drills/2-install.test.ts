// `trackbed install` on a cluster that has never seen the mesh; what the cluster looked like before is kept for the uninstall drill.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { type Cluster, cluster, type List, waitFor } from "../cluster.ts";
import { execute } from "../command.ts";
import { installGatewayApi } from "../conformance.ts";
import { load } from "../load.ts";
import { nodeState } from "../node-state.ts";
import { ROOT } from "../settings.ts";
import { trackbed } from "../trackbed.ts";

const SYSTEM = "trackbed-system";

let c: Cluster;
before(async () => {
  c = await cluster();
  await installGatewayApi(c); // an operator's own; not ours to install or to take away
});

test("the image goes onto every node without a registry", async () => {
  await load(c.settings, [join(ROOT, ".cache/images/trackbed.tar")]);
  for (const node of c.nodes) assert.match(await c.onNode(node, "ctr -n k8s.io images ls -q"), /docker\.io\/trackbed\/trackbed:/);
});

test("every program of the image runs in it, with nothing of this machine", async () => {
  const programs = [
    "trackbed version",
    "nft --version",
    "ip -V",
    "nsenter --version",
    "ss -V",
    "sysctl --version",
    "trackbed-engine --version",
    "trackbed-cni --help",
    "node /app/daemon.js --help",
    "node /app/control.js --help",
  ];
  const { image } = trackbed;
  const items = programs.map((program, index) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: `program-${index}`, namespace: "default" },
    spec: {
      restartPolicy: "Never",
      terminationGracePeriodSeconds: 0,
      containers: [{ name: "x", image, imagePullPolicy: "Never", command: program.split(" ") }],
    },
  }));
  await c.apply(JSON.stringify({ apiVersion: "v1", kind: "List", items }));
  for (const [index, program] of programs.entries()) {
    const phase = await waitFor(`${program} ends`, async () => {
      const { status } = await c.get("pod", `program-${index}`, "-n", "default");
      return status?.phase === "Succeeded" || status?.phase === "Failed" ? status.phase : null;
    });
    assert.equal(phase, "Succeeded", `${program}: ${await c.kubectl("logs", "-n", "default", `program-${index}`)}`);
  }
  await c.kubectl("delete", "pods", "-n", "default", ...programs.map((_, index) => `program-${index}`));
});

test("`trackbed install` installs and waits until it works", async () => {
  writeFileSync(join(c.settings.state, "before.json"), JSON.stringify(await nodeState(c)));
  const { code, stdout, stderr } = await execute(trackbed.argv("install"), { env: trackbed.env(c.settings) });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  const pods = await c.get<List>("pods", "-n", SYSTEM);
  for (const { metadata, status } of pods.items)
    assert.ok(
      status?.containerStatuses?.every(({ ready }) => ready),
      `${metadata.name} is not ready`,
    );
  assert.equal(pods.items.filter(({ metadata }) => metadata.name.startsWith("trackbed-daemon")).length, c.nodes.length);
  assert.equal(pods.items.filter(({ metadata }) => metadata.name.startsWith("trackbed-engine")).length, c.nodes.length);
});

test("installing again changes nothing", async () => {
  const identity = async (): Promise<string[]> =>
    (await c.get<List>("pods", "-n", SYSTEM)).items.map(({ metadata }) => metadata.uid).sort();
  const uids = await identity();
  const { code, stderr } = await execute(trackbed.argv("install"), { env: trackbed.env(c.settings) });
  assert.equal(code, 0, stderr);
  assert.deepEqual(await identity(), uids);
});

test("`trackbed check` finds nothing wrong", async () => {
  const { code, stdout, stderr } = await execute(trackbed.argv("check"), { env: trackbed.env(c.settings) });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
});
