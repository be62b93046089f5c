// Control as one thing: its parts built and connected, started in the order that never tells a node less than the truth.
import { networkInterfaces } from "node:os";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type LocalAuthority, openAuthority } from "#ca/local.ts";
import type { ServerCertificate } from "#ca/signing.ts";
import { createCompiler } from "#compile/compiler.ts";
import { Nodes, PodPhase } from "#contract/gen/control_pb.ts";
import { AggregatedDiscoveryService } from "#contract/gen/envoy/discovery_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import { bounds, errors } from "#contract/tables.ts";
import { makeDirectory, requireDirectory } from "#mesh/directory.ts";
import { explainError } from "#mesh/error.ts";
import { directorySource } from "#source/directory.ts";
import type { Change, Fault } from "#source/source.ts";
import { createXdsServer } from "#xds/server.ts";
import { createStore } from "#xds/store.ts";
import { callerNode, createAccess } from "./access.ts";
import { certificateService } from "./certificates.ts";
import { createFaultBoard } from "./faults.ts";
import { allFaults, startFeed } from "./feed.ts";
import { json, serveHealth, text } from "./health.ts";
import { listen } from "./listener.ts";
import type { Log } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { createNodesServer } from "./nodes.ts";
import type { ControlOptions } from "./options.ts";
import { createQuiet } from "./quiet.ts";
import { openTokens } from "./tokens.ts";
import { createView } from "./view.ts";

export type Control = {
  readonly addresses: readonly string[];
  readonly health: string;
  /** Rejects when something that must not fail did. */
  readonly failed: Promise<never>;
  /** Ends every stream and connection; resolves with how many connections had to be cut. */
  drain(): Promise<number>;
};

/** Nodes reconnect elsewhere or later; who does not let go in this time is cut. */
const DRAIN_MILLISECONDS = 5_000;
/** Token files changed by hand, certificates that near their end: looked at this often. */
const MAINTENANCE_MILLISECONDS = 5_000;
const DAY_SECONDS = 86_400;
/** A root or issuer with less left than this is warned of; renewal of the issuer should have happened long before. */
const WARN_SECONDS = { root: 365 * DAY_SECONDS, issuer: 60 * DAY_SECONDS };

