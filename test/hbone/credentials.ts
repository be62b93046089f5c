// Certificates for the independent peers: signed by the running mesh's own authority, or by a stranger.
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LocalAuthority, openAuthority } from "#ca/local.ts";
import type { Lab } from "../../src/lab/api.ts";
import { layout } from "../../src/lab/mesh.ts";
import type { Credentials } from "./peer.ts";

export const meshAuthority = (lab: Lab): LocalAuthority => openAuthority(layout(lab.directory).controlState);

/** An authority that nobody trusts. */
export function strangerAuthority(): LocalAuthority {
  const directory = mkdtempSync(join(tmpdir(), "trackbed-stranger-"));
  try {
    return openAuthority(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** A fresh key and a certificate for `namespace`/`serviceAccount`, trusting the mesh's roots. */
export async function credentials(
  signer: LocalAuthority,
  trusted: LocalAuthority,
  serviceAccount: string,
  { namespace = "app", trustDomain = "cluster.local" } = {},
): Promise<Credentials> {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const { chain } = await signer.issue({ publicKey, identity: { trustDomain, namespace, serviceAccount }, seconds: 3600 });
  return { key: String(privateKey.export({ type: "pkcs8", format: "pem" })), cert: chain.join(""), ca: trusted.roots() };
}
