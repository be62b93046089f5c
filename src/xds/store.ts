// What control offers: the newest version of every resource, encoded once for all streams, and a notice of each change.
import type { DescField } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { ResourceSchema } from "#contract/gen/envoy/discovery_pb.ts";
import { type Buckets, createBuckets } from "./buckets.ts";
import { RESOURCE_TYPES, type TypeUrl, type XdsResource } from "./resource.ts";

/** A resource as it stands in a response: length and bytes of its envoy Resource message, shared by every stream. */
export type Encoded = { readonly resource: XdsResource; readonly wire: Uint8Array };

export type StoreChange = {
  readonly typeUrl: TypeUrl;
  /** Whether a name is new, has a new version, or is gone. */
  readonly changes: ReadonlyMap<string, "added" | "changed" | "removed">;
  /** Every alias that the changed resources have or had. */
  readonly aliases: ReadonlySet<string>;
};

export type ResourceStore = {
  /** Applies one batch and notifies once. Resources whose version is already there change nothing. Returns how many names changed. */
  update(typeUrl: TypeUrl, upsert: Iterable<XdsResource>, remove: Iterable<string>): number;
  get(typeUrl: TypeUrl, name: string): Encoded | undefined;
  names(typeUrl: TypeUrl): Iterable<string>;
  buckets(typeUrl: TypeUrl): Pick<Buckets, "names" | "digest">;
  size(typeUrl: TypeUrl): number;
  /** Names of the resources that are called so or have that alias. */
  resolve(typeUrl: TypeUrl, nameOrAlias: string): readonly string[];
  /** Counts batches that changed something. */
  revision(): number;
  watch(listener: (change: StoreChange) => void): () => void;
};

type Table = { readonly resources: Map<string, Encoded>; readonly byAlias: Map<string, Set<string>>; readonly buckets: Buckets };

export function createStore(): ResourceStore {
  const tables = new Map<TypeUrl, Table>();
  const listeners = new Set<(change: StoreChange) => void>();
  let revision = 0;

  function tableOf(typeUrl: TypeUrl): Table {
    const table = tables.get(typeUrl) ?? newTable();
    tables.set(typeUrl, table);
    return table;
  }
  for (const typeUrl of RESOURCE_TYPES) tableOf(typeUrl);

  function update(typeUrl: TypeUrl, upsert: Iterable<XdsResource>, remove: Iterable<string>): number {
    const table = tableOf(typeUrl);
    const changes = new Map<string, "added" | "changed" | "removed">();
    const aliases = new Set<string>();
    for (const name of remove) {
      if (drop(table, name, aliases)) changes.set(name, "removed");
    }
    for (const resource of upsert) {
      if (table.resources.get(resource.name)?.resource.version === resource.version) continue;
      const known = drop(table, resource.name, aliases) || changes.get(resource.name) === "removed";
      put(table, typeUrl, resource, aliases);
      changes.set(resource.name, known ? "changed" : "added");
    }
    if (changes.size === 0) return 0;
    revision++;
    for (const listener of listeners) listener({ typeUrl, changes, aliases });
    return changes.size;
  }

  return {
    update,
    get: (typeUrl, name) => tableOf(typeUrl).resources.get(name),
    names: (typeUrl) => tableOf(typeUrl).resources.keys(),
    buckets: (typeUrl) => tableOf(typeUrl).buckets,
    size: (typeUrl) => tableOf(typeUrl).resources.size,
    resolve: (typeUrl, nameOrAlias) => {
      const { resources, byAlias } = tableOf(typeUrl);
      const aliased = byAlias.get(nameOrAlias) ?? [];
      return resources.has(nameOrAlias) ? [...new Set([nameOrAlias, ...aliased])] : [...aliased];
    },
    revision: () => revision,
    watch: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

function newTable(): Table {
  const resources = new Map<string, Encoded>();
  return { resources, byAlias: new Map(), buckets: createBuckets((name) => resources.get(name)?.resource.version ?? "") };
}

function drop({ resources, byAlias, buckets }: Table, name: string, aliases: Set<string>): boolean {
  const old = resources.get(name);
  if (old === undefined) return false;
  for (const alias of old.resource.aliases) {
    aliases.add(alias);
    const holders = byAlias.get(alias);
    holders?.delete(name);
    if (holders?.size === 0) byAlias.delete(alias);
  }
  buckets.delete(name);
  return resources.delete(name);
}

function put({ resources, byAlias, buckets }: Table, typeUrl: TypeUrl, resource: XdsResource, aliases: Set<string>): void {
  buckets.add(resource.name);
  resources.set(resource.name, { resource, wire: encode(typeUrl, resource) });
  for (const alias of resource.aliases) {
    aliases.add(alias);
    const holders = byAlias.get(alias) ?? new Set();
    byAlias.set(alias, holders.add(resource.name));
  }
}

const FIELD = ResourceSchema.field;
const ANY = AnySchema.field;
/** Keeps its buffer from one resource to the next: a writer for each costs more than writing. */
const writer = new BinaryWriter();

/** Length and bytes of an envoy Resource message: what `toBinary` would write, without making the message. */
function encode(typeUrl: TypeUrl, { name, version, aliases, body }: XdsResource): Uint8Array {
  const field = ({ number }: DescField): BinaryWriter => writer.tag(number, WireType.LengthDelimited);
  writer.fork();
  field(FIELD.version).string(version);
  field(FIELD.resource).fork();
  field(ANY.typeUrl).string(typeUrl);
  field(ANY.value).bytes(body);
  writer.join();
  field(FIELD.name).string(name);
  for (const alias of aliases) field(FIELD.aliases).string(alias);
  writer.join();
  // Copied into Node's pool: see the bodies.
  return Buffer.from(writer.finish());
}
