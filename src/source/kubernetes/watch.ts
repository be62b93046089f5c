// Follows one resource from a version on: events in order until the server closes, falls silent, or cannot go on.
import { z } from "zod";
import type { Api } from "./api.ts";
import { apiFailure } from "./failure.ts";
import { lines } from "./lines.ts";
import { type Raw, raw } from "./list.ts";
import { listPath, type Resource } from "./resources.ts";

export type WatchEvent = { readonly gone: boolean; readonly raw: Raw };

/** What arrived in one moment. Bookmarks and bytes of half a line give a batch without events. */
export type Batch = { readonly events: readonly WatchEvent[]; readonly version: string };

export type WatchTimes = {
  /** How long the server is asked to keep the watch open. */
  readonly watchSeconds: number;
  /** A watch that says nothing for this long is asked for anew: bookmarks come about once a minute, but not for every kind. */
  readonly idleMilliseconds: number;
};

const event = z.discriminatedUnion("type", [
  z.object({ type: z.enum(["ADDED", "MODIFIED", "DELETED"]), object: raw }),
  z.object({ type: z.literal("BOOKMARK"), object: z.object({ metadata: z.object({ resourceVersion: z.string() }) }) }),
  z.object({
    type: z.literal("ERROR"),
    object: z.object({ code: z.number().default(0), reason: z.string().default(""), message: z.string().default("") }),
  }),
]);

/** The server said nothing for so long that nobody knows whether it is still there. Where nothing ever happens that is an everyday thing. */
export class Quiet extends Error {}

/** What the server sends cannot be read; asking again from the same version would give the same. */
export class Unreadable extends Error {}

export async function* watch(
  api: Api,
  resource: Resource,
  from: string,
  { watchSeconds, idleMilliseconds }: WatchTimes,
  stop: AbortSignal,
): AsyncGenerator<Batch> {
  const path = listPath(resource);
  const idle = new AbortController();
  const silent = (): void => idle.abort(new Quiet(`${path}: silent for ${idleMilliseconds} ms`));
  let timer = setTimeout(silent, idleMilliseconds);
  const query = {
    ...resource.query,
    watch: "1",
    resourceVersion: from,
    allowWatchBookmarks: "true",
    timeoutSeconds: String(Math.round(watchSeconds)),
  };
  let version = from;
  try {
    const body = await api.open({ method: "GET", path, query, signal: AbortSignal.any([stop, idle.signal]) });
    try {
      yield { events: [], version }; // the server has answered: whoever counts how long a watch lives begins here
      for await (const texts of lines(body)) {
        clearTimeout(timer);
        timer = setTimeout(silent, idleMilliseconds);
        const events: WatchEvent[] = [];
        for (const text of texts) {
          if (text === "") continue;
          const one = parse(path, text);
          if (one.type === "ERROR") throw failureOf(path, one.object);
          const { resourceVersion } = one.object.metadata;
          if (isEarlier(resourceVersion, version)) throw failureOf(path, WENT_BACK);
          version = resourceVersion;
          if (one.type !== "BOOKMARK") events.push({ gone: one.type === "DELETED", raw: one.object });
        }
        yield { events, version };
      }
    } finally {
      body.destroy();
    }
  } catch (error) {
    throw error instanceof RangeError ? new Unreadable(`${path}: ${error.message}`) : idle.signal.aborted ? idle.signal.reason : error;
  } finally {
    clearTimeout(timer);
  }
}

/** Thrown as if the version were too old: the server was restored from a backup, and nothing that we hold is true any more. */
const WENT_BACK = { code: 410, reason: "Expired", message: "the server's versions went back in time" };

const failureOf = (path: string, { code, reason, message }: { code: number; reason: string; message: string }): Error =>
  apiFailure("WATCH", path, { status: code, reason, message });

function parse(path: string, text: string): z.infer<typeof event> {
  try {
    return event.parse(JSON.parse(text));
  } catch (cause) {
    throw new Unreadable(`${path}: a line of the watch cannot be read: ${text.slice(0, 120)}`, { cause });
  }
}

/** Versions of one resource are decimal numbers that grow (Kubernetes 1.35 promises it; etcd always did it). Anything else is not compared. */
function isEarlier(version: string, than: string): boolean {
  const decimal = /^[1-9][0-9]*$/;
  return decimal.test(version) && decimal.test(than) && BigInt(version) < BigInt(than);
}
