// The command line: parse → build → run. Each command is a function in a file of its own name and answers with an exit code.
import { Command, CommanderError, Option } from "commander";
import { runConnection } from "./ask/connection.ts";
import { runEnforce } from "./ask/enforce.ts";
import { type FlowOptions, isFlowId, runFlow } from "./ask/flow.ts";
import { type GenerateOptions, runGenerate } from "./ask/generate.ts";
import { runSimulate, type SimulateOptions } from "./ask/simulate.ts";
import { addClusterCommands, withTarget } from "./cluster/commands.ts";
import { runDemo } from "./demo/demo.ts";
import { runExec } from "./exec.ts";
import { runExplain } from "./explain.ts";
import { type FlowsOptions, runFlows } from "./flows.ts";
import { type HubbleOptions, runHubble } from "./hubble.ts";
import { addNodeCommands } from "./node/commands.ts";
import { describeError, exit, exitOf, type Format } from "./outcome.ts";
import { type PcapOptions, runPcap } from "./pcap.ts";
import { runRescue } from "./rescue.ts";
import { runTop, SORTS, type TopOptions } from "./top.ts";
import { runVerify, type VerifyOptions } from "./verify.ts";
import { runVersion, version } from "./version.ts";
import { runStatusSomewhere, type Where } from "./where.ts";

type Common = { readonly run: string[]; readonly output: Format };

const collect = (value: string, all: string[]): string[] => [...all, value];

/** Documents instead of what daemons hold. */
const withWritten = (command: Command): Command =>
  withTarget(command)
    .option("--directory <dir>", "ask about the documents in this directory, as control would compile them")
    .option("--trust-domain <name>", "with documents: first part of every identity (default: as control was told, else cluster.local)")
    .option("--root-namespace <name>", "with documents: its policies govern the whole mesh");

/** What was seen. */
const withObserved = (command: Command): Command =>
  command
    .option("--since <time>", "what was seen from then on: 10m ago, or 2026-01-31T12:00:00Z (default: all that nodes keep)")
    .option("--flows <file>", "lines of trackbed flows -o json instead of what nodes keep (repeatable; - is standard input)", collect, [])
    .option("--account <namespace/name>", "in a cluster: the ServiceAccount that asks for what was seen");

const outputOption = (): Option => new Option("-o, --output <format>", "how to answer").choices(["text", "json"]).default("text");

