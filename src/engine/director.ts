// The director's side of proto/engine.proto: one engine at a time, told only the difference to what it holds.
import type {
  AddPod,
  CertificateReply,
  CertificateRequest,
  Drift,
  Hello,
  MeshSettings,
  PodGone,
  PodState,
  Rejected,
  ReportBatch,
  ResourceType,
} from "#contract/gen/engine_pb.ts";

export type StateResource = { readonly type: ResourceType; readonly name: string; readonly version: string; readonly body: Uint8Array };
export type StateKey = { readonly type: ResourceType; readonly name: string };

/** A change of the desired state. With `reset`, `upsert` is all there is. */
export type StateChange = { readonly reset: boolean; readonly upsert: readonly StateResource[]; readonly remove: readonly StateKey[] };

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
  report(batch: ReportBatch): void;
};

export type Director = {
  readonly connected: boolean;
  /** Last Hello of the engine that is attached, null without one. */
  readonly hello: Hello | null;
  /** Generation last sent and last acknowledged. */
  readonly generation: bigint;
  readonly acknowledged: bigint;
  setSettings(settings: MeshSettings): void;
  /** Nothing is sent to an engine before the first call, so an unknown state never takes anything away from it. */
  setState(change: StateChange): void;
  /** False when no engine is attached: the pod is named again after the next `attached`. */
  addPod(pod: AddPod): boolean;
  removePod(uid: string, drainMilliseconds: number): boolean;
  /** Every pod to keep has been named. Sent to the engine after the state is. */
  inSync(): void;
  /** Resolves when capture is proven; rejects with E_CAPTURE_PROOF_FAILED or E_ENGINE_AWAY. */
  prove(uid: string): Promise<void>;
  setLogLevel(filter: string): boolean;
  close(): Promise<void>;
};
