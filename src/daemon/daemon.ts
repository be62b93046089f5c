// One node's daemon put together: source → reconciler → namespaces and engine, control → relay → engine, and what people may ask.
import { chmod } from "node:fs/promises";
import type { Server } from "node:http";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import type { Logger } from "pino";
import { type Hello, MeshSettingsSchema, ResourceType } from "#contract/gen/engine_pb.ts";
import { bounds, errors, paths } from "#contract/tables.ts";
import type { Director } from "#engine/director.ts";
import { startDirector } from "#engine/local-director.ts";
import { glanceAt, readBootId } from "#engine/namespace.ts";
import { listenOn, privateDirectory } from "#engine/socket.ts";
import { answering } from "#inspect/answer.ts";
import { resourceOf, type StateLine } from "#inspect/eval/state.ts";
import { createExports } from "#inspect/export/export.ts";
import { createFlows } from "#inspect/flows.ts";
import { ledgerFile, removeLedger } from "#inspect/ledger/file.ts";
import { createLedger } from "#inspect/ledger/ledger.ts";
import type { NodeStatus, Problem } from "#inspect/status.ts";
import { requireDirectory } from "#mesh/directory.ts";
import { explainError, isMeshError, type MeshError, meshError } from "#mesh/error.ts";
import type { Source } from "#source/source.ts";
import { controlChannel, rootsOf } from "#xds/channel.ts";
import { type Connectivity, xdsClient } from "#xds/client.ts";
import { heldOf, type MeshSettings, readSnapshot } from "#xds/snapshot.ts";
import { adminServer } from "./admin.ts";
import { certifier } from "./certificates.ts";
import type { Cluster } from "./cluster.ts";
import { desiredPods } from "./desired.ts";
import { frameCounter } from "./frames.ts";
import { createHands, type HandsOptions } from "./hands.ts";
import { inspection } from "./inspection.ts";
import { createMetrics, healthServer } from "./metrics.ts";
import { reporter } from "./nodes.ts";
import type { DaemonOptions } from "./options.ts";
import { loadPromises } from "./promises.ts";
import { type Reconciler, reconciler, usualFarewell } from "./reconciler.ts";
import { type RecordingParts, recordPods, recordSome } from "./recordings.ts";
import { createRefusals } from "./refusals.ts";
import { createRelay, type Relay } from "./relay.ts";
import { explainPod, podStatus } from "./status.ts";
import { countUnmeshed } from "./unmeshed.ts";

export type DaemonParts = Pick<HandsOptions, "helper" | "backend" | "planOf" | "compare"> & {
  readonly version: string;
  readonly source: Source;
  readonly log: Logger;
  /** Null in directory mode. */
  readonly cluster: Cluster | null;
};

export type Daemon = {
  status(): NodeStatus;
  /** Rejects when the source cannot be read at all. */
  run(): Promise<void>;
  /** Stops watching and answering. Rules, engine and connections stay as they are. */
  drain(): Promise<void>;
};

/** Until control or the snapshot says otherwise: the defaults of the design. */
const DEFAULTS: Omit<MeshSettings, "clusterDomain"> = { trustDomain: "cluster.local", network: "", encryptSameNode: false };

/** The finest step of the ledger. */
const KEEP_MS = 10_000;

/** An engine that lives finds a new daemon within seconds. Until then each pod looks as if its engine had died, which would be told to everybody. */
const MEETING_MS = bounds.holdMilliseconds;

