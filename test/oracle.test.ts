// What is foretold is what happens: random policies, real connections between two nodes, and both simulate and explain asked before each of them.
// ORACLE_CASES says how many (default 200), ORACLE_SEED which.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { CompilerSettings } from "#compile/compiler.ts";
import { paths } from "#contract/tables.ts";
import { type Evaluator, startEvaluator } from "#inspect/eval/evaluator.ts";
import { type AskedMesh, compileMesh, type Known, load, workloadsOf } from "#inspect/eval/mesh.ts";
import type { Observed } from "#inspect/observed.ts";
import { simulate } from "#inspect/simulate.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { documentsOf } from "../src/cli/ask/documents.ts";
import { nodeState } from "../src/cli/ask/state.ts";
import { until } from "../src/lab/until.ts";
import { address, SERVER_PORT, serve, startTestMesh, type TestMesh } from "./mesh.ts";
import { ROOT_NAMESPACE } from "./policy/documents.ts";
import { type Prober, startProber } from "./policy/probes.ts";
import { type Cast, random, randomPolicies } from "./policy/random.ts";

const CASES = Number(process.env["ORACLE_CASES"] ?? 200);
const SEED = Number(process.env["ORACLE_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const OTHER_PORT = 9001;
const SOURCES = ["app/client", "app/neighbour", "legacy/outsider"] as const;
const DESTINATIONS = ["app/server", "app/neighbour"] as const;
const SETTINGS: CompilerSettings = {
  trustDomain: "cluster.local",
  clusterDomain: "cluster.local",
  rootNamespace: ROOT_NAMESPACE,
  network: "",
  adopt: "none",
  clusterId: "Kubernetes",
};
/** Every connection that is tried with each set of policies. */
type Case = { readonly from: string; readonly to: string; readonly family: 4 | 6; readonly port: number };
const EVERY: readonly Case[] = SOURCES.flatMap((from) =>
  DESTINATIONS.filter((to) => to !== from).flatMap((to) =>
    ([4, 6] as const).flatMap((family) => [SERVER_PORT, OTHER_PORT].map((port) => ({ from, to, family, port }))),
  ),
);

let mesh: TestMesh;
let base: readonly MeshObject[];
const probers = new Map<string, Prober>();

before(async () => {
  mesh = await startTestMesh();
  for (const name of DESTINATIONS) await serve(mesh.lab.pod(name), OTHER_PORT);
  for (const name of SOURCES) probers.set(name, startProber(mesh.lab.pod(name)));
  base = objectsOf(readFileSync(fileURLToPath(new URL("mesh/mesh.yaml", import.meta.url)), "utf8"));
});
after(() => mesh?.stop());

function objectsOf(text: string): readonly MeshObject[] {
  const { objects, faults } = documentsOf(text, "mesh");
  assert.deepEqual(faults, []);
  return objects;
}

/** Both engines hold exactly what these documents are compiled to. */
async function inForce(expected: AskedMesh): Promise<void> {
  const policies = new Map([...expected.resources].filter(([, { type }]) => type === "authorization"));
  const named = policiesByWorkload(expected);
  await until("both nodes hold the policies", async () => {
    for (const node of ["node-a", "node-b"]) {
      const { about, mesh: held } = await nodeState({ run: mesh.lab.node(node).runDirectory });
      const versions = [...held.resources].filter(([, { type }]) => type === "authorization");
      if (!about.inForce || versions.length !== policies.size) return false;
      if (versions.some(([key, { version }]) => policies.get(key)?.version !== version)) return false;
      if (JSON.stringify(policiesByWorkload(held)) !== JSON.stringify(named)) return false;
    }
    return true;
  });
}

function policiesByWorkload(held: AskedMesh): readonly (readonly [string, readonly string[]])[] {
  return workloadsOf(held)
    .map(({ uid, policies }) => [uid, policies] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

const knownOf = (known: readonly Known[], name: string): Known => {
  const found = known.find((one) => `${one.namespace}/${one.name}` === name);
  if (found === undefined) throw new Error(`no workload ${name}`);
  return found;
};

/** The edge as a ledger would have it, with the client's address as flow records do. */
function edgeOf({ from, to, family, port }: Case, known: readonly Known[]): Observed {
  const [source, destination] = [knownOf(known, from), knownOf(known, to)];
  return {
    source: {
      identity: source.inMesh ? source.identity : null,
      namespace: source.namespace,
      workload: source.workload,
      addresses: [address(mesh.lab.pod(from), family)],
    },
    destination: { namespace: destination.namespace, workload: destination.workload, addresses: [] },
    port,
    service: null,
    verdict: "allowed",
    policy: null,
    connections: 1,
    first: "2026-01-01T00:00:00.000Z",
    last: "2026-01-01T00:00:00.000Z",
  };
}

/** What simulate says of each case, by the lists that it gives people. */
async function foretold(evaluator: Evaluator, open: AskedMesh, closed: AskedMesh): Promise<readonly boolean[]> {
  const known = workloadsOf(open);
  const edges = EVERY.map((one) => edgeOf(one, known));
  const { newlyDenied, undecided, gone } = await simulate(evaluator, open, closed, {
    edges,
    requests: [],
    routes: [],
    unnamed: 0,
    unread: 0,
    unreadExample: null,
    missing: [],
  });
  assert.deepEqual([undecided, gone], [[], []]);
  const denied = new Set(newlyDenied.map(({ edge }) => edge));
  return edges.map((edge) => !denied.has(edge));
}

/** What explain says, asked as its source's node would decide. */
async function explained(evaluator: Evaluator, closed: AskedMesh): Promise<readonly boolean[]> {
  await load(evaluator, closed);
  const known = workloadsOf(closed);
  const answers: boolean[] = [];
  for (const { from, to, family, port } of EVERY) {
    const source = { workload: knownOf(known, from).uid };
    const { verdict } = await evaluator.connect({ id: "", source, host: address(mesh.lab.pod(to), family), port });
    assert.ok(verdict === "allowed" || verdict === "denied", `${from} to ${to}: ${verdict}`);
    answers.push(verdict === "allowed");
  }
  return answers;
}

const happened = (): Promise<boolean[]> =>
  Promise.all(
    EVERY.map(async ({ from, to, family, port }) => {
      const result = await probers.get(from)?.attempt(address(mesh.lab.pod(to), family), port);
      assert.ok(result === "open" || result === "ECONNRESET", `${from} to ${to} port ${port}: ${result}`);
      return result === "open";
    }),
  );

test("a node tells what it decides from to root alone", async () => {
  const node = mesh.lab.node("node-a");
  const ask = ["curl", "-sS", "--max-time", "5", "-o", "/dev/null", "--unix-socket", join(node.runDirectory, paths.adminSocket)];
  const url = "http://admin/v1/state";
  assert.equal((await node.exec([...ask, url])).code, 0);
  const { code, stderr } = await node.exec(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...ask, url]);
  assert.notEqual(code, 0, "an ordinary user was answered");
  assert.match(stderr, /curl: \(7\)/);
});

test(`what simulate and explain say is what happens, in ${CASES} cases`, async (t) => {
  t.diagnostic(`ORACLE_SEED=${SEED}`);
  const dice = random(SEED);
  const cast: Cast = {
    accounts: ["client", "neighbour", "server", "stranger"],
    addresses: [...SOURCES, ...DESTINATIONS].flatMap((name) => mesh.lab.pod(name).ips),
    ports: [SERVER_PORT, OTHER_PORT],
  };
  const open = compileMesh(base, SETTINGS);
  await using evaluator = startEvaluator();
  let files: readonly string[] = [];
  let [cases, denied] = [0, 0];
  for (let turn = 0; cases < CASES; turn++) {
    const documents = randomPolicies(dice, cast);
    for (const file of files) if (!documents.has(file)) mesh.document(file, null);
    for (const [file, text] of documents) mesh.document(file, text);
    files = [...documents.keys()];
    const closed = compileMesh([...base, ...[...documents.values()].flatMap(objectsOf)], SETTINGS);
    const [bySimulate, byExplain] = [await foretold(evaluator, open, closed), await explained(evaluator, closed)];
    await inForce(closed);
    const really = await happened();
    const told = (): string => `ORACLE_SEED=${SEED} turn ${turn}: ${[...documents.values()].join("\n")}\n${JSON.stringify(EVERY)}`;
    assert.deepEqual(bySimulate, really, told());
    assert.deepEqual(byExplain, really, told());
    cases += EVERY.length;
    denied += really.filter((open) => !open).length;
  }
  t.diagnostic(`${cases} cases, ${denied} of them refused`);
  assert.ok(denied > cases / 10 && denied < (cases * 9) / 10, `${denied} of ${cases} were refused: the policies are no test`);
});
