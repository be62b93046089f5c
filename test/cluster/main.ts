// bin/cluster: the test cluster by hand: up, down, a shell or command in it, images onto it, plugs and programs pulled.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { Argument, Command } from "commander";
import { upChurn } from "./churn/up.ts";
import { conformance } from "./conformance.ts";
import { load } from "./load.ts";
import { enter, machinePid, powerOff, powerOn } from "./machine/power.ts";
import { ACTIONS, type ProgramAction, program } from "./machine/program.ts";
import { CONTROL_PLANE, ROOT, readSettings } from "./settings.ts";
import { down, up } from "./up.ts";

const HOW = `
The API server, nodes, pods and cluster IPs are reached from the cluster's own network:
  bin/cluster sh                       a shell there, with kubectl and trackbed in its PATH
  bin/cluster in cp kubectl get pods -A -o wide
  bin/cluster in node1 nft list ruleset     all namespaces of a node, as ssh would
  bin/cluster reboot node2             a power cut
  make cluster-down                    1 s, nothing left
`;

const settings = readSettings();
const began = performance.now();
const say = (text: string): void => console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}`);

const command = new Command("cluster")
  .enablePositionalOptions()
  .description("A real Kubernetes on this machine, for tests. Settings are TRACKBED_CLUSTER*: see test/cluster/README.md.");
command
  .command("up")
  .description("start the cluster, or whatever of it is off; builds what is missing")
  .action(async () => {
    await (settings.kubelet === "real" ? up : upChurn)(settings, say);
    console.log(HOW);
  });
command
  .command("down")
  .description("stop it and erase everything")
  .option("--keep-disks", "keep the disks: the next up is a boot, not a birth", false)
  .action(({ keepDisks }: { keepDisks: boolean }) => down(settings, keepDisks));
command
  .command("sh")
  .description("a shell in the cluster's network")
  .action(() => within(CONTROL_PLANE, [process.env["SHELL"] || "bash"]));
command
  .command("in <machine> <command...>")
  .description("run a command in a machine: cp (its network only) or a node (all its namespaces)")
  .passThroughOptions()
  .allowUnknownOption()
  .action((machine: string, argv: string[]) => within(machine, argv));
command
  .command("load <files...>")
  .description("put image archives on every node")
  .action((files: string[]) => load(settings, files));
command
  .command("conformance [flags...]")
  .description("the Gateway API conformance suite: what this version claims, in the mesh; flags of the suite follow --")
  .option("--core", "only what needs no routes and no mesh", false)
  .passThroughOptions()
  .allowUnknownOption()
  .action(async (flags: string[], { core }: { core: boolean }) => {
    process.exitCode = (await conformance(settings, say, core ? "core" : "claimed", flags)).code;
  });
command
  .command("reboot <node>")
  .description("pull a node's plug and start it again")
  .option("--off <seconds>", "time without power", "0")
  .action(async (node: string, { off }: { off: string }) => {
    await powerOff(settings, node);
    await new Promise((resolve) => setTimeout(resolve, Number(off) * 1000));
    await powerOn(settings, node);
  });
command
  .command("program")
  .addArgument(new Argument("<action>", "stop lasts until start; restart takes half a second").choices(ACTIONS))
  .argument("<machine>")
  .argument("<name>", "etcd, kube-apiserver, kube-controller-manager, kube-scheduler; containerd, kubelet, kube-proxy")
  .description("kill -9 one program of a machine")
  .action((action: ProgramAction, machine: string, name: string) => program(settings, action, machine, name));

async function within(machine: string, argv: readonly string[]): Promise<void> {
  const pid = await machinePid(settings, machine);
  if (pid === null) throw new Error(`${machine} is off: run "make cluster"`);
  const [name = "", ...args] = enter(settings, machine, argv, pid);
  const paths = [settings.bin, join(ROOT, "bin"), join(ROOT, "node_modules/.bin"), process.env["PATH"] ?? ""];
  const env = { ...process.env, PATH: paths.join(":"), KUBECONFIG: settings.kubeconfig };
  const child = spawn(name, args, { stdio: "inherit", env });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  process.exitCode = await new Promise<number>((resolve, reject) => child.once("error", reject).once("exit", (code) => resolve(code ?? 1)));
}

try {
  await command.parseAsync();
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
