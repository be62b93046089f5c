// How far an installation is, read from objects as API servers give them.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { V1Pod } from "@kubernetes/client-node";
import { formatReport, nodeReport, parseReport } from "./node-report.ts";
import { daemonSetRollout, deploymentRollout, nodeReports, whyNotReady } from "./rollout.ts";

const well = {
  kernel: "6.1.0",
  rules: "work",
  netns: "work",
  cniBin: "writable",
  cniConf: "writable",
  cniConfigurations: ["10-net.conflist"],
  selinuxEnforcing: false,
  cgroup: "v2",
} as const;

test("a DaemonSet is done when every node runs the newest template and is ready", () => {
  const set = (status: object, strategy = "RollingUpdate") =>
    daemonSetRollout("d", { metadata: { generation: 2 }, spec: { updateStrategy: { type: strategy } }, status } as never);
  const all = { observedGeneration: 2, desiredNumberScheduled: 3, numberReady: 3, updatedNumberScheduled: 3, currentNumberScheduled: 3 };
  assert.deepEqual(set(all), { name: "d", ready: 3, wanted: 3, done: true });
  assert.equal(set({ ...all, observedGeneration: 1 }).done, false, "the controller has not seen the change");
  assert.equal(set({ ...all, updatedNumberScheduled: 1 }).done, false, "two nodes run the old template");
  assert.equal(set({ ...all, updatedNumberScheduled: 1 }, "OnDelete").done, true, "which OnDelete allows");
  assert.equal(set({ ...all, numberReady: 2 }).done, false);
  assert.equal(daemonSetRollout("d", null).done, false);
});

test("a Deployment is done when no replica of an older template is left", () => {
  const deployment = (status: object) => deploymentRollout("c", { metadata: { generation: 5 }, spec: { replicas: 2 }, status } as never);
  const all = { observedGeneration: 5, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2 };
  assert.equal(deployment(all).done, true);
  assert.equal(deployment({ ...all, replicas: 3 }).done, false);
  assert.equal(deployment({ ...all, observedGeneration: 4 }).done, false);
  assert.equal(deploymentRollout("c", null).done, false);
});

test("a node's check travels as a termination message, within the bytes that the kubelet keeps, errors first", () => {
  const failed = { failed: "x".repeat(100_000) };
  const report = nodeReport({
    ...well,
    kernel: "4.18.0-el8",
    rules: failed,
    cniBin: failed,
    cniConf: failed,
    selinuxEnforcing: true,
    cgroup: "v1",
  });
  const text = formatReport(report);
  assert.ok(Buffer.byteLength(text) <= 4096);
  const codes = parseReport(text)?.found.map(({ code }) => code);
  assert.deepEqual(codes?.slice(0, 4), ["NODE_KERNEL", "NODE_RULES", "NODE_CNI_BIN", "NODE_CNI_CONF"]);
  assert.equal(parseReport("OOMKilled"), null);
  assert.deepEqual(nodeReport(well).found, []);
});

const podOn = (node: string, terminated: object): V1Pod =>
  ({
    metadata: { name: `d-${node}`, namespace: "trackbed-system" },
    spec: { nodeName: node },
    status: { initContainerStatuses: [{ name: "check", ready: false, state: { terminated } }] },
  }) as never;

test("every node is either checked or named", () => {
  const bad = formatReport(nodeReport({ ...well, cniConf: { failed: "EROFS: read-only file system" } }));
  const found = nodeReports(
    [podOn("a", { exitCode: 1, message: bad }), podOn("b", { exitCode: 0, message: formatReport(nodeReport(well)) })],
    ["a", "b", "c"],
  );
  assert.deepEqual(
    found.map(({ code, subject }) => [code, subject]),
    [
      ["NODE_CNI_CONF", "node a"],
      ["NODE_UNCHECKED", "node c"],
    ],
  );
  assert.match(found[0]?.message ?? "", /EROFS/);
});

test("what holds a pod up is said in the kubelet's words, and a node's report in ours", () => {
  const bad = formatReport(nodeReport({ ...well, cniConf: { failed: "EROFS" } }));
  assert.match(whyNotReady(podOn("a", { exitCode: 1, message: bad })) ?? "", /check ended with 1: .*EROFS \(NODE_CNI_CONF\)/);
  const status = (one: object) => whyNotReady({ status: { containerStatuses: [{ name: "engine", ready: false, ...one }] } } as never);
  assert.match(
    status({ state: { waiting: { reason: "ImagePullBackOff", message: "no such image" } } }) ?? "",
    /engine: ImagePullBackOff: no such image/,
  );
  assert.match(
    status({ state: { waiting: { reason: "CrashLoopBackOff" } }, lastState: { terminated: { exitCode: 64, message: "bad option" } } }) ??
      "",
    /engine ended with 64: bad option \(CrashLoopBackOff\)/,
  );
  assert.equal(status({ state: { waiting: { reason: "ContainerCreating" } } }), null);
});
