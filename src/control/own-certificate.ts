// The certificate that control shows to daemons: made at start, replaced at half its life; and the warning before the authority's own end.
import { networkInterfaces } from "node:os";
import type { Authority } from "#ca/authority.ts";
import type { ServerCertificate, ServingAuthority } from "#ca/signing.ts";
import type { Log } from "./log.ts";
import type { ControlOptions } from "./options.ts";

export type OwnCertificate = ServerCertificate & { readonly madeAt: number };

const DAY_SECONDS = 86_400;
/** A root with less left than this is warned of. */
const WARN_ROOT_SECONDS = 365 * DAY_SECONDS;
/** And an issuer with less of its life: it should have been renewed when a third was left. */
const WARN_ISSUER_PART = 1 / 6;

/** Valid for every address where daemons may reach us: those named, and for a wildcard all of this host's. */
export function makeOwnCertificate(authority: ServingAuthority, names: readonly string[], { listen }: ControlOptions): OwnCertificate {
  const hosts = listen.map(({ host }) => host);
  const wildcard = hosts.some((host) => host === "0.0.0.0" || host === "::");
  const local = wildcard ? Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address)) : [];
  const addresses = [...new Set([...hosts, ...local, "127.0.0.1", "::1"])].filter((address) => !address.includes("%"));
  return { ...authority.serverCertificate({ names, addresses }), madeAt: Date.now() };
}

export const isHalfOver = ({ notAfter, madeAt }: OwnCertificate): boolean => Date.now() > madeAt + (notAfter.getTime() - madeAt) / 2;

export function warnOfExpiry(authority: Authority, log: Log): NodeJS.Timeout {
  const warn = (): void => {
    const { root, issuer, issuerSince } = authority.expiry();
    const life = (issuer.getTime() - issuerSince.getTime()) / 1000;
    for (const [kind, end, least] of [
      ["root", root, WARN_ROOT_SECONDS],
      ["issuer", issuer, life * WARN_ISSUER_PART],
    ] as const) {
      const seconds = secondsUntil(end);
      if (seconds < least)
        log.warn({ kind, notAfter: end, days: Math.floor(seconds / DAY_SECONDS) }, "an authority's certificate ends soon");
    }
  };
  warn();
  return setInterval(warn, DAY_SECONDS * 1000);
}

export const secondsUntil = (end: Date): number => Math.round((end.getTime() - Date.now()) / 1000);
