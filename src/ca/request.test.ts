import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createPublicKey } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { isMeshError } from "#mesh/error.ts";
import { provenKey } from "./request.ts";

const dir = mkdtempSync(join(tmpdir(), "csr-"));
after(() => rmSync(dir, { recursive: true }));
const keyFile = join(dir, "key.pem");
const refused = (error: unknown): boolean => isMeshError(error) && error.code === "E_IDENTITY_REFUSED";

const openssl = (...args: string[]): string => execFileSync("openssl", args, { encoding: "utf8", stdio: "pipe" });

function request(key: readonly string[], ...more: string[]): string {
  return openssl("req", "-new", "-newkey", ...key, "-nodes", "-keyout", keyFile, "-subj", "/", ...more);
}
const P256 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

test("a request made by openssl proves its key, whatever SAN it asks for", () => {
  const pem = request(P256, "-addext", "subjectAltName=critical,URI:spiffe://cluster.local/ns/kube-system/sa/admin");
  const key = provenKey(pem);
  assert.deepEqual(
    key.export({ type: "spki", format: "der" }),
    createPublicKey(readFileSync(keyFile)).export({ type: "spki", format: "der" }),
  );
});

test("other keys, curves and digests are refused", () => {
  for (const [key, ...more] of [
    [["rsa:2048"]],
    [["ed25519"]],
    [["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]],
    [["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"]],
    [["ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"]],
    [P256, "-sha384"],
  ] as [string[], ...string[]][]) {
    assert.throws(() => provenKey(request(key, ...more)), refused, [...key, ...more].join(" "));
  }
});

test("a request whose body or signature was changed in any byte is refused", () => {
  const pem = request(P256);
  const der = Buffer.from(pem.replaceAll(/-----[A-Z ]+-----|\s/g, ""), "base64");
  const armour = (bytes: Buffer): string =>
    `-----BEGIN CERTIFICATE REQUEST-----\n${bytes.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
  assert.ok(provenKey(armour(der)));
  for (let i = 0; i < der.length; i++) {
    const changed = Buffer.from(der);
    changed[i] = (changed[i] ?? 0) ^ 0x01;
    assert.throws(() => provenKey(armour(changed)), refused, `byte ${i} of ${der.length}`);
    assert.throws(() => provenKey(armour(der.subarray(0, i))), refused, `cut at ${i}`);
  }
});

test("what is not one small PEM request is refused", () => {
  const pem = request(P256);
  const certificate = openssl("req", "-x509", "-newkey", ...P256, "-nodes", "-keyout", keyFile, "-subj", "/CN=x");
  const nested = `-----BEGIN CERTIFICATE REQUEST-----\n${Buffer.alloc(5000, 0x30).toString("base64")}\n-----END CERTIFICATE REQUEST-----`;
  for (const text of ["", "hello", pem + pem, certificate, `${pem}${" ".repeat(9000)}`, nested])
    assert.throws(() => provenKey(text), refused, text.slice(0, 60));
});
