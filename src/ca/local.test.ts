import "reflect-metadata"; // before @peculiar/x509, whose container needs it
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { generateKeyPairSync, X509Certificate } from "node:crypto";
import { chmodSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import * as x509 from "@peculiar/x509";
import { isMeshError } from "#mesh/error.ts";
import { openAuthority } from "./local.ts";

const DAY = 86_400_000;
const identity = { trustDomain: "cluster.local", namespace: "shop", serviceAccount: "cart" };
const invalid = (error: unknown): boolean => isMeshError(error) && error.code === "E_AUTHORITY_INVALID";
const newKey = () => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).publicKey;

function directory(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "authority-"));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

/** openssl's own opinion of a chain, as of a given time. */
function opensslVerify(dir: string, chain: readonly string[], purpose: string, at: Date, ...more: string[]): string {
  const [leaf = "", ...issuers] = chain;
  writeFileSync(join(dir, "leaf.crt"), leaf);
  writeFileSync(join(dir, "issuers.crt"), issuers.join(""));
  const seconds = String(Math.floor(at.getTime() / 1000));
  const files = ["-CAfile", join(dir, "root-cert.pem"), "-untrusted", join(dir, "issuers.crt"), join(dir, "leaf.crt")];
  return execFileSync("openssl", ["verify", "-x509_strict", "-purpose", purpose, "-attime", seconds, ...more, ...files], {
    encoding: "utf8",
    stdio: "pipe",
  });
}

test("a workload certificate passes openssl's strict verification as client and as server, also beyond the year 2049", async (t) => {
  for (const year of [2026, 2049, 2055]) {
    const dir = directory(t);
    const at = new Date(Date.UTC(year, 11, 1));
    const authority = openAuthority(dir, { now: () => at });
    const { chain, notAfter } = await authority.issue({ identity, publicKey: newKey(), seconds: 86_400 });
    assert.equal(notAfter.getTime() - at.getTime(), DAY);
    for (const purpose of ["sslclient", "sslserver"]) assert.match(opensslVerify(dir, chain, purpose, at), /: OK/);
    const { chain: server } = authority.serverCertificate({ names: ["control.example"], addresses: ["192.0.2.1", "2001:db8::1"] });
    writeFileSync(join(dir, "server.crt"), server);
    const parts = server.split(/(?<=-----END CERTIFICATE-----\n)/);
    for (const check of [
      ["-verify_hostname", "control.example"],
      ["-verify_ip", "192.0.2.1"],
      ["-verify_ip", "2001:db8::1"],
    ]) {
      assert.match(opensslVerify(dir, parts, "sslserver", at, ...check), /: OK/);
    }
    assert.throws(() => opensslVerify(dir, parts, "sslclient", at));
    assert.throws(() => opensslVerify(dir, parts, "sslserver", at, "-verify_ip", "192.0.2.2"));
  }
});

test("an independent parser reads exactly the profile: one critical URI SAN, no subject, both purposes, 16-byte positive serial", async (t) => {
  const at = new Date(Date.UTC(2026, 10, 21, 8));
  const authority = openAuthority(directory(t), { now: () => at });
  const publicKey = newKey();
  const serials = new Set<string>();
  for (let i = 0; i < 50; i++) {
    const { chain, serial } = await authority.issue({ identity, publicKey, seconds: 0 });
    serials.add(serial);
    const leaf = new x509.X509Certificate(chain[0] ?? "");
    assert.equal(leaf.subject, "");
    assert.match(leaf.serialNumber, /^[4-7][0-9a-f]{31}$/);
    assert.deepEqual([leaf.notBefore, leaf.notAfter], [new Date(at.getTime() - 300_000), new Date(at.getTime() + DAY)]);
    const san = leaf.getExtension(x509.SubjectAlternativeNameExtension);
    assert.equal(san?.critical, true);
    assert.deepEqual(san?.names.toJSON(), [{ type: "url", value: "spiffe://cluster.local/ns/shop/sa/cart" }]);
    assert.deepEqual([...(leaf.getExtension(x509.ExtendedKeyUsageExtension)?.usages ?? [])].sort(), [
      "1.3.6.1.5.5.7.3.1",
      "1.3.6.1.5.5.7.3.2",
    ]);
    assert.equal(leaf.getExtension(x509.KeyUsagesExtension)?.usages, x509.KeyUsageFlags.digitalSignature);
    assert.equal(leaf.getExtension(x509.BasicConstraintsExtension)?.ca, false);
    const issuer = new x509.X509Certificate(chain[1] ?? "");
    const issuerKeyId = issuer.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId;
    assert.equal(leaf.getExtension(x509.AuthorityKeyIdentifierExtension)?.keyId, issuerKeyId);
    assert.equal(leaf.issuer, issuer.subject);
    assert.equal(issuer.getExtension(x509.BasicConstraintsExtension)?.pathLength, 0);
    assert.ok(await leaf.verify({ publicKey: await issuer.publicKey.export(), date: at }));
  }
  assert.equal(serials.size, 50);
});

