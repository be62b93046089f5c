// `trackbed version`: this program, the contract it speaks, and what runs on the nodes when there are any.
import { readFileSync } from "node:fs";
import { product } from "#contract/tables.ts";
import { askAll, findDaemons, status } from "./daemons.ts";
import { type Exit, exit, type Format, isDaemonAway } from "./outcome.ts";

export const version = (): string => {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
  return version;
};

export async function runVersion(runs: readonly string[], format: Format): Promise<Exit> {
  const nodes = await runningVersions(runs);
  const own = { version: version(), contract: product.contractVersion, runtime: process.versions.node };
  if (format === "json") console.log(JSON.stringify({ ...own, nodes }));
  else {
    console.log(`trackbed ${own.version} (contract ${own.contract}, Node ${own.runtime})`);
    for (const { node, daemon, engine } of nodes) console.log(`${node}: daemon ${daemon}, engine ${engine ?? "away"}`);
  }
  return exit.ok;
}

async function runningVersions(runs: readonly string[]): Promise<{ node: string; daemon: string; engine: string | null }[]> {
  try {
    const { answers } = await askAll(findDaemons(runs), status);
    return answers.map(({ node, version, engine }) => ({ node, daemon: version, engine: engine.version }));
  } catch (error) {
    if (isDaemonAway(error) && runs.length === 0) return []; // nothing runs here, which is no fault of a version
    throw error;
  }
}
