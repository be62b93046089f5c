// `trackbed node …`: what runs on a node itself, in the init containers of our pods or by an operator's hand.
import { hostname } from "node:os";
import type { Command } from "commander";
import { Option } from "commander";
import { paths } from "#contract/tables.ts";
import type { Format } from "../outcome.ts";
import { runNodeCheck } from "./check.ts";
import { runNodeClean, runNodeProfile, runNodeWait } from "./files.ts";

const collect = (value: string, all: string[]): string[] => [...all, value];

export function addNodeCommands(program: Command, act: (result: Promise<number>) => void): void {
  const node = program.command("node").description("on a node: what the pods of an installation run before and after the daemon");
  node
    .command("check")
    .description("try on this node what the mesh will do on it, and say what it lacks")
    .option("--cni-bin <dir>", "where the runtime looks for CNI plugins", "/opt/cni/bin")
    .option("--cni-conf <dir>", "and for their configuration", "/etc/cni/net.d")
    .option("--report <file>", "write what was found there, in the form that the API server is told")
    .addOption(new Option("-o, --output <format>", "how to answer").choices(["text", "json"]).default("text"))
    .action((options: { cniBin: string; cniConf: string; report?: string; output: Format }) =>
      act(runNodeCheck({ ...options, report: options.report }, hostname(), options.output)),
    );
  node
    .command("profile")
    .description("put the engine's seccomp profile where the kubelet looks for it")
    .requiredOption("--directory <dir>", "the kubelet's directory of seccomp profiles")
    .requiredOption("--profile <path>", "name of the profile below it")
    .option("--run <dir>", "directory shared with the daemon, made private", paths.run)
    .action(({ directory, profile, run }: { directory: string; profile: string; run: string }) =>
      act(runNodeProfile(directory, profile, run)),
    );
  node
    .command("clean")
    .description("remove what an installation left on this node's disk")
    .option("--directory <dir>", "a directory named trackbed (repeatable)", collect, [])
    .option("--file <path>", "the CNI plugin (repeatable)", collect, [])
    .action(({ directory, file }: { directory: string[]; file: string[] }) =>
      act(Promise.resolve().then(() => runNodeClean(directory, file))),
    );
  node
    .command("wait")
    .description("do nothing until told to end")
    .action(() => act(runNodeWait()));
}
