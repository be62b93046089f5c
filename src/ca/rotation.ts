// Which change of an authority's roots a running mesh survives: workloads learn of roots with their certificates, so a root must have been handed
// out for a whole lifetime before anything is signed under it, and nothing signed under a root may live when it goes.
import { X509Certificate } from "node:crypto";
import type { Material } from "./signing.ts";

export type Rotation = {
  /** Why the change must not be made now, with what to do; null when it may, and then it counts as made. */
  judge(next: Material, now: Date): string | null;
};

/** Fingerprints. `anchor`: of the root that the issuer leads to. */
type Anchors = { readonly roots: ReadonlySet<string>; readonly anchor: string };

/** `since`: how long the first material has been in force at the least. Nothing is known from before control started. */
export function createRotation(first: Material, now: Date, lifetimeMilliseconds: number): Rotation {
  let current = anchorsOf(first);
  const handedOut = new Map([...current.roots].map((root) => [root, now.getTime()]));
  const signedLast = new Map([...current.roots].map((root) => [root, now.getTime()]));

  function judge(next: Material, at: Date): string | null {
    const time = at.getTime();
    signedLast.set(current.anchor, time);
    const wanted = anchorsOf(next);
    const why = refusal(wanted, time);
    if (why !== null) return why;
    for (const root of wanted.roots) if (!current.roots.has(root)) handedOut.set(root, time);
    for (const root of current.roots.difference(wanted.roots)) {
      handedOut.delete(root);
      signedLast.delete(root);
    }
    signedLast.set(wanted.anchor, time);
    current = wanted;
    return null;
  }

  function refusal({ roots, anchor }: Anchors, time: number): string | null {
    if (anchor !== current.anchor) {
      const since = handedOut.get(anchor);
      if (since === undefined || !current.roots.has(anchor))
        return "the new issuer is under a root that nobody trusts yet: first add that root to root-cert.pem, beside the old one and with the old issuer";
      if (time - since < lifetimeMilliseconds) return `the new issuer's root is not known to every workload before ${after(since)}`;
    }
    for (const root of current.roots.difference(roots)) {
      const last = signedLast.get(root);
      if (last !== undefined && time - last < lifetimeMilliseconds)
        return `certificates under the root that was removed (SHA-256 ${root.slice(0, 23)}…) may live until ${after(last)}: keep it in root-cert.pem until then`;
    }
    return null;
  }

  const after = (time: number): string => new Date(time + lifetimeMilliseconds).toISOString();

  return { judge };
}

function anchorsOf({ roots, chain, issuer }: Material): Anchors {
  const certificates = (roots.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map(
    (pem) => new X509Certificate(pem),
  );
  const top = chain.length === 0 ? issuer.certificate : new X509Certificate(chain.at(-1) ?? "");
  // readBundle has seen to it that there is one.
  const anchor = certificates.find((root) => root.raw.equals(top.raw) || (top.checkIssued(root) && top.verify(root.publicKey)));
  return { roots: new Set(certificates.map(({ fingerprint256 }) => fingerprint256)), anchor: anchor?.fingerprint256 ?? "" };
}
