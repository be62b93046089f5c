// The cluster's CA, certificates, service account key and kubeconfigs, made once for each cluster.
import "reflect-metadata";
import { generateKeyPairSync, randomBytes, webcrypto } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";
import { API_IP, API_SERVER, SERVICE_API_IP, type Settings } from "./settings.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const DAY_MS = 24 * 3600 * 1000;
/** Longer than anybody keeps a test cluster. */
const VALID_DAYS = 3650;

type Identity = { readonly subject: string; readonly names?: readonly string[] };
type Pair = { readonly certificate: x509.X509Certificate; readonly key: webcrypto.CryptoKey; readonly keyPem: string };

export async function makeKeys(settings: Settings): Promise<void> {
  const directory = join(settings.state, "keys");
  if (existsSync(join(directory, "made"))) return;
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const write = (file: string, text: string): void => writeFileSync(join(directory, file), text, { mode: 0o600 });
  const writePair = (file: string, { certificate, keyPem }: Pair): void => {
    write(`${file}.crt`, `${certificate.toString("pem")}\n`);
    write(`${file}.key`, `${keyPem}\n`);
  };
  const ca = await issue({ subject: "CN=trackbed-test-cluster" }, null);
  writePair("ca", ca);
  for (const [file, identity] of Object.entries(identities(settings))) {
    const pair = await issue(identity, ca);
    writePair(file, pair);
    const config = kubeconfig(file, ca, pair);
    write(`${file}.kubeconfig`, config);
    if (file === "admin") writeFileSync(settings.kubeconfig, config, { mode: 0o600 });
  }
  const account = generateKeyPairSync("rsa", { modulusLength: 2048 });
  write("sa.key", account.privateKey.export({ type: "pkcs8", format: "pem" }).toString());
  write("sa.pub", account.publicKey.export({ type: "spki", format: "pem" }).toString());
  write("made", "");
}

/** Names and groups are what Kubernetes' own roles are bound to. */
function identities({ nodes }: Settings): Record<string, Identity> {
  const api = ["", ".default", ".default.svc", ".default.svc.cluster.local"].map((end) => `kubernetes${end}`);
  return {
    apiserver: { subject: "CN=kube-apiserver", names: [...api, SERVICE_API_IP, API_IP] },
    "front-proxy": { subject: "CN=front-proxy" },
    admin: { subject: "O=system:masters, CN=admin" },
    "controller-manager": { subject: "CN=system:kube-controller-manager" },
    scheduler: { subject: "CN=system:kube-scheduler" },
    "kube-proxy": { subject: "CN=system:kube-proxy" },
    ...Object.fromEntries(
      nodes.map(({ name, ip, ip6 }) => [name, { subject: `O=system:nodes, CN=system:node:${name}`, names: [name, ip, ip6] }]),
    ),
  };
}

/** Signed by itself without an issuer: the CA. */
async function issue({ subject, names = [] }: Identity, issuer: Pair | null): Promise<Pair> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const { digitalSignature, keyCertSign, cRLSign } = x509.KeyUsageFlags;
  const extensions: x509.Extension[] =
    issuer === null
      ? [
          new x509.BasicConstraintsExtension(true, undefined, true),
          new x509.KeyUsagesExtension(digitalSignature | keyCertSign | cRLSign, true),
        ]
      : [
          new x509.BasicConstraintsExtension(false),
          new x509.KeyUsagesExtension(digitalSignature),
          new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth, x509.ExtendedKeyUsage.serverAuth]),
        ];
  if (names.length > 0)
    extensions.push(
      new x509.SubjectAlternativeNameExtension(names.map((value) => ({ type: /^[0-9.]+$|:/.test(value) ? "ip" : "dns", value }))),
    );
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: randomBytes(15).toString("hex").replace(/^/, "01"), // positive
    subject,
    issuer: issuer?.certificate.subject ?? subject,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + VALID_DAYS * DAY_MS),
    publicKey: keys.publicKey,
    signingKey: issuer?.key ?? keys.privateKey,
    signingAlgorithm: ALGORITHM,
    extensions,
  });
  const keyPem = x509.PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY");
  return { certificate, key: keys.privateKey, keyPem };
}

const base64 = (text: string): string => Buffer.from(text).toString("base64");

function kubeconfig(user: string, ca: Pair, pair: Pair): string {
  const credentials = { "client-certificate-data": base64(pair.certificate.toString("pem")), "client-key-data": base64(pair.keyPem) };
  return config(user, ca.certificate.toString("pem"), credentials);
}

/** For somebody who has a token instead of a certificate. */
export const tokenKubeconfig = (settings: Settings, token: string): string =>
  config("token", readFileSync(join(settings.state, "keys/ca.crt"), "utf8"), { token });

/** JSON is YAML. */
function config(user: string, ca: string, credentials: object): string {
  const cluster = { server: API_SERVER, "certificate-authority-data": base64(ca) };
  return `${JSON.stringify(
    {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "trackbed", cluster }],
      users: [{ name: user, user: credentials }],
      contexts: [{ name: "trackbed", context: { cluster: "trackbed", user } }],
      "current-context": "trackbed",
    },
    null,
    2,
  )}\n`;
}
