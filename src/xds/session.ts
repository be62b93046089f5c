// The client's state machine of delta discovery: what to ask first, what a response changes, and what to answer. No I/O.
import { create, type JsonObject } from "@bufbuild/protobuf";
import {
  type DeltaDiscoveryRequest,
  DeltaDiscoveryRequestSchema,
  type DeltaDiscoveryResponse,
  type Resource,
} from "#contract/gen/envoy/discovery_pb.ts";
import { meshError } from "#mesh/error.ts";
import { BUCKETS_NAME, bucketOf, digestsOf, formatDigests, parseBucketName, UNDERSTOOD } from "./buckets.ts";
import { isTypeUrl, type Rejection, type TypeUrl, type XdsDelta, type XdsResource } from "./resource.ts";
import { isPartial } from "./revision.ts";

export type XdsNode = { readonly id: string; readonly metadata: JsonObject };

/** Name → version, per type. */
export type Held = ReadonlyMap<TypeUrl, ReadonlyMap<string, string>>;

/** One response. `settle` tells what became of it and gives the request that acknowledges it; call it once. */
export type Received = {
  readonly delta: XdsDelta;
  /** With it everything has arrived that control knew when the stream began. */
  readonly whole: boolean;
  settle(rejections: readonly Rejection[]): DeltaDiscoveryRequest;
};

export type Session = {
  /** The first requests of a new stream; forgets what an older stream had not finished. */
  open(): DeltaDiscoveryRequest[];
  receive(response: DeltaDiscoveryResponse): Received;
  /** Every type arrived whole on this stream and was settled. */
  synced(): boolean;
  held(): Held;
};

/** Held versions above this are told by their digests, which are a quarter of it: reading each costs control more than comparing digests. */
const HELD_BYTES = 128 * 1024;
/** Tag and length bytes of a map entry and its two strings. */
const ENTRY_BYTES = 10;
/** Reasons are for people; control logs them. */
const REASON_CHARACTERS = 4096;

type TypeState = {
  readonly versions: Map<string, string>;
  /** Names seen so far of a whole set that is still arriving; null when control sends differences. */
  whole: Set<string> | null;
  /** Buckets of which the set is whole; null while control has not said that it understands them: then the set is whole of everything. */
  buckets: Set<number> | null;
  /** The first set of this stream is there. */
  complete: boolean;
};

export function createSession(node: XdsNode, types: readonly TypeUrl[], held: Held, heldBytes = HELD_BYTES): Session {
  const states = new Map<TypeUrl, TypeState>(
    types.map((typeUrl) => [typeUrl, { versions: new Map(held.get(typeUrl)), whole: null, buckets: null, complete: false }]),
  );

  function open(): DeltaDiscoveryRequest[] {
    return [...states].map(([typeUrl, state]) => {
      const fits = sizeOf(state.versions) <= heldBytes;
      state.whole = fits ? null : new Set();
      state.buckets = null;
      state.complete = false;
      const initialResourceVersions = fits
        ? Object.fromEntries(state.versions)
        : { [BUCKETS_NAME]: formatDigests(digestsOf(state.versions)) };
      return create(DeltaDiscoveryRequestSchema, { node, typeUrl, initialResourceVersions });
    });
  }

  function receive(response: DeltaDiscoveryResponse): Received {
    const { typeUrl, nonce } = response;
    const state = isTypeUrl(typeUrl) ? states.get(typeUrl) : undefined;
    if (!isTypeUrl(typeUrl) || state === undefined)
      throw meshError("E_DISCOVERY_PROTOCOL", `control sent type ${typeUrl}, which was not asked for`);
    const upsert = response.resources.map((resource) => parseResource(typeUrl, resource));
    const last = !isPartial(response.systemVersionInfo);
    const remove = removals(state, upsert, response.removedResources, last);

    function settle(rejections: readonly Rejection[]): DeltaDiscoveryRequest {
      const refused = new Set(rejections.map(({ name }) => name));
      record(state as TypeState, upsert, remove, refused);
      if (last) Object.assign(state as TypeState, { complete: true, whole: null, buckets: null });
      const errorDetail = refused.size === 0 ? {} : { errorDetail: { message: joinReasons(rejections) } };
      return create(DeltaDiscoveryRequestSchema, { typeUrl, responseNonce: nonce, ...errorDetail });
    }
    const whole = last && [...states.values()].every((other) => other === state || other.complete);
    return { delta: { typeUrl, upsert, remove }, whole, settle };
  }

  return {
    open,
    receive,
    synced: () => [...states.values()].every(({ complete }) => complete),
    held: () => new Map([...states].map(([typeUrl, { versions }]) => [typeUrl, versions])),
  };
}

function parseResource(typeUrl: TypeUrl, { name, version, aliases, resource }: Resource): XdsResource {
  if (name === "" || resource === undefined || resource.typeUrl !== typeUrl) {
    throw meshError("E_DISCOVERY_PROTOCOL", `control sent a resource "${name}" whose body is not a ${typeUrl}`);
  }
  return { name, version, aliases, body: resource.value };
}

/** What control names, and at the end of a whole set also everything held that it did not name: in the buckets that it sent, or at all. */
function removals(state: TypeState, upsert: readonly XdsResource[], named: readonly string[], last: boolean): string[] {
  const remove = named.filter((name) => state.versions.has(name));
  const { whole } = state;
  if (whole === null) return remove;
  if (named.includes(UNDERSTOOD)) state.buckets ??= new Set();
  for (const name of named) {
    const bucket = parseBucketName(name);
    if (bucket !== null) state.buckets?.add(bucket);
  }
  for (const { name } of upsert) whole.add(name);
  for (const name of named) whole.delete(name);
  if (!last) return remove;
  const { buckets } = state;
  const unnamed = state.versions.keys().filter((name) => !whole.has(name) && (buckets === null || buckets.has(bucketOf(name))));
  return [...new Set([...remove, ...unnamed])];
}

/**
 * A refused resource keeps the version that is still in force, so that control sends it again on the next stream. One without such a version
 * is remembered too, by none: its owner may act on the refusal, and has to hear of its end.
 */
function record(state: TypeState, upsert: readonly XdsResource[], remove: readonly string[], refused: ReadonlySet<string>): void {
  for (const { name, version } of upsert) state.versions.set(name, refused.has(name) ? (state.versions.get(name) ?? "") : version);
  for (const name of remove) if (!refused.has(name)) state.versions.delete(name);
}

function sizeOf(versions: ReadonlyMap<string, string>): number {
  let bytes = 0;
  for (const [name, version] of versions) bytes += Buffer.byteLength(name) + Buffer.byteLength(version) + ENTRY_BYTES;
  return bytes;
}

const joinReasons = (rejections: readonly Rejection[]): string =>
  rejections
    .map(({ name, reason }) => `${name}: ${reason}`)
    .join("; ")
    .slice(0, REASON_CHARACTERS);
