import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { isMeshError } from "#mesh/error.ts";
import { type Bundle, FILES, readBundle, rootOf, writeBundle } from "./bundle.ts";
import { mintIssuer, mintRoot } from "./mint.ts";
import { signingAuthority } from "./signing.ts";

const identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
const newKey = () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).publicKey;
const NOW = new Date();

/** An operator's authority made by openssl: a root, an intermediate under it, and an issuer under that. */
function plugged(t: TestContext, algorithm: readonly string[]) {
  const dir = mkdtempSync(join(tmpdir(), "bundle-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = (name: string) => join(dir, name);
  const openssl = (...args: string[]) => execFileSync("openssl", args, { stdio: "pipe" });
  writeFileSync(file("ca.ext"), "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n");
  const request = (name: string) =>
    openssl(
      "req",
      "-new",
      "-newkey",
      ...algorithm,
      "-nodes",
      "-keyout",
      file(`${name}.key`),
      "-out",
      file(`${name}.csr`),
      "-subj",
      `/CN=${name}`,
    );
  const sign = (name: string, by: readonly string[]) =>
    openssl("x509", "-req", "-in", file(`${name}.csr`), ...by, "-days", "30", "-extfile", file("ca.ext"), "-out", file(`${name}.crt`));
  const under = (name: string) => ["-CA", file(`${name}.crt`), "-CAkey", file(`${name}.key`), "-CAcreateserial"];
  for (const name of ["root", "middle", "issuer"]) request(name);
  sign("root", ["-signkey", file("root.key")]);
  sign("middle", under("root"));
  sign("issuer", under("middle"));
  const text = (name: string) => readFileSync(file(name), "utf8");
  const bundle: Bundle = {
    [FILES.certificate]: text("issuer.crt"),
    [FILES.key]: text("issuer.key"),
    [FILES.root]: text("root.crt"),
    // With the root at its end and in no order, as people paste it.
    [FILES.chain]: text("root.crt") + text("middle.crt") + text("issuer.crt"),
  };
  function verify(chain: readonly string[]): string {
    writeFileSync(file("leaf.crt"), chain[0] ?? "");
    writeFileSync(file("chain.crt"), chain.slice(1).join(""));
    const between = chain.length > 1 ? ["-untrusted", file("chain.crt")] : [];
    const args = ["verify", "-purpose", "sslclient", "-CAfile", file("root.crt"), ...between, file("leaf.crt")];
    return execFileSync("openssl", args, { encoding: "utf8", stdio: "pipe" });
  }
  return { bundle, text, verify };
}

const ALGORITHMS: Readonly<Record<string, readonly string[]>> = {
  "RSA 2048": ["rsa:2048"],
  "P-384": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
  "P-256": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
};

for (const [name, algorithm] of Object.entries(ALGORITHMS))
  test(`a plugged authority of ${name} keys signs leaves that openssl verifies, whatever order its chain file has`, async (t) => {
    const { bundle, verify } = plugged(t, algorithm);
    const material = readBundle(bundle, "Secret cacerts", NOW);
    assert.equal(material.chain.length, 2);
    const { chain } = await signingAuthority(
      () => material,
      () => new Date(),
    ).issue({ identity, publicKey: newKey(), seconds: 3600 });
    assert.match(verify(chain), /: OK/);
  });

test("our own bundle is read back as it was written, and its root renews the issuer", async () => {
  const root = mintRoot(NOW);
  const bundle = writeBundle(root, mintIssuer(root, NOW));
  const material = readBundle(bundle, "Secret trackbed-ca", NOW);
  assert.deepEqual([material.chain.length, material.roots], [1, root.certificate.toString()]);
  const read = rootOf(bundle, "Secret trackbed-ca");
  assert.ok(read !== null);
  const renewed = readBundle(writeBundle(read, mintIssuer(read, NOW)), "Secret trackbed-ca", NOW);
  assert.notEqual(renewed.chain[0], material.chain[0]);
  assert.equal(renewed.roots, material.roots);
});

test("a root that signs leaves itself has an empty chain", async (t) => {
  const { bundle, text, verify } = plugged(t, ["rsa:2048"]);
  const own = { ...bundle, [FILES.certificate]: text("root.crt"), [FILES.key]: text("root.key") };
  const material = readBundle(own, "Secret cacerts", NOW);
  const { chain } = await signingAuthority(
    () => material,
    () => new Date(),
  ).issue({ identity, publicKey: newKey(), seconds: 3600 });
  assert.equal(chain.length, 1);
  assert.match(verify(chain), /: OK/);
});

test("what cannot sign for the mesh is refused, with the file and the reason", (t) => {
  const { bundle, text } = plugged(t, ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
  const { [FILES.chain]: _chain, ...withoutChain } = bundle;
  const { [FILES.key]: _key, ...withoutKey } = bundle;
  const cases: [Bundle, RegExp, Date?][] = [
    [withoutKey, /ca-key\.pem is missing/],
    [withoutChain, /do not lead to a certificate of root-cert\.pem/],
    [{ ...bundle, [FILES.key]: text("root.key") }, /ca-key\.pem is not the key of ca-cert\.pem/],
    [{ ...bundle, [FILES.root]: "nothing" }, /root-cert\.pem holds 0 PEM certificates/],
    [{ ...bundle, [FILES.certificate]: text("issuer.crt").replace(/[A-Za-z0-9]{40}/, "A".repeat(40)) }, /ca-cert\.pem/],
    [bundle, /ended on/, new Date(NOW.getTime() + 40 * 86_400_000)],
  ];
  for (const [one, reason, now = NOW] of cases)
    assert.throws(
      () => readBundle(one, "Secret cacerts", now),
      (error) =>
        isMeshError(error) &&
        error.code === "E_AUTHORITY_INVALID" &&
        reason.test(error.message) &&
        error.message.startsWith("Secret cacerts"),
      String(reason),
    );
});
