// Brings a lab up and takes it down: namespaces, links and rules from the documents, then the programs of the pods, then the mesh.
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { kubernetes, paths, ports } from "#contract/tables.ts";
import { findBinary } from "#engine/binary.ts";
import type { NodeStatus } from "#inspect/status.ts";
import type { Capture, ExecOptions, Lab, LabOptions, NodePlace, Output, Place, PodPlace, Role } from "./api.ts";
import { addPods, applyServices, type Build, buildNetwork, removePod, startDns, startPrograms } from "./build.ts";
import { startCapture } from "./capture.ts";
import { type LabNode, type LabPod, readDocuments } from "./documents.ts";
import { controlCommand, get, launcherCommand, layout, pidsOf, waypointCommand } from "./mesh.ts";
import { netnsName, UNDERLAY, UPLINK, underlayAddresses } from "./network.ts";
import { type Children, end, newChildren, newPlace, tail } from "./place.ts";
import { inOwnSandbox, LAB_DIRECTORY } from "./sandbox.ts";
import { until } from "./until.ts";

export type { Capture, ExecOptions, Lab, LabOptions, NodePlace, Output, Place, PodPlace, Role };

export const OUTSIDE_NAME = "outside.example";
const ROLES: readonly Role[] = ["launcher", "daemon", "engine", "worker"];
const STOP_GRACE_MS = 3000;
/** Requests that a waypoint has begun may take longer than a daemon's. */
const WAYPOINT_GRACE_MS = 30_000;
// Two cores start control, two daemons and two engines at once, beside whatever else they do: at a load of 40 half a minute is not enough.
const START_DEADLINE_MS = 90_000;

export async function startLab(options: LabOptions): Promise<Lab> {
  if (!inOwnSandbox()) throw new Error("a lab lives in its own sandbox: call enterSandbox() first");
  const mesh = resolve(options.mesh);
  const directory = LAB_DIRECTORY;
  for (const name of ["logs", "pods", "captures"]) mkdirSync(join(directory, name), { recursive: true });
  writeFileSync(join(directory, "mesh"), mesh); // so that the CLI finds the documents of a running lab
  const documents = readDocuments(mesh);
  const ips = underlayAddresses(documents.nodes);
  const children = newChildren();
  const underlay = newPlace("underlay", "/proc/1/ns/net", [], children);
  const external = { [OUTSIDE_NAME]: ips, ...options.externalNames };
  const build: Build = { options, mesh, directory, children, underlay, documents, pods: new Map(), external, links: 0, dns: undefined };
  const lab = assemble(build, ips);
  try {
    options.progress?.(`${documents.nodes.length} nodes and ${documents.pods.length} pods as network namespaces`);
    await buildNetwork(build);
    build.dns = await startDns(build, ips);
    await addPods(build, documents.pods);
    await applyServices(build);
    if (options.containers !== false) await startPrograms(build);
  } catch (error) {
    throw await failed(lab, error);
  }
  return lab;
}

/** The error with what the processes said last; the lab is taken down. */
async function failed(lab: Lab, cause: unknown): Promise<Error> {
  const logs = lab.tailLogs();
  await lab.stop();
  return new Error(`${cause instanceof Error ? cause.message : String(cause)}${logs === "" ? "" : `\n${logs}`}`, { cause });
}

