// Powers machines on and off: a machine is a set of namespaces whose pid 1 is a small script, and killing that one process is a power cut.
import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { execute, run } from "../command.ts";
import { API_IP, API_IP6, CONTROL_PLANE, type Node, type Settings } from "../settings.ts";
import { makeCgroups, removeCgroups } from "./cgroup.ts";
import { environment, prepareDisk } from "./disk.ts";

const BOOT_MS = 10_000;
const LOOK_AGAIN_MS = 20;

export const netns = (settings: Settings, machine: string): string => `${settings.name}-${machine}`;
export const netnsPath = (settings: Settings, machine: string): string => join("/run/netns", netns(settings, machine));
const pidFile = (settings: Settings, machine: string): string => join(settings.state, `${machine}.pid`);

/** The pid, as seen here, of the machine's own pid 1; null when it is off. */
export async function machinePid(settings: Settings, machine: string): Promise<number | null> {
  try {
    const outer = readFileSync(pidFile(settings, machine), "utf8").trim();
    // The number may meanwhile be another process's.
    if (!readFileSync(`/proc/${outer}/cmdline`, "utf8").includes(`${import.meta.dirname}/boot.sh`)) return null;
    const [inner] = readFileSync(`/proc/${outer}/task/${outer}/children`, "utf8").split(" ");
    return Number(inner) || null;
  } catch {
    return null;
  }
}

/** The command line that runs `argv` in a machine: in all namespaces of a node, only in the network of the control plane. */
export function enter(settings: Settings, machine: string, argv: readonly string[], pid: number | null = null): string[] {
  if (machine === CONTROL_PLANE) return ["nsenter", `--net=${netnsPath(settings, machine)}`, "--", ...argv];
  if (pid === null) throw new Error(`${machine} is off`);
  return ["nsenter", "-t", String(pid), "-n", "-m", "-u", "-i", "-p", "--", ...argv];
}

export async function powerOn(settings: Settings, machine: string): Promise<void> {
  if ((await machinePid(settings, machine)) !== null) return;
  const node = settings.nodes.find(({ name }) => name === machine);
  if (node === undefined && machine !== CONTROL_PLANE)
    throw new Error(`no machine ${machine}: there are ${CONTROL_PLANE}, ${settings.nodes.map(({ name }) => name).join(", ")}`);
  mkdirSync(settings.logs, { recursive: true });
  if (node !== undefined) prepareDisk(settings, node);
  if (!existsSync(netnsPath(settings, machine))) await cable(settings, machine, node);
  makeCgroups(settings.name, machine);
  const log = openSync(join(settings.logs, `${machine}.log`), "a");
  const namespaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL", "--propagation", "private"];
  const argv = [
    `--net=${netnsPath(settings, machine)}`,
    "unshare",
    ...namespaces,
    "bash",
    `${import.meta.dirname}/boot.sh`,
    node === undefined ? CONTROL_PLANE : settings.kubelet === "real" ? "node" : "churn",
  ];
  // Its own session: Ctrl-C in a terminal is no power cut.
  const child = spawn("nsenter", argv, { detached: true, stdio: ["ignore", log, log], env: environment(settings, machine, node) });
  closeSync(log);
  child.unref();
  await new Promise<void>((resolve, reject) => child.once("spawn", resolve).once("error", reject));
  writeFileSync(pidFile(settings, machine), String(child.pid));
  await gone(`${machine} did not start: see ${settings.logs}/${machine}.log`, async () => (await machinePid(settings, machine)) === null);
}

/** As if the plug was pulled. The disk stays. */
export async function powerOff(settings: Settings, machine: string): Promise<void> {
  const pid = await machinePid(settings, machine);
  if (pid !== null) {
    process.kill(pid, "SIGKILL");
    await gone(`${machine} would not die`, () => existsSync(`/proc/${pid}`));
  }
  rmSync(pidFile(settings, machine), { force: true });
  // The kernel takes a dead namespace apart when it likes; the cable goes at once.
  if (machine !== CONTROL_PLANE && existsSync(netnsPath(settings, CONTROL_PLANE)))
    await execute(["ip", "-n", netns(settings, CONTROL_PLANE), "link", "del", machine]);
  if (existsSync(netnsPath(settings, machine))) await run(["ip", "netns", "del", netns(settings, machine)]);
  await removeCgroups(settings.name, machine);
}

async function gone(otherwise: string, there: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + BOOT_MS;
  while (await there()) {
    if (performance.now() > deadline) throw new Error(otherwise);
    await pause(LOOK_AGAIN_MS);
  }
}

/** A network namespace and its cable: the control plane has the bridge, a node one end of a veth pair and routes to the others' pods. */
async function cable(settings: Settings, machine: string, node: Node | undefined): Promise<void> {
  const name = netns(settings, machine);
  const cp = netns(settings, CONTROL_PLANE);
  await run(["ip", "netns", "add", name]);
  const own = ["link set lo up", ...(node === undefined ? BRIDGE : [])];
  if (node !== undefined) {
    await batch(cp, [`link add ${machine} type veth peer name eth0 netns ${name}`, `link set ${machine} master br0 up`]);
    own.push(
      `link set eth0 address ${node.mac}`,
      `addr add ${node.ip}/24 dev eth0`,
      `addr add ${node.ip6}/64 dev eth0 nodad`,
      "link set eth0 up",
    );
    own.push(`route add default via ${API_IP}`, `route add default via ${API_IP6}`);
  }
  const others = settings.nodes.filter((other) => other.name !== machine);
  own.push(...others.flatMap((other) => [`route add ${other.podCidr} via ${other.ip}`, `route add ${other.podCidr6} via ${other.ip6}`]));
  await batch(name, own);
  await run(enterNetwork(settings, machine, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]));
}

const BRIDGE = ["link add br0 type bridge", `addr add ${API_IP}/24 dev br0`, `addr add ${API_IP6}/64 dev br0 nodad`, "link set br0 up"];
const batch = (name: string, lines: readonly string[]): Promise<string> =>
  run(["ip", "-n", name, "-batch", "-"], { input: `${lines.join("\n")}\n` });
const enterNetwork = (settings: Settings, machine: string, argv: readonly string[]): string[] => [
  "nsenter",
  `--net=${netnsPath(settings, machine)}`,
  "--",
  ...argv,
];
