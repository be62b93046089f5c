// Control as one thing: its parts built and connected, started in the order that never tells a node less than the truth.
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createCompiler } from "#compile/compiler.ts";
import { uidOf } from "#compile/workload.ts";
import { Inspection, Nodes } from "#contract/gen/control_pb.ts";
import { Director } from "#contract/gen/engine_pb.ts";
import { AggregatedDiscoveryService } from "#contract/gen/envoy/discovery_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import { bounds, errors } from "#contract/tables.ts";
import { answering } from "#inspect/answer.ts";
import { streamFlows } from "#inspect/flow-stream.ts";
import { createFlows } from "#inspect/flows.ts";
import { ledgerFile } from "#inspect/ledger/file.ts";
import { createLedger } from "#inspect/ledger/ledger.ts";
import { explainError } from "#mesh/error.ts";
import type { Change, Fault } from "#source/source.ts";
import { createXdsServer } from "#xds/server.ts";
import { createStore } from "#xds/store.ts";
import { callerNode, createAccess } from "./access.ts";
import { nodeJson, shortType, streamJson } from "./answers.ts";
import { endingBypasses } from "./bypass.ts";
import { certificateService, createSigner } from "./certificates.ts";
import { directoryPlatform } from "./directory.ts";
import { createExclusivity } from "./exclusivity.ts";
import { createFaultBoard } from "./faults.ts";
import { allFaults, startFeed } from "./feed.ts";
import { createFetchKeys } from "./fetch-keys.ts";
import { json, serveHealth, text } from "./health.ts";
import { createInspection } from "./inspection.ts";
import { kubernetesPlatform } from "./kubernetes.ts";
import { listen } from "./listener.ts";
import { serveLocal } from "./local.ts";
import type { Log } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { resolveByDns, resolvingNames } from "./names.ts";
import { createNodesServer } from "./nodes.ts";
import type { ControlOptions } from "./options.ts";
import { isHalfOver, makeOwnCertificate, secondsUntil, warnOfExpiry } from "./own-certificate.ts";
import { createPeers } from "./peers.ts";
import { ASK_PATH, servePeople } from "./people.ts";
import type { Platform } from "./platform.ts";
import { createQuiet } from "./quiet.ts";
import { fetchingKeys } from "./token-keys.ts";
import { createView } from "./view.ts";
import { scopedFeed } from "./waypoint-feed.ts";
import { createWaypoints, type WaypointsServer } from "./waypoints.ts";

export type Control = {
  readonly addresses: readonly string[];
  readonly health: string;
  /** Where the documents come from, for people. */
  readonly platform: string;
  /** Rejects when something that must not fail did. */
  readonly failed: Promise<never>;
  /** Ends every stream and connection; resolves with how many connections had to be cut. */
  drain(): Promise<number>;
};

/** Requests and connections of waypoints, the newest: about 2 MB. */
const KEPT_FLOWS = 4_096;
/** The finest step of the ledger. */
const KEEP_MILLISECONDS = 10_000;
/** First part of workloads' uids, as Istio has it. */
const CLUSTER_ID = "Kubernetes";
/** Nodes reconnect elsewhere or later; who does not let go in this time is cut. */
const DRAIN_MILLISECONDS = 5_000;
/** Token files changed by hand, certificates that near their end: looked at this often. */
const MAINTENANCE_MILLISECONDS = 5_000;

/** `version` is for the engines of waypoints to log. */
export async function startControl(options: ControlOptions, version: string, log: Log): Promise<Control> {
  const stop = new AbortController();
  const started = new AsyncDisposableStack();
  try {
    return await start(options, version, log, stop, started);
  } catch (error) {
    stop.abort();
    await started.disposeAsync();
    throw error;
  }
}