function assemble(build: Build, ips: readonly string[]): Lab {
  const { children, directory, mesh, underlay, options } = build;
  const files = layout(directory);
  const nodes = build.documents.nodes.map((node) => nodePlace(node, directory, children));
  const launchers = new Map<string, ChildProcess>();
  const waypoints = new Map<string, ChildProcess>();
  let control: ChildProcess | undefined;
  let captures = 0;

  const node = (name: string): NodePlace => one(nodes, (place) => place.name === name, `node ${name}`);
  const pod = (name: string): PodPlace =>
    one([...build.pods.values()], (place) => name === place.name || name === place.name.split("/")[1], `pod ${name}`);
  const capture = (place: Place, device: string, filter?: string): Promise<Capture> =>
    startCapture(place, device, join(directory, "captures", `${captures++}-${place.name.replace("/", ".")}.pcap`), filter);

  const lab: Lab = {
    mesh,
    directory,
    underlay: { ...underlay, ips },
    nodes,
    get pods() {
      return [...build.pods.values()];
    },
    node,
    pod,
    startContainers: () => startPrograms(build),
    async startControl(extra = []) {
      const child = children.start(controlCommand(mesh, directory, ips, extra), { log: files.log("control") });
      control = child;
      const ready = (): Promise<string> => get({ host: "127.0.0.1", port: ports.controlHealth }, "/healthz/ready");
      await alive("control is ready", child, ready, () => tail(files.log("control")));
    },
    async stopControl(signal = "SIGKILL") {
      if (control !== undefined) await end(control, signal, STOP_GRACE_MS);
    },
    async startNode(name) {
      const place = node(name);
      const engine = options.engine ?? findBinary("trackbed-engine");
      const command = launcherCommand(name, mesh, directory, ips[0] ?? "", engine);
      const child = children.start(["nsenter", `--net=${place.netns}`, "--", ...command], { log: files.log(name) });
      launchers.set(name, child);
      await alive(
        `the daemon of ${name} answers`,
        child,
        () => statusOf(place),
        () => tail(files.log(name)),
      );
    },
    async stopNode(name) {
      const child = launchers.get(name);
      if (child !== undefined) await end(child, "SIGTERM", STOP_GRACE_MS);
      launchers.delete(name);
      await until(`the processes of ${name} are gone`, () => ROLES.every((role) => node(name).pidsOf(role).length === 0));
    },
    async startWaypoint(name) {
      const place = pod(name);
      const engine = options.engine ?? findBinary("trackbed-engine");
      const log = files.log(place.name.replace("/", "."));
      const child = children.start(waypointCommand(place, directory, ips[0] ?? "", engine), { log });
      waypoints.set(place.name, child);
      const [host = ""] = place.ips;
      const ready = (): Promise<string> => get({ host, port: ports.daemonHealth }, "/healthz/ready");
      await alive(`waypoint ${place.name} is ready`, child, ready, () => tail(log));
    },
    waypointPids(name) {
      // nsenter became the engine
      const { pid, exitCode = null, signalCode = null } = waypoints.get(pod(name).name) ?? {};
      return pid === undefined || exitCode !== null || signalCode !== null ? [] : [pid];
    },
    async stopWaypoint(name, signal = "SIGTERM") {
      const { name: full } = pod(name);
      const child = waypoints.get(full);
      if (child !== undefined) await end(child, signal, WAYPOINT_GRACE_MS);
      waypoints.delete(full);
    },
    async startMesh() {
      options.progress?.("control");
      await lab.startControl();
      options.progress?.("a daemon and an engine on each node");
      await Promise.all([
        ...nodes.map(({ name }) => lab.startNode(name)),
        ...build.documents.pods.filter(isWaypoint).map(({ namespace, name }) => lab.startWaypoint(`${namespace}/${name}`)),
      ]);
      await lab.ready();
    },
    async ready(deadlineMs = START_DEADLINE_MS) {
      await until(
        "every enrolled pod is ready",
        async () => {
          const missing = (await Promise.all([...launchers.keys()].map((name) => notReady(node(name))))).flat();
          if (missing.length > 0) throw new Error(`not ready: ${missing.join(", ")}`);
          return true;
        },
        deadlineMs,
        () => lab.tailLogs(),
      );
    },
    status: (name) => statusOf(node(name)),
    signalDns: (signal) => void build.dns?.kill(signal),
    captureWire: (name, filter) => capture(node(name), UPLINK, filter),
    // Only into the network namespace: in the pod's own /run the file could not be written.
    capturePod: (name, filter) => {
      const { name: full, netns } = pod(name);
      return capture(newPlace(full, netns, ["nsenter", `--net=${netns}`, "--"], children), "any", filter);
    },
    async reconcile() {
      build.documents = readDocuments(mesh);
      const missing = build.documents.pods.filter(({ namespace, name }) => !build.pods.has(`${namespace}/${name}`));
      await addPods(build, missing);
      await applyServices(build);
      if (options.containers !== false) await startPrograms(build);
      build.dns?.kill("SIGHUP"); // dnsmasq reads its hosts file again
    },
    async rebootPod(name) {
      const place = pod(name);
      const document = one(build.documents.pods, (each) => `${each.namespace}/${each.name}` === place.name, `document of pod ${name}`);
      await removePod(build, place);
      await addPods(build, [document]);
      if (options.containers !== false) await startPrograms(build);
      return pod(name);
    },
    tailLogs: (lines = 15) =>
      (existsSync(directory) ? readdirSync(join(directory, "logs")) : [])
        .map((file) => tail(join(directory, "logs", file), lines))
        .filter((text) => text !== "")
        .join("\n"),
    async stop() {
      await children.endAll(STOP_GRACE_MS);
      // A launcher that a test killed left its children behind.
      for (const each of nodes) for (const role of ROLES) if (each.pidsOf(role).length > 0) each.kill(role);
      const names = [...nodes.map(({ name }) => name), ...build.documents.pods.map(({ netns }) => netnsName(netns))];
      const last = newPlace("underlay", "/proc/1/ns/net", [], newChildren());
      for (const name of names) await last.exec(["ip", "netns", "del", name]); // exec: a half-built lab lacks some
      await last.exec(["ip", "link", "del", UNDERLAY]);
      rmSync(directory, { recursive: true, force: true });
    },
  };
  return lab;
}

