// Hundreds of pods of two identities come and go on sixteen addresses: nobody ever meets a pod that policy keeps from him, and nothing is left.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import type { FlowLine } from "#inspect/flow.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { enter, machinePid } from "../machine/power.ts";
import { difference, type State } from "../node-state.ts";
import { ROOT } from "../settings.ts";
import { NAMESPACE } from "./addresses.ts";
import { createHerd, type Herd } from "./driver.ts";
import { holdings } from "./holdings.ts";
import type { Record } from "./records.ts";
import { mislabelled, tally, unsettled } from "./tally.ts";
import { admin } from "./up.ts";

const PODS = Number(process.env["TRACKBED_CHURN_PODS"] || 300);
const SEED = Number(process.env["TRACKBED_CHURN_SEED"] || randomInt(2 ** 31));
/** Certificates, policy and proof of the last pods on a busy machine. */
const SETTLE_MS = 60_000;
/** So many answers in a row without one that policy forbids: it is in force everywhere. */
const IN_FORCE = 60;

describe(`${PODS} pods on 16 addresses (TRACKBED_CHURN_SEED=${SEED})`, { concurrency: false }, () => {
  let c: Cluster;
  let api: Api;
  let herd: Herd;
  let empty: State;
  let from = 0;
  const flows: FlowLine[] = [];
  const followers: ChildProcess[] = [];
  before(async () => {
    c = await cluster();
    api = await admin(c.settings);
    await c.apply(SETUP);
    herd = createHerd(api, c.nodes, SEED);
    for (const node of c.nodes) followers.push(await followFlows(c, node, (line) => flows.push(line)));
  });
  after(async () => {
    // nsenter and what it started in the node: one of them alone would keep our standard error open, and the runner waits for its end.
    for (const { pid } of followers) if (pid !== undefined) process.kill(-pid, "SIGKILL");
    await herd.stop();
    await api.close();
  });

  const records = (): Record[] => c.nodes.flatMap((node) => recordsOf(c, node));
  const since = (): Record[] => records().filter(({ at }) => at >= from);

  test("without policy the refused and the strangers are answered (so that the judge can see)", async () => {
    for (const node of c.nodes) {
      await herd.make(node, { account: "red", guard: "red", meshed: true, lifetime: 0 });
      await herd.make(node, { account: "blue", guard: "blue", meshed: true, lifetime: 0 });
    }
    await herd.make("node1", { account: "red", guard: "red", meshed: false, lifetime: 0 });
    await waitFor("each kind of wrong allow is seen", () => {
      const wrong = tally(records()).wrong.flatMap((record) => (record.kind === "reached" ? [record.me] : []));
      return ["red", "blue"].every((account) => wrong.some((me) => me.meshed && me.account === account)) && wrong.some((me) => !me.meshed);
    });
  });

  test("with policy they are not, and when they are gone nothing is left", async () => {
    await c.apply(POLICY);
    await waitFor("policy is in force", () => {
      const answers = records()
        .filter(({ kind }) => kind === "reached" || kind === "served")
        .sort((a, b) => a.at - b.at);
      const last = answers.slice(-IN_FORCE);
      from = last.at(-1)?.at ?? 0;
      return last.length === IN_FORCE && tally(last).wrong.length === 0;
    });
    await herd.clear();
    await waitFor("the daemons know that they are gone", async () => {
      empty = await holdings(c);
      return c.nodes.every((node) => empty[`${node} pods of the daemon`]?.length === 0);
    });
  });

  test("while they come and go, and daemons are killed, nobody is let in wrongly or called by another's name", async () => {
    from = Date.now();
    const began = flows.length;
    const kills = new Map([
      [Math.floor(PODS / 3), "node1"],
      [Math.floor((2 * PODS) / 3), "node2"],
    ]);
    const seen = (): number => flows.slice(began).filter(({ type }) => type === "flow").length;
    // Each pod asks five others a second: with less there would have been nothing to be wrong about.
    const enough = (): boolean => {
      const { allowed, handovers } = tally(since());
      return allowed.red > PODS && allowed.blue > PODS && handovers > PODS / 2 && seen() > PODS;
    };
    const killed = async (made: number): Promise<void> => {
      const node = kills.get(made);
      if (node !== undefined) await c.program("restart", node, "trackbed-daemon");
    };
    await herd.churn(PODS, killed, enough);
    const told = since();
    const { wrong, allowed, handovers, missed } = tally(told);
    const meshed = new Set([...herd.members.values()].flatMap(({ uid, meshed }) => (meshed ? [uid] : [])));
    const started = told.filter((record) => record.kind === "started");
    const adds = started.flatMap(({ uid, meshMs }) => (meshed.has(uid) ? [meshMs] : [])).sort((a, b) => a - b);
    const quantile = (of: number): number | undefined => adds[Math.min(adds.length - 1, Math.floor(adds.length * of))];
    console.log(
      `${Math.round((Date.now() - from) / 1000)} s: ${started.length} pods started, ${handovers} addresses changed hands, ${allowed.red} + ${allowed.blue} answered, ` +
        `${missed} not, ${seen()} flows; our ADD of ${adds.length} meshed pods p50 ${quantile(0.5)} ms, p99 ${quantile(0.99)} ms; ${told.filter(({ kind }) => kind === "refused").length} sandboxes tried again`,
    );
    assert.deepEqual(wrong, []);
    assert.deepEqual(mislabelled(flows.slice(began), herd.members), []);
    assert.ok(allowed.red > PODS && allowed.blue > PODS, `only ${allowed.red} and ${allowed.blue} were answered`);
    assert.ok(handovers > PODS / 2, `only ${handovers} addresses changed hands`);
    assert.ok(seen() > PODS, `only ${seen()} flows were seen`);
  });

  test("once it is quiet each pod reaches exactly those that policy allows", async () => {
    const quiet = Date.now();
    await waitFor(
      "every pair has its verdict",
      () => {
        const open = unsettled(records(), herd.present(), quiet);
        if (open.length > 0) throw new Error(`${open.length} pairs:\n${open.slice(0, 10).join("\n")}`);
        return herd.present().size > 0;
      },
      SETTLE_MS,
    );
    assert.deepEqual(tally(since()).wrong, []);
  });

  test("when all are gone no listener, descriptor, namespace, mount, rule or process is left", async () => {
    await herd.clear();
    await waitFor(
      "each node holds what it held before",
      async () => {
        const more = difference(empty, await holdings(c)).filter((line) => line.includes(": + "));
        if (more.length > 0) throw new Error(more.join("\n"));
        return true;
      },
      SETTLE_MS,
    );
  });
});

