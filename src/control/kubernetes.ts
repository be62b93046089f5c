// Control on Kubernetes: documents from the API server, keys in a Secret, callers by TokenReview, and what became of things written back.
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { kubernetes } from "#contract/tables.ts";
import { explainError, isMeshError } from "#mesh/error.ts";
import { connectApi } from "#source/kubernetes/api.ts";
import { controlResources } from "#source/kubernetes/resources.ts";
import { kubernetesSource } from "#source/kubernetes.ts";
import { announceRecording } from "./kubernetes/announce.ts";
import { createElsewhere } from "./kubernetes/elsewhere.ts";
import { createGatewayStatus } from "./kubernetes/gateway-status.ts";
import { isPending } from "./kubernetes/issued.ts";
import { openSecretAuthority, type SecretAuthority, type SecretAuthorityOptions } from "./kubernetes/keys.ts";
import { holdLease } from "./kubernetes/lease.ts";
import { ownImage } from "./kubernetes/own-image.ts";
import { createPodStatus } from "./kubernetes/pod-status.ts";
import { createPolicyStatus } from "./kubernetes/policy-status.ts";
import { createProvision } from "./kubernetes/provision.ts";
import { createReviews } from "./kubernetes/review.ts";
import { publishRoots } from "./kubernetes/roots.ts";
import { createViewers } from "./kubernetes/viewers.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import type { KubernetesOptions } from "./options.ts";
import type { Carried, Platform } from "./platform.ts";
import type { Quiet } from "./quiet.ts";
import type { MeshView } from "./view.ts";

export type KubernetesParts = {
  readonly options: KubernetesOptions;
  readonly clusterDomain: string;
  readonly view: MeshView;
  readonly log: Log;
  readonly quiet: Quiet;
  readonly metrics: Metrics;
  readonly carried: Carried;
};

/** Keys and roots are looked at this often: an issuer is renewed months before its end. */
const KEYS_MILLISECONDS = 60_000;
/** An API server that restarts is back within seconds; it is asked at this pace while control starts. */
const START_RETRY_MILLISECONDS = 1_000;
/** A signature takes people or seconds. */
const PENDING_RETRY_MILLISECONDS = 3_000;

