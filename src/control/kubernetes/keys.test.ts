import assert from "node:assert/strict";
import { generateKeyPairSync, X509Certificate } from "node:crypto";
import { type TestContext, test } from "node:test";
import { type Bundle, FILES, writeBundle } from "#ca/bundle.ts";
import { mintIssuer, mintRoot } from "#ca/mint.ts";
import { annotations } from "#contract/tables.ts";
import { isMeshError } from "#mesh/error.ts";
import { createApi } from "#source/kubernetes/api.ts";
import { fakeApi } from "../../../test/apiserver.ts";
import { openSecretAuthority } from "./keys.ts";
import { publishRoots } from "./roots.ts";

const NAMESPACE = "trackbed-system";
const SECRETS = "/api/v1/secrets";
const YEAR = 365 * 86_400_000;
const identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
const newKey = () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).publicKey;
const invalid = (pattern: RegExp) => (error: unknown) =>
  isMeshError(error) && error.code === "E_AUTHORITY_INVALID" && pattern.test(error.message);

async function cluster(t: TestContext) {
  const server = await fakeApi();
  t.after(() => server.close());
  let now = new Date();
  const api = createApi(server.credentials);
  const put = (name: string, bundle: Bundle) =>
    server.put(SECRETS, {
      metadata: { name, namespace: NAMESPACE },
      data: Object.fromEntries(Object.entries(bundle).map(([file, text]) => [file, Buffer.from(text).toString("base64")])),
    });
  const open = () => openSecretAuthority({ api, namespace: NAMESPACE, now: () => now });
  return { server, api, put, open, later: (milliseconds: number) => (now = new Date(now.getTime() + milliseconds)) };
}

test("replicas that start at once have one root between them, and a restart keeps it", async (t) => {
  const c = await cluster(t);
  const authorities = await Promise.all(Array.from({ length: 5 }, c.open));
  const roots = new Set([...authorities, await c.open()].map((one) => one.roots()));
  assert.deepEqual([roots.size, c.server.all(SECRETS).map(({ metadata }) => metadata.name)], [1, ["trackbed-ca"]]);
  const { chain } = (await authorities[0]?.issue({ identity, publicKey: newKey(), seconds: 3600 })) ?? { chain: [] };
  const [leaf, issuer] = chain.map((pem) => new X509Certificate(pem));
  assert.ok(leaf && issuer && leaf.verify(issuer.publicKey) && issuer.verify(new X509Certificate([...roots][0] ?? "").publicKey));
  const stored = c.server.get(SECRETS, NAMESPACE, "trackbed-ca")?.["data"] as Record<string, string>;
  assert.deepEqual(Object.keys(stored).sort(), Object.values(FILES).sort());
});

test("an operator's cacerts is used instead, and nothing of ours is made", async (t) => {
  const c = await cluster(t);
  const root = mintRoot(new Date());
  c.put("cacerts", writeBundle(root, mintIssuer(root, new Date())));
  const authority = await c.open();
  assert.deepEqual([authority.secret, authority.roots()], ["cacerts", root.certificate.toString()]);
  assert.equal(c.server.all(SECRETS).length, 1);
});

test("a Secret that cannot sign stops control, with what is wrong with it, and is never replaced", async (t) => {
  const c = await cluster(t);
  const root = mintRoot(new Date());
  const other = mintRoot(new Date());
  c.put("trackbed-ca", { ...writeBundle(root, mintIssuer(root, new Date())), [FILES.root]: other.certificate.toString() });
  await assert.rejects(c.open(), invalid(/^Secret trackbed-system\/trackbed-ca: .* do not lead to/));
  assert.equal(
    c.server.requests.some(({ method }) => method !== "GET"),
    false,
  );
});

test("the issuer is renewed months before its end by one replica, and the other takes it up", async (t) => {
  const c = await cluster(t);
  const [a, b] = [await c.open(), await c.open()];
  assert.deepEqual([await a.refresh(), await b.refresh()], [null, null]);
  const before = a.expiry().issuer;
  c.later(0.75 * YEAR);
  assert.match((await a.refresh()) ?? "", /issuer replaced/);
  assert.match((await b.refresh()) ?? "", /issuer replaced/);
  assert.ok(a.expiry().issuer > before);
  assert.deepEqual([a.expiry(), a.roots()], [b.expiry(), b.roots()]);
  assert.equal(await a.refresh(), null);
});

test("replicas that renew at once end with the same issuer", async (t) => {
  const c = await cluster(t);
  const replicas = await Promise.all(Array.from({ length: 4 }, c.open));
  c.later(0.75 * YEAR);
  await Promise.all(replicas.map((one) => one.refresh()));
  await Promise.all(replicas.map((one) => one.refresh()));
  assert.equal(new Set(replicas.map((one) => one.expiry().issuer.getTime())).size, 1);
});

