// The mesh's issuer signed by another CA, on a real API server and with no more rights than the manifests give: cert-manager's kind is there as a
// definition of ours, and the test signs in cert-manager's place.
import assert from "node:assert/strict";
import { createPublicKey, generateKeyPairSync, randomUUID, X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { CertificationRequest } from "@peculiar/asn1-csr";
import { AsnConvert } from "@peculiar/asn1-schema";
import { signCertificate } from "#ca/certificate.ts";
import { mintRoot } from "#ca/mint.ts";
import { baseFiles } from "#install/files.ts";
import { type Manifest, objectsOf } from "#install/render.ts";
import { isMeshError } from "#mesh/error.ts";
import { type Api, connectApi } from "#source/kubernetes/api.ts";
import { openSecretAuthority } from "../../../src/control/kubernetes/keys.ts";
import { publishRoots } from "../../../src/control/kubernetes/roots.ts";
import { type Cluster, cluster, type Document, type List, waitFor } from "../cluster.ts";

const DAY = 86_400_000;
const namespace = `issuer-${randomUUID().slice(0, 8)}`;
const issuer = { kind: "ClusterIssuer", group: "cert-manager.io", name: "mesh" };
const root = mintRoot(new Date());
const directory = mkdtempSync(join(tmpdir(), "issuer-"));

const any = { type: "object", "x-kubernetes-preserve-unknown-fields": true };
const DEFINITION = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "certificaterequests.cert-manager.io" },
  spec: {
    group: "cert-manager.io",
    scope: "Namespaced",
    names: { kind: "CertificateRequest", plural: "certificaterequests", singular: "certificaterequest" },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: { openAPIV3Schema: { type: "object", properties: { spec: any, status: any } } },
      },
    ],
  },
};

let c: Cluster;
let api: Api;
type Request = Document & { readonly spec: { readonly request: string; readonly isCA: boolean }; readonly status?: object };
const requests = async (): Promise<readonly Request[]> => (await c.get<List<Request>>("certificaterequests", "-n", namespace)).items;
const open = (now = () => new Date()) => openSecretAuthority({ api, namespace, issuer, instance: "drill", now });
const pends = (pattern: RegExp) => (error: unknown) =>
  isMeshError(error) && error.code === "E_AUTHORITY_PENDING" && pattern.test(error.message);

/** Control's account and Role of the manifests, in the drill's namespace, and the one right of its ClusterRole that is needed besides. */
function rights(): Manifest[] {
  const own = objectsOf(baseFiles()).filter(({ metadata }) => metadata.name === "trackbed-control");
  const moved = own
    .filter(({ kind }) => ["ServiceAccount", "Role", "RoleBinding"].includes(kind))
    .map((object) => JSON.parse(JSON.stringify(object).replaceAll('"trackbed-system"', JSON.stringify(namespace))) as Manifest);
  const cluster = own.find(({ kind }) => kind === "ClusterRole") as Manifest & { rules: readonly { resources: readonly string[] }[] };
  const meta = { name: "trackbed-control-events", namespace };
  const subjects = [{ kind: "ServiceAccount", name: "trackbed-control", namespace }];
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: meta.name };
  const apiVersion = "rbac.authorization.k8s.io/v1";
  const rules = cluster.rules.filter(({ resources }) => resources.includes("events"));
  return [
    ...moved,
    { apiVersion, kind: "Role", metadata: meta, rules },
    { apiVersion, kind: "RoleBinding", metadata: meta, roleRef, subjects },
  ];
}

before(async () => {
  c = await cluster();
  await c.kubectl("create", "namespace", namespace);
  await c.apply(
    rights()
      .map((one) => JSON.stringify(one))
      .join("\n---\n"),
  );
  const config = JSON.parse(await c.kubectl("config", "view", "--raw", "-o", "json")) as { users: { user: object }[] };
  const token = (await c.kubectl("-n", namespace, "create", "token", "trackbed-control")).trim();
  for (const one of config.users) one.user = { token };
  writeFileSync(join(directory, "kubeconfig"), JSON.stringify(config));
  api = await connectApi(join(directory, "kubeconfig"));
});
after(async () => {
  await api?.close();
  rmSync(directory, { recursive: true });
  await c?.kubectl("delete", "namespace", namespace, "--ignore-not-found");
  await c?.kubectl("delete", "crd", DEFINITION.metadata.name, "--ignore-not-found");
});

