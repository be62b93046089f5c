// Starts the daemon: parse → build → spawn → drain.

import { readFileSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { CommanderError } from "commander";
import type { Logger } from "pino";
import { findBinary } from "#engine/binary.ts";
import { explainError, isMeshError } from "#mesh/error.ts";
import { chooseBackend } from "#redirect/choose.ts";
import { plan } from "#redirect/plan.ts";
import { directorySource } from "#source/directory.ts";
import { connectApi } from "#source/kubernetes/api.ts";
import { labelledPods, nodeResources } from "#source/kubernetes/resources.ts";
import { kubernetesSource } from "#source/kubernetes.ts";
import { createCluster } from "./cluster.ts";
import { buildDaemon, type DaemonParts } from "./daemon.ts";
import { createLog } from "./log.ts";
import { type DaemonOptions, parseOptions } from "./options.ts";

const EXIT_USAGE = 64;

type Parsed = { readonly options: DaemonOptions; readonly helper: string; readonly plugin: string };

/** Checks everything and touches nothing; null when help was asked for. */
function parse(): Parsed | number {
  try {
    const options = parseOptions(process.argv.slice(2));
    const plugin = options.kubernetes === null ? "" : (options.kubernetes.cniPlugin ?? findBinary("trackbed-cni"));
    return { options, helper: findBinary("trackbed-netns"), plugin };
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE; // it has printed what was wrong by itself
    process.stderr.write(`${explainError(error)}\n`);
    return isMeshError(error) && error.code === "E_USAGE" ? EXIT_USAGE : 1;
  }
}

async function run({ options, helper, plugin }: Parsed): Promise<number> {
  const { log, flush } = createLog(options.node, options.log);
  const asked = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => asked.resolve(signal));
  try {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
    const { kubernetes, node, run } = options;
    const { backend, hostRules, refused } = await chooseBackend(options.redirect);
    log.info({ backend: backend.name, refused }, "how pods are captured on this node");
    const api = kubernetes === null ? null : await connectApi(kubernetes.kubeconfig);
    const parts: DaemonParts = {
      version,
      helper,
      log,
      source:
        api === null
          ? directorySource(options.mesh ?? "")
          : kubernetesSource({ api, resources: nodeResources(node), onRestart: told(log) }),
      cluster:
        api === null || kubernetes === null
          ? null
          : createCluster({
              options: kubernetes,
              api,
              helper,
              plugin,
              hostRules,
              adopt: options.adopt,
              run,
              log,
              labelled: labelledPods(options.adopt).map((resource) =>
                kubernetesSource({ api, resources: [resource], onRestart: told(log) }),
              ),
            }),
      backend,
      planOf: ({ capture }) => plan(capture),
      compare: backend.compare,
    };
    const daemon = await buildDaemon(options, parts);
    flushCompileCache(); // where the launcher keeps one: a daemon that is killed has written it all the same
    const ended = daemon.run().then(() => "the end of its sources");
    const why = await Promise.race([asked.promise, ended]);
    log.info({ why }, "daemon drains; rules and engine stay as they are");
    await daemon.drain();
    await api?.close();
    return 0;
  } catch (error) {
    log.fatal({ error: explainError(error) }, "the daemon cannot go on");
    process.stderr.write(`${explainError(error)}\n`);
    return 1;
  } finally {
    flush();
  }
}

/** A watch that the server closes is everyday; one that breaks is worth a line. */
const told =
  (log: Logger) =>
  (path: string, cause: string, error: unknown): void => {
    if (error === null || error === undefined) log.debug({ path, cause }, "a watch began again");
    else log.warn({ path, cause, error: explainError(error) }, "a watch broke and is made again");
  };

const parsed = parse();
process.exit(typeof parsed === "number" ? parsed : await run(parsed));
