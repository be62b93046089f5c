// Claims about certificate requests on their way from engine to control, which is a gRPC server in this process.
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport, type ServiceImpl } from "@connectrpc/connect";
import { fromPem, toPem } from "#ca/pem.ts";
import { CertificateRequestSchema } from "#contract/gen/engine_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import { certifier } from "./certificates.ts";
import { specimen } from "./specimen.ts";

const spec = specimen("u", { serviceAccount: "web" });
const identity = "spiffe://cluster.local/ns/shop/sa/web";
const pem = (text: string): string => toPem(Buffer.from(text), "CERTIFICATE");
const never = new AbortController().signal;

function certify(create: ServiceImpl<typeof IstioCertificateService>["createCertificate"]) {
  const transport = createRouterTransport(({ service }) => void service(IstioCertificateService, { createCertificate: create }));
  return certifier({
    transport,
    trustDomain: () => "cluster.local",
    pod: (uid) => (uid === "u" ? spec : undefined),
    random: () => 0,
    stop: never,
  });
}
const request = create(CertificateRequestSchema, { requestId: 5n, identity, podUid: "u", csr: Buffer.from("csr") });

test("a certificate request names identity and pod, and the answer is split into chain and roots", async () => {
  const seen: unknown[] = [];
  const reply = await certify(async (asked) => {
    seen.push(asked.metadata, asked.csr, asked.validityDuration);
    return { certChain: [pem("leaf"), pem("issuer"), pem("root one") + pem("root two")] };
  })(request);
  assert.deepEqual(seen, [{ ImpersonatedIdentity: identity, PodUid: "u" }, toPem(Buffer.from("csr"), "CERTIFICATE REQUEST"), 86400n]);
  assert.deepEqual(reply.chain.map(String), [String(new Uint8Array(Buffer.from("leaf"))), String(new Uint8Array(Buffer.from("issuer")))]);
  assert.equal(reply.roots.length, 2);
  assert.deepEqual([reply.requestId, reply.code], [5n, ""]);
});

test("an authority that does not know a fresh pod yet is asked again, but not for ever", async () => {
  let asked = 0;
  const reply = await certify(async () => {
    if (++asked < 3) throw new ConnectError("unknown pod", Code.Unauthenticated);
    return { certChain: [pem("leaf"), pem("root")] };
  })(request);
  assert.equal(reply.code, "");
  asked = -100;
  const refused = await certify(async () => {
    asked++;
    throw new ConnectError("unknown pod", Code.Unauthenticated);
  })(request);
  assert.equal(asked, -96);
  assert.equal(refused.code, "E_IDENTITY_REFUSED");
  assert.match(refused.reason, /unknown pod/);
});

test("control that is away is told from control that refuses", async () => {
  const reply = await certify(async () => {
    throw new ConnectError("no route", Code.Unavailable);
  })(request);
  assert.equal(reply.code, "E_CONTROL_AWAY");
});

test("an identity that is not the pod's own never reaches the authority", async () => {
  const ask = certify(async () => assert.fail("the authority was asked"));
  const stolen = create(CertificateRequestSchema, { requestId: 1n, identity: "spiffe://cluster.local/ns/shop/sa/admin", podUid: "u" });
  assert.equal((await ask(stolen)).code, "E_IDENTITY_REFUSED");
  assert.equal((await ask(create(CertificateRequestSchema, { requestId: 1n, identity, podUid: "unknown" }))).code, "E_IDENTITY_REFUSED");
});

test("PEM and DER say the same, however long", () => {
  for (const length of [1, 47, 48, 49, 1000]) {
    const der = new Uint8Array(length).fill(7);
    assert.deepEqual(fromPem(toPem(der, "CERTIFICATE")), [der]);
  }
});
