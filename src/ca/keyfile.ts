// A private key and its certificate in one file, so that a crash can never leave one without the other.
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { meshError } from "#mesh/error.ts";
import type { Signer } from "./certificate.ts";

const OTHERS = 0o077;

/** Null when there is no such file; anything else that is not a matching pair throws E_AUTHORITY_INVALID. */
export function readSigner(path: string): Signer | null {
  const text = readPrivate(path);
  if (text === null) return null;
  let signer: Signer;
  try {
    signer = { key: createPrivateKey(text), certificate: new X509Certificate(text) };
  } catch (cause) {
    throw meshError("E_AUTHORITY_INVALID", `${path} does not hold a PEM private key and its certificate`, cause);
  }
  if (!signer.certificate.checkPrivateKey(signer.key))
    throw meshError("E_AUTHORITY_INVALID", `the key in ${path} is not the certificate's`);
  return signer;
}

/** `create` fails when the file is there already: an authority is never overwritten by a second one that starts beside it. */
export function writeSigner(path: string, { key, certificate }: Signer, mode: "create" | "replace"): void {
  writeFile(path, `${exportKey(key)}${certificate.toString()}`, 0o600, mode);
}

export function writeFile(path: string, text: string, permissions: number, mode: "create" | "replace"): void {
  const next = `${path}.${process.pid}.next`;
  const file = openSync(next, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, permissions);
  try {
    fchmodSync(file, permissions); // the umask may have narrowed it
    writeSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  if (mode === "replace") renameSync(next, path);
  else {
    linkSync(next, path);
    rmSync(next);
  }
  const directory = openSync(dirname(path), constants.O_RDONLY);
  fsyncSync(directory);
  closeSync(directory);
}

function readPrivate(path: string): string | null {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return null;
    throw meshError("E_AUTHORITY_INVALID", `${path} cannot be read`, cause);
  }
  try {
    const mode = fstatSync(file).mode & 0o777;
    if ((mode & OTHERS) !== 0)
      throw meshError("E_AUTHORITY_INVALID", `${path} holds a private key and has mode ${mode.toString(8)}, not 600`);
    return readFileSync(file, "utf8");
  } finally {
    closeSync(file);
  }
}

const exportKey = (key: KeyObject): string => String(key.export({ type: "pkcs8", format: "pem" }));
