import assert from "node:assert/strict";
import { createPublicKey, generateKeyPairSync, verify, X509Certificate } from "node:crypto";
import { type TestContext, test } from "node:test";
import { CertificationRequest } from "@peculiar/asn1-csr";
import { AsnConvert } from "@peculiar/asn1-schema";
import { FILES, writeBundle } from "#ca/bundle.ts";
import { type Signer, signCertificate } from "#ca/certificate.ts";
import { mintIssuer, mintRoot } from "#ca/mint.ts";
import { isMeshError } from "#mesh/error.ts";
import { createApi } from "#source/kubernetes/api.ts";
import { type ApiObject, events, fakeApi } from "../../../test/apiserver.ts";
import { openSecretAuthority } from "./keys.ts";
import { publishRoots } from "./roots.ts";

const NAMESPACE = "trackbed-system";
const SECRETS = "/api/v1/secrets";
const REQUESTS = "/apis/cert-manager.io/v1/certificaterequests";
const DAY = 86_400_000;
const issuer = { kind: "ClusterIssuer", group: "cert-manager.io", name: "mesh" };
const identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
const base64 = (text: string): string => Buffer.from(text).toString("base64");
const fails = (code: string, pattern: RegExp) => (error: unknown) =>
  isMeshError(error) && error.code === code && pattern.test(error.message);

type Spec = { readonly request: string; readonly isCA: boolean; readonly usages: string[]; readonly issuerRef: unknown };