function parse(act: (result: Promise<number>) => void): Command {
  const program = new Command("trackbed")
    .description("A service mesh that lives on the node.")
    .version(version(), "-V, --version")
    .exitOverride()
    .showHelpAfterError("(see trackbed --help)")
    .addHelpText(
      "after",
      `
Daemons are looked for in --run DIR, then TRACKBED_RUN, then /run/trackbed, then every lab that runs on this machine. status asks the cluster
that --kubeconfig, --context or KUBECONFIG names, and without daemon or lab that of ~/.kube/config.

Exit codes: 0 fine · 1 not healthy, or it did not work · 64 wrong command line · 69 no daemon or no API server can be reached`,
    );
  const asking = (name: string, description: string): Command =>
    program
      .command(name)
      .description(description)
      .option("--run <dir>", "run directory of a daemon (repeatable)", collect, [])
      .addOption(outputOption());

  program
    .command("demo")
    .description("bring up the example mesh on this machine, check it step by step, and leave it up to play with")
    .option("--once", "end after the checks, with exit code 0 or 1", false)
    .option("--mesh <dir>", "where to put the working copy of the example (default: .cache/demo/mesh of this checkout)")
    .addOption(outputOption())
    .action((options: { once: boolean; mesh?: string; output: Format }) => act(runDemo(options)));
  withTarget(asking("status", "nodes and pods: state, identity, and why something is not ready")).action(
    (options: Common & { kubeconfig?: string; context?: string }) => act(runStatusSomewhere(options)),
  );
  const onFlows = (name: string, description: string): Command =>
    withTarget(asking(name, description))
      .option("-n, --namespace <name>", "only with one end in this namespace")
      .option("--account <namespace/name>", "of a cluster: the ServiceAccount whose right counts (default: the viewer of all)");
  onFlows("flows", "connections and requests: who, to whom, by which path, and what decided")
    .argument("[filter]", "such as 'source.workload == web && verdict == denied'; docs/flows.md has the fields")
    .option("-f, --follow", "go on with those to come", false)
    .option("--since <time>", "from then on: 10m ago, or 2026-01-31T12:00:00Z")
    .option("--until <time>", "before then")
    .option("--limit <count>", "the last so many")
    .option("--by <fields>", "in the place of records: edges of days, added up by these fields (between commas)")
    .option("--step <duration>", "with --by: a row for each stretch of time")
    .addOption(new Option("--verdict <verdict>", "only these").choices(["allowed", "denied", "failed"]))
    .action((filter: string | undefined, { output, ...options }: Common & FlowsOptions) =>
      act(runFlows({ ...options, ...(filter === undefined ? {} : { filter }) }, output)),
    );
  onFlows("top", "edges as they are now: rate, failures, latency, bytes")
    .argument("[filter]", "as of flows --by")
    .addOption(new Option("--sort <column>", "the largest first").choices([...SORTS]).default("rate"))
    .option("--window <duration>", "what is looked at", "1m")
    .option("--limit <count>", "rows; default: as many as fit, or 20")
    .option("--once", "print one table and end", false)
    .action((filter: string | undefined, { output, ...options }: Common & TopOptions) =>
      act(runTop({ ...options, ...(filter === undefined ? {} : { filter }) }, output)),
    );
  withTarget(
    program
      .command("hubble")
      .description("serve flows to programs of this machine that speak with Hubble, until it is ended")
      .option("--listen <place>", "unix:/PATH or 127.0.0.1:PORT (default: a socket that only its owner can reach)")
      .option("-n, --namespace <name>", "only with one end in this namespace")
      .option("--account <namespace/name>", "of a cluster: the ServiceAccount whose right counts (default: the viewer of all)")
      .option("--run <dir>", "run directory of a daemon (repeatable)", collect, []),
  ).action((options: HubbleOptions) => act(runHubble(options)));
  onFlows("verify", "proof that traffic between two ends is mutual TLS: identities, certificates, cipher of each connection that was seen")
    .argument("<source>", "NAMESPACE/WORKLOAD")
    .argument("<destination>", "NAMESPACE/WORKLOAD")
    .option("--since <time>", "connections from then on", "5m")
    .option("--watch <duration>", "how long the wire between them is watched; 0s: not at all", "3s")
    .action((source: string, destination: string, { output, ...options }: Common & VerifyOptions) =>
      act(runVerify(source, destination, options, output)),
    );
  withWritten(asking("explain", "what would become of a connection, and why; what decided one that happened; or how a pod stands"))
    .argument("<what>", "who connects: pod/NAME, deployment/NAME, NAMESPACE/SERVICE-ACCOUNT, spiffe://… or an address; or a flow's id")
    .argument("[destination]", "HOST:PORT, where host is a name, an address or pod/NAME; without: how the pod stands")
    .option("-n, --namespace <name>", "the pod's namespace, where its name alone is not clear")
    .option("--method <method>", "of a request, for the waypoint on its way (default GET where --path or --header is given)")
    .option("--path <path>", "of the request, with its query (default /)")
    .option("--header <header>", "of the request, NAME: VALUE (repeatable)", collect, [])
    .option("--account <namespace/name>", "of a flow in a cluster: the ServiceAccount whose right to read it counts")
    .action((what: string, destination: string | undefined, { output, ...options }: Common & FlowOptions) => {
      if (destination !== undefined) act(runConnection(what, destination, options, output));
      else if (isFlowId(what)) act(runFlow(what, options, output));
      else act(runExplain(what, options.namespace, options.run, output));
    });
  withObserved(withWritten(asking("simulate", "what a change of policy would newly deny or allow of the connections that were seen")))
    .argument("[file...]", "documents to put over what is there: files, directories, or -")
    .option("--remove <object>", "KIND/NAMESPACE/NAME that would be taken away (repeatable)", collect, [])
    .option("--strict", "fail also for what cannot be decided", false)
    .action((files: string[], { output, ...options }: Common & SimulateOptions) => act(runSimulate(files, options, output)));
  const generate = program.command("generate").description("what could be applied, from what was seen");
  withObserved(withWritten(generate.command("policy").description("the least privilege that keeps a namespace's traffic going, as YAML")))
    .argument("<namespace>", "whose workloads are to be protected")
    .option("--run <dir>", "run directory of a daemon (repeatable)", collect, [])
    .option("--out <file>", "write it there instead of to standard output")
    .option("--enforced", "without dry run", false)
    .option("--enforce <file>", "end the dry run of this file's policies, watch, and put it back when something good is denied")
    .option("--watch <duration>", "with --enforce: how long, such as 10m", "10m")
    .addOption(outputOption())
    .action((namespace: string, { output, ...options }: Common & GenerateOptions) =>
      act(options.enforce === undefined ? runGenerate(namespace, options, output) : runEnforce(namespace, options, output)),
    );
  withTarget(
    program
      .command("pcap")
      .description("what goes over connections of pods, decrypted, as a pcapng file for Wireshark and tshark")
      .argument("<pods...>", "pod/NAME or pod/NAMESPACE/NAME")
      .option("-n, --namespace <name>", "the pods' namespace, where a name alone is not clear")
      .option("--peer <who>", "only with this other end: an address, a block of them, pod/NAME or namespace/NAME (repeatable)", collect, [])
      .option("--port <number>", "only to this port (repeatable)", collect, [])
      .option("--for <duration>", "end after this time", "1m")
      .option("--bytes <amount>", "end after so much, such as 512KB", "100MB")
      .option("--snap <amount>", "of what moves at once only so much")
      .option(
        "--redact <what>",
        "blank authorization (always, but for nothing), headers, bodies of HTTP/1; or nothing (repeatable)",
        collect,
        [],
      )
      .option("-w, --write <file>", "where to write it; - is standard output")
      .option("--account <namespace/name>", "on a cluster: the ServiceAccount that is shown to control")
      .option("--run <dir>", "run directory of a daemon (repeatable)", collect, []),
  ).action((pods: string[], options: PcapOptions & Where) => act(runPcap(pods, options, options)));
  program
    .command("exec")
    .description("run a command in a pod of a running lab")
    .argument("<pod>", "pod/NAME or pod/NAMESPACE/NAME")
    .argument("<command...>", "after --")
    .option("-n, --namespace <name>", "the pod's namespace, where its name alone is not clear")
    .option("--mesh <dir>", "mesh directory of the lab, where several run")
    .action((pod: string, command: string[], { namespace, mesh }: { namespace?: string; mesh?: string }) =>
      act(runExec(pod, namespace, mesh, command)),
    );
  program
    .command("rescue")
    .description("take Trackbed's rules and routes out of network namespaces, without daemon or control")
    .option("--netns <path>", "only this namespace (repeatable); default: every one on this machine", collect, [])
    .option("--yes", "do it; without, only tell what is there", false)
    .addOption(outputOption())
    .action((options: { netns: string[]; yes: boolean; output: Format }) => act(runRescue(options, options.output)));
  addClusterCommands(program, act);
  addNodeCommands(program, act);
  asking("version", "versions of this program and of what runs on the nodes").action(({ run, output }: Common) =>
    act(runVersion(run, output)),
  );
  return program;
}

/** Even errors keep to the format that was asked for. */
function formatOf(argv: readonly string[]): Format {
  const at = argv.findIndex((word) => word === "-o" || word === "--output");
  const value = at >= 0 ? argv[at + 1] : argv.find((word) => /^(-o=?|--output=)json$/.test(word)) && "json";
  return value === "json" ? "json" : "text";
}

async function main(argv: readonly string[]): Promise<number> {
  let result: Promise<number> = Promise.resolve(exit.ok);
  const program = parse((started) => {
    result = started;
  });
  try {
    if (argv.length === 0) program.help({ error: true });
    program.parse([...argv], { from: "user" });
    return await result;
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      console.error(describeError(error, formatOf(argv)));
      return exitOf(error);
    }
    if (error.exitCode === 0) return exit.ok; // help or version was asked for and given
    if (error.code === "commander.unknownCommand")
      console.error(`expected one of: ${program.commands.map((command) => command.name()).join(", ")}`);
    return exit.usage;
  }
}

process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? exit.ok : exit.failed));
process.exitCode = await main(process.argv.slice(2));
