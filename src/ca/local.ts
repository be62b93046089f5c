// Our own authority in a state directory: a root and an issuer in one file each.
import { join } from "node:path";
import { makeDirectory } from "#mesh/directory.ts";
import { meshError } from "#mesh/error.ts";
import type { Signer } from "./certificate.ts";
import { readSigner, writeFile, writeSigner } from "./keyfile.ts";
import { isOld, isSignedBy, mintIssuer, mintRoot } from "./mint.ts";
import { type ServingAuthority, signingAuthority } from "./signing.ts";

export type LocalAuthority = ServingAuthority & {
  /** Replaces the issuer when its time has come; true when it did. Call it from time to time; issuing calls it too. */
  renew(): boolean;
};

export type LocalAuthorityOptions = { readonly now?: () => Date };

/** Makes the authority when the directory has none, loads it otherwise; never replaces one that it cannot use. */
export function openAuthority(directory: string, options: LocalAuthorityOptions = {}): LocalAuthority {
  const now = options.now ?? (() => new Date());
  makeDirectory("--state", directory);
  const rootFile = join(directory, "root.pem");
  const issuerFile = join(directory, "issuer.pem");
  const stored = { root: readSigner(rootFile), issuer: readSigner(issuerFile) };
  if (stored.root === null && stored.issuer !== null) {
    throw meshError("E_AUTHORITY_INVALID", `${issuerFile} is there but the root that signed it, ${rootFile}, is not`);
  }
  const root = stored.root ?? kept(rootFile, mintRoot(now()), "create");
  if (root.certificate.validToDate <= now()) {
    throw meshError("E_AUTHORITY_INVALID", `the root in ${rootFile} ended on ${root.certificate.validToDate.toISOString()}`);
  }
  if (stored.issuer !== null && !isSignedBy(stored.issuer, root)) {
    throw meshError("E_AUTHORITY_INVALID", `the issuer in ${issuerFile} was not signed by the root in ${rootFile}`);
  }
  let issuer = stored.issuer ?? kept(issuerFile, mintIssuer(root, now()), "create");
  writeFile(join(directory, "root-cert.pem"), root.certificate.toString(), 0o644, "replace");

  function renew(): boolean {
    if (!isOld(issuer, now())) return false;
    issuer = kept(issuerFile, mintIssuer(root, now()), "replace");
    return true;
  }

  renew();
  const material = () => {
    renew();
    return {
      issuer,
      chain: [issuer.certificate.toString()],
      roots: root.certificate.toString(),
      rootEnd: root.certificate.validToDate,
    };
  };
  return { ...signingAuthority(material, now), renew };
}

function kept(path: string, signer: Signer, mode: "create" | "replace"): Signer {
  writeSigner(path, signer, mode);
  return signer;
}
