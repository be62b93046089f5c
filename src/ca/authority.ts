// What signs workload certificates, as the rest of control sees it: ours, or another CA plugged in its place.
import type { KeyObject } from "node:crypto";
import type { Identity } from "#mesh/identity.ts";

export type IssueRequest = {
  /** A P-256 key whose possession was proven (`provenKey`). */
  readonly publicKey: KeyObject;
  /** The authorised identity (`authorise`); nothing of the request itself. */
  readonly identity: Identity;
  /** Wanted lifetime; the authority shortens what is too long. */
  readonly seconds: number;
};

export type IssuedCertificate = {
  /** PEM, leaf first, one certificate per item, without the root. */
  readonly chain: readonly string[];
  readonly serial: string;
  readonly notAfter: Date;
};

export type Authority = {
  issue(request: IssueRequest): Promise<IssuedCertificate>;
  /** PEM of every root that peers must trust, concatenated. */
  roots(): string;
  /** When the authority's own certificates end, for warnings. */
  expiry(): { readonly root: Date; readonly issuer: Date; readonly issuerSince: Date };
};
