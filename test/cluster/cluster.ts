// What a drill does to a running cluster: ask and change the API, act inside nodes and pods, pull plugs, wait.
import { spawn } from "node:child_process";
import { setTimeout as pause } from "node:timers/promises";
import { execute, type Output, type Run, run } from "./command.ts";
import { enter, machinePid, powerOff, powerOn } from "./machine/power.ts";
import { type ProgramAction, program } from "./machine/program.ts";
import { readSettings, type Settings } from "./settings.ts";

/** kubectl starts in about 0.1 s of CPU; asking more often than this would slow down what is waited for. */
const LOOK_AGAIN_MS = 200;
/** Long enough for a pod to be deleted with its grace, or made anew on a busy machine. */
const WAIT_MS = 60_000;
const FORWARD_MS = 10_000;

export type Cluster = {
  readonly settings: Settings;
  readonly nodes: readonly string[];
  /** What kubectl writes; rejects with its complaint. */
  kubectl(...args: readonly string[]): Promise<string>;
  /** Like kubectl, but its exit code is the caller's to judge. */
  tryKubectl(...args: readonly string[]): Promise<Output>;
  /** kubectl with something on its standard input. */
  kubectlInput(input: string, ...args: readonly string[]): Promise<string>;
  /** The base URL of a pod's port, forwarded through the API until it is disposed of. */
  portForward(namespace: string, pod: string, port: number): Promise<Forward>;
  /** `kubectl ARGS -o json`, parsed. */
  get<T = Document>(...args: readonly string[]): Promise<T>;
  /** Server-side apply of YAML documents; more flags may follow. */
  apply(yaml: string, ...flags: readonly string[]): Promise<void>;
  /** A shell command in all namespaces of a node, as ssh would run it; or in the control plane's network ("cp"). */
  onNode(machine: string, command: string, options?: Run): Promise<string>;
  /** A shell command in a pod's first (or named) container, through the API. */
  podExec(namespace: string, pod: string, command: string, container?: string): Promise<string>;
  /** A shell command with the host's programs inside the network namespace of a pod: nft, ss, tcpdump. */
  inPod(namespace: string, pod: string, command: string, options?: Run): Promise<string>;
  /** Path, on the pod's node, of its network namespace. */
  podNetns(namespace: string, pod: string): Promise<{ readonly node: string; readonly path: string }>;
  /** Pulls the plug of a node and starts it again. Its disk survives; processes, network, /run and cgroups do not. */
  powerCut(node: string, whileOff?: () => Promise<void>): Promise<void>;
  /** kill -9 of one program of a machine: "stop" lasts until "start", "restart" takes half a second. */
  program(action: ProgramAction, machine: string, name: string): Promise<void>;
};

export type Forward = AsyncDisposable & { readonly url: string };