function recordsOf(c: Cluster, node: string): Record[] {
  const file = join(c.settings.logs, `churn-${node}.jsonl`);
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n");
  return lines.slice(0, -1).map((line) => JSON.parse(line) as Record); // the last one is empty, or is being written
}

/** As a person would follow them; it waits for daemons that are killed. */
async function followFlows(c: Cluster, node: string, take: (line: FlowLine) => void): Promise<ChildProcess> {
  const command = [join(ROOT, "bin/trackbed"), "flows", "--follow", "--run", "/run/trackbed", "-o", "json"];
  const [program = "", ...args] = enter(c.settings, node, command, await machinePid(c.settings, node));
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], detached: true }); // a process group of its own
  createInterface({ input: child.stdout }).on("line", (line) => take(JSON.parse(line) as FlowLine));
  return child;
}

const account = (name: string): string => `
apiVersion: v1
kind: ServiceAccount
metadata: {name: ${name}, namespace: ${NAMESPACE}}
---`;

const SETUP = `
apiVersion: v1
kind: Namespace
metadata: {name: ${NAMESPACE}, labels: {trackbed.dev/mesh: enabled}}
---${account("red")}${account("blue")}
`;

const guard = (name: string): string => `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-${name}, namespace: ${NAMESPACE}}
spec:
  selector: {matchLabels: {guard: ${name}}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/${NAMESPACE}/sa/${name}]}}]}]
---`;

const POLICY = `${guard("red")}${guard("blue")}
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: ${NAMESPACE}}
spec: {mtls: {mode: STRICT}}
`;