export async function startControl(options: ControlOptions, log: Log): Promise<Control> {
  requireDirectory("--mesh", options.mesh); // before keys are made for a mistyped command line
  makeDirectory("--tokens", options.tokens);
  const stop = new AbortController();
  const { trustDomain, clusterDomain, rootNamespace, encryptSameNode } = options;
  const metrics = createMetrics();
  const quiet = createQuiet();
  const authority = openAuthority(options.state);
  const store = createStore();
  const view = createView(trustDomain);
  const compiler = createCompiler({ trustDomain, clusterDomain, rootNamespace, network: "", clusterId: "Kubernetes" });
  const tokens = openTokens(options.tokens, tokenFaults(log));
  const faults = createFaultBoard(
    ({ code, key, file, line, field, reason }) =>
      log.error({ code, object: key, file, line, field, reason, next: errors[code].next }, "fault"),
    ({ code, key, file }) => log.info({ code, object: key, file }, "fault is mended"),
  );

  const nodes = createNodesServer({
    view,
    settings: { trustDomain, clusterDomain, network: "", encryptSameNode },
    report: (update) => feed.report(update),
    onEvent: (node, event, detail) => quiet((suppressed) => log.info({ node, ...detail, suppressed }, `node ${event}`)),
  });
  const xds = createXdsServer(store, {
    authenticate: callerNode,
    onResponse: (_node, typeUrl) => metrics.pushes.inc({ type: shortType(typeUrl) }),
    onNack: (node, typeUrl, reasons) => {
      metrics.nacks.inc({ type: shortType(typeUrl) });
      log.error({ node, type: shortType(typeUrl), reasons }, "a node refused resources");
    },
    onFault: (node, error) => log.error({ node, reason: explainError(error) }, "a node broke the discovery protocol"),
  });
  const certificates = certificateService(authority, view, {
    onIssued: (facts) => {
      metrics.issued.inc();
      log.info(facts, "certificate issued");
    },
    onRefused: (node, code, reason) => {
      metrics.refused.inc({ code });
      quiet((suppressed) => log.warn({ node, code, reason, suppressed }, "certificate refused"));
    },
  });

  /** Nodes that are gone, or whose token changed, lose their streams. One look at a time, or an older one could undo a newer one. */
  let looking: Promise<void> = Promise.resolve();
  function trust(): Promise<void> {
    looking = looking.then(look, look);
    return looking;
  }
  async function look(): Promise<void> {
    for (const node of await tokens.refresh(view.nodes())) {
      log.warn({ node }, "the node's token is not valid any more; its streams end");
      xds.disconnect(node);
      nodes.disconnect(node);
    }
  }

  let source: Pick<Change, "faults" | "places"> = { faults: [], places: new Map() };
  const everyFault = (): readonly Fault[] => allFaults(source.faults, compiler.faults(), source.places);
  const feed = startFeed(
    {
      source: directorySource(options.mesh),
      compiler,
      store,
      view,
      onChange: async (current) => {
        source = current;
        faults.update(everyFault());
        metrics.documents.reset();
        for (const [kind, count] of view.counts()) metrics.documents.set({ kind, result: "in_force" }, count);
        metrics.documents.set({ kind: "any", result: "fault" }, faults.list().length);
        await trust();
      },
      onCompiled: (seconds, recompiled, changed) => {
        metrics.compileSeconds.observe(seconds);
        log.debug({ seconds, recompiled, changed }, "compiled");
      },
    },
    stop.signal,
  );
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => undefined); // whoever started control awaits it; a failure while starting is thrown anyway
  feed.done.catch(failure.reject);

  // Before the first complete batch an answer would tell returning nodes that everything was removed.
  await feed.ready.catch((error: unknown) => {
    stop.abort();
    throw error;
  });

  const access = createAccess(tokens.nodeOf, (address, reason) =>
    quiet((suppressed) => log.warn({ address, reason, code: "E_CONTROL_UNAUTHENTICATED", suppressed }, "call refused")),
  );
  const adapter = connectNodeAdapter({
    routes: (router) =>
      router.service(AggregatedDiscoveryService, xds.service).service(Nodes, nodes.service).service(IstioCertificateService, certificates),
    grpc: true,
    grpcWeb: false,
    connect: false,
    acceptCompression: [],
    readMaxBytes: bounds.grpcMessageBytes,
    writeMaxBytes: bounds.grpcMessageBytes,
    contextValues: access.contextValues,
  });
  let credentials = newCredentials(authority, options);
  const listener = await listen({
    endpoints: options.listen,
    credentials,
    handler: access.guard(adapter),
    onCut: (address, reason) => quiet((suppressed) => log.warn({ address, reason, suppressed }, "connection cut")),
  }).catch((error: unknown) => {
    stop.abort();
    throw error;
  });

  function maintain(): void {
    if (authority.renew()) log.info({ notAfter: authority.expiry().issuer }, "issuer replaced");
    const halfLife = (credentials.notAfter.getTime() - credentials.madeAt) / 2;
    if (Date.now() > credentials.madeAt + halfLife) {
      credentials = newCredentials(authority, options);
      listener.replaceCredentials(credentials);
      log.info({ notAfter: credentials.notAfter }, "control's own certificate replaced");
    }
  }
  const maintenance = setInterval(() => {
    try {
      maintain();
    } catch (error) {
      log.error({ reason: explainError(error) }, "certificates could not be maintained");
    }
    trust().catch((error: unknown) => log.error({ reason: explainError(error) }, "tokens could not be read"));
  }, MAINTENANCE_MILLISECONDS);
  const warnings = warnOfExpiry(authority, log);

  function observe(): void {
    metrics.streams.set(xds.streams().length);
    const { root, issuer } = authority.expiry();
    metrics.expirySeconds.set({ kind: "root" }, secondsUntil(root));
    metrics.expirySeconds.set({ kind: "issuer" }, secondsUntil(issuer));
    metrics.expirySeconds.set({ kind: "control" }, secondsUntil(credentials.notAfter));
  }

  let draining = false;
  const health = await serveHealth(
    options.health,
    {
      "/healthz/live": () => text(200, "ok"),
      "/healthz/ready": () => (draining ? text(503, "draining") : text(200, "ok")),
      "/metrics": async () => {
        observe();
        return { status: 200, type: metrics.registry.contentType, body: await metrics.registry.metrics() };
      },
      "/v1/faults": () => {
        faults.update(everyFault());
        return json({ faults: faults.list() });
      },
      "/v1/nodes": () => json({ nodes: nodes.status().map(nodeJson), streams: xds.streams().map(streamJson) }),
    },
    (error) => log.error({ reason: explainError(error) }, "health request failed"),
  ).catch(async (error: unknown) => {
    clearInterval(maintenance);
    clearInterval(warnings);
    stop.abort();
    await listener.drain(0);
    throw error;
  });

  async function drain(): Promise<number> {
    draining = true;
    clearInterval(maintenance);
    clearInterval(warnings);
    stop.abort();
    const drained = listener.drain(DRAIN_MILLISECONDS);
    xds.close();
    nodes.close();
    const cut = await drained;
    await health.close();
    return cut;
  }

  return { addresses: listener.addresses, health: health.address, failed: failure.promise, drain };
}

