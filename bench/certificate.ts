// Certificates of the peers that speak TLS: an authority and one leaf for both ends, ECDSA P-256 as the mesh's own are.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const NAME = "bench.test";
const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
/** A run takes minutes. */
const DAYS = "2";

/** Writes ca.pem, cert.pem, key.pem, and both.pem for HAProxy, which wants certificate and key in one file. */
export function makeCertificates(directory: string): void {
  const openssl = (...args: string[]): void => void execFileSync("openssl", args, { cwd: directory, stdio: ["ignore", "ignore", "pipe"] });
  const extensions = `subjectAltName=DNS:${NAME}\nextendedKeyUsage=serverAuth,clientAuth\n`;
  writeFileSync(join(directory, "extensions"), extensions);
  openssl("req", "-x509", ...KEY, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", DAYS, "-subj", "/CN=bench CA");
  openssl("req", ...KEY, "-keyout", "key.pem", "-out", "request.pem", "-subj", `/CN=${NAME}`);
  const signing = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", DAYS, "-extfile", "extensions"];
  openssl("x509", "-req", "-in", "request.pem", ...signing, "-out", "cert.pem");
  const file = (name: string): string => readFileSync(join(directory, name), "utf8");
  writeFileSync(join(directory, "both.pem"), file("cert.pem") + file("key.pem"), { mode: 0o600 });
}