/** The fields of an API object that drills look at. */
export type Document = {
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly deletionTimestamp?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec?: {
    readonly nodeName?: string;
    readonly hostNetwork?: boolean;
    readonly containers?: readonly { readonly name: string }[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly conditions?: readonly Condition[];
    readonly containerStatuses?: readonly { readonly restartCount: number; readonly ready: boolean }[];
  };
};
export type Condition = {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime?: string;
};
export type List<T = Document> = { readonly items: readonly T[] };

/** The cluster that the environment names (settings.ts); it has to be up: `make cluster`. */
export async function cluster(settings: Settings = readSettings()): Promise<Cluster> {
  if ((await machinePid(settings, "cp")) === null) throw new Error(`the cluster in ${settings.state} is off: run "make cluster"`);
  const kubectlArgv = (args: readonly string[]): string[] =>
    enter(settings, "cp", [`${settings.bin}/kubectl`, `--kubeconfig=${settings.kubeconfig}`, ...args]);
  const kubectl = (...args: readonly string[]): Promise<string> => run(kubectlArgv(args));
  const onNode = async (machine: string, command: string, options?: Run): Promise<string> =>
    run(enter(settings, machine, ["bash", "--norc", "-c", command], await machinePid(settings, machine)), options);

  const podNetns = async (namespace: string, pod: string): Promise<{ node: string; path: string }> => {
    const { spec, status } = JSON.parse(await kubectl("-n", namespace, "get", "pod", pod, "-o", "json")) as Document;
    const node = spec?.nodeName;
    if (node === undefined || status?.podIP === undefined) throw new Error(`pod ${namespace}/${pod} has no node or no address yet`);
    // The address may still be on a namespace that is being torn down: the API's is the newest.
    const look = `for f in $(ls -t /run/netns); do nsenter --net=/run/netns/$f ip -o addr show scope global | grep -qF " ${status.podIP}/" && echo /run/netns/$f && exit; done`;
    const path = (await onNode(node, look)).trim();
    if (path === "") throw new Error(`no network namespace on ${node} has ${status.podIP} of pod ${namespace}/${pod}`);
    return { node, path };
  };

  return {
    settings,
    nodes: settings.nodes.map(({ name }) => name),
    kubectl,
    tryKubectl: (...args) => execute(kubectlArgv(args)),
    kubectlInput: (input, ...args) => run(kubectlArgv(args), { input }),
    async portForward(namespace, pod, port) {
      const [program, ...args] = kubectlArgv(["-n", namespace, "port-forward", `pod/${pod}`, `:${port}`]);
      const child = spawn(program ?? "", args, { stdio: ["ignore", "pipe", "pipe"] });
      const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
      let said = "";
      for (const pipe of [child.stdout, child.stderr]) pipe.setEncoding("utf8").on("data", (text: string) => (said += text));
      const dispose = async (): Promise<void> => {
        child.kill();
        await ended;
      };
      try {
        const [, local] = await waitFor("port-forward listens", () => /127\.0\.0\.1:(\d+) ->/.exec(said), FORWARD_MS);
        return { url: `http://127.0.0.1:${local}`, [Symbol.asyncDispose]: dispose };
      } catch (error) {
        await dispose();
        throw new Error(`kubectl port-forward to ${namespace}/${pod}:${port} said: ${said}`, { cause: error });
      }
    },
    get: async (...args) => JSON.parse(await kubectl("get", ...args, "-o", "json")),
    async apply(yaml, ...flags) {
      await run(kubectlArgv(["apply", "--server-side", ...flags, "-f", "-"]), { input: yaml });
    },
    onNode,
    podExec: (namespace, pod, command, container) =>
      kubectl("-n", namespace, "exec", pod, ...(container === undefined ? [] : ["-c", container]), "--", "sh", "-c", command),
    async inPod(namespace, pod, command, options) {
      const { node, path } = await podNetns(namespace, pod);
      return onNode(node, `exec nsenter --net=${path} -- bash --norc -c "$COMMAND"`, {
        ...options,
        env: { ...process.env, COMMAND: command },
      });
    },
    podNetns,
    async powerCut(node, whileOff = async () => undefined) {
      await powerOff(settings, node);
      await whileOff();
      await powerOn(settings, node);
    },
    program: (action, machine, name) => program(settings, action, machine, name),
  };
}

/** Resolves with the first value of `condition` that is neither undefined, null nor false; rejects, naming `what` and the last reason, when time is up. */
export async function waitFor<T>(
  what: string,
  condition: () => Promise<T> | T,
  deadlineMs = WAIT_MS,
): Promise<NonNullable<Exclude<T, false>>> {
  const started = performance.now();
  for (;;) {
    let reason: unknown;
    try {
      const value = await condition();
      if (value !== undefined && value !== null && value !== false) return value as NonNullable<Exclude<T, false>>;
    } catch (error) {
      reason = error; // a condition that throws does not hold yet
    }
    if (performance.now() - started > deadlineMs) {
      const last = reason instanceof Error ? `\nlast: ${reason.message}` : "";
      throw new Error(`not within ${deadlineMs} ms: ${what}${last}`, { cause: reason });
    }
    await pause(LOOK_AGAIN_MS);
  }
}

/** Rejects as soon as `claim` does: it has to hold the whole time. */
export async function holds(claim: () => Promise<void>, milliseconds: number): Promise<void> {
  for (const started = performance.now(); performance.now() - started < milliseconds; await pause(LOOK_AGAIN_MS)) await claim();
}
