// The director of every waypoint: an engine that attaches is told who it is and gets what its waypoint needs of what is compiled, nothing else.
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { authoriseWaypoint } from "#ca/authorise.ts";
import { fromPem, toPem } from "#ca/pem.ts";
import {
  AddPodSchema,
  type CertificateReply,
  CertificateReplySchema,
  type CertificateRequest,
  type Director as DirectorService,
  type FromEngine,
  MeshSettingsSchema,
  type PodState,
  type RecordedBatch,
  type Rejected,
  type ReportBatch,
  type ToEngine,
} from "#contract/gen/engine_pb.ts";
import { bounds } from "#contract/tables.ts";
import { createDirector } from "#engine/director.ts";
import { parseAddress } from "#mesh/address.ts";
import { isMeshError } from "#mesh/error.ts";
import type { Pod } from "#mesh/objects.ts";
import { callerWaypoint } from "./access.ts";
import type { Sign } from "./certificates.ts";
import type { MeshView } from "./view.ts";
import type { Follow, WaypointFeed } from "./waypoint-feed.ts";

export type WaypointsOptions = {
  readonly view: MeshView;
  readonly version: string;
  readonly settings: { readonly trustDomain: string; readonly clusterDomain: string };
  readonly feed: WaypointFeed;
  readonly sign: Sign;
  /** Takes what waypoints say of requests and connections. */
  readonly report: (batch: ReportBatch) => void;
  readonly onEvent: (pod: string, event: string, detail: Record<string, unknown>) => void;
};

export type WaypointStatus = {
  readonly uid: string;
  readonly pod: string;
  readonly since: Date;
  readonly engine: string;
  /** Listening, with a certificate and everything it needs. */
  readonly ready: boolean;
  readonly resources: number;
  /** What the engine could not use, and why. */
  readonly rejected: readonly { readonly name: string; readonly code: string; readonly reason: string }[];
};

export type WaypointsServer = {
  readonly service: ServiceImpl<typeof DirectorService>;
  /** Something was compiled, or pods changed: whoever is attached is told the difference. Pods that are gone lose their stream. */
  changed(): void;
  disconnect(uid: string): void;
  status(): readonly WaypointStatus[];
  close(): void;
};

type Attached = {
  pod: Pod;
  readonly since: Date;
  readonly director: ReturnType<typeof createDirector>;
  readonly follow: Follow;
  state: PodState | null;
  rejected: readonly Rejected[];
};

/** As a node's daemon asks; the authority may shorten it. */
const VALIDITY_SECONDS = 24 * 60 * 60;
/** A burst of changes costs one look at what each waypoint needs; a person notices nothing. */
const SETTLE_MILLISECONDS = 10;

