// One stream of one engine: what waits to be sent to it, what it answers, and how the stream ends.
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  CertificateReplySchema,
  type CertificateRequest,
  DriftKind,
  type FromEngine,
  type Hello,
  type MeshSettings,
  type ProofResult,
  type ToEngine,
  ToEngineSchema,
} from "#contract/gen/engine_pb.ts";
import { errors, product } from "#contract/tables.ts";
import { type MeshError, meshError } from "#mesh/error.ts";
import type { DirectorEvents } from "./director.ts";
import type { Ledger } from "./ledger.ts";

type Outgoing = Exclude<ToEngine["message"], { case: undefined }>;

/** What outlives a stream and belongs to the director. */
export type Shared = { settings: MeshSettings; stateKnown: boolean; generation: bigint; acknowledged: bigint };

export type Attachment = {
  readonly hello: Hello;
  /** What goes to the engine, until either side ends. */
  run(incoming: AsyncIterator<FromEngine>): AsyncGenerator<ToEngine>;
  send(message: Outgoing): boolean;
  welcome(): void;
  /** The desired state changed. */
  wake(): void;
  inSync(): void;
  prove(uid: string): Promise<void>;
  end(reason: string): void;
  reason(): string;
};

/** Two messages for each of 2000 pods: more than a node has. Beyond it the engine reads nothing; the stream ends and starts with the difference. */
const OUTBOX_MESSAGES = 4096;
/** The engine tries for 1 s per address family; the rest is for a busy node. */
const PROVE_MS = 5000;
/** Identities of one node that wait for control at once; the engine asks again for what was refused. */
const CERTIFICATES_OUTSTANDING = 256;

