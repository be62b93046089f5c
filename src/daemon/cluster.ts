// The daemon's Kubernetes side: sandboxes sought, the CNI plugin installed and answered, the decision file kept, bypasses ended in time.
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { decisionFile } from "#cni/decisions.ts";
import { type Installation, install, removeConflist } from "#cni/install.ts";
import { isRefusal } from "#cni/request.ts";
import { cniServer } from "#cni/server.ts";
import { paths } from "#contract/tables.ts";
import { glanceAt, readBootId, readCookie, readHoldings, visitNamespace } from "#engine/namespace.ts";
import { listenOn } from "#engine/socket.ts";
import { type Adoption, type Enrolment, enrolment } from "#mesh/enrolment.ts";
import { explainError, meshError } from "#mesh/error.ts";
import type { Namespace, Pod } from "#mesh/objects.ts";
import type { HostRules } from "#redirect/host.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { readObject } from "#source/kubernetes/read.ts";
import { NAMESPACES, PODS } from "#source/kubernetes/resources.ts";
import type { Source } from "#source/source.ts";
import { backoff } from "#xds/backoff.ts";
import { admission, type Facts } from "./admission.ts";
import type { DesiredPods, PodSpec } from "./desired.ts";
import { kubeletCgroup } from "./kubelet.ts";
import { createLabelled } from "./labelled.ts";
import type { Metrics } from "./metrics.ts";
import type { KubernetesOptions } from "./options.ts";
import type { Farewell } from "./pod.ts";
import { type Probes, probeRules } from "./probes.ts";
import type { Quarters } from "./quarters.ts";
import type { Reconciler } from "./reconciler.ts";
import { createSandboxes } from "./sandboxes.ts";

export type ClusterParts = {
  readonly options: KubernetesOptions;
  readonly api: Api;
  /** Path of trackbed-netns. */
  readonly helper: string;
  /** Path of trackbed-cni as it came with us. */
  readonly plugin: string;
  readonly hostRules: HostRules;
  readonly adopt: Adoption;
  readonly run: string;
  readonly log: Logger;
  /** Pods of the whole cluster that are labelled for the mesh (labelledPods): a source for each label. */
  readonly labelled: readonly Source[];
};

/** What the rest of the daemon is to it; known only when that is put together. */
export type ClusterNode = {
  readonly desired: DesiredPods;
  readonly pods: Reconciler;
  readonly metrics: Metrics;
  /** The reconciler gets the desired pods as they are at this moment. */
  readonly apply: () => void;
};

export type Cluster = {
  readonly quarters: Quarters;
  readonly farewell: Farewell;
  decide(namespace: Namespace | undefined, pod: Pod): Enrolment;
  glance(spec: PodSpec): string;
  strayed(spec: PodSpec): void;
  /** A pod may look different now. */
  settled(): void;
  /** The source said something: resolves when the sandboxes that can be found at once are found. */
  followed(): Promise<void>;
  /** The reconciler knows the node's pods. */
  began(): void;
  start(node: ClusterNode): Promise<void>;
  notReady(): string[];
  stop(): void;
};

