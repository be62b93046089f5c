// The commands in a cluster's life: installing twice, a bypass with and without the right to it, and what somebody deleted by hand.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Cluster, cluster, waitFor } from "../cluster.ts";
import { execute, type Output } from "../command.ts";
import { capture, MARKER, openShop, podUrl, type Shop } from "../shop.ts";
import { trackbed } from "../trackbed.ts";

const COMMAND_MS = 240_000;
const SYSTEM = "trackbed-system";
const BYPASS = "trackbed.dev/bypass-until";

let c: Cluster;
let shop: Shop;
before(async () => {
  c = await cluster();
  shop = await openShop(c, "commands", { labels: { "trackbed.dev/mesh": "enabled" } });
  await shop.captured();
});
after(() => shop?.remove());

const ask = (...args: readonly string[]): Promise<Output> =>
  execute(trackbed.argv(...args), { env: trackbed.env(c.settings), deadlineMs: COMMAND_MS });
type Checked = {
  readonly healthy: boolean;
  readonly findings: readonly { readonly code: string; readonly level: string; readonly subject: string }[];
};
const check = async (): Promise<Checked> => JSON.parse((await ask("check", "-o", "json")).stdout) as Checked;

test("a second install restarts nothing and changes no object that runs", async () => {
  const pods = async () => (await c.kubectl("-n", SYSTEM, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")).split(" ").sort();
  const uids = await pods();
  // Other drills scaled and patched by hand: what is theirs since then, the first one takes back.
  const first = await ask("install");
  assert.equal(first.code, 0, first.stderr);
  const { code, stdout, stderr } = await ask("install", "-o", "json");
  assert.equal(code, 0, stderr);
  const { changes } = JSON.parse(stdout) as { changes: { object: string; result: string }[] };
  assert.deepEqual(
    changes.filter(({ object, result }) => result !== "unchanged" && /^(Deployment|DaemonSet|Cluster|Role|Service)/.test(object)),
    [],
  );
  assert.deepEqual(await pods(), uids);
});

test("who may change a namespace may not by that alone bypass it, and who has the right may", async () => {
  const account = "system:serviceaccount:commands:operator";
  await c.kubectl("create", "clusterrole", "drill-labeller", "--verb=get,patch", "--resource=namespaces");
  await c.kubectl("create", "clusterrolebinding", "drill-labeller", "--clusterrole=drill-labeller", "--serviceaccount=commands:operator");
  const role = {
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "Role",
    metadata: { name: "bypass", namespace: "commands" },
    rules: [{ apiGroups: ["trackbed.dev"], resources: ["bypasses"], verbs: ["create"] }],
  };
  const annotate = (value: string) => c.tryKubectl("annotate", "--overwrite", "namespace", "commands", value, `--as=${account}`);
  const until = new Date(Date.now() + 120_000).toISOString();
  try {
    const refused = await waitFor("the right to patch is known", async () => {
      const tried = await annotate(`${BYPASS}=${until}`);
      return /cannot (get|patch)/.test(tried.stderr) ? null : tried;
    });
    assert.match(refused.stderr, /needs the right to create bypasses\.trackbed\.dev in namespace commands/);
    assert.equal((await annotate("drill=allowed")).code, 0, "other annotations are no business of ours");
    await c.apply(JSON.stringify(role));
    await c.kubectl("-n", "commands", "create", "rolebinding", "bypass", "--role=bypass", "--serviceaccount=commands:operator");
    await waitFor("the right to bypass is known", async () => (await annotate(`${BYPASS}=${until}`)).code === 0);
    await waitFor("the pods are out of the mesh", async () => (await shop.pods()).every((pod) => capture(pod)?.status !== "True"));
    assert.ok((await check()).findings.some(({ code, subject }) => code === "BYPASS_ACTIVE" && subject === "namespace commands"));
    assert.equal((await ask("bypass", "commands", "--end")).code, 0);
    await shop.captured();
  } finally {
    await c.tryKubectl("delete", "clusterrole,clusterrolebinding", "drill-labeller");
  }
});

test("enrol --dry-run changes nothing, and check is content", async () => {
  const labels = () => c.kubectl("get", "namespace", "default", "-o", "jsonpath={.metadata.labels}");
  const before = await labels();
  const { code, stdout } = await ask("enrol", "default", "--dry-run", "-o", "json");
  assert.equal(code, 0);
  assert.equal((JSON.parse(stdout) as { changed: boolean }).changed, false);
  assert.equal(await labels(), before);
  const { healthy, findings } = await check();
  assert.ok(healthy, JSON.stringify(findings));
});

test("a NetworkPolicy that admits the application's port and not the mesh's is found, and no longer once it admits that too", async () => {
  const closing = async (): Promise<readonly string[]> =>
    (await check()).findings.filter(({ code }) => code === "NETWORK_POLICY_HBONE").map(({ level, subject }) => `${level} ${subject}`);
  try {
    await c.apply(onlyPorts(8080));
    assert.deepEqual(await closing(), ["error NetworkPolicy commands/only-ports"]);
    await c.apply(onlyPorts(8080, 15008));
    assert.deepEqual(await closing(), []);
  } finally {
    await c.kubectl("-n", "commands", "delete", "networkpolicy", "only-ports");
  }
});

test("when somebody deletes the namespace, pods refuse traffic, check says so, and uninstall frees them without a restart", async () => {
  const uids = (await shop.pods()).map(({ metadata }) => metadata.uid).sort();
  const to = podUrl(await shop.podOn("web", "node2"));
  await c.kubectl("delete", "namespace", SYSTEM, "--timeout=120s");
  await assert.rejects(shop.get("node1", to), "captured pods without an engine are closed, not open");
  assert.deepEqual(
    (await check()).findings.filter(({ level }) => level === "error").map(({ code }) => code),
    ["UNINSTALL_LEFT"],
  );
  // Without an engine nobody can say when connections have ended: it waits for as long as it may.
  const { code, stdout, stderr } = await ask("uninstall", "--drain", "5");
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  assert.match(await shop.get("node1", to), new RegExp(MARKER));
  assert.deepEqual((await shop.pods()).map(({ metadata }) => metadata.uid).sort(), uids);
  const again = await ask("install"); // the next drill takes it out in the ordinary way
  assert.equal(again.code, 0, again.stderr);
  await shop.captured();
});

const onlyPorts = (...ports: readonly number[]): string => `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-ports, namespace: commands}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{ports: ${JSON.stringify(ports.map((port) => ({ protocol: "TCP", port })))}}]
`;