export async function buildDaemon(options: DaemonOptions, parts: DaemonParts): Promise<Daemon> {
  const { log, version, cluster } = parts;
  const { node, run } = options;
  const bootId = readBootId();
  const started = new Date().toISOString();
  const stop = new AbortController();
  if (options.mesh !== null) requireDirectory("--mesh", options.mesh);
  await privateDirectory(run);

  const noted = (text: string) => (error: unknown) => log.warn({ error: explainError(error) }, text);
  const snapshotPath = join(run, paths.snapshot);
  const roots = (): string[] => rootsOf(options.root);
  const snapshot = await readOwnSnapshot(snapshotPath, node, roots).catch((error: unknown) => {
    noted("the snapshot was not used")(error);
    return null;
  });
  const promises = await loadPromises(join(run, "captured.json"), bootId, noted("the memory of captured pods"));
  const channel = controlChannel(options);
  const desired = desiredPods(node, () => settings().clusterDomain, {
    adopt: options.adopt,
    ...(cluster === null ? {} : { quarters: cluster.quarters, decide: cluster.decide }),
  });
  const flows = createFlows();
  const exports = createExports(options.exports, flows, { node, version, output: process.stdout }, (sink, reason) =>
    reason === null
      ? log.info({ sink }, "flow records are exported again")
      : log.warn({ sink, reason }, "flow records cannot all be exported"),
  );
  const noLedger = (what: string, error: unknown): void => log.error(error === null ? {} : { error: explainError(error) }, what);
  const leaving = options.kubernetes?.leave === true;
  if (leaving && options.ledger !== null) removeLedger(options.ledger);
  const ledger =
    options.ledger === null || leaving
      ? null
      : createLedger({ open: ledgerFile(options.ledger, noLedger), failed: (error) => noLedger("the ledger is in trouble", error) });
  const keeping = setInterval(() => void ledger?.keep(), KEEP_MS);
  const recordingParts: RecordingParts = {
    node,
    log,
    director: { record: (order, ended) => director.record(order, ended) },
    pods: () => pods.records.values(),
  };
  const frames = frameCounter({ node, helper: parts.helper, pods: () => pods.records.values() });
  const answer = answering(node, { flows, ledger, record: (question, ended) => recordSome(question, recordingParts, ended), frames });
  const engine = { since: started, inSync: false, counters: new Map<string, number>() };
  let sourceRead = false;
  let meeting: NodeJS.Timeout | undefined;
  /** No engine has come in time. */
  let alone = false;
  let reportsBroke = "";
  let connectivity: Connectivity = { connected: false, synced: false, since: new Date(), error: null };
  let director: Director;
  let pods: Reconciler;
  let relay: Relay;

  const settings = (): MeshSettings => relay?.settings ?? snapshot?.settings ?? { ...DEFAULTS, clusterDomain: options.clusterDomain };
  const refusals = createRefusals({ director: () => director, versionOf: (resource) => relay.versionOf(resource) });
  const forEngine = () =>
    create(MeshSettingsSchema, { node, ...settings(), holdMilliseconds: bounds.holdMilliseconds, uncounted: ledger === null });

  const certificate = certifier({
    transport: channel.transport,
    trustDomain: () => settings().trustDomain,
    pod: (uid) => pods.records.get(uid)?.spec,
    stop: stop.signal,
  });

  const served = await startDirector({
    path: join(run, paths.directorSocket),
    version,
    settings: forEngine(),
    events: {
      attached: (hello: Hello) => {
        engine.since = new Date().toISOString();
        engine.inSync = false;
        log.info(
          { instance: hello.instance, version: hello.engineVersion, pods: hello.pods.length, resources: hello.resources.length },
          "engine attached",
        );
        pods.attached(hello);
      },
      detached: (reason) => {
        engine.since = new Date().toISOString();
        engine.inSync = false;
        log.warn({ reason }, "engine detached; it goes on with what it has");
        pods.detached();
        refusals.detached();
      },
      podState: (state) => pods.podState(state),
      podGone: (gone) => {
        log.info({ pod: gone.uid, cut: gone.cut }, "the engine let a pod go");
        pods.podGone(gone);
      },
      drift: ({ uid, kind, pid, process }) => {
        log.debug({ pod: uid, kind, pid, process }, "something moved in a pod's namespace");
        pods.drift(uid, process === "" ? "" : `${process} (process ${pid})`);
      },
      applied: (generation, rejected) => {
        if (rejected.length > 0)
          log.error(
            { generation: `${generation}`, rejected: rejected.map(({ name, code, reason }) => ({ name, code, reason })) },
            "the engine rejected resources",
          );
        refusals.applied(rejected);
        relay.applied();
      },
      certificate: async (request) => {
        const reply = await certificate(request);
        if (reply.code !== "") log.warn({ identity: request.identity, code: reply.code, reason: reply.reason }, "no certificate");
        return reply;
      },
      report: (batch) => {
        flows.take(batch);
        ledger?.take(batch.edges);
        for (const { name, value } of batch.counters) engine.counters.set(name, Number(value));
      },
    },
  });

  director = served.director;
  relay = createRelay({ node, roots, path: snapshotPath, snapshot, director, failed: noted("the snapshot could not be written") });

  const reports = reporter({
    node,
    bootId,
    transport: channel.transport,
    settings: ({ trustDomain, clusterDomain, network, encryptSameNode }) => {
      const before = settings().clusterDomain;
      relay.setSettings({ trustDomain, clusterDomain, network, encryptSameNode });
      director.setSettings(forEngine());
      if (clusterDomain !== before) apply();
    },
    broken: (error) => {
      const reason = explainError(error);
      // A stream that only ended with its connection was told of as "no control".
      log[reason !== reportsBroke && connectivity.connected ? "warn" : "debug"]({ error: reason }, "the stream of pod reports broke");
      reportsBroke = reason;
    },
  });

  let inspectionBroke = "";
  const asked = inspection({
    node,
    transport: channel.transport,
    answer,
    broken: (error) => {
      const reason = explainError(error);
      log[reason !== inspectionBroke && connectivity.connected ? "warn" : "debug"](
        { error: reason },
        "questions about flows cannot be answered",
      );
      inspectionBroke = reason;
    },
  });

  const farewell = cluster?.farewell ?? usualFarewell;
  const hands = createHands({
    ...parts,
    bootId,
    netnsSocket: join(run, paths.netnsSocket),
    director: () => director,
    ...(cluster === null ? {} : { strayed: cluster.strayed }),
  });
  pods = reconciler({
    bootId,
    hands,
    countUnmeshed: ({ netns }) => countUnmeshed(netns),
    glance: cluster?.glance ?? (({ netns }) => glanceAt(netns)),
    farewell,
    ...(cluster === null ? {} : { over: cluster.quarters.over }),
    named: () => {
      engine.inSync = true;
      director.inSync();
    },
    events: {
      settled: (record) => {
        promises.note(pods.records.values());
        reports.changed(record);
        tellControl();
        cluster?.settled();
      },
      forgotten: (record) => {
        promises.note(pods.records.values());
        reports.forgotten(record);
        metrics.forgotten(podName(record.spec));
        cluster?.settled();
      },
      drifted: (record, by) => {
        metrics.drifted(podName(record.spec));
        log.warn({ pod: podName(record.spec), by, difference: record.differences }, "rules of a captured pod were changed by someone else");
      },
      repaired: (record, result) => {
        metrics.repaired(result);
        log.info({ pod: podName(record.spec), result }, "repaired");
      },
    },
  });
  for (const { spec, captured } of promises.kept) pods.remember(spec, captured);

  const discovery = xdsClient({
    channel,
    node: { id: node, metadata: {} },
    held: snapshot === null ? new Map() : heldOf(snapshot),
    onDelta: async (delta, whole) => {
      relay.delta(delta);
      if (whole) relay.synced();
      return refusals.untold();
    },
    onConnectivity: (now) => {
      if (!now.connected) refusals.streamEnded();
      // Told once for each reason, not at each attempt: daemons outlive control by days.
      if (now.error !== null && now.error.message !== connectivity.error?.message && !stop.signal.aborted)
        log.warn({ error: explainError(now.error) }, "no control");
      else if (now.connected && !connectivity.connected) log.info("control is connected");
      connectivity = now;
    },
  });

  function notReady(): string[] {
    const read = sourceRead ? "" : "the mesh's documents were not read yet";
    // Who only leaves needs neither state nor engine: both may have been taken away before.
    if (options.kubernetes?.leave === true) return [read, ...(cluster?.notReady() ?? [])].filter((text) => text !== "");
    return [
      read,
      relay.from === "none" ? "no state from control or snapshot yet" : "",
      director.connected
        ? engine.inSync
          ? ""
          : ["the engine was not told of every pod yet", desired.unread].filter(Boolean).join(": ")
        : "no engine is connected",
      ...(cluster?.notReady() ?? []),
    ].filter((text) => text !== "");
  }

  function status(): NodeStatus {
    const { hello } = director;
    const away = director.connected ? null : problemOf("E_ENGINE_AWAY", errors.E_ENGINE_AWAY.help, engine.since);
    return {
      node,
      version,
      trustDomain: settings().trustDomain,
      started,
      time: new Date().toISOString(),
      ready: notReady().length === 0,
      engine: {
        connected: director.connected,
        since: engine.since,
        problem: away,
        version: hello?.engineVersion ?? null,
        instance: hello?.instance ?? null,
        generation: director.generation.toString(),
        acknowledged: director.acknowledged.toString(),
        rejected: [...refusals.all()].map(({ name, code, reason }) => ({ name, code, reason })),
        counters: Object.fromEntries(engine.counters),
      },
      control: {
        connected: connectivity.connected,
        since: connectivity.since.toISOString(),
        problem: connectivity.error === null ? null : problemFrom(connectivity.error, connectivity.since.toISOString()),
      },
      state: { from: relay.from, resources: relay.resources },
      source: desired.faults.map(({ code, file, line, field, reason }) => ({ code, file, line, field, reason })),
      flows: { received: flows.received, droppedByEngine: flows.droppedByEngine, kept: flows.kept },
      pods: [...pods.records.values()].map((record) => podStatus(record, settings().trustDomain)),
    };
  }

  const metrics = createMetrics(status, exports.counts, cluster === null ? null : () => cluster.notReady().length === 0);
  const admin = adminServer(
    {
      status,
      pod: (namespace, name) => {
        const record = [...pods.records.values()].find(({ spec }) => spec.namespace === namespace && spec.name === name);
        return record === undefined ? null : explainPod(record, node, settings().trustDomain, farewell);
      },
      state: () => stateLines(node, settings(), director, relay),
      flows: (since, follow, ended) => flows.read({ since, follow, stop: AbortSignal.any([ended, stop.signal]) }),
      record: (question, ended) => recordPods(question, recordingParts, AbortSignal.any([ended, stop.signal])),
      answer,
      setLogLevel: (request) => {
        if (request.daemon !== undefined) log.level = request.daemon;
        if (request.engine === undefined || director.setLogLevel(request.engine)) return null;
        return { code: "E_ENGINE_AWAY", message: "no engine is connected to take the log filter" };
      },
    },
    noted("an admin request failed"),
  );
  const adminPath = join(run, paths.adminSocket);
  await listenOn(admin, adminPath);
  await chmod(adminPath, 0o600);
  const health = options.health === null ? null : healthServer(notReady, metrics.text, noted("a metrics request failed"));
  if (health !== null && options.health !== null) await listenTcp(health, options.health);

  function apply(): void {
    if (sourceRead) pods.update(desired.again(), !desired.incomplete);
  }

  await cluster?.start({ desired, pods, metrics, apply });

  async function watch(): Promise<void> {
    for await (const change of parts.source(stop.signal)) {
      desired.update(change);
      await cluster?.followed();
      for (const fault of desired.faults)
        log.warn({ file: fault.file, line: fault.line, field: fault.field, code: fault.code }, fault.reason);
      sourceRead = true;
      apply();
      cluster?.began();
      meeting ??= setTimeout(() => {
        alone = true;
        tellControl();
      }, MEETING_MS);
      tellControl();
    }
  }

  function tellControl(): void {
    if (pods.lookedAtAll && (alone || pods.metAll)) reports.ready();
  }

  return {
    status,
    run: async () => {
      log.info({ node, version, run, snapshot: snapshot !== null }, "daemon runs");
      const exported = exports.run(stop.signal).catch(noted("flow records are not exported any more"));
      await Promise.all([watch(), discovery.run(stop.signal), reports.run(stop.signal), asked.run(stop.signal), exported]);
    },
    drain: async () => {
      stop.abort();
      clearTimeout(meeting);
      cluster?.stop();
      channel.abort();
      admin.closeAllConnections();
      admin.close();
      health?.closeAllConnections();
      health?.close();
      const idle = pods.stop();
      await served.close();
      await idle;
      clearInterval(keeping);
      await Promise.all([relay.flush(), promises.flush(), ledger?.keep(true)]);
      ledger?.close();
    },
  };
}