const FIRST_SEEK_MS = 200;
/** A pod is not found while its status lacks an address, which the kubelet publishes within seconds. */
const LAST_SEEK_MS = 5000;
/** A disk that was full may have room again. */
const DECISIONS_RETRY_MS = 5000;
/** setTimeout counts in 31 bits. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const LEAVING: Enrolment = { enrolled: false, reason: "the mesh leaves this node", code: null };

export function createCluster(parts: ClusterParts): Cluster {
  const { options, api, helper, log } = parts;
  const started = Promise.withResolvers<void>();
  const calls = new Set<() => void>();
  const labelled = createLabelled(parts.labelled);
  const ended = new AbortController();
  const decisions = decisionFile(join(options.cniState, paths.cniDecisions));
  const wait = backoff(Math.random, FIRST_SEEK_MS, LAST_SEEK_MS);
  const leaveBy = Date.now() + options.drainMilliseconds;
  let node: ClusterNode;
  let installation: Installation | null = null;
  let probes: Probes | null = null;
  let searched = false;
  let seeking: Promise<void> | null = null;
  let seekTimer: NodeJS.Timeout | undefined;
  let bypassTimer: NodeJS.Timeout | undefined;
  let decisionTimer: NodeJS.Timeout | undefined;
  /** Why the decision file is not up to date, null when it is. */
  let undecided: string | null = "pods with a label of their own were not listed yet";
  let stopped = false;
  let close: () => void = () => undefined;

  const sandboxes = createSandboxes({
    addressesIn: (path) => visitNamespace(path, async (open) => (open === null ? null : (await readHoldings(helper, open)).addresses)),
    failed: ({ metadata: { namespace, name } }, error) =>
      log.warn(
        { pod: `${namespace}/${name}`, error: explainError(error) },
        "the network namespace of a running pod could not be looked into",
      ),
  });

  const decide = (namespace: Namespace | undefined, pod: Pod): Enrolment =>
    options.leave ? LEAVING : enrolment(namespace, pod, { adopt: parts.adopt });

  /** One search at a time; what is still missing is sought again, for its address or its process may come yet. */
  function seek(all: boolean): Promise<void> {
    const sought = [...node.desired.local()].filter((pod) => all || isWanted(pod));
    seeking ??= sandboxes
      .seek(sought)
      .then((found) => {
        if (found) node.apply();
      })
      .catch((error: unknown) => log.warn({ error: explainError(error) }, "the sandboxes of running pods could not be sought"))
      .finally(() => {
        seeking = null;
        if (node.desired.seeking) seekLater();
        else wait.reset();
      });
    return seeking;
  }

  const isWanted = (pod: Pod): boolean => decide(node.desired.objects(pod.metadata.namespace, pod.metadata.name).namespace, pod).enrolled;

  function seekLater(): void {
    if (stopped) return;
    seekTimer ??= setTimeout(() => {
      seekTimer = undefined;
      void seek(false);
    }, wait.next());
  }

  async function followed(): Promise<void> {
    sandboxes.keep(new Set([...node.desired.local()].map(({ metadata }) => metadata.uid)));
    watchBypasses();
    if (!searched) await seek(true);
    else if (node.desired.seeking) seekLater();
    searched = true;
    await keepDecisions();
  }

  async function keepDecisions(): Promise<void> {
    // Before both are known an older file is better than one that lets pass whom it does not know yet, and none at all refuses.
    if (options.leave || !searched || labelled.namespaces === null) return;
    try {
      const known = new Map(node.desired.namespaces());
      for (const name of labelled.namespaces) known.set(name, true);
      await decisions.write(known);
      undecided = null;
    } catch (cause) {
      const error = explainError(cause);
      if (error !== undecided)
        log.error({ error }, "the CNI plugin's decision file could not be written: without this daemon no new pod would start");
      undecided = error;
      if (!stopped) {
        clearTimeout(decisionTimer);
        decisionTimer = setTimeout(() => void keepDecisions(), DECISIONS_RETRY_MS);
      }
    }
  }

  /** Nothing tells us when a bypass is over but the clock. */
  function watchBypasses(): void {
    clearTimeout(bypassTimer);
    const { names, next } = node.desired.bypasses();
    node.metrics.bypassed(names.length);
    if (next === null || stopped) return;
    bypassTimer = setTimeout(
      () => {
        node.apply();
        watchBypasses();
        void keepDecisions();
      },
      Math.min(Math.max(next - Date.now() + 1, 1), LONGEST_TIMER_MS),
    );
  }

  async function fresh(namespace: string, name: string, stop: AbortSignal): Promise<Facts | null> {
    const [around, pod] = await Promise.all([
      readObject(api, NAMESPACES, "", namespace, stop),
      readObject(api, PODS, namespace, name, stop),
    ]);
    if (pod === null) return null;
    if (pod.object?.kind !== "Pod") {
      const why = pod.problems.map(({ path, reason }) => `${path.join(".")}: ${reason}`).join("; ");
      throw meshError("E_SOURCE_INVALID", `pod ${namespace}/${name} cannot be read: ${why}`);
    }
    return { namespace: around?.object?.kind === "Namespace" ? around.object : null, pod: pod.object };
  }

  async function start(given: ClusterNode): Promise<void> {
    node = given;
    const handlers = admission({
      fresh,
      known: (namespace, pod) => node.desired.objects(namespace, pod),
      decide,
      sandboxes,
      started: started.promise,
      adopt: ({ namespace, pod }) => {
        node.desired.put(namespace, pod);
        node.apply();
      },
      moved: node.apply,
      identify: (path) =>
        visitNamespace(path, async (open) => (open === null ? null : { bootId: readBootId(), cookie: await readCookie(helper, open) })),
      promise: (uid, namespace) => node.pods.promise(uid, namespace),
      record: (uid) => node.pods.records.get(uid),
      onSettled: (call) => {
        calls.add(call);
        return () => calls.delete(call);
      },
    });
    const server = cniServer(handlers, {
      answered: (verb, { podNamespace, podName, podUid }, outcome) => {
        const refused = isRefusal(outcome);
        node.metrics.cni(verb, refused ? outcome.code : outcome.captured ? "captured" : "passed");
        log[refused ? "warn" : "debug"]({ verb, pod: `${podNamespace}/${podName}`, uid: podUid, ...outcome }, "the CNI plugin asked");
      },
      failed: (error) => log.warn({ error: explainError(error) }, "a request of the CNI plugin failed"),
    });
    const socket = join(parts.run, paths.cniSocket);
    await listenOn(server, socket);
    await chmod(socket, 0o600);
    close = () => {
      server.closeAllConnections();
      server.close();
    };
    labelled
      .run(() => void keepDecisions(), ended.signal)
      .catch((error: unknown) => log.error({ error: explainError(error) }, "pods with a label of their own are not followed any more"));
    probes = keepProbes();
    if (options.leave) await clearNode();
    else installation = keepInstalled();
    void installation?.mend();
  }

  function keepInstalled(): Installation {
    const places = { socket: join(parts.run, paths.cniSocket), decisions: join(options.cniState, paths.cniDecisions) };
    return install({
      plugin: parts.plugin,
      bin: options.cniBin,
      conf: options.cniConf,
      pluginConf: places,
      placed: (what) => log.info({ what }, "put on the node"),
      trouble: (error) => {
        if (error === null) log.info("the CNI plugin is in place");
        else
          log.error(
            { error: explainError(error) },
            "the CNI plugin is not in place: new pods start without it, and are captured as running ones",
          );
      },
    });
  }

  function keepProbes(): Probes {
    let weak = false;
    return probeRules({
      rules: parts.hostRules,
      kubelet: kubeletCgroup,
      records: () => node.pods.records.values(),
      placed: (by, ports) => {
        log.debug({ by, ports }, "the host's rules for kubelet probes");
        if (by === "root" && !weak)
          log.warn("the kubelet's cgroup cannot be matched: any process of root on this node passes on declared probe ports");
        weak = by === "root";
      },
      trouble: (error) => {
        if (error === null) log.info("the host's rules for kubelet probes stand again");
        else log.error({ error: explainError(error) }, "kubelet probes of pods under STRICT fail");
      },
    });
  }

  async function clearNode(): Promise<void> {
    await removeConflist(options.cniConf);
    await decisions.remove();
    log.info("the CNI configuration is gone; pods leave the mesh");
  }

  function notReady(): string[] {
    if (!options.leave) {
      const problems = [installation?.problem, probes?.problem].filter((problem) => problem !== null && problem !== undefined);
      return [...problems.map(explainError), undecided === null ? "" : `the CNI plugin's decision file: ${undecided}`].filter(Boolean);
    }
    const left = [...node.pods.records.values()].filter(
      ({ observed }) => observed.namespace !== null && (observed.rules !== "none" || observed.routing),
    );
    return [
      ...left.map(({ spec }) => `pod ${spec.namespace}/${spec.name} still has rules of the mesh`),
      probes?.standing === true ? "the host still has rules for kubelet probes" : "",
    ].filter(Boolean);
  }

  return {
    quarters: sandboxes,
    farewell: {
      drainMilliseconds: options.drainMilliseconds,
      // An engine that was taken away first will never say that it let go.
      alone: () => options.leave && Date.now() > leaveBy,
    },
    decide,
    glance: (spec) => {
      const seen = glanceAt(spec.netns);
      if (spec.netns !== null && seen === "nothing") strayed(spec);
      return seen;
    },
    strayed,
    settled: () => {
      for (const call of [...calls]) call();
      probes?.settled();
    },
    followed,
    began: () => started.resolve(),
    start,
    notReady,
    stop: () => {
      stopped = true;
      ended.abort();
      void installation?.stop(); // a file that is being put in place is put there whole, or not
      probes?.stop();
      clearTimeout(seekTimer);
      clearTimeout(bypassTimer);
      clearTimeout(decisionTimer);
      close();
    },
  };

  function strayed(spec: PodSpec): void {
    sandboxes.lost(spec.uid);
    node.apply();
    seekLater();
  }
}
