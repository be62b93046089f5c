// Which change of an authority's roots a running mesh survives: workloads learn of roots with their certificates, so a root must have been handed
// out for a whole lifetime before anything is signed under it, and nothing signed under a root may live when it goes.
import { X509Certificate } from "node:crypto";
import { z } from "zod";
import type { Material } from "./signing.ts";

export type Rotation = {
  /** Why the change must not be made now, with what to do; null when it may, and then it counts as made. */
  judge(next: Material, now: Date): string | null;
  /** The same without making it. */
  refuses(next: Material, now: Date): string | null;
  /** What the next start of control has to know. */
  history(): History;
  /** What another replica knows of the same roots; of two times the later one counts. */
  adopt(other: History): void;
};

const times = z.record(z.string(), z.iso.datetime());
/** By SHA-256 of each root in force: since when it is handed out, and when it signed last if it does not sign now. */
const History = z.strictObject({ anchor: z.string(), handedOut: times, signedLast: times });
export type History = z.infer<typeof History>;

export const formatHistory = ({ anchor, handedOut, signedLast }: History): string =>
  JSON.stringify({ anchor, handedOut: sorted(handedOut), signedLast: sorted(signedLast) } satisfies History);
/** Throws when it is not what formatHistory wrote. */
export const parseHistory = (text: string): History => History.parse(JSON.parse(text));

const sorted = (record: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));

/** Fingerprints. `anchor`: of the root that the issuer leads to. */
type Anchors = { readonly roots: ReadonlySet<string>; readonly anchor: string };

/** Of the material that was in force first, nothing is known from before. */
export function beginRotation(first: Material, now: Date, lifetimeMilliseconds: number): Rotation {
  const { roots, anchor } = anchorsOf(first);
  const all = Object.fromEntries([...roots].map((root) => [root, now.toISOString()]));
  return resumeRotation({ anchor, handedOut: all, signedLast: all }, lifetimeMilliseconds);
}

/** Goes on where an earlier start was: what is in force now has to be judged before it is used. */
export function resumeRotation(history: History, lifetimeMilliseconds: number): Rotation {
  let current: Anchors = { roots: new Set(Object.keys(history.handedOut)), anchor: history.anchor };
  const handedOut = parsed(history.handedOut);
  const signedLast = parsed(history.signedLast);

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

  return {
    judge,
    refuses: (next, at) => refusal(anchorsOf(next), at.getTime()),
    history: () => ({ anchor: current.anchor, handedOut: formatted(handedOut), signedLast: formatted(signedLast, current.anchor) }),
    adopt: (other) => {
      for (const root of current.roots) {
        later(handedOut, root, other.handedOut[root]);
        later(signedLast, root, other.signedLast[root]);
      }
    },
  };
}

const parsed = (record: Readonly<Record<string, string>>): Map<string, number> =>
  new Map(Object.entries(record).map(([root, at]) => [root, Date.parse(at)]));

/** Of the root that signs now the last time is not told: it would be another one every time. */
const formatted = (record: ReadonlyMap<string, number>, signing?: string): Record<string, string> =>
  Object.fromEntries([...record].filter(([root]) => root !== signing).map(([root, at]) => [root, new Date(at).toISOString()]));

function later(record: Map<string, number>, root: string, at: string | undefined): void {
  if (at !== undefined) record.set(root, Math.max(record.get(root) ?? 0, Date.parse(at)));
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
