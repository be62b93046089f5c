// Desired state from a Kubernetes API server: every resource listed and watched, told as one stream of changes.
import { setTimeout as sleep } from "node:timers/promises";
import type { Api } from "./kubernetes/api.ts";
import { createHoldings } from "./kubernetes/holdings.ts";
import { type Cause, type ReflectorTimes, reflect } from "./kubernetes/reflector.ts";
import { listPath, type Resource } from "./kubernetes/resources.ts";
import type { Change, Source } from "./source.ts";

export type KubernetesOptions = {
  readonly api: Api;
  /** `controlResources()`, or `nodeResources(node)` for a daemon. */
  readonly resources: readonly Resource[];
  /** A list or watch of this path began again, and why. */
  readonly onRestart?: (path: string, cause: Cause, error: unknown) => void;
  /** The server said something about this path. */
  readonly onAlive?: (path: string) => void;
  readonly times?: ReflectorTimes;
};

/** One `kubectl apply` arrives over several watches: what comes within this time is compiled together. */
const GATHER_MILLISECONDS = 10;

/**
 * The first batch comes when every resource was listed; until then, and for as long as the server is away, the source waits and tries again:
 * it never rejects because of the server. Objects that cannot be read are faults, with the API path as their place.
 */
export function kubernetesSource(options: KubernetesOptions): Source {
  return (stop) => changes(options, stop);
}

async function* changes(options: KubernetesOptions, stop: AbortSignal): AsyncGenerator<Change> {
  const { api, resources, onRestart, onAlive, times } = options;
  const holdings = createHoldings(resources);
  const ended = new AbortController(); // whoever stops reading us, by `stop` or by leaving the loop, ends the watches
  const ending = AbortSignal.any([stop, ended.signal]);
  let news = Promise.withResolvers<void>();
  ending.addEventListener("abort", () => news.resolve(), { once: true });

  async function follow(resource: Resource): Promise<void> {
    const path = listPath(resource);
    const steps = reflect(
      {
        api,
        resource,
        project: (raw) => holdings.read(resource, raw),
        events: { onAlive: () => onAlive?.(path), onRestart: (cause, error) => onRestart?.(path, cause, error) },
        ...(times === undefined ? {} : { times }),
      },
      ending,
    );
    for await (const step of steps) {
      holdings.apply(resource, step);
      news.resolve();
    }
  }

  // Not raced in each turn: a promise that stays open for as long as we run would keep a reaction for every turn.
  const broken: unknown[] = [];
  const followed = Promise.all(resources.map(follow)).catch((error: unknown) => {
    broken.push(error);
    news.resolve();
  });
  try {
    while (!ending.aborted) {
      await news.promise;
      if (!ending.aborted && broken.length === 0) await sleep(GATHER_MILLISECONDS, undefined, { signal: ending }).catch(() => undefined);
      if (broken.length > 0) throw broken[0];
      if (ending.aborted) return;
      news = Promise.withResolvers<void>();
      const change = holdings.take();
      if (change !== null) yield change;
    }
  } finally {
    ended.abort();
    await followed;
  }
}