/** Waits for the API server: without its keys control could only refuse. Rejects when they cannot be used, or `stop` is aborted. */
export async function kubernetesPlatform(parts: KubernetesParts, stop: AbortSignal): Promise<Platform> {
  const { options, clusterDomain, view, log, quiet, metrics, carried } = parts;
  const { namespace } = options;
  const api = await connectApi(options.kubeconfig);
  const ended = new AbortController();
  const ending = AbortSignal.any([stop, ended.signal]);
  const instance = `${hostname()}_${randomUUID().slice(0, 8)}`; // of this start of this replica
  const authority = await openKeys({ api, namespace, issuer: options.issuer, instance }, log, ending);
  log.info({ secret: authority.secret, ...authority.expiry() }, "authority opened");

  const resources = controlResources(namespace);
  const alive = new Map<string, number>();
  const complain = (what: string) => (object: string, error: unknown) =>
    quiet((suppressed) => log.warn({ object, reason: explainError(error), suppressed }, what));
  const podStatus = createPodStatus(
    {
      api,
      view,
      instance,
      onWritten: (kind, result) => metrics.statusWrites.inc({ kind, result }),
      onError: complain("a pod's condition or Event could not be written"),
    },
    ending,
  );
  const policyStatus = createPolicyStatus(
    {
      api,
      resources,
      isLeader: () => lease.held(),
      onWritten: (result) => metrics.statusWrites.inc({ kind: "policy", result }),
      onError: complain("a policy's status could not be written"),
    },
    ending,
  );
  const gatewayStatus = createGatewayStatus(
    {
      api,
      resources,
      isLeader: () => lease.held(),
      onWritten: (result) => metrics.statusWrites.inc({ kind: "gateway", result }),
      onError: complain("the status of a route or Gateway could not be written"),
    },
    ending,
  );
  const provision = createProvision(
    {
      api,
      namespace,
      image: () => ownImage(api, namespace, hostname()),
      roots: authority.roots,
      isLeader: () => lease.held(),
      onMade: (gateway, what) => log.info({ gateway }, what),
      onClass: (error) => {
        if (error === null) gatewayStatus.classMade();
        else complain("the class of our waypoints could not be made")(kubernetes.waypointClass, error);
      },
      onProblem: (gateway, error) => {
        gatewayStatus.problem(`Gateway/${gateway}`, error);
        if (error === null) log.info({ gateway }, "nothing stands against the waypoint any more");
        else complain("a waypoint could not be made as it should be")(gateway, error);
      },
    },
    ending,
  );
  const lease = holdLease(
    {
      api,
      namespace,
      name: kubernetes.control,
      identity: instance,
      onChange: (held) => {
        log.info(
          { held },
          held ? "this replica writes statuses and makes waypoints" : "another replica writes statuses and makes waypoints",
        );
        if (!held) return;
        for (const each of [policyStatus, gatewayStatus, provision]) each.elected();
      },
      onError: (error) => complain("the Lease could not be read or renewed")(kubernetes.control, error),
    },
    ending,
  );
  const elsewhere = createElsewhere({
    adopt: view.adopt,
    isAttached: carried.isAttached,
    namespace: view.namespace,
    pods: () => [...view.objects()].filter((object) => object.kind === "Pod"),
    report: carried.report,
    onOverdue: ({ metadata, nodeName }) =>
      quiet((suppressed) =>
        log.warn(
          { pod: `${metadata.namespace}/${metadata.name}`, node: nodeName, suppressed },
          "nobody says whether the pod is captured; its peers use tunnels",
        ),
      ),
  });

  let keysLookedAt = performance.now();
  async function maintain(): Promise<void> {
    elsewhere.sweep();
    if (performance.now() - keysLookedAt < KEYS_MILLISECONDS) return;
    keysLookedAt = performance.now();
    const did = await authority.refresh();
    if (did !== null) log.info({ secret: authority.secret }, did);
    if (await publishRoots(api, namespace, authority.roots(), authority.rotation))
      log.warn({ configMap: kubernetes.rootConfigMap }, "the root certificates were not as published; written again");
  }

  const service = `${kubernetes.control}.${namespace}`;
  return {
    source: kubernetesSource({
      api,
      resources,
      onAlive: (path) => alive.set(path, performance.now()),
      onRestart: (path, cause, error) => {
        metrics.apiRestarts.inc({ resource: path, cause });
        if (error === null) log.debug({ path, cause }, "watch ended");
        else quiet((suppressed) => log.warn({ path, cause, reason: explainError(error), suppressed }, "a list or watch begins again"));
      },
    }),
    authority,
    callers: createReviews({ api, view, namespace }),
    viewers: createViewers(api),
    announce: announceRecording({ api, instance }, () => [...view.objects()].filter((object) => object.kind === "Pod")),
    peers: () =>
      [...view.objects()]
        .filter((object) => object.kind === "Pod")
        .filter(({ metadata, serviceAccountName }) => metadata.namespace === namespace && serviceAccountName === kubernetes.control)
        .filter(({ metadata, phase, podIPs }) => phase === "Running" && metadata.name !== hostname() && podIPs.length > 0)
        .map(({ metadata, podIPs }) => ({ name: metadata.name, address: podIPs[0] ?? "" })),
    serverNames: ["localhost", kubernetes.control, service, `${service}.svc`, `${service}.svc.${clusterDomain}`],
    herald: {
      changed: (change, faults) => {
        elsewhere.changed(change);
        podStatus.changed(change);
        policyStatus.changed(change, faults);
        gatewayStatus.noticed(change);
        provision.noticed(change);
      },
      waypoints: ({ waypoints, routes, gateways, policies }) => {
        provision.changed(waypoints);
        gatewayStatus.changed({ routes, gateways, policies });
      },
      reported: (node, report) => {
        podStatus.reported(node, report);
        if (report === null) elsewhere.detached(node);
      },
    },
    described: `Kubernetes ${api.server}`,
    maintain,
    observe: () => {
      const now = performance.now();
      for (const [resource, at] of alive) metrics.apiAge.set({ resource }, (now - at) / 1000);
      metrics.statusPending.set(podStatus.pending() + policyStatus.pending() + gatewayStatus.pending() + provision.pending());
      metrics.leader.set(lease.held() ? 1 : 0);
    },
    close: async () => {
      ended.abort();
      await lease.release();
      await api.close();
    },
  };
}

/** An API server that is away is waited for, and so is another CA's signature; keys that cannot be used are not. */
async function openKeys(options: SecretAuthorityOptions, log: Log, stop: AbortSignal): Promise<SecretAuthority> {
  let said = "";
  for (;;) {
    try {
      const authority = await openSecretAuthority(options);
      await publishRoots(options.api, options.namespace, authority.roots(), authority.rotation);
      return authority;
    } catch (error) {
      if (stop.aborted || (isMeshError(error) && error.code === "E_AUTHORITY_INVALID")) throw error;
      const reason = explainError(error);
      if (reason !== said) log.warn({ reason }, isPending(error) ? "control waits for its issuer" : "control waits for the API server");
      said = reason;
      await sleep((isPending(error) ? PENDING_RETRY_MILLISECONDS : START_RETRY_MILLISECONDS) * (0.5 + Math.random()), undefined, {
        signal: stop,
      });
    }
  }
}
