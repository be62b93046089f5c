// Starts the daemon: parse → build → spawn → drain.

import { readFileSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { CommanderError } from "commander";
import { findBinary } from "#engine/binary.ts";
import { explainError, isMeshError } from "#mesh/error.ts";
import { compare } from "#redirect/compare.ts";
import { nftBackend } from "#redirect/nft.ts";
import { plan } from "#redirect/plan.ts";
import { directorySource } from "#source/directory.ts";
import { buildDaemon, type DaemonParts } from "./daemon.ts";
import { createLog } from "./log.ts";
import { type DaemonOptions, parseOptions } from "./options.ts";

const EXIT_USAGE = 64;

/** Checks everything and touches nothing; null when help was asked for. */
function parse(): { readonly options: DaemonOptions; readonly helper: string } | number {
  try {
    return { options: parseOptions(process.argv.slice(2)), helper: findBinary("trackbed-netns") };
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE; // it has printed what was wrong by itself
    process.stderr.write(`${explainError(error)}\n`);
    return isMeshError(error) && error.code === "E_USAGE" ? EXIT_USAGE : 1;
  }
}

async function run(options: DaemonOptions, helper: string): Promise<number> {
  const { log, flush } = createLog(options.node, options.log);
  const asked = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => asked.resolve(signal));
  try {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
    const parts: DaemonParts = {
      version,
      helper,
      log,
      source: directorySource(options.mesh),
      backend: nftBackend(),
      planOf: ({ capture }) => plan(capture),
      compare,
    };
    const daemon = await buildDaemon(options, parts);
    flushCompileCache(); // where the launcher keeps one: a daemon that is killed has written it all the same
    const ended = daemon.run().then(() => "the end of its sources");
    const why = await Promise.race([asked.promise, ended]);
    log.info({ why }, "daemon drains; rules and engine stay as they are");
    await daemon.drain();
    return 0;
  } catch (error) {
    log.fatal({ error: explainError(error) }, "the daemon cannot go on");
    process.stderr.write(`${explainError(error)}\n`);
    return 1;
  } finally {
    flush();
  }
}

const parsed = parse();
process.exit(typeof parsed === "number" ? parsed : await run(parsed.options, parsed.helper));