export function attachment(options: { hello: Hello; version: string; ledger: Ledger; shared: Shared; events: DirectorEvents }): Attachment {
  const { hello, version, ledger, shared, events } = options;
  const outbox: Outgoing[] = [];
  const proofs = new Map<bigint, { resolve(): void; reject(error: MeshError): void; timer: NodeJS.Timeout }>();
  let proofId = 0n;
  let certificates = 0;
  /** Generation sent and not acknowledged: one at a time, so that changes merge while the engine works. */
  let inFlight: bigint | null = null;
  let sync: "not asked" | "asked" | "sent" = "not asked";
  let ended: { readonly reason: string; readonly error: ConnectError | null } | null = null;
  let ring: () => void = () => undefined;

  ledger.attach(hello.resources);
  // Above whatever this engine has seen, also from another director.
  if (shared.generation < hello.generation) shared.generation = hello.generation;
  shared.acknowledged = hello.generation;

  const wake = (): void => ring();

  function end(reason: string, error: ConnectError | null = null): void {
    if (ended !== null) return;
    ended = { reason, error };
    for (const proof of proofs.values()) {
      clearTimeout(proof.timer);
      proof.reject(meshError("E_ENGINE_AWAY", `the engine went away before it answered: ${reason}`));
    }
    proofs.clear();
    wake();
  }

  function send(message: Outgoing): boolean {
    if (ended !== null) return false;
    if (outbox.length >= OUTBOX_MESSAGES) {
      end(
        `${OUTBOX_MESSAGES} messages wait and the engine takes none`,
        new ConnectError("the engine does not read", Code.ResourceExhausted),
      );
      return false;
    }
    outbox.push(message);
    wake();
    return true;
  }

  const welcome = (): void => {
    send({
      case: "welcome",
      value: {
        $typeName: "trackbed.engine.v1.Welcome",
        contractVersion: product.contractVersion,
        directorVersion: version,
        settings: shared.settings,
      },
    });
  };

  /** What goes next: pods and answers first, they are small and someone waits; then state; then, once nothing is missing, InSync. */
  function take(): Outgoing | null {
    const message = outbox.shift();
    if (message !== undefined) return message;
    if (!shared.stateKnown || inFlight !== null) return null;
    const delta = ledger.take(shared.generation + 1n);
    if (delta !== null) {
      shared.generation = delta.generation;
      inFlight = delta.generation;
      return { case: "state", value: delta };
    }
    if (sync !== "asked") return null;
    sync = "sent";
    return { case: "inSync", value: { $typeName: "trackbed.engine.v1.InSync" } };
  }

  async function* run(incoming: AsyncIterator<FromEngine>): AsyncGenerator<ToEngine> {
    void read(incoming);
    try {
      while (ended === null) {
        const bell = new Promise<void>((resolve) => {
          ring = resolve;
        });
        const message = take();
        if (message === null) await bell;
        else yield create(ToEngineSchema, { message });
      }
    } finally {
      end("the engine closed the stream");
    }
    if (ended.error !== null) throw ended.error;
  }

  /** Never rejects: whatever is wrong with what the engine says ends the stream. */
  async function read(incoming: AsyncIterator<FromEngine>): Promise<void> {
    try {
      for (let next = await incoming.next(); !next.done && ended === null; next = await incoming.next()) receive(next.value.message);
      end("the engine closed the stream");
    } catch (cause) {
      const error = ConnectError.from(cause);
      end(error.rawMessage, error.code === Code.InvalidArgument ? error : null);
    }
  }

  function receive(message: FromEngine["message"]): void {
    switch (message.case) {
      case "applied":
        if (message.value.generation > shared.generation)
          throw invalid(`Applied names generation ${message.value.generation}, which was never sent`);
        // An older one was sent on the stream before this; Hello has told since what came of it.
        if (message.value.generation !== inFlight) return;
        inFlight = null;
        shared.acknowledged = message.value.generation;
        events.applied(message.value.generation, message.value.rejected);
        wake();
        return;
      case "podState":
        events.podState(message.value);
        return;
      case "podGone":
        events.podGone(message.value);
        return;
      case "certificateRequest":
        void certify(message.value);
        return;
      case "proofResult":
        settle(message.value);
        return;
      case "drift":
        if (![DriftKind.RULES, DriftKind.ROUTING, DriftKind.OVERFLOW].some((kind) => kind === message.value.kind))
          throw invalid(`unknown drift kind ${message.value.kind}`);
        events.drift(message.value);
        return;
      case "hello":
        throw invalid("a second Hello on one stream");
      case undefined:
        throw invalid("a message without content, or of a newer contract");
    }
  }

  async function certify(request: CertificateRequest): Promise<void> {
    const { requestId } = request;
    if (certificates >= CERTIFICATES_OUTSTANDING) {
      const reason = `${CERTIFICATES_OUTSTANDING} certificate requests of this node wait already`;
      send({ case: "certificateReply", value: create(CertificateReplySchema, { requestId, code: "E_ENGINE_LIMIT", reason }) });
      return;
    }
    certificates++;
    const reply = await events.certificate(request);
    certificates--;
    send({ case: "certificateReply", value: reply });
  }

  function prove(uid: string): Promise<void> {
    const requestId = ++proofId;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      proofs.delete(requestId);
      reject(meshError("E_CAPTURE_PROOF_FAILED", `the engine did not answer a proof of pod ${uid} within ${PROVE_MS} ms`));
    }, PROVE_MS);
    proofs.set(requestId, { resolve, reject, timer });
    if (!send({ case: "prove", value: { $typeName: "trackbed.engine.v1.Prove", requestId, uid } })) {
      clearTimeout(timer);
      proofs.delete(requestId);
      reject(meshError("E_ENGINE_AWAY", `the engine went away before the capture of pod ${uid} was proven`));
    }
    return promise;
  }

  /** An answer that nobody waits for any more came after its deadline. */
  function settle({ requestId, code, reason }: ProofResult): void {
    const proof = proofs.get(requestId);
    if (proof === undefined) return;
    proofs.delete(requestId);
    clearTimeout(proof.timer);
    if (code === "") proof.resolve();
    else proof.reject(meshError(code in errors ? (code as keyof typeof errors) : "E_CAPTURE_PROOF_FAILED", reason));
  }

  welcome(); // first on the stream, before whatever the owner answers to `attached`
  return {
    hello,
    run,
    send,
    welcome,
    wake,
    inSync: () => {
      if (sync === "not asked") sync = "asked";
      wake();
    },
    prove,
    end: (reason) => end(reason),
    reason: () => ended?.reason ?? "the stream ended",
  };
}

const invalid = (text: string): ConnectError => new ConnectError(text, Code.InvalidArgument);