/** What is to be ended goes on `started`, in the order of starting; it ends in reverse. */
async function start(
  options: ControlOptions,
  version: string,
  log: Log,
  stop: AbortController,
  started: AsyncDisposableStack,
): Promise<Control> {
  const { trustDomain, clusterDomain, rootNamespace, encryptSameNode, adopt } = options;
  const metrics = createMetrics();
  const quiet = createQuiet();
  const store = createStore();
  const view = createView(trustDomain, adopt);
  const compiling = { trustDomain, clusterDomain, rootNamespace, network: "", adopt, clusterId: CLUSTER_ID };
  const compiler = createCompiler(compiling);
  const faults = createFaultBoard(
    ({ code, key, file, line, field, reason }) =>
      log.error({ code, object: key, file, line, field, reason, next: errors[code].next }, "fault"),
    ({ code, key, file }) => log.info({ code, object: key, file }, "fault is mended"),
  );

  /** Of waypoints: what nodes see stays with their daemons. */
  const flows = createFlows(KEPT_FLOWS);
  const troubled = (error: unknown): void =>
    quiet((suppressed) => log.error({ reason: explainError(error), suppressed }, "the ledger of waypoints"));
  const ledger = createLedger({ open: ledgerFile(null, (_what, error) => troubled(error)), failed: troubled });
  started.defer(async () => ledger.close());
  const answerOfWaypoints = answering("waypoints", { flows, ledger, record: null });

  let unready = "starting";
  let observe = (): void => undefined;
  let source: Pick<Change, "faults" | "places"> = { faults: [], places: new Map() };
  const everyFault = (): readonly Fault[] => allFaults(source.faults, compiler.faults(), source.places);
  const health = await serveHealth(
    options.health,
    {
      "/healthz/live": () => text(200, "ok"),
      "/healthz/ready": () => (unready === "" ? text(200, "ok") : text(503, unready)),
      "/metrics": async () => {
        observe();
        return { status: 200, type: metrics.registry.contentType, body: await metrics.registry.metrics() };
      },
      "/v1/faults": () => {
        faults.update(everyFault());
        return json({ faults: faults.list() });
      },
      "/v1/nodes": () => json({ nodes: nodes.status().map(nodeJson), streams: xds.streams().map(streamJson) }),
      "/v1/waypoints": () => json({ waypoints: waypoints?.status() ?? [] }),
    },
    { "/v1/flows": (url, response) => streamFlows(url, response, flows.read) },
    (error) => log.error({ reason: explainError(error) }, "health request failed"),
  );
  started.defer(health.close);

  const nodes = createNodesServer({
    view,
    settings: { trustDomain, clusterDomain, network: "", encryptSameNode },
    report: (update) => feed.report(update),
    onReport: (node, report) => platform.herald?.reported(node, report),
    onEvent: (node, event, detail) => quiet((suppressed) => log.info({ node, ...detail, suppressed }, `node ${event}`)),
  });
  const inspection = createInspection();
  const xds = createXdsServer(store, {
    authenticate: callerNode,
    onResponse: (_node, typeUrl) => metrics.pushes.inc({ type: shortType(typeUrl) }),
    onNack: (node, typeUrl, reasons) => {
      metrics.nacks.inc({ type: shortType(typeUrl) });
      log.error({ node, type: shortType(typeUrl), reasons }, "a node refused resources");
    },
    onFault: (node, error) => log.error({ node, reason: explainError(error) }, "a node broke the discovery protocol"),
  });

  const platform: Platform =
    options.platform.kind === "directory"
      ? directoryPlatform(options.platform, log)
      : await kubernetesPlatform(
          {
            options: options.platform,
            clusterDomain,
            view,
            log,
            quiet,
            metrics,
            carried: { isAttached: nodes.isAttached, report: (update) => feed.report(update) },
          },
          stop.signal,
        );
  const { authority, callers } = platform;
  started.defer(platform.close);
  if (options.platform.kind === "directory") {
    const local = await serveLocal(options.platform.state, { flows, answer: answerOfWaypoints }, (error) =>
      log.error({ reason: explainError(error) }, "a reader of flows could not be answered"),
    );
    started.defer(local.close);
  }

  /** Nodes that are gone, or whose proof is not valid any more, lose their streams. One look at a time, or an older one could undo a newer one. */
  let looking: Promise<void> = Promise.resolve();
  function trust(): Promise<void> {
    looking = looking.then(look, look);
    return looking;
  }
  async function look(): Promise<void> {
    for (const node of await callers.refresh(view.nodes())) {
      log.warn({ node }, "the node's token is not valid any more; its streams end");
      xds.disconnect(node);
      nodes.disconnect(node);
      inspection.disconnect(node);
    }
    for (const uid of await callers.refreshWaypoints(view.waypoints())) waypoints?.disconnect(uid);
    waypoints?.changed();
  }

  const fetchKeys = createFetchKeys({ nodeAddresses: () => view.nodes().flatMap((name) => view.node(name)?.addresses ?? []) });
  started.defer(() => fetchKeys.close());
  const named = resolvingNames(endingBypasses(platform.source), {
    resolve: resolveByDns(),
    onTrouble: (name, error) =>
      error === null
        ? log.info({ name }, "the name of a ServiceEntry can be asked for again")
        : log.warn({ name, reason: explainError(error) }, "the name of a ServiceEntry cannot be asked for; it means what it meant last"),
  });
  let waypoints: WaypointsServer | null = null;
  const feed = startFeed(
    {
      source: fetchingKeys(named, {
        fetch: fetchKeys,
        onTrouble: (url, error) =>
          error === null
            ? log.info({ url }, "the keys of an issuer can be fetched again")
            : log.warn({ url, reason: explainError(error) }, "the keys of an issuer cannot be fetched; the last ones hold for a day"),
      }),
      compiler,
      store,
      view,
      onChange: async (current) => {
        source = current;
        const all = everyFault();
        faults.update(all);
        metrics.documents.reset();
        for (const [kind, count] of view.counts()) metrics.documents.set({ kind, result: "in_force" }, count);
        metrics.documents.set({ kind: "any", result: "fault" }, all.length);
        await trust();
        platform.herald?.changed(current, all);
        const [routes, gateways, policies] = [compiler.routeStatuses(), compiler.gatewayStatuses(), compiler.policies.statuses()];
        platform.herald?.waypoints({ waypoints: compiler.waypoints(), routes, gateways, policies });
      },
      onCompiled: (seconds, recompiled, changed) => {
        metrics.compileSeconds.observe(seconds);
        waypoints?.changed();
        exclusivity.look();
        log.debug({ seconds, recompiled, changed }, "compiled");
      },
    },
    stop.signal,
  );
  const exclusivity = createExclusivity({
    store,
    streams: xds.streams,
    awaiting: compiler.awaiting,
    release: (keys) => feed.release(keys),
  });
  started.defer(async () => exclusivity.close());
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => undefined); // whoever started control awaits it; a failure while starting is thrown anyway
  feed.done.catch(failure.reject);

  // Before the first complete batch an answer would tell returning nodes that everything was removed.
  unready = "reading the documents for the first time";
  await feed.ready;

  const access = createAccess(callers, (address, reason) =>
    quiet((suppressed) => log.warn({ address, reason, code: "E_CONTROL_UNAUTHENTICATED", suppressed }, "call refused")),
  );
  const sign = createSigner(authority, {
    onIssued: (facts) => {
      metrics.issued.inc();
      log.info(facts, "certificate issued");
    },
    onRefused: (caller, code, reason) => {
      metrics.refused.inc({ code });
      quiet((suppressed) => log.warn({ caller, code, reason, suppressed }, "certificate refused"));
    },
  });
  const scoped = scopedFeed({ store, compiler, adopt, uidOf: ({ metadata }) => uidOf(metadata.namespace, metadata.name, compiling) });
  store.watch(scoped.touched);
  const served = createWaypoints({
    view,
    version,
    settings: { trustDomain, clusterDomain },
    feed: scoped,
    sign,
    report: (batch) => {
      flows.take(batch);
      ledger.take(batch.edges);
    },
    onEvent: (pod, event, detail) => quiet((suppressed) => log.info({ pod, ...detail, suppressed }, `waypoint ${event}`)),
  });
  waypoints = served;
  const adapter = connectNodeAdapter({
    routes: (router) =>
      router
        .service(AggregatedDiscoveryService, xds.service)
        .service(Nodes, nodes.service)
        .service(Inspection, inspection.service)
        .service(IstioCertificateService, certificateService(sign, view))
        .service(Director, served.service),
    grpc: true,
    grpcWeb: false,
    connect: false,
    acceptCompression: [],
    readMaxBytes: bounds.grpcMessageBytes,
    writeMaxBytes: bounds.grpcMessageBytes,
    contextValues: access.contextValues,
  });
  const people = servePeople({
    viewers: platform.viewers,
    inspection,
    waypoints: answerOfWaypoints,
    peers: createPeers({
      list: platform.peers,
      port: options.listen[0]?.port ?? 0,
      roots: authority.roots,
      serverName: platform.serverNames.at(-1) ?? "",
    }),
    nodes: view.nodes,
    onAsked: (viewer, question) => {
      if (question.about === "recording")
        log.warn({ audit: "recording", by: viewer, ...question }, "traffic of pods is asked to be recorded");
      else log.info({ viewer, ...question }, "flows were asked for");
    },
    announce: platform.announce,
    onRefused: (address, reason) => quiet((suppressed) => log.warn({ address, reason, suppressed }, "a question was refused")),
  });
  const daemons = access.guard(adapter);
  let own = makeOwnCertificate(authority, platform.serverNames, options);
  const listener = await listen({
    endpoints: options.listen,
    credentials: own,
    handler: (request, response) => (request.url.split("?", 1)[0] === ASK_PATH ? people(request, response) : daemons(request, response)),
    onCut: (address, reason) => quiet((suppressed) => log.warn({ address, reason, suppressed }, "connection cut")),
  });

  async function maintain(): Promise<void> {
    await platform.maintain();
    if (!isHalfOver(own)) return;
    own = makeOwnCertificate(authority, platform.serverNames, options);
    listener.replaceCredentials(own);
    log.info({ notAfter: own.notAfter }, "control's own certificate replaced");
  }
  let maintaining = false;
  const maintenance = setInterval(() => {
    trust().catch((error: unknown) => log.error({ reason: explainError(error) }, "tokens could not be read"));
    if (maintaining) return; // the one before waits for a server that does not answer
    maintaining = true;
    maintain()
      .catch((error: unknown) => log.error({ reason: explainError(error) }, "keys and certificates could not be maintained"))
      .finally(() => {
        maintaining = false;
      });
  }, MAINTENANCE_MILLISECONDS);
  const warnings = warnOfExpiry(authority, log);
  const keeping = setInterval(() => void ledger.keep(), KEEP_MILLISECONDS);

  observe = () => {
    metrics.streams.set(xds.streams().length);
    metrics.waypointStreams.set(served.status().length);
    const { root, issuer } = authority.expiry();
    metrics.expirySeconds.set({ kind: "root" }, secondsUntil(root));
    metrics.expirySeconds.set({ kind: "issuer" }, secondsUntil(issuer));
    metrics.expirySeconds.set({ kind: "control" }, secondsUntil(own.notAfter));
    platform.observe();
  };
  unready = "";

  async function drain(): Promise<number> {
    unready = "draining";
    clearInterval(maintenance);
    clearInterval(warnings);
    clearInterval(keeping);
    stop.abort();
    const drained = listener.drain(DRAIN_MILLISECONDS);
    xds.close();
    nodes.close();
    inspection.close();
    served.close();
    const cut = await drained;
    await started.disposeAsync();
    return cut;
  }

  return { addresses: listener.addresses, health: health.address, platform: platform.described, failed: failure.promise, drain };
}
