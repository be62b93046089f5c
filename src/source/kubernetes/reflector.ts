// Keeps one resource up to date for as long as the process lives: list, watch, and whatever it takes to get back to watching.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import type { Api } from "./api.ts";
import { isApiFailure, isGone, isStatus } from "./failure.ts";
import { list, type Raw } from "./list.ts";
import { definitionPath, inVersion, type Resource, versionOf } from "./resources.ts";
import { Quiet, Unreadable, type WatchTimes, watch } from "./watch.ts";

/** What became of the resource; `T` is what `project` made of the objects. */
export type Step<T> =
  /** Everything there is. */
  | { readonly kind: "listed"; readonly items: readonly T[] }
  /** In the order in which it happened. */
  | { readonly kind: "changed"; readonly events: readonly { readonly gone: boolean; readonly item: T }[] }
  /** The cluster does not have this kind at all. */
  | { readonly kind: "absent" };

export type Cause = "closed" | "quiet" | "gone" | "silent" | "forbidden" | "failed" | "unreadable" | "absent" | "elsewhere";

export type ReflectorEvents = {
  /** Bytes came: what is held is as true as it was. */
  readonly onAlive: () => void;
  /** A list or watch ended; `error` is null when that is an everyday thing: closed in good order, quiet for long, a kind that is absent. */
  readonly onRestart: (cause: Cause, error: unknown) => void;
};

export type ReflectorTimes = WatchTimes & {
  readonly pageSize: number;
  readonly backoffMilliseconds: { readonly first: number; readonly most: number };
  /** A watch that lived this long was healthy: its end is no failure, and failures before it are forgotten. */
  readonly healthyMilliseconds: number;
  /** How often a kind that the cluster lacks is looked for again. */
  readonly absentMilliseconds: number;
};

export const REFLECTOR_TIMES: ReflectorTimes = {
  pageSize: 500,
  watchSeconds: 290, // below the five minutes after which load balancers in front of API servers cut
  idleMilliseconds: 90_000,
  backoffMilliseconds: { first: 800, most: 30_000 },
  healthyMilliseconds: 5_000,
  absentMilliseconds: 30_000,
};

const PAGE_SIZES = { least: 20, most: 10_000 };

export type ReflectorOptions<T> = {
  readonly api: Api;
  readonly resource: Resource;
  readonly project: (raw: Raw) => T;
  readonly events: ReflectorEvents;
  readonly times?: ReflectorTimes;
};

/** Of a CustomResourceDefinition: the versions in which its objects can be had. */
const definition = z.object({ spec: z.object({ versions: z.array(z.object({ name: z.string(), served: z.boolean() })) }) });

export async function* reflect<T>({ api, resource, project, events, times = REFLECTOR_TIMES }: ReflectorOptions<T>, stop: AbortSignal) {
  /** The resource in a version that the server has. */
  let served = resource;
  let version: string | null = null;
  let pageSize = times.pageSize;
  let delay = times.backoffMilliseconds.first;
  /** When the present watch began to say something; null while listing. */
  let watching: number | null = null;

  async function* round(): AsyncGenerator<Step<T>> {
    if (version === null) {
      const listed = await list(api, served, pageSize, project, events.onAlive, stop);
      version = listed.version;
      yield { kind: "listed", items: listed.items };
    }
    const watchSeconds = times.watchSeconds * (0.9 + Math.random() * 0.2); // replicas that started together drift apart
    for await (const batch of watch(api, served, version, { ...times, watchSeconds }, stop)) {
      events.onAlive();
      watching ??= performance.now();
      version = batch.version;
      if (batch.events.length > 0)
        yield { kind: "changed", events: batch.events.map(({ gone, raw }) => ({ gone, item: project(raw) })) } satisfies Step<T>;
    }
  }

  /**
   * Asked after a 404. True when the cluster certainly lacks the kind: an API server that is starting answers 404 for kinds that it does not
   * know yet. "elsewhere" when it has the kind in another version: `served` is that one then.
   */
  async function isAbsent(error: unknown): Promise<boolean | "elsewhere"> {
    if (!isStatus(error, 404) || resource.definition === null) return false;
    try {
      const answer = await api.call({ method: "GET", path: definitionPath(resource.definition), signal: stop });
      if (resource.older.length === 0) return false;
      const names = definition.parse(answer).spec.versions.flatMap((one) => (one.served ? [one.name] : []));
      const version = [versionOf(resource), ...resource.older].find((one) => names.includes(one));
      if (version === undefined) return true;
      if (version === versionOf(served)) return false;
      served = inVersion(resource, version);
      return "elsewhere";
    } catch (unanswered) {
      if (isStatus(unanswered, 404)) return true;
      if (!stop.aborted) events.onRestart(causeOf(unanswered), unanswered);
      return false;
    }
  }

  while (!stop.aborted) {
    let asked: number | null = null;
    let closed = false;
    watching = null;
    try {
      yield* round();
      closed = true;
      events.onRestart("closed", null);
    } catch (error) {
      if (stop.aborted) return;
      const absent = !(error instanceof Quiet) && (await isAbsent(error));
      if (error instanceof Quiet) {
        closed = true; // the next watch shows whether anybody is there
        events.onRestart("quiet", null);
      } else if (absent === "elsewhere") {
        version = null;
        events.onRestart("elsewhere", null);
        continue;
      } else if (absent) {
        yield { kind: "absent" } satisfies Step<T>;
        version = null;
        asked = times.absentMilliseconds;
        events.onRestart("absent", null);
      } else {
        events.onRestart(causeOf(error), error);
        if (version === null) pageSize = nextPageSize(pageSize, error);
        // What cannot be read comes again from the same version; a list shows the object as it is now.
        if (isGone(error) || isStatus(error, 404) || error instanceof Unreadable) version = null;
        if (isApiFailure(error)) asked = error.retryAfterMilliseconds;
      }
    }
    if (watching !== null && performance.now() - watching >= times.healthyMilliseconds) {
      delay = times.backoffMilliseconds.first;
      if (closed) continue; // as it was asked to: nothing is missed, and nobody else was cut at this moment
    }
    const pause = asked === null ? delay * (0.5 + Math.random()) : asked * (1 + Math.random() * 0.5);
    await sleep(pause, undefined, { signal: stop }).catch(() => undefined); // an abort ends the loop
    if (asked === null) delay = Math.min(delay * 2, times.backoffMilliseconds.most);
  }
}

function causeOf(error: unknown): Cause {
  if (isGone(error)) return "gone";
  if (error instanceof Unreadable) return "unreadable";
  if (!isApiFailure(error)) return "failed";
  if (error.code === "E_API_FORBIDDEN") return "forbidden";
  return error.status === 0 ? "silent" : "failed";
}

/** Pages that outlive their token must be fewer, pages that take too long must be smaller. */
function nextPageSize(pageSize: number, error: unknown): number {
  if (isGone(error)) return Math.min(pageSize * 4, PAGE_SIZES.most);
  const slow = isApiFailure(error) && (error.status === 0 || error.status === 504);
  return slow ? Math.max(Math.ceil(pageSize / 2), PAGE_SIZES.least) : pageSize;
}