test("a root is rotated under a running control in three steps, and none may be taken too early", async (t) => {
  const c = await cluster(t);
  const [old, young] = [mintRoot(new Date()), mintRoot(new Date())];
  const both = `${old.certificate}${young.certificate}`;
  const put = (root: typeof old, roots: string) =>
    c.put("cacerts", { ...writeBundle(root, mintIssuer(root, new Date())), [FILES.root]: roots });
  const signedBy = async (root: typeof old): Promise<boolean> => {
    const { chain } = await authority.issue({ identity, publicKey: newKey(), seconds: 3600 });
    return new X509Certificate(chain.at(-1) ?? "").verify(root.certificate.publicKey);
  };
  put(old, String(old.certificate));
  const authority = await c.open();
  put(young, String(young.certificate));
  await assert.rejects(authority.refresh(), invalid(/under a root that nobody trusts yet: first add that root/));
  put(young, both);
  await assert.rejects(authority.refresh(), invalid(/under a root that nobody trusts yet/));
  put(old, both);
  assert.match((await authority.refresh()) ?? "", /roots replaced/);
  assert.deepEqual([authority.roots(), await signedBy(old)], [both, true]);

  c.later(23 * HOUR);
  put(young, both);
  await assert.rejects(authority.refresh(), invalid(/is not known to every workload before/));
  c.later(2 * HOUR);
  assert.match((await authority.refresh()) ?? "", /issuer replaced/);
  assert.ok(await signedBy(young));

  put(young, String(young.certificate));
  await assert.rejects(authority.refresh(), invalid(/may live until .*keep it in root-cert\.pem/));
  c.later(25 * HOUR);
  assert.match((await authority.refresh()) ?? "", /roots replaced/);
  assert.equal(authority.roots(), String(young.certificate));
});

test("an authority that itself lives in the mesh is plugged after its root was handed out by ours", async (t) => {
  const c = await cluster(t);
  const ours = await c.open();
  const stored = () => c.server.get(SECRETS, NAMESPACE, "trackbed-ca")?.["data"] as Record<string, string>;
  const own = Object.fromEntries(Object.entries(stored()).map(([file, text]) => [file, Buffer.from(text, "base64").toString()]));
  const theirs = mintRoot(new Date());
  const both = `${ours.roots()}${theirs.certificate}`;
  c.put("trackbed-ca", { ...own, [FILES.root]: both });
  assert.match((await ours.refresh()) ?? "", /roots replaced/);
  assert.equal(ours.roots(), both);
  c.later(0.75 * YEAR);
  assert.match((await ours.refresh()) ?? "", /issuer replaced/);
  assert.equal(ours.roots(), both, "our own issuer is renewed and the root that is on its way in stays");

  c.put("cacerts", { ...writeBundle(theirs, mintIssuer(theirs, new Date())), [FILES.root]: both });
  await assert.rejects(ours.refresh(), invalid(/came after control had started/));
  const plugged = await c.open();
  assert.deepEqual([plugged.secret, plugged.roots()], ["cacerts", both]);
  const { chain } = await plugged.issue({ identity, publicKey: newKey(), seconds: 3600 });
  assert.ok(new X509Certificate(chain.at(-1) ?? "").verify(theirs.certificate.publicKey));
});

test("a new issuer of a plugged authority is taken up while running; other roots are not, and control goes on", async (t) => {
  const c = await cluster(t);
  const root = mintRoot(new Date());
  c.put("cacerts", writeBundle(root, mintIssuer(root, new Date())));
  const authority = await c.open();
  c.put("cacerts", writeBundle(root, mintIssuer(root, new Date())));
  assert.match((await authority.refresh()) ?? "", /issuer replaced/);
  const other = mintRoot(new Date());
  c.put("cacerts", writeBundle(other, mintIssuer(other, new Date())));
  await assert.rejects(authority.refresh(), invalid(/is not taken up: the new issuer is under a root that nobody trusts yet/));
  c.server.delete(SECRETS, NAMESPACE, "cacerts");
  await assert.rejects(authority.refresh(), invalid(/is gone/));
  assert.equal(authority.roots(), root.certificate.toString());
  await authority.issue({ identity, publicKey: newKey(), seconds: 3600 });
});

test("a cacerts that comes later is told and not taken up, so that replicas do not publish two roots in turn", async (t) => {
  const c = await cluster(t);
  const authority = await c.open();
  const root = mintRoot(new Date());
  c.put("cacerts", writeBundle(root, mintIssuer(root, new Date())));
  await assert.rejects(authority.refresh(), invalid(/Secret trackbed-system\/cacerts came after control had started/));
  assert.notEqual(authority.roots(), root.certificate.toString());
  c.server.delete(SECRETS, NAMESPACE, "cacerts");
  assert.equal(await authority.refresh(), null);
});

