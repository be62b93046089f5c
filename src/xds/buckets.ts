// What a node holds, told in 33 kB however much it is: names are spread over buckets, and a bucket whose digest is the same on both ends needs no
// word. Rides in fields that others understand as one more resource name, which they do not have and call removed.
import { hash } from "node:crypto";

/** A hundred thousand resources are a hundred in each: what one change costs a node that returns. Peers with another number are sent everything. */
const BUCKETS = 1024;
/** 128 bits of SHA-256, so that nobody who names resources can make two sets look alike. */
const DIGEST_CHARACTERS = 32;

/** In `initial_resource_versions`: the digests. In `removed_resources`: they mean nothing here, everything follows. */
export const BUCKETS_NAME = "trackbed.dev/buckets";
/** In `removed_resources`: what follows is whole for the buckets that are named, and for no others. */
export const UNDERSTOOD = `${BUCKETS_NAME}/understood`;

export const bucketName = (bucket: number): string => `${BUCKETS_NAME}/${bucket}`;

/** Null for every other name. */
export function parseBucketName(name: string): number | null {
  const bucket = name.startsWith(`${BUCKETS_NAME}/`) ? Number(name.slice(BUCKETS_NAME.length + 1)) : Number.NaN;
  return Number.isInteger(bucket) && bucket >= 0 && bucket < BUCKETS ? bucket : null;
}

/** FNV-1a over UTF-16: only has to be even, and the same on both ends. */
export function bucketOf(name: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) value = Math.imul(value ^ name.charCodeAt(i), 0x01000193);
  return (value >>> 0) % BUCKETS;
}

/** Of the names and versions in one bucket. Neither holds a NUL. */
export function digestOf(entries: readonly (readonly [name: string, version: string])[]): string {
  if (entries.length === 0) return "";
  const lines = entries.map(([name, version]) => `${name}\0${version}\0`).sort();
  return hash("sha256", lines.join("")).slice(0, DIGEST_CHARACTERS);
}

export const formatDigests = (digests: readonly string[]): string => digests.join(",");

/** Null when it is not what we would have written. */
export function parseDigests(text: string): readonly string[] | null {
  const digests = text.split(",");
  return digests.length === BUCKETS ? digests : null;
}

/** The digests of everything that is held. */
export function digestsOf(versions: ReadonlyMap<string, string>): readonly string[] {
  const buckets = Array.from({ length: BUCKETS }, (): [string, string][] => []);
  for (const entry of versions) buckets[bucketOf(entry[0])]?.push(entry);
  return buckets.map(digestOf);
}

/** The same kept up to date under changes: what a bucket holds, and its digest once somebody asks. */
export type Buckets = {
  add(name: string): void;
  delete(name: string): void;
  names(bucket: number): Iterable<string>;
  digest(bucket: number): string;
};

export function createBuckets(versionOf: (name: string) => string): Buckets {
  const held = Array.from({ length: BUCKETS }, () => new Set<string>());
  const digests = new Map<number, string>();
  return {
    add: (name) => {
      const bucket = bucketOf(name);
      held[bucket]?.add(name);
      digests.delete(bucket);
    },
    delete: (name) => {
      const bucket = bucketOf(name);
      held[bucket]?.delete(name);
      digests.delete(bucket);
    },
    names: (bucket) => held[bucket] ?? [],
    digest: (bucket) => {
      const known = digests.get(bucket) ?? digestOf([...(held[bucket] ?? [])].map((name) => [name, versionOf(name)] as const));
      digests.set(bucket, known);
      return known;
    },
  };
}