/** As control knows them, by their labels. */
const isWaypoint = ({ labels }: LabPod): boolean => labels[kubernetes.gatewayClassLabel] === kubernetes.waypointClass;

function nodePlace({ name, ips }: LabNode, directory: string, children: Children): NodePlace {
  const netns = `/run/netns/${name}`;
  const run = layout(directory).run(name);
  return {
    ...newPlace(name, netns, ["nsenter", `--net=${netns}`, "--"], children),
    ips,
    runDirectory: run,
    pidsOf: (role) => pidsOf(role, run),
    kill(role, signal = "SIGKILL") {
      const pids = pidsOf(role, run);
      if (pids.length === 0) throw new Error(`node ${name} has no live ${role}`);
      for (const pid of pids) process.kill(pid, signal);
      return pids;
    },
  };
}

function one<T>(places: readonly T[], is: (place: T) => boolean, what: string): T {
  const [first, second] = places.filter(is);
  if (first === undefined) throw new Error(`this lab has no ${what}`);
  if (second !== undefined) throw new Error(`this lab has more than one ${what}: name its namespace too`);
  return first;
}

const statusOf = async (node: NodePlace): Promise<NodeStatus> =>
  JSON.parse(await get({ socketPath: join(node.runDirectory, paths.adminSocket) }, "/v1/status")) as NodeStatus;

/** Enrolled pods of a node that are not ready yet, and why; a node that is not in sync counts as one. */
async function notReady(node: NodePlace): Promise<string[]> {
  const { ready, pods } = await statusOf(node);
  const names = pods
    .filter(({ desired, phase }) => desired === "enrolled" && phase !== "ready")
    .map(({ name, phase, problem }) => `${name} is ${phase}${problem === null ? "" : ` (${problem.code}: ${problem.reason})`}`);
  return ready ? names : [`node ${node.name}`, ...names];
}

/** Like until, but gives up at once when the process has ended. */
async function alive(what: string, child: ChildProcess, condition: () => Promise<unknown>, log: () => string): Promise<void> {
  const ended = (): string | undefined => (child.exitCode ?? child.signalCode)?.toString();
  await until(
    what,
    async () => {
      if (ended() !== undefined) return { ended: ended() };
      await condition();
      return { ended: undefined };
    },
    START_DEADLINE_MS,
    log,
  ).then((seen) => {
    if (seen.ended !== undefined) throw new Error(`${what}: its process ended (${seen.ended})\n${log()}`);
  });
}
