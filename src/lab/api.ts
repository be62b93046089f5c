// What a lab gives to tests, benches and the demo: a mesh of nodes and pods made of network namespaces on this machine.
import type { ChildProcess } from "node:child_process";
import type { NodeStatus } from "#inspect/status.ts";

export type Output = {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
};

export type ExecOptions = {
  /** Longest run; the command is killed and `code` is null after it. Default 10 s. */
  readonly timeoutMs?: number;
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
};

/** A place where commands run: the underlay, a node or a pod. */
export type Place = {
  readonly name: string;
  /** Path of its network namespace. */
  readonly netns: string;
  /** Runs to the end. A command that fails is not an error here: look at `code`. */
  exec(command: readonly string[], options?: ExecOptions): Promise<Output>;
  /** Like exec, but an exit code other than 0 rejects with the command, its code and what it wrote to stderr. */
  run(command: readonly string[], options?: ExecOptions): Promise<string>;
  /** A command that goes on; ended with the lab at the latest. stdin, stdout and stderr are pipes. */
  spawn(command: readonly string[], options?: { readonly env?: Readonly<Record<string, string>> }): ChildProcess;
};

export type PodPlace = Place & {
  readonly namespace: string;
  readonly node: string;
  /** Dual stack, in the order of status.podIPs. */
  readonly ips: readonly string[];
  /** The process that holds the pod's namespaces. */
  readonly pause: number;
  /** Processes of the containers that the lab started, in document order. */
  readonly pids: readonly number[];
};

/** Roles of the mesh's processes on a node. `engine` is the keeper, `worker` what it started. */
export type Role = "launcher" | "daemon" | "engine" | "worker";

export type NodePlace = Place & {
  readonly ips: readonly string[];
  /** The --run directory of its daemon and engine: director.sock, netns.sock, admin.sock, snapshot.json. */
  readonly runDirectory: string;
  /** Live processes of the role, read from /proc at each call. */
  pidsOf(role: Role): readonly number[];
  /** Signals every live process of the role; rejects when there is none. Returns the process ids that were signalled. */
  kill(role: Role, signal?: NodeJS.Signals): readonly number[];
};

export type Capture = {
  readonly file: string;
  /** Ends tcpdump, so that everything up to now is in the file. */
  stop(): Promise<void>;
};

export type LabOptions = {
  /** Directory of YAML documents: Nodes, Pods and Services are the truth about what is built. */
  readonly mesh: string;
  /** trackbed-engine to run; found as src/engine/binary.ts says when not given. */
  readonly engine?: string;
  /** Start the programs of the pods' containers at once (default true); otherwise startContainers() does, for pods that are born in the mesh. */
  readonly containers?: boolean;
  /** Names that only the upstream DNS server knows, besides "outside.example" which is the underlay's own address. */
  readonly externalNames?: Readonly<Record<string, readonly string[]>>;
  /** Progress in words, one line at a time. */
  readonly progress?: (line: string) => void;
};

export type Lab = {
  readonly mesh: string;
  /** The lab's directory on its private tmpfs: logs, run directories, captures. */
  readonly directory: string;
  /** Outside of every node: where control and the DNS server live, and a client or server outside the cluster may. */
  readonly underlay: Place & { readonly ips: readonly string[] };
  readonly nodes: readonly NodePlace[];
  readonly pods: readonly PodPlace[];
  node(name: string): NodePlace;
  /** By "name" or "namespace/name". */
  pod(name: string): PodPlace;
  /** Starts the programs of every pod that has none running yet and waits until their ports are listened on. */
  startContainers(): Promise<void>;
  /** Starts control in the underlay and waits until it is ready. `extra` is appended to its arguments. */
  startControl(extra?: readonly string[]): Promise<void>;
  /** SIGKILL by default; resolves when the process is gone. */
  stopControl(signal?: NodeJS.Signals): Promise<void>;
  /** Starts the launcher of a node (daemon and engine) and waits until the daemon's admin socket answers. */
  startNode(name: string): Promise<void>;
  /** SIGTERM to the launcher; resolves when launcher, daemon and engine are gone. */
  stopNode(name: string): Promise<void>;
  /** Starts the engine of a waypoint in its pod and waits until it says that it is ready. */
  startWaypoint(pod: string): Promise<void>;
  /** The process of a waypoint; none while it does not run. */
  waypointPids(pod: string): readonly number[];
  /** SIGTERM by default, which lets its requests end; resolves when the process is gone. */
  stopWaypoint(pod: string, signal?: NodeJS.Signals): Promise<void>;
  /** Everything: control, then every node and every waypoint; resolves when each pod that its labels enrol is ready. */
  startMesh(): Promise<void>;
  /** Resolves when each pod that its labels enrol is ready, on every node that was started. */
  ready(deadlineMs?: number): Promise<void>;
  /** What the daemon of a node says now. */
  status(node: string): Promise<NodeStatus>;
  /** Replaces a pod's namespaces by new ones with the same names and addresses, as a restarted sandbox of the same pod. Its programs end. */
  rebootPod(name: string): Promise<PodPlace>;
  /** Signals the upstream DNS server: SIGSTOP is a server that does not answer. */
  signalDns(signal: NodeJS.Signals): void;
  /** tcpdump of everything on the wire between the nodes, at this node's end of it. */
  captureWire(node: string, filter?: string): Promise<Capture>;
  /** tcpdump inside a pod's namespace, loopback included. */
  capturePod(pod: string, filter?: string): Promise<Capture>;
  /** Applies Services and endpoints of the documents as they are now to the kube-proxy stand-ins and the DNS server. Pods that appeared are made. */
  reconcile(): Promise<void>;
  /** Last lines of every log that has something to say, newest last: for failure messages. */
  tailLogs(lines?: number): string;
  /** Ends every process that the lab started and takes the namespaces away. Leaving the sandbox does the same by force. */
  stop(): Promise<void>;
};
