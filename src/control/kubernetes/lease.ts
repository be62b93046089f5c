// Which replica writes what must be written once: a Lease, held by monotonic time only, so that no clock that jumps makes two leaders.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath } from "#source/kubernetes/resources.ts";

export type LeaseOptions = {
  readonly api: Api;
  readonly namespace: string;
  readonly name: string;
  /** Different for every replica and every start of it. */
  readonly identity: string;
  readonly onChange: (held: boolean) => void;
  readonly onError: (error: unknown) => void;
  readonly times?: LeaseTimes;
};

export type LeaseTimes = {
  /** Who did not renew for this long, as seen by the others, has lost it. */
  readonly durationMilliseconds: number;
  /** Who could not renew for this long stops by itself: before the others may begin. */
  readonly renewMilliseconds: number;
  readonly retryMilliseconds: number;
};

/** The figures of Kubernetes' own controllers. */
export const LEASE_TIMES: LeaseTimes = { durationMilliseconds: 15_000, renewMilliseconds: 10_000, retryMilliseconds: 2_000 };

export type Lease = {
  held(): boolean;
  /** Gives it back, so that the next replica need not wait. */
  release(): Promise<void>;
};

const LEASES = { root: "/apis/coordination.k8s.io/v1", plural: "leases" };

const lease = z.looseObject({
  metadata: z.looseObject({ resourceVersion: z.string() }),
  spec: z
    .looseObject({
      holderIdentity: z.string().nullish(),
      renewTime: z.string().nullish(),
      acquireTime: z.string().nullish(),
      leaseTransitions: z.number().nullish(),
    })
    .default({}),
});

type Seen = { readonly holder: string; readonly version: string; readonly at: number };

export function holdLease(options: LeaseOptions, stop: AbortSignal): Lease {
  const { api, namespace, name, identity, onChange, onError, times = LEASE_TIMES } = options;
  const path = objectPath(LEASES, namespace, name);
  let renewed = Number.NEGATIVE_INFINITY;
  let seen: Seen | null = null;
  let told = false;

  const held = (): boolean => performance.now() - renewed < times.renewMilliseconds;
  const tell = (): void => {
    if (held() === told) return;
    told = !told;
    onChange(told);
  };

  function body(found: z.infer<typeof lease> | null, holder: string): object {
    const time = new Date().toISOString().replace("Z", "000Z"); // MicroTime; for people only, nobody here compares it
    const mine = found?.spec.holderIdentity === identity;
    return {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { name, namespace, ...(found === null ? {} : { resourceVersion: found.metadata.resourceVersion }) },
      spec: {
        holderIdentity: holder,
        leaseDurationSeconds: Math.max(1, Math.round(times.durationMilliseconds / 1000)),
        acquireTime: mine ? found.spec.acquireTime : time,
        renewTime: time,
        leaseTransitions: (found?.spec.leaseTransitions ?? -1) + (mine ? 0 : 1),
      },
    };
  }

  async function attempt(): Promise<void> {
    const began = performance.now();
    const found = await read();
    const holder = found?.spec.holderIdentity ?? "";
    const version = found?.metadata.resourceVersion ?? "";
    if (seen === null || seen.version !== version) seen = { holder, version, at: began };
    if (holder !== "" && holder !== identity && began - seen.at < times.durationMilliseconds) return;
    if (found === null) await api.call({ method: "POST", path: path.slice(0, path.lastIndexOf("/")), body: body(null, identity) });
    else await api.call({ method: "PUT", path, body: body(found, identity) });
    renewed = began; // not after the answer: the others count from when it was written at the earliest
  }

  async function read(): Promise<z.infer<typeof lease> | null> {
    try {
      return lease.parse(await api.call({ method: "GET", path }));
    } catch (error) {
      if (isStatus(error, 404)) return null;
      throw error;
    }
  }

  async function hold(): Promise<void> {
    while (!stop.aborted) {
      try {
        await attempt();
      } catch (error) {
        if (!isStatus(error, 409)) onError(error); // 409: another replica was faster
      }
      tell();
      await sleep(times.retryMilliseconds * (0.8 + Math.random() * 0.4), undefined, { signal: stop }).catch(() => undefined);
    }
  }

  const holding = hold();
  const watchdog = setInterval(tell, Math.min(1_000, times.retryMilliseconds)); // a renewal that hangs must not hide that time is over
  watchdog.unref();

  async function release(): Promise<void> {
    clearInterval(watchdog);
    await holding;
    if (!held()) return;
    renewed = Number.NEGATIVE_INFINITY;
    tell();
    try {
      const found = await read();
      if (found?.spec.holderIdentity === identity) await api.call({ method: "PUT", path, body: body(found, "") });
    } catch (error) {
      onError(error); // it ends by itself
    }
  }

  return { held, release };
}