/** What cert-manager's controllers write. */
async function answer({ metadata: { name } }: Request, status: object): Promise<void> {
  const patch = JSON.stringify({ status });
  await c.kubectl("patch", "certificaterequest", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch);
}

async function sign(request: Request): Promise<void> {
  const pem = Buffer.from(request.spec.request, "base64").toString("utf8");
  const asked = AsnConvert.parse(Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64"), CertificationRequest);
  const spki = Buffer.from(AsnConvert.serialize(asked.certificationRequestInfo.subjectPKInfo));
  const certificate = signCertificate(
    {
      role: { kind: "authority", name: request.metadata.name, pathLength: 0 },
      publicKey: createPublicKey({ key: spki, format: "der", type: "spki" }),
      notBefore: new Date(Date.now() - 60_000),
      notAfter: new Date(Date.now() + 90 * DAY),
    },
    root,
  );
  const status = {
    certificate: Buffer.from(String(certificate)).toString("base64"),
    ca: Buffer.from(String(root.certificate)).toString("base64"),
    conditions: [{ type: "Ready", status: "True", reason: "Issued", message: "signed by the drill" }],
  };
  await answer(request, status);
}

test("a cluster without cert-manager is told so, and control waits", async () => {
  await assert.rejects(open(), pends(/does not know CertificateRequests: install cert-manager/));
});

test("control's own rights are enough to ask, to wait and to take up what was signed", async () => {
  await c.apply(JSON.stringify(DEFINITION));
  await c.kubectl("wait", "--for=condition=Established", "crd", DEFINITION.metadata.name);
  await waitFor("the kind is served", async () => {
    await assert.rejects(open(), pends(/./));
    return (await requests()).length > 0;
  });
  await assert.rejects(open(), pends(/mesh has not signed it yet/));
  const asked = await requests();
  assert.deepEqual([asked.length, asked[0]?.spec.isCA], [1, true]);
  for (const request of asked) await sign(request);
  const authority = await open();
  await publishRoots(api, namespace, authority.roots(), authority.rotation);
  assert.equal(authority.roots(), String(root.certificate));
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
  const { chain } = await authority.issue({ identity, publicKey, seconds: 3600 });
  assert.ok(new X509Certificate(chain.at(-1) ?? "").verify(root.certificate.publicKey));
  assert.deepEqual(await requests(), []);
});

test("it renews in time, and what is late or refused is told on the CertificateRequest", async () => {
  let now = Date.now();
  const authority = await open(() => new Date(now));
  now += 61 * DAY;
  await assert.rejects(authority.refresh(), pends(/has not signed it yet/));
  const [request] = await requests();
  assert.ok(request !== undefined);
  const status = { conditions: [{ type: "Denied", status: "True", reason: "PolicyDenied", message: "not this one" }] };
  await answer(request, status);
  await assert.rejects(authority.refresh(), pends(/has refused it: PolicyDenied not this one/));
  // 61 days are more than the hour after which it asks anew.
  await assert.rejects(authority.refresh(), pends(/has not signed it yet/));
  assert.notEqual((await requests())[0]?.metadata.name, request.metadata.name);
  const events = await c.kubectl(
    "get",
    "events",
    "-n",
    namespace,
    "-o",
    "jsonpath={range .items[*]}{.reason} {.involvedObject.kind}{'\\n'}{end}",
  );
  assert.match(events, /IssuerLate CertificateRequest/);
  assert.match(events, /IssuerRefused CertificateRequest/);
  await authority.issue({
    identity: { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" },
    publicKey: generateKeyPairSync("ec", { namedCurve: "prime256v1" }).publicKey,
    seconds: 3600,
  });
});
