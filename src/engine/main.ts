// The launcher process: what starts a node in directory mode. Daemon and engine live and die apart; this process only starts them again.
import { existsSync } from "node:fs";
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { type LaunchOptions, launch } from "#engine/launcher.ts";
import { privateDirectory } from "#engine/socket.ts";
import { requireDirectory } from "#mesh/directory.ts";
import { explainError, isMeshError } from "#mesh/error.ts";

const EXIT_USAGE = 64;

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 64) throw new InvalidArgumentError("expected a number from 1 to 64");
  return value;
}

function program(path: string): string {
  if (!existsSync(path)) throw new InvalidArgumentError("no such file");
  return path;
}

function parse(argv: readonly string[]): LaunchOptions {
  const command = new Command("trackbed-launcher")
    .description("Start the daemon and the engine of one node, restart each when it dies, end both on SIGTERM.")
    .requiredOption("--node <name>", "name of this node, as the Pods name it")
    .requiredOption("--mesh <dir>", "directory with the mesh's documents")
    .requiredOption("--run <dir>", "root-only directory that daemon and engine share")
    .requiredOption("--control <url>", "https://ADDRESS:15012")
    .requiredOption("--root <file>", "PEM of control's root certificate")
    .requiredOption("--token <file>", "this node's token")
    .option("--cluster-domain <name>", "DNS domain of services until control says it for the first time")
    .option("--engine <path>", "path of trackbed-engine", program)
    .option("--health <addr>", "address of the daemon's /healthz/ready and /metrics")
    .option("--metrics <addr>", "address of the engine's metrics")
    .option("--workers <n>", "worker threads of the engine", count)
    .exitOverride();
  return command.parse([...argv], { from: "user" }).opts<LaunchOptions>();
}

function exitCode(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  return isMeshError(error) && error.code === "E_USAGE" ? EXIT_USAGE : 1;
}

try {
  const options = parse(process.argv.slice(2));
  requireDirectory("--mesh", options.mesh);
  await privateDirectory(options.run);
  const launcher = launch(options);
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void launcher.stop());
  const code = await launcher.ended;
  await launcher.stop();
  process.exitCode = code;
} catch (error) {
  process.exitCode = exitCode(error);
  // Commander has printed help or what was wrong by itself.
  if (!(error instanceof CommanderError)) process.stderr.write(`trackbed-launcher: ${explainError(error)}\n`);
}