test("lifetimes are what was asked, at most a day, and never beyond the issuer's", async (t) => {
  const start = Date.UTC(2026, 0, 1);
  let at = start;
  const authority = openAuthority(directory(t), { now: () => new Date(at) });
  const lifetime = async (seconds: number) => (await authority.issue({ identity, publicKey: newKey(), seconds })).notAfter.getTime() - at;
  assert.equal(await lifetime(3600), 3_600_000);
  assert.equal(await lifetime(10 * 86_400), DAY);
  assert.equal(await lifetime(-1), DAY);
  assert.equal(await lifetime(1), 900_000);
  at = authority.expiry().root.getTime() - DAY / 2; // every issuer is old by then, and a new one ends with the root
  assert.equal(await lifetime(86_400), DAY / 2);
});

test("the issuer is replaced when a third of its life is left; certificates of both chain to the same root", async (t) => {
  const dir = directory(t);
  let at = new Date(Date.UTC(2026, 0, 1));
  const authority = openAuthority(dir, { now: () => at });
  const first = await authority.issue({ identity, publicKey: newKey(), seconds: 86_400 });
  assert.equal(authority.renew(), false);
  at = new Date(authority.expiry().issuer.getTime() - 122 * DAY);
  const old = await authority.issue({ identity, publicKey: newKey(), seconds: 86_400 });
  assert.equal(old.chain[1], first.chain[1]);
  at = new Date(at.getTime() + DAY);
  const roots = authority.roots();
  const fresh = await authority.issue({ identity, publicKey: newKey(), seconds: 86_400 });
  assert.notEqual(fresh.chain[1], old.chain[1]);
  assert.equal(authority.roots(), roots);
  for (const { chain } of [old, fresh]) assert.match(opensslVerify(dir, chain, "sslclient", new Date(at.getTime() - 60_000)), /: OK/);
  const again = openAuthority(dir, { now: () => at });
  assert.equal((await again.issue({ identity, publicKey: newKey(), seconds: 0 })).chain[1], fresh.chain[1]);
});

test("a restart keeps root and issuer; keys are readable by their owner only, the root certificate by everybody", (t) => {
  const dir = directory(t);
  const first = openAuthority(dir);
  const second = openAuthority(dir);
  assert.equal(first.roots(), second.roots());
  assert.deepEqual(first.expiry(), second.expiry());
  assert.equal(readFileSync(join(dir, "root-cert.pem"), "utf8"), first.roots());
  const modes = Object.fromEntries(readdirSync(dir).map((name) => [name, (statSync(join(dir, name)).mode & 0o777).toString(8)]));
  assert.deepEqual(modes, { "issuer.pem": "600", "root-cert.pem": "644", "root.pem": "600" });
  const root = new X509Certificate(first.roots());
  assert.ok(root.ca && root.verify(root.publicKey));
});

test("a damaged, exposed, foreign or half lost authority is refused, never replaced", (t) => {
  const good = directory(t);
  openAuthority(good);
  const other = directory(t);
  openAuthority(other);
  const faults: Record<string, (dir: string) => void> = {
    damaged: (dir) => writeFileSync(join(dir, "root.pem"), readFileSync(join(dir, "root.pem"), "utf8").slice(0, 300)),
    exposed: (dir) => chmodSync(join(dir, "issuer.pem"), 0o640),
    foreign: (dir) => cpSync(join(other, "issuer.pem"), join(dir, "issuer.pem")),
    rootless: (dir) => rmSync(join(dir, "root.pem")),
    mismatched: (dir) => {
      const [key] = readFileSync(join(other, "root.pem"), "utf8").split(/(?=-----BEGIN CERT)/);
      const [, certificate] = readFileSync(join(dir, "root.pem"), "utf8").split(/(?=-----BEGIN CERT)/);
      writeFileSync(join(dir, "root.pem"), `${key}${certificate}`);
    },
  };
  for (const [fault, damage] of Object.entries(faults)) {
    const dir = directory(t);
    cpSync(good, dir, { recursive: true });
    damage(dir);
    const before = readdirSync(dir).map((name) => readFileSync(join(dir, name), "utf8"));
    assert.throws(() => openAuthority(dir), invalid, fault);
    assert.deepEqual(
      readdirSync(dir).map((name) => readFileSync(join(dir, name), "utf8")),
      before,
      fault,
    );
  }
  assert.throws(() => openAuthority(good, { now: () => new Date(Date.now() + 3651 * DAY) }), invalid);
});