/** What cert-manager does with a request: believes its key when its signature proves it. */
function keyOf({ request }: Spec) {
  const pem = Buffer.from(request, "base64").toString("utf8");
  const asked = AsnConvert.parse(Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64"), CertificationRequest);
  const spki = Buffer.from(AsnConvert.serialize(asked.certificationRequestInfo.subjectPKInfo));
  const key = createPublicKey({ key: spki, format: "der", type: "spki" });
  assert.ok(verify("sha256", Buffer.from(asked.certificationRequestInfoRaw ?? new ArrayBuffer(0)), key, Buffer.from(asked.signature)));
  return key;
}

async function cluster(t: TestContext) {
  const server = await fakeApi();
  t.after(() => server.close());
  server.serve(REQUESTS);
  let now = new Date();
  const api = createApi(server.credentials);
  const requests = (): ApiObject[] => server.all(REQUESTS);
  const spec = (request: ApiObject | undefined): Spec => request?.["spec"] as Spec;
  const settle = (status: object): void => {
    for (const request of requests()) if (request["status"] === undefined) server.put(REQUESTS, { ...request, status });
  };
  const ready = (reason: string, message = "") => ({
    conditions: [{ type: "Ready", status: reason === "Issued" ? "True" : "False", reason, message }],
  });
  return {
    server,
    requests,
    spec,
    open: () => openSecretAuthority({ api, namespace: NAMESPACE, issuer, now: () => now, instance: "replica" }),
    publish: (authority: Awaited<ReturnType<typeof openSecretAuthority>>) =>
      publishRoots(api, NAMESPACE, authority.roots(), authority.rotation),
    later: (milliseconds: number) => (now = new Date(now.getTime() + milliseconds)),
    refuse: (reason: string, message: string) => settle(ready(reason, message)),
    /** Signs all that waits, under a CA that itself is under the root. */
    sign: (root: Signer, says: { ca?: string; pathLength?: number; kind?: "authority" | "server" } = {}): void => {
      const middle = signer(root, now);
      for (const request of requests()) {
        if (request["status"] !== undefined) continue;
        const role =
          says.kind === "server"
            ? { kind: "server" as const, names: ["x"], addresses: [] }
            : { kind: "authority" as const, name: request.metadata.name, pathLength: 0 };
        const lifetime = { notBefore: now, notAfter: new Date(now.getTime() + 90 * DAY) };
        const certificate = signCertificate({ role, publicKey: keyOf(spec(request)), ...lifetime }, middle);
        const chain = base64(`${certificate}${middle.certificate}`);
        const ca = says.ca ?? base64(String(root.certificate));
        server.put(REQUESTS, { ...request, status: { certificate: chain, ca, ...ready("Issued") } });
      }
    },
    secret: (files: Record<string, string>) =>
      server.put(SECRETS, {
        metadata: { name: "trackbed-issuer", namespace: NAMESPACE },
        data: Object.fromEntries(Object.entries(files).map(([file, text]) => [file, base64(text)])),
      }),
    stored: () => Object.keys((server.get(SECRETS, NAMESPACE, "trackbed-issuer")?.["data"] as object | undefined) ?? {}).sort(),
  };
}

function signer(root: Signer, now: Date): Signer {
  const { privateKey: key, publicKey } = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
  const role = { kind: "authority" as const, name: "Their intermediate", pathLength: 1 };
  const lifetime = { notBefore: now, notAfter: new Date(now.getTime() + 3_000 * DAY) };
  return { key, certificate: signCertificate({ role, publicKey, ...lifetime }, root) };
}

/** Signs issuers that sign issuers. */
function theirRoot(): Signer {
  const { privateKey: key, publicKey } = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
  const role = { kind: "authority" as const, name: "Their root", pathLength: 3 };
  const lifetime = { notBefore: new Date(Date.now() - DAY), notAfter: new Date(Date.now() + 3_650 * DAY) };
  return { key, certificate: signCertificate({ role, publicKey, ...lifetime }, { ownKey: key }) };
}

test("replicas that start at once ask once, wait, and sign under their root as soon as the issuer has signed", async (t) => {
  const c = await cluster(t);
  const root = theirRoot();
  for (const started of await Promise.allSettled([c.open(), c.open(), c.open()])) assert.equal(started.status, "rejected");
  await assert.rejects(
    c.open(),
    fails(
      "E_AUTHORITY_PENDING",
      /CertificateRequest trackbed-system\/trackbed-issuer-\w+: ClusterIssuer\.cert-manager\.io mesh has not signed it yet/,
    ),
  );
  assert.equal(c.requests().length, 1);
  const { isCA, usages, issuerRef } = c.spec(c.requests()[0]);
  assert.deepEqual([isCA, usages, issuerRef], [true, ["cert sign", "crl sign"], issuer]);
  assert.deepEqual(c.stored(), ["next-key.pem"]);

  c.sign(root);
  const [one, two] = [await c.open(), await c.open()];
  assert.deepEqual([one.roots(), two.roots()], [String(root.certificate), String(root.certificate)]);
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const { chain } = await two.issue({ identity, publicKey, seconds: 3600 });
  const certificates = [...chain.map((pem) => new X509Certificate(pem)), root.certificate];
  assert.equal(certificates.length, 4);
  for (const [index, certificate] of certificates.slice(0, -1).entries()) {
    const above = certificates[index + 1];
    assert.ok(above !== undefined && certificate.checkIssued(above) && certificate.verify(above.publicKey), String(index));
  }
  assert.deepEqual(c.stored(), [FILES.certificate, FILES.key, FILES.chain, FILES.root].sort());
  assert.equal(c.requests().length, 0, "what was used is taken away");
});

test("it is renewed when a third of its life is left, and while the issuer does not answer the one in force is used", async (t) => {
  const c = await cluster(t);
  const root = theirRoot();
  await assert.rejects(c.open());
  c.sign(root);
  const [one, two] = [await c.open(), await c.open()];
  const before = one.expiry().issuer;
  c.later(59 * DAY);
  assert.equal(await one.refresh(), null);
  assert.equal(c.requests().length, 0);
  c.later(2 * DAY);
  await assert.rejects(one.refresh(), fails("E_AUTHORITY_PENDING", /has not signed it yet/));
  await assert.rejects(two.refresh(), fails("E_AUTHORITY_PENDING", /has not signed it yet/));
  assert.equal(c.requests().length, 1);
  assert.deepEqual(one.expiry().issuer, before);
  await one.issue({ identity, publicKey: generateKeyPairSync("ec", { namedCurve: "prime256v1" }).publicKey, seconds: 3600 });
  c.later(600_000);
  await assert.rejects(one.refresh());
  const [told] = events(c.server);
  assert.deepEqual(
    [told?.["reason"], (told?.["involvedObject"] as { kind?: string } | undefined)?.kind],
    ["IssuerLate", "CertificateRequest"],
  );
  c.sign(root);
  assert.match((await one.refresh()) ?? "", /issuer replaced/);
  assert.match((await two.refresh()) ?? "", /issuer replaced/);
  assert.deepEqual([one.expiry(), one.roots()], [two.expiry(), two.roots()]);
});

test("a refusal is told with its reason, and asked again with a new key after an hour", async (t) => {
  const c = await cluster(t);
  await assert.rejects(c.open());
  const [first] = c.requests();
  c.refuse("Denied", "policy says no");
  for (const _ of [1, 2]) await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", /has refused it: Denied policy says no/));
  assert.deepEqual(
    events(c.server).map(({ reason }) => reason),
    ["IssuerRefused"],
  );
  assert.equal(c.requests().length, 1);
  c.later(3_700_000);
  await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", /has refused it/));
  await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", /has not signed it yet/));
  assert.equal(c.requests().length, 1);
  assert.notEqual(c.requests()[0]?.metadata.name, first?.metadata.name);
});

test("what is no authority, or says no root, is not used", async (t) => {
  for (const [says, why] of [
    [{ kind: "server" as const }, /what it signed cannot be used: .*is not a certificate authority's/],
    [{ ca: "" }, /does not say its root: put that into root-cert\.pem of Secret trackbed-issuer/],
    [{ ca: base64(String(theirRoot().certificate)) }, /do not lead to a certificate of root-cert\.pem/],
  ] as const) {
    const c = await cluster(t);
    await assert.rejects(c.open());
    c.sign(theirRoot(), says);
    await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", why));
    assert.deepEqual(c.stored(), ["next-key.pem"]);
  }
});

test("a root that the operator put into the Secret counts, whatever is said with the certificate", async (t) => {
  const c = await cluster(t);
  const [root, other] = [theirRoot(), theirRoot()];
  c.secret({ [FILES.root]: String(root.certificate) });
  await assert.rejects(c.open());
  c.sign(other);
  await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", /do not lead to a certificate of root-cert\.pem/));
  c.later(3_700_000);
  await assert.rejects(c.open());
  await assert.rejects(c.open());
  c.sign(root, { ca: "" });
  assert.equal((await c.open()).roots(), String(root.certificate));
});

test("an issuer under a new root is taken when that root has been handed out for a day, not before", async (t) => {
  const c = await cluster(t);
  const [old, young] = [theirRoot(), theirRoot()];
  await assert.rejects(c.open());
  c.sign(old);
  const authority = await c.open();
  await c.publish(authority);
  c.later(61 * DAY);
  const data = c.server.get(SECRETS, NAMESPACE, "trackbed-issuer")?.["data"] as Record<string, string>;
  const both = `${old.certificate}${young.certificate}`;
  c.server.put(SECRETS, { metadata: { name: "trackbed-issuer", namespace: NAMESPACE }, data: { ...data, [FILES.root]: base64(both) } });
  await assert.rejects(authority.refresh(), fails("E_AUTHORITY_PENDING", /has not signed/));
  assert.equal(authority.roots(), both);
  c.sign(young);
  await assert.rejects(
    authority.refresh(),
    fails("E_AUTHORITY_PENDING", /has signed it too early: .*is not known to every workload before/),
  );
  c.later(DAY + 60_000);
  assert.match((await authority.refresh()) ?? "", /issuer replaced/);
});

test("an own CA beside it is an error, and a mesh that has another root is not taken over in one step", async (t) => {
  const c = await cluster(t);
  const root = mintRoot(new Date());
  const cacerts = writeBundle(root, mintIssuer(root, new Date()));
  const data = Object.fromEntries(Object.entries(cacerts).map(([file, text]) => [file, base64(text)]));
  c.server.put(SECRETS, { metadata: { name: "cacerts", namespace: NAMESPACE }, data });
  await assert.rejects(c.open(), fails("E_AUTHORITY_INVALID", /cacerts and --issuer are two authorities/));
  c.server.delete(SECRETS, NAMESPACE, "cacerts");
  const own = await openSecretAuthority({ api: createApi(c.server.credentials), namespace: NAMESPACE });
  await c.publish(own);
  await assert.rejects(c.open());
  c.sign(theirRoot());
  await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", /too early: the new issuer is under a root that nobody trusts yet/));
});

test("a cluster without cert-manager is told so", async (t) => {
  const c = await cluster(t);
  c.server.unserve(REQUESTS);
  c.server.fault = ({ path }) => (path.startsWith("/apis/cert-manager.io/") ? { status: 404 } : null);
  await assert.rejects(c.open(), fails("E_AUTHORITY_PENDING", /does not know CertificateRequests: install cert-manager/));
});