export function createWaypoints(options: WaypointsOptions): WaypointsServer {
  const { view, version, feed, sign, onEvent } = options;
  const attached = new Map<string, Attached>();
  let scheduled: NodeJS.Timeout | undefined;
  let closed = false;
  const settings = create(MeshSettingsSchema, {
    ...options.settings,
    encryptSameNode: true, // a waypoint joins no two sockets of a node
    holdMilliseconds: bounds.holdMilliseconds,
  });

  async function* attach(requests: AsyncIterable<FromEngine>, context: HandlerContext): AsyncGenerator<ToEngine> {
    const uid = callerWaypoint(context);
    const pod = view.waypoint(uid);
    if (pod === undefined || closed) throw new ConnectError("this pod is not, or no more, a waypoint's", Code.Unavailable);
    const name = nameOf(pod);
    const director = createDirector({
      version,
      settings,
      events: {
        attached: (hello) => {
          onEvent(name, "attached", { engine: hello.engineVersion, instance: hello.instance });
          tell(one);
          introduce(one);
          director.inSync();
        },
        detached: (reason) => onEvent(name, "detached", { reason }),
        podState: (state) => {
          if (state.uid === uid) one.state = state;
        },
        podGone: ({ cut }) => onEvent(name, "drained", { cut }),
        drift: () => undefined, // nothing of a waypoint's namespace is ours
        applied: (_generation, rejected) => {
          if (rejected.length > 0) onEvent(name, "rejected resources", { rejected: rejected.map(plain) });
          one.rejected = [...one.rejected.filter((before) => !rejected.some((now) => isSame(before, now))), ...rejected];
        },
        certificate: (request) => certify(pod, request, context.signal),
        report: () => undefined,
      },
    });
    const one: Attached = { pod, since: new Date(), director, follow: feed.open(), state: null, rejected: [] };
    attached.get(uid)?.director.end("another stream of the pod took its place");
    attached.set(uid, one);
    try {
      yield* director.attach(requests);
    } finally {
      if (attached.get(uid) === one) attached.delete(uid);
    }
  }

  /** Who the engine is. Told again when its addresses come or change. */
  function introduce({ director, pod: { metadata, serviceAccountName, podIPs } }: Attached): void {
    const { uid, name, namespace } = metadata;
    const addresses = podIPs.map(parseAddress).filter((bytes) => bytes !== null);
    director.addPod(create(AddPodSchema, { uid, name, namespace, serviceAccount: serviceAccountName, addresses, waypoint: true }));
  }

  function tell(one: Attached): void {
    const change = one.follow(one.pod);
    const { reset, upsert, remove } = change;
    const renewed = new Set([...upsert, ...remove].map(idOf));
    one.rejected = reset ? [] : one.rejected.filter((rejected) => !renewed.has(idOf(rejected)));
    if (reset || renewed.size > 0) one.director.setState(change);
  }

  function look(): void {
    for (const [uid, one] of attached) {
      const pod = view.waypoint(uid);
      if (pod === undefined) one.director.end("its pod is gone, or no more a waypoint's");
      if (pod === undefined || !one.director.connected) continue; // or has not said Hello yet
      const moved = pod.podIPs.join() !== one.pod.podIPs.join();
      one.pod = pod;
      if (moved) introduce(one);
      tell(one);
    }
    feed.settled();
  }

  async function certify({ metadata }: Pod, request: CertificateRequest, signal: AbortSignal): Promise<CertificateReply> {
    const { requestId, identity, podUid, csr } = request;
    try {
      const { chain, roots } = await sign({
        caller: `waypoint ${metadata.namespace}/${metadata.name}`,
        csr: toPem(csr, "CERTIFICATE REQUEST"),
        seconds: VALIDITY_SECONDS,
        verdict: () => authoriseWaypoint({ waypoint: metadata.uid, identity, podUid }, view),
        signal,
      });
      return create(CertificateReplySchema, { requestId, chain: chain.flatMap(fromPem), roots: fromPem(roots) });
    } catch (error) {
      const code = isMeshError(error) ? error.code : "E_IDENTITY_REFUSED";
      return create(CertificateReplySchema, { requestId, code, reason: isMeshError(error) ? error.message : "the stream ended" });
    }
  }

  async function report(batches: AsyncIterable<ReportBatch>, context: HandlerContext): Promise<{ received: bigint }> {
    callerWaypoint(context);
    let received = 0n;
    for await (const batch of batches) {
      options.report(batch);
      received += BigInt(batch.flows.length + batch.events.length);
    }
    return { received };
  }

  function recorded(batches: AsyncIterable<RecordedBatch>, context: HandlerContext): Promise<Record<string, never>> {
    const one = attached.get(callerWaypoint(context));
    if (one === undefined) throw new ConnectError("nobody asked this waypoint to record", Code.FailedPrecondition);
    return one.director.recorded(batches);
  }

  return {
    service: { attach, report, recorded },
    changed: () => {
      if (attached.size === 0) return feed.settled(); // who comes now gets everything
      scheduled ??= setTimeout(() => {
        scheduled = undefined;
        look();
      }, SETTLE_MILLISECONDS);
    },
    disconnect: (uid) => attached.get(uid)?.director.end("its token is not valid any more"),
    status: () => [...attached].map(([uid, one]) => ({ uid, ...describe(one) })),
    close: () => {
      closed = true;
      clearTimeout(scheduled);
      for (const { director } of attached.values()) director.end("control stops");
    },
  };
}

const idOf = ({ type, name }: Pick<Rejected, "type" | "name">): string => `${type}/${name}`;

const nameOf = ({ metadata }: Pod): string => `${metadata.namespace}/${metadata.name}`;

const isSame = (a: Rejected, b: Rejected): boolean => a.type === b.type && a.name === b.name;

const plain = ({ name, code, reason }: Rejected) => ({ name, code, reason });

function describe({ pod, since, director, state, rejected }: Attached): Omit<WaypointStatus, "uid"> {
  const ready = state?.listening === true && state.identity && director.settled;
  const engine = director.hello?.engineVersion ?? "";
  return { pod: nameOf(pod), since, engine, ready, resources: director.resources, rejected: rejected.map(plain) };
}
