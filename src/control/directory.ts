// Control on a directory: documents, keys and one token for each node in files of this host.
import { openAuthority } from "#ca/local.ts";
import { makeDirectory, requireDirectory } from "#mesh/directory.ts";
import { explainError } from "#mesh/error.ts";
import { directorySource } from "#source/directory.ts";
import type { Log } from "./log.ts";
import type { DirectoryOptions } from "./options.ts";
import { nobody } from "./people.ts";
import type { Platform } from "./platform.ts";
import { openTokens } from "./tokens.ts";

export function directoryPlatform({ mesh, state, tokens }: DirectoryOptions, log: Log): Platform {
  requireDirectory("--mesh", mesh); // before keys are made for a mistyped command line
  makeDirectory("--tokens", tokens);
  const authority = openAuthority(state);
  return {
    source: directorySource(mesh),
    authority,
    callers: openTokens(tokens, tokenFaults(log)),
    viewers: nobody,
    announce: async () => undefined, // only root asks here, and on the nodes
    peers: () => [],
    serverNames: ["localhost"],
    herald: null,
    described: `directory ${mesh}`,
    maintain: async () => {
      if (authority.renew()) log.info({ notAfter: authority.expiry().issuer }, "issuer replaced");
    },
    observe: () => undefined,
    close: async () => undefined,
  };
}

/** A node's token fault is told once, not at every look. */
function tokenFaults(log: Log): (fault: { node: string; error: unknown }) => void {
  const told = new Map<string, string>();
  return ({ node, error }) => {
    const reason = explainError(error);
    if (told.get(node) === reason) return;
    told.set(node, reason);
    log.error({ node, reason }, "the node has no usable token and cannot connect");
  };
}
