// The director's side of proto/engine.proto: one engine at a time, told only the difference to what it holds. Knows no sockets.
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type AddPod,
  type CertificateReply,
  type CertificateRequest,
  type Drift,
  type FromEngine,
  type Hello,
  type MeshSettings,
  type PodGone,
  type PodState,
  type RecordedBatch,
  RecordSchema,
  type Rejected,
  type ReportBatch,
  type ToEngine,
} from "#contract/gen/engine_pb.ts";
import { product } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import { type Attachment, attachment } from "./attachment.ts";
import { createLedger, type StateChange } from "./ledger.ts";
import { createRecordings, type Recordings, type RecordOrder } from "./recordings.ts";

export type { StateChange, StateKey, StateResource } from "./ledger.ts";
export type { RecordOrder } from "./recordings.ts";

/** What the director tells its owner. Callbacks must not block; `certificate` may take its time and never rejects. */
export type DirectorEvents = {
  /** The engine said Hello. Answer by addPod for every pod that it may keep, then `inSync()`. */
  attached(hello: Hello): void;
  detached(reason: string): void;
  podState(state: PodState): void;
  podGone(gone: PodGone): void;
  drift(drift: Drift): void;
  applied(generation: bigint, rejected: readonly Rejected[]): void;
  certificate(request: CertificateRequest): Promise<CertificateReply>;
  /** May throw for a batch that no engine may send: the engine's report stream then ends with INVALID_ARGUMENT. */
  report(batch: ReportBatch): void;
};

export type Director = {
  readonly connected: boolean;
  /** Hello of the engine that is attached, null without one. */
  readonly hello: Hello | null;
  /** Generation last sent and last acknowledged. */
  readonly generation: bigint;
  readonly acknowledged: bigint;
  /** The engine has acknowledged all of the state; true without one, for there is nobody to wait for. */
  readonly settled: boolean;
  /** Resources of the desired state. */
  readonly resources: number;
  setSettings(settings: MeshSettings): void;
  /** Nothing is sent to an engine before the first call, so an unknown state never takes anything away from it. */
  setState(change: StateChange): void;
  /** False when no engine is attached: the pod is named again after the next `attached`. */
  addPod(pod: AddPod): boolean;
  removePod(uid: string, drainMilliseconds: number): boolean;
  /** Every pod to keep has been named. Sent to the engine after the state is. */
  inSync(): void;
  /** Resolves when capture is proven; rejects with the engine's code, E_CAPTURE_PROOF_FAILED or E_ENGINE_AWAY. */
  prove(uid: string): Promise<void>;
  setLogLevel(filter: string): boolean;
  /** What connections of these pods carry, until the recording's limits, `stop`, or the engine's end (engine/recordings.ts). Rejects with the code that says why not. */
  record(order: RecordOrder, stop: AbortSignal): AsyncGenerator<RecordedBatch>;
  /** The stream of the engine ends. */
  end(reason: string): void;
};

/** The methods of the service, as any server can offer them. */
export type DirectorMethods = {
  attach(requests: AsyncIterable<FromEngine>): AsyncGenerator<ToEngine>;
  report(batches: AsyncIterable<ReportBatch>): Promise<{ received: bigint }>;
  recorded: Recordings["recorded"];
};

export type DirectorOptions = {
  readonly version: string;
  readonly settings: MeshSettings;
  readonly events: DirectorEvents;
};

/** An engine that opened a stream and says nothing holds a slot no longer than this. */
const HELLO_MS = 5000;

export function createDirector(options: DirectorOptions): Director & DirectorMethods {
  const { events } = options;
  const ledger = createLedger();
  const recordings = createRecordings();
  const shared = { settings: options.settings, stateKnown: false, generation: 0n, acknowledged: 0n };
  let current: Attachment | null = null;

  async function* attach(requests: AsyncIterable<FromEngine>): AsyncGenerator<ToEngine> {
    const incoming = requests[Symbol.asyncIterator]();
    const hello = await readHello(incoming);
    current?.end("another stream of the engine took its place");
    const one = attachment({ hello, version: options.version, ledger, shared, events });
    current = one;
    events.attached(hello);
    try {
      yield* one.run(incoming);
    } finally {
      if (current === one) {
        current = null;
        events.detached(one.reason());
      }
    }
  }

  async function report(batches: AsyncIterable<ReportBatch>): Promise<{ received: bigint }> {
    let received = 0n;
    for await (const batch of batches) {
      try {
        events.report(batch);
      } catch (cause) {
        throw new ConnectError(cause instanceof Error ? cause.message : String(cause), Code.InvalidArgument, undefined, undefined, cause);
      }
      received += BigInt(batch.flows.length + batch.events.length);
    }
    return { received };
  }

  return {
    get connected() {
      return current !== null;
    },
    get hello() {
      return current?.hello ?? null;
    },
    get generation() {
      return shared.generation;
    },
    get acknowledged() {
      return shared.acknowledged;
    },
    get settled() {
      return current === null || (ledger.even && shared.generation === shared.acknowledged);
    },
    get resources() {
      return ledger.size;
    },
    setSettings: (settings) => {
      shared.settings = settings;
      current?.welcome();
    },
    setState: (change) => {
      shared.stateKnown = true;
      ledger.change(change);
      current?.wake();
    },
    addPod: (pod) => current?.send({ case: "addPod", value: pod }) ?? false,
    removePod: (uid, drainMilliseconds) =>
      current?.send({ case: "removePod", value: { $typeName: "trackbed.engine.v1.RemovePod", uid, drainMilliseconds } }) ?? false,
    inSync: () => current?.inSync(),
    prove: (uid) =>
      current?.prove(uid) ?? Promise.reject(meshError("E_ENGINE_AWAY", `no engine is connected to prove the capture of pod ${uid}`)),
    setLogLevel: (filter) =>
      current?.send({ case: "setLogLevel", value: { $typeName: "trackbed.engine.v1.SetLogLevel", filter } }) ?? false,
    record: (order, stop) =>
      recordings.read(
        current?.hello ?? null,
        (what, id) =>
          current?.send(
            what === "record"
              ? { case: what, value: create(RecordSchema, { ...order, id }) }
              : { case: what, value: { $typeName: "trackbed.engine.v1.StopRecord", id } },
          ),
        stop,
      ),
    end: (reason) => current?.end(reason),
    attach,
    report,
    recorded: recordings.recorded,
  };
}

async function readHello(incoming: AsyncIterator<FromEngine>): Promise<Hello> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new ConnectError(`no Hello within ${HELLO_MS} ms`, Code.DeadlineExceeded)), HELLO_MS);
  try {
    const first = await Promise.race([incoming.next(), late.promise]);
    const message = first.done ? undefined : first.value.message;
    if (message?.case !== "hello")
      throw new ConnectError(`the first message must be Hello, not ${message?.case ?? "nothing"}`, Code.InvalidArgument);
    const { contractVersion } = message.value;
    if (contractVersion !== product.contractVersion) {
      const text = `the engine speaks contract version ${contractVersion}, this director ${product.contractVersion} (E_CONTRACT_VERSION)`;
      throw new ConnectError(text, Code.FailedPrecondition);
    }
    return message.value;
  } finally {
    clearTimeout(timer);
  }
}
