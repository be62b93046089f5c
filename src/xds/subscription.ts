// One node's interest in one type: which names it must hear about next. Only names wait here, never bodies, so a slow reader costs little
// and gets the newest version when its turn comes.

import { meshError } from "#mesh/error.ts";
import { BUCKETS_NAME, bucketName, parseDigests, UNDERSTOOD } from "./buckets.ts";
import type { TypeUrl } from "./resource.ts";
import type { ResourceStore, StoreChange } from "./store.ts";

export type Subscription = {
  /** The first request tells what the node holds; whatever differs becomes pending. */
  open(subscribe: readonly string[], unsubscribe: readonly string[], held: Readonly<Record<string, string>>): void;
  /** A later request. */
  change(subscribe: readonly string[], unsubscribe: readonly string[]): void;
  /** Something changed in the store. */
  notice(change: StoreChange): void;
  /** Names that wait, oldest first. `delete` them as they are sent. */
  readonly pending: Map<string, "held" | "unknown">;
};

/** Names asked for one by one, over all requests of a stream: what istiod's largest on-demand meshes ask for, with room. */
const SUBSCRIBED_NAMES = 65_536;
const EVERYTHING = "*";

export function createSubscription(store: ResourceStore, typeUrl: TypeUrl): Subscription {
  /** "held": the node may hold the name, so its end must be told; "unknown": it never heard of it. */
  const pending: Subscription["pending"] = new Map();
  const asked = new Set<string>();
  /** What on-demand streams were sent, so that the end of a resource found by alias is told too. */
  const sent = new Set<string>();
  let everything = false;

  function mark(name: string, state: "held" | "unknown"): void {
    if (pending.get(name) !== "held") pending.set(name, state);
  }

  function ask(names: readonly string[]): void {
    for (const name of names) {
      if (name === EVERYTHING) {
        everything = true;
        for (const each of store.names(typeUrl)) if (!sent.has(each)) mark(each, "unknown");
        continue;
      }
      if (asked.size >= SUBSCRIBED_NAMES)
        throw meshError("E_DISCOVERY_PROTOCOL", `a stream asks for more than ${SUBSCRIBED_NAMES} names of ${typeUrl}`);
      asked.add(name);
      if (everything) continue;
      const found = store.resolve(typeUrl, name);
      for (const each of found) follow(each);
      // What does not exist is answered as removed, under the name that was asked for.
      if (found.length === 0) mark(name, "held");
    }
  }

  function follow(name: string): void {
    mark(name, "unknown");
    sent.add(name);
  }

  function leave(names: readonly string[]): void {
    if (names.length === 0) return;
    for (const name of names) {
      if (name === EVERYTHING) everything = false;
      else asked.delete(name);
    }
    if (everything) return;
    for (const name of [...sent, ...pending.keys()]) {
      if (wanted(name)) continue;
      sent.delete(name);
      pending.delete(name);
    }
  }

  function wanted(name: string): boolean {
    if (everything || asked.has(name)) return true;
    return (store.get(typeUrl, name)?.resource.aliases ?? []).some((alias) => asked.has(alias));
  }

  function open(subscribe: readonly string[], unsubscribe: readonly string[], held: Readonly<Record<string, string>>): void {
    everything = subscribe.length === 0 && !unsubscribe.includes(EVERYTHING);
    const { [BUCKETS_NAME]: digests, ...versions } = held;
    const told = everything && digests !== undefined ? parseDigests(digests) : null;
    if (told !== null) openBuckets(told);
    else if (digests !== undefined) mark(BUCKETS_NAME, "held");
    if (everything && told === null) for (const name of store.names(typeUrl)) mark(name, "unknown");
    ask(subscribe);
    leave(unsubscribe);
    for (const [name, version] of Object.entries(versions)) {
      const current = store.get(typeUrl, name)?.resource;
      if (current?.version === version) pending.delete(name);
      else if (current === undefined || wanted(name)) mark(name, "held");
      if (!everything && current !== undefined && wanted(name)) sent.add(name);
    }
  }

  /** The buckets that differ are sent whole; all others are as the node has them. */
  function openBuckets(digests: readonly string[]): void {
    const buckets = store.buckets(typeUrl);
    const differing = digests.flatMap((digest, bucket) => (digest === buckets.digest(bucket) ? [] : [bucket]));
    mark(UNDERSTOOD, "held");
    for (const bucket of differing) mark(bucketName(bucket), "held");
    for (const bucket of differing) for (const name of buckets.names(bucket)) mark(name, "unknown");
  }

  function notice({ changes, aliases }: StoreChange): void {
    for (const [name, kind] of changes) {
      if (kind === "removed") {
        // Who asked for exactly this name is always answered; who never heard of it need not hear of its end.
        if (asked.has(name)) mark(name, "held");
        else if (pending.get(name) === "unknown") pending.delete(name);
        else if (everything || sent.has(name)) mark(name, "held");
        sent.delete(name);
      } else if (everything) mark(name, kind === "added" ? "unknown" : stateOf(name));
      else if (sent.has(name)) mark(name, stateOf(name));
      else if (asked.has(name)) follow(name);
    }
    if (everything) return;
    for (const alias of aliases) if (asked.has(alias)) for (const name of store.resolve(typeUrl, alias)) if (!sent.has(name)) follow(name);
  }

  /** A name that already waits unheard of stays so; any other name in force was sent before. */
  const stateOf = (name: string): "held" | "unknown" => pending.get(name) ?? "held";

  function change(subscribe: readonly string[], unsubscribe: readonly string[]): void {
    ask(subscribe);
    leave(unsubscribe);
  }

  return { open, change, notice, pending };
}