const HOUR = 3_600_000;
const CONFIG_MAPS = "/api/v1/configmaps";
type Test = Awaited<ReturnType<typeof cluster>>;

/** As control does it: keys first, then what daemons and the next start have to know. */
async function start(c: Test) {
  const authority = await c.open();
  const publish = () => publishRoots(c.api, NAMESPACE, authority.roots(), authority.rotation);
  await publish();
  return { ...authority, publish };
}

test("a rotation goes on where it was when control restarts in its middle", async (t) => {
  const c = await cluster(t);
  const [old, young] = [mintRoot(new Date()), mintRoot(new Date())];
  const both = `${old.certificate}${young.certificate}`;
  const put = (root: typeof old, roots: string) =>
    c.put("cacerts", { ...writeBundle(root, mintIssuer(root, new Date())), [FILES.root]: roots });
  put(old, String(old.certificate));
  const first = await start(c);
  put(old, both);
  assert.match((await first.refresh()) ?? "", /roots replaced/);
  await first.publish();

  c.later(23 * HOUR);
  const second = await start(c);
  put(young, both);
  await assert.rejects(second.refresh(), invalid(/is not known to every workload before/));
  await assert.rejects(c.open(), invalid(/is not used: the new issuer's root is not known to every workload before .*delete ConfigMap/));
  c.later(2 * HOUR);
  const third = await start(c);
  assert.equal(third.roots(), both, "a step whose time has come while control was away is taken");

  put(young, String(young.certificate));
  await assert.rejects(c.open(), invalid(/is not used: certificates under the root that was removed/));
  put(young, both);
  c.later(23 * HOUR);
  const fourth = await start(c);
  put(young, String(young.certificate));
  await assert.rejects(fourth.refresh(), invalid(/may live until/));
  c.later(2 * HOUR);
  assert.equal((await start(c)).roots(), String(young.certificate));
});

test("an authority that nobody knows is not used after a restart either, unless the operator says so", async (t) => {
  const c = await cluster(t);
  await start(c);
  const root = mintRoot(new Date());
  c.put("cacerts", writeBundle(root, mintIssuer(root, new Date())));
  await assert.rejects(c.open(), invalid(/Secret trackbed-system\/cacerts is not used: .*a root that nobody trusts yet/));
  c.server.delete(CONFIG_MAPS, NAMESPACE, "trackbed-root");
  assert.equal((await start(c)).roots(), root.certificate.toString());
});

test("replicas agree on the history of a rotation and stop writing it; a damaged one is not guessed at", async (t) => {
  const c = await cluster(t);
  const [old, young] = [mintRoot(new Date()), mintRoot(new Date())];
  c.put("cacerts", writeBundle(old, mintIssuer(old, new Date())));
  const [a, b] = [await start(c), await start(c)];
  c.put("cacerts", { ...writeBundle(old, mintIssuer(old, new Date())), [FILES.root]: `${old.certificate}${young.certificate}` });
  await a.refresh();
  await a.publish();
  c.later(60_000);
  await b.refresh();
  await b.publish();
  await a.publish();
  const writes = c.server.requests.filter(({ method }) => method === "PATCH").length;
  for (const one of [a, b, a, b]) assert.equal(await one.publish(), false);
  assert.equal(c.server.requests.filter(({ method }) => method === "PATCH").length, writes);
  assert.deepEqual(a.rotation.history(), b.rotation.history());

  const stored = c.server.get(CONFIG_MAPS, NAMESPACE, "trackbed-root");
  c.server.put(CONFIG_MAPS, {
    ...stored,
    metadata: { name: "trackbed-root", namespace: NAMESPACE, annotations: { [annotations.rotation]: "{" } },
  });
  await assert.rejects(c.open(), invalid(/annotation trackbed\.dev\/rotation of ConfigMap .* is not what control wrote/));
});

test("roots are published where daemons mount them, and again when somebody takes them away", async (t) => {
  const c = await cluster(t);
  c.server.put("/api/v1/configmaps", { metadata: { name: "trackbed-root", namespace: NAMESPACE, labels: { kept: "yes" } } });
  const { rotation } = await c.open();
  assert.equal(await publishRoots(c.api, NAMESPACE, "PEM", rotation), true);
  assert.equal(await publishRoots(c.api, NAMESPACE, "PEM", rotation), false);
  const get = () => c.server.get("/api/v1/configmaps", NAMESPACE, "trackbed-root");
  assert.deepEqual([get()?.["data"], get()?.metadata["labels"]], [{ "root-cert.pem": "PEM" }, { kept: "yes" }]);
  c.server.delete("/api/v1/configmaps", NAMESPACE, "trackbed-root");
  assert.equal(await publishRoots(c.api, NAMESPACE, "PEM", rotation), true);
});
