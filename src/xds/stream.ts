// Control's state machine of one discovery stream: requests and store changes in, responses out. No I/O.
import { create } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { type DeltaDiscoveryRequest, type DeltaDiscoveryResponse, DeltaDiscoveryResponseSchema } from "#contract/gen/envoy/discovery_pb.ts";
import { meshError } from "#mesh/error.ts";
import { isTypeUrl, type TypeUrl } from "./resource.ts";
import { formatRevision } from "./revision.ts";
import type { ResourceStore, StoreChange } from "./store.ts";
import { createSubscription, type Subscription } from "./subscription.ts";

export type TypeCounters = {
  responses: number;
  resources: number;
  removals: number;
  acks: number;
  nacks: number;
  /** Revision of the store that the node last acknowledged; a NACK does not move it. */
  acknowledged: number;
  /** Reasons of the last NACK, empty after an ACK. */
  lastNack: string;
};

export type DiscoveryStream = {
  /** The reasons when the request is a NACK, else null. Throws E_DISCOVERY_PROTOCOL when the stream must end. */
  request(request: DeltaDiscoveryRequest): string | null;
  notice(change: StoreChange): void;
  /** The next response that may go out, or null until something changes. */
  next(): DeltaDiscoveryResponse | null;
  /** Whether the request is the first of its type, which may mean that everything must be sent. */
  opens(request: DeltaDiscoveryRequest): boolean;
  /** The node has answered for everything that there was when it asked for each of its types. */
  caughtUp(): boolean;
  counters(): ReadonlyMap<TypeUrl, Readonly<TypeCounters>>;
};

/** Half of what a client accepts: one response with its envelope stays below the limit by a wide margin. */
const RESPONSE_BYTES = 2 * 2 ** 20;
/** Field number of `resources` in DeltaDiscoveryResponse. */
const RESOURCES_FIELD = 2;
const RESOURCES_TAG = Uint8Array.of((RESOURCES_FIELD << 3) | WireType.LengthDelimited);
/** A NACK's text is kept for people, per stream. */
const NACK_CHARACTERS = 1024;

type TypeStream = {
  readonly typeUrl: TypeUrl;
  readonly subscription: Subscription;
  readonly counters: TypeCounters;
  /** One response at a time is unanswered; what changes meanwhile is coalesced into the next one. */
  unanswered: { readonly nonce: string; readonly revision: number; readonly last: boolean } | null;
  /** An answer is owed even when nothing differs: the node learns from it that it has everything. */
  owed: boolean;
  /** The first set was answered to its end. */
  caughtUp: boolean;
};

export function createDiscoveryStream(store: ResourceStore, responseBytes = RESPONSE_BYTES): DiscoveryStream {
  const types = new Map<TypeUrl, TypeStream>();
  let nonces = 0;

  function request(message: DeltaDiscoveryRequest): string | null {
    const { typeUrl, resourceNamesSubscribe: subscribe, resourceNamesUnsubscribe: unsubscribe } = message;
    if (!isTypeUrl(typeUrl)) throw meshError("E_DISCOVERY_PROTOCOL", `a stream asks for the unknown type "${typeUrl.slice(0, 128)}"`);
    const known = types.get(typeUrl);
    if (known === undefined) {
      const opened = newTypeStream(store, typeUrl);
      opened.subscription.open(subscribe, unsubscribe, message.initialResourceVersions);
      types.set(typeUrl, opened);
      return null;
    }
    const reasons = message.responseNonce === "" ? null : settle(known, message);
    known.subscription.change(subscribe, unsubscribe);
    return reasons;
  }

  function next(): DeltaDiscoveryResponse | null {
    for (const type of types.values()) {
      if (type.unanswered !== null || (!type.owed && type.subscription.pending.size === 0)) continue;
      return respond(type);
    }
    return null;
  }

  function respond(type: TypeStream): DeltaDiscoveryResponse {
    const { upsert, remove } = take(store, type, responseBytes);
    const last = type.subscription.pending.size === 0;
    const revision = store.revision();
    const nonce = String(++nonces);
    type.unanswered = { nonce, revision: last ? revision : type.counters.acknowledged, last };
    type.owed = !last; // what is left may be gone before its turn: the node must hear all the same that it has everything
    type.counters.responses++;
    type.counters.resources += upsert.length;
    type.counters.removals += remove.length;
    const systemVersionInfo = formatRevision(revision, last);
    const response = create(DeltaDiscoveryResponseSchema, { typeUrl: type.typeUrl, nonce, systemVersionInfo, removedResources: remove });
    // Already encoded: to the writer all of them are bytes of one field, which it copies as they are.
    if (upsert.length > 0) response.$unknown = [{ no: RESOURCES_FIELD, wireType: WireType.LengthDelimited, data: fieldsOf(upsert) }];
    return response;
  }

  return {
    request,
    notice: (change) => types.get(change.typeUrl)?.subscription.notice(change),
    next,
    opens: ({ typeUrl }) => !(isTypeUrl(typeUrl) && types.has(typeUrl)),
    caughtUp: () => [...types.values()].every(({ caughtUp }) => caughtUp),
    counters: () => new Map([...types].map(([typeUrl, { counters }]) => [typeUrl, counters])),
  };
}

function newTypeStream(store: ResourceStore, typeUrl: TypeUrl): TypeStream {
  const counters = { responses: 0, resources: 0, removals: 0, acks: 0, nacks: 0, acknowledged: 0, lastNack: "" };
  return { typeUrl, subscription: createSubscription(store, typeUrl), counters, unanswered: null, owed: true, caughtUp: false };
}

/** Null for an ACK, and for an answer to an older nonce: it says nothing about what is in flight now. */
function settle(type: TypeStream, { responseNonce, errorDetail }: DeltaDiscoveryRequest): string | null {
  const { counters, unanswered } = type;
  if (unanswered?.nonce !== responseNonce) return null;
  type.unanswered = null;
  type.caughtUp ||= unanswered.last;
  if (errorDetail === undefined) {
    counters.acks++;
    counters.acknowledged = unanswered.revision;
    counters.lastNack = "";
    return null;
  }
  counters.nacks++;
  counters.lastNack = errorDetail.message.slice(0, NACK_CHARACTERS) || "no reason given";
  return counters.lastNack;
}

/** The fields behind each other as they are written, but for the tag of the first. */
const fieldsOf = (wires: readonly Uint8Array[]): Uint8Array =>
  Buffer.concat(wires.flatMap((wire, index) => (index === 0 ? [wire] : [RESOURCES_TAG, wire])));

/** Takes names off the pending list until the response is full; at least one, however large. */
function take(store: ResourceStore, { typeUrl, subscription }: TypeStream, limit: number): { upsert: Uint8Array[]; remove: string[] } {
  const upsert: Uint8Array[] = [];
  const remove: string[] = [];
  let bytes = 0;
  for (const name of subscription.pending.keys()) {
    const encoded = store.get(typeUrl, name);
    const size = encoded?.wire.length ?? Buffer.byteLength(name) + 4;
    if (bytes > 0 && bytes + size > limit) break;
    if (encoded === undefined) remove.push(name);
    else upsert.push(encoded.wire);
    bytes += size;
    subscription.pending.delete(name);
  }
  return { upsert, remove };
}
