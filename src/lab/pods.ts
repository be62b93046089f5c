// A pod's own world and its programs: a mount namespace with its resolv.conf, hosts and /run, a host name, and the containers' processes.
import type { ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { PodPlace } from "./api.ts";
import type { LabContainer, LabPod } from "./documents.ts";
import { type Children, newPlace, tail } from "./place.ts";
import { until } from "./until.ts";

const FURNISH_DEADLINE_MS = 5000;
const LISTEN_DEADLINE_MS = 20_000;
const TCP_LISTEN = "0A";
const OWN_NETNS = "/proc/self/ns/net";

// The pod's first process holds its namespaces, as a pause container does. The pod gets its own empty /run: no admin socket and no other
// pod's namespace is in sight. resolv.conf may be a link into /run, hence its path is resolved after that.
const PAUSE = `set -e
dir=$1 name=$2
cd "$dir" # still there when /run is covered
mount -n -t tmpfs -o mode=0755 tmpfs /run
cp resolv.conf hosts /run/
for file in resolv.conf hosts; do
  target=$(readlink -m "/etc/$file"); mkdir -p "$(dirname "$target")"; [ -e "$target" ] || touch "$target"
  mount -n --bind "/run/$file" "$target"
done
mkdir -p /run/tmp && chmod 1777 /run/tmp
hostname "$name"
echo furnished
cd / && exec sleep infinity`;

type PodName = Pick<LabPod, "namespace" | "name">;

const ownDirectory = (directory: string, pod: PodName): string => join(directory, "pods", `${pod.namespace}_${pod.name}`);

/** File with the process id, as the sandbox counts, that holds the pod's namespaces. */
export const pauseFile = (directory: string, pod: PodName): string => join(ownDirectory(directory, pod), "pause.pid");

/** The prefix that runs a command inside a pod. */
export const enterPod = (pause: number, workingDirectory: string): string[] => [
  "nsenter",
  `--target=${pause}`,
  "--net",
  "--mount",
  "--uts",
  `--wdns=${workingDirectory}`,
  "--",
];

/** Makes the pod's mount and host-name namespaces; the network namespace is there already. */
export async function furnishPod(pod: LabPod, directory: string, mesh: string, resolvConf: string, children: Children): Promise<PodPlace> {
  const own = ownDirectory(directory, pod);
  mkdirSync(own, { recursive: true });
  const hosts = ["127.0.0.1 localhost", "::1 localhost", ...pod.ips.map((ip) => `${ip} ${pod.name}`)];
  writeFileSync(join(own, "resolv.conf"), resolvConf);
  writeFileSync(join(own, "hosts"), `${hosts.join("\n")}\n`);
  const holder = ["nsenter", `--net=${pod.netns}`, "--", "unshare", "--mount", "--uts", "--", "sh", "-c", PAUSE, "pause", own, pod.name];
  const pause = await furnished(pod, children.start(holder, "pipe"));
  writeFileSync(pauseFile(directory, pod), `${pause}\n`);
  const place = newPlace(`${pod.namespace}/${pod.name}`, pod.netns, enterPod(pause, mesh), children);
  return { ...place, namespace: pod.namespace, node: pod.node, ips: pod.ips, pause, pids: [] };
}

async function furnished(pod: LabPod, child: ChildProcess): Promise<number> {
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  const what = `pod ${pod.namespace}/${pod.name} has its namespaces`;
  return until(
    what,
    () => said.includes("furnished") && child.pid,
    FURNISH_DEADLINE_MS,
    () => said,
  );
}

/** Starts the pod's programs and waits until each declared port is listened on. */
export async function startContainers(
  pod: LabPod,
  place: PodPlace,
  directory: string,
  mesh: string,
  children: Children,
): Promise<PodPlace> {
  const programs = pod.containers.filter(({ command, args }) => command.length + args.length > 0);
  const pids = await Promise.all(
    programs.map(async (container) => {
      const child = startContainer(pod, container, place.pause, directory, mesh, children);
      await listening(pod, container, child, logOf(directory, pod, container));
      return child.pid ?? [];
    }),
  );
  return { ...place, pids: pids.flat() };
}

function startContainer(
  pod: LabPod,
  container: LabContainer,
  pause: number,
  directory: string,
  mesh: string,
  children: Children,
): ChildProcess {
  const env = Object.fromEntries(container.env.map(({ name, value }) => [name, value]));
  const enter = enterPod(pause, resolve(mesh, container.workingDir));
  const log = logOf(directory, pod, container);
  return children.start([...enter, ...container.command, ...container.args], { log }, { TMPDIR: "/run/tmp", ...env });
}

const logOf = (directory: string, pod: LabPod, container: LabContainer): string =>
  join(directory, "logs", `${pod.namespace}.${pod.name}.${container.name}.log`);

async function listening(pod: LabPod, container: LabContainer, child: ChildProcess, log: string): Promise<void> {
  const pid = child.pid;
  const wanted = container.ports.filter(({ protocol }) => protocol === "TCP").map(({ containerPort }) => containerPort);
  if (pid === undefined || wanted.length === 0) return;
  const what = `pod ${pod.namespace}/${pod.name} listens on ${wanted.join(", ")}`;
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
  const listens = (): boolean => hasEntered(pid) && wanted.every((port) => listeningPorts(pid).has(port));
  await until(
    what,
    () => hasEnded() || listens(),
    LISTEN_DEADLINE_MS,
    () => tail(log),
  );
  if (hasEnded())
    throw new Error(
      `pod ${pod.namespace}/${pod.name}: container ${container.name} ended (${child.exitCode ?? child.signalCode})\n${tail(log)}`,
    );
}

const hasEntered = (pid: number): boolean => readlinkSync(`/proc/${pid}/ns/net`) !== readlinkSync(OWN_NETNS);

/** TCP ports with a listener in the network namespace of a process, both families. */
export function listeningPorts(pid: number): Set<number> {
  const lines = ["tcp", "tcp6"].flatMap((file) => readFileSync(`/proc/${pid}/net/${file}`, "latin1").split("\n").slice(1));
  const ports = lines.map((line) => line.trim().split(/\s+/)).filter(([, , , state]) => state === TCP_LISTEN);
  return new Set(ports.map(([, local]) => Number.parseInt(local?.split(":")[1] ?? "", 16)));
}