/** For whoever asks what this node would decide. */
function* stateLines(node: string, settings: MeshSettings, director: Director, relay: Relay): Generator<StateLine> {
  const { trustDomain, clusterDomain, network, encryptSameNode } = settings;
  const inForce = relay.from !== "none" && director.connected && director.acknowledged === director.generation;
  yield { about: { node, inForce, settings: { trustDomain, clusterDomain, network, encryptSameNode } } };
  for (const { type, name, version, body } of relay.held())
    yield { resource: resourceOf(type === ResourceType.ADDRESS ? "address" : "authorization", { name, version, body }) };
}

/** Without the roots nobody can say whose snapshot it is. */
const readOwnSnapshot = async (path: string, node: string, roots: () => string[]) => readSnapshot(path, node, roots());

const podName = ({ namespace, name }: { readonly namespace: string; readonly name: string }): string => `${namespace}/${name}`;

const problemOf = (code: keyof typeof errors, reason: string, since: string): Problem => ({ code, reason, next: errors[code].next, since });

const problemFrom = (error: MeshError, since: string): Problem => {
  const cause = isMeshError(error.cause) || !(error.cause instanceof Error) ? "" : `: ${error.cause.message}`;
  return problemOf(error.code, `${error.message}${cause}`, since);
};

const listenTcp = (server: Server, { host, port }: { readonly host: string; readonly port: number }): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once("error", (cause) =>
      reject(meshError("E_DAEMON_LISTEN_FAILED", `the daemon cannot listen on ${host} port ${port} (--health)`, cause)),
    );
    server.listen(port, host, resolve);
  });