type OwnCredentials = ServerCertificate & { readonly madeAt: number };

/** Valid for every address where daemons may reach us: those named, and for a wildcard all of this host's. */
function newCredentials(authority: LocalAuthority, { listen }: ControlOptions): OwnCredentials {
  const hosts = listen.map(({ host }) => host);
  const wildcard = hosts.some((host) => host === "0.0.0.0" || host === "::");
  const local = wildcard ? Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address)) : [];
  const addresses = [...new Set([...hosts, ...local, "127.0.0.1", "::1"])].filter((address) => !address.includes("%"));
  return { ...authority.serverCertificate({ names: ["localhost"], addresses }), madeAt: Date.now() };
}

/** A node's token fault is told once, not at every look. */
function tokenFaults(log: Log): (fault: { node: string; error: unknown }) => void {
  const told = new Map<string, string>();
  return ({ node, error }) => {
    const reason = explainError(error);
    if (told.get(node) === reason) return;
    told.set(node, reason);
    log.error({ node, reason }, "the node has no usable token and cannot connect");
  };
}

function warnOfExpiry(authority: LocalAuthority, log: Log): NodeJS.Timeout {
  const warn = (): void => {
    for (const [kind, end] of Object.entries(authority.expiry()) as ["root" | "issuer", Date][]) {
      const seconds = secondsUntil(end);
      if (seconds < WARN_SECONDS[kind])
        log.warn({ kind, notAfter: end, days: Math.floor(seconds / DAY_SECONDS) }, "an authority's certificate ends soon");
    }
  };
  warn();
  return setInterval(warn, DAY_SECONDS * 1000);
}

const secondsUntil = (end: Date): number => Math.round((end.getTime() - Date.now()) / 1000);

const shortType = (typeUrl: string): string => typeUrl.slice(typeUrl.lastIndexOf(".") + 1).toLowerCase();

const phaseName = (phase: PodPhase): string =>
  Object.entries(PodPhase)
    .find(([, value]) => value === phase)?.[0]
    ?.toLowerCase() ?? String(phase);

const nodeJson = ({ node, connected, since, pods }: ReturnType<ReturnType<typeof createNodesServer>["status"]>[number]) => ({
  node,
  connected,
  since,
  pods: [...pods].map(([uid, { namespace, name, phase, code, reason }]) => ({
    uid,
    namespace,
    name,
    phase: phaseName(phase),
    code,
    reason,
  })),
});

const streamJson = ({ node, since, types }: ReturnType<ReturnType<typeof createXdsServer>["streams"]>[number]) => ({
  node,
  since,
  types: Object.fromEntries([...types()].map(([typeUrl, counters]) => [shortType(typeUrl), counters])),
});
