// Keeps the host's rules for kubelet probes in line with the captured pods of the node, and with the kubelet's cgroup of this moment.
import type { MeshError } from "#mesh/error.ts";
import { meshError } from "#mesh/error.ts";
import type { HostRules, Probed } from "#redirect/host.ts";
import type { KubeletCgroup } from "./kubelet.ts";
import type { PodRecord } from "./pod.ts";

export type ProbesOptions = {
  readonly rules: HostRules;
  readonly kubelet: () => Promise<KubeletCgroup | null>;
  readonly records: () => Iterable<PodRecord>;
  /** What is in force now: by the kubelet's cgroup, by root, or not at all. */
  readonly placed: (by: "cgroup" | "root" | "none", pods: number) => void;
  /** Null when what was wrong is mended. Told once for each reason. */
  readonly trouble: (error: MeshError | null) => void;
  readonly sweepMilliseconds?: number;
};

export type Probes = {
  readonly problem: MeshError | null;
  /** Something of ours is on the host, as far as is known. */
  readonly standing: boolean;
  /** A pod may look different now. */
  settled(): void;
  /** Looks at everything again; resolves also when that failed. */
  mend(): Promise<void>;
  /** The rules stay. */
  stop(): void;
};

/** A kubelet that was started again has another cgroup, which nothing tells. */
const SWEEP_MS = 5000;
const SETTLE_MS = 100;

export function probeRules(options: ProbesOptions): Probes {
  const { rules, trouble, placed } = options;
  let inForce: { readonly wanted: string; readonly listing: string | null } | null = null;
  let problem: MeshError | null = null;
  let running: Promise<void> | null = null;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  async function pass(): Promise<void> {
    const probed = [...options.records()].flatMap(probedOf);
    const cgroup = probed.length === 0 ? null : await options.kubelet();
    const wanted = JSON.stringify([probed, cgroup?.path ?? null, String(cgroup?.inode)]);
    if (inForce?.wanted === wanted && (await rules.list()) === inForce.listing) return;
    if (probed.length === 0) {
      await rules.remove();
      inForce = { wanted, listing: null };
      placed("none", 0);
      return;
    }
    inForce = { wanted, listing: await rules.apply({ cgroup }, probed) };
    placed(cgroup === null ? "root" : "cgroup", probed.length);
  }

  function tell(now: MeshError | null): void {
    if (now?.message === problem?.message && now?.cause === problem?.cause) return;
    problem = now;
    trouble(now);
  }

  function mend(): Promise<void> {
    if (stopped) return Promise.resolve();
    running ??= pass()
      .then(
        () => tell(null),
        (cause: unknown) => {
          inForce = null;
          if (problem === null)
            tell(meshError("E_PROBE_RULES_FAILED", "the host's rules for kubelet probes could not be put in place", cause));
        },
      )
      .finally(() => {
        running = null;
      });
    return running;
  }

  const sweep = setInterval(() => void mend(), options.sweepMilliseconds ?? SWEEP_MS);

  return {
    get problem() {
      return problem;
    },
    get standing() {
      return inForce?.listing !== null;
    },
    settled: () => {
      if (stopped) return;
      timer ??= setTimeout(() => {
        timer = undefined;
        void mend();
      }, SETTLE_MS);
    },
    mend,
    stop: () => {
      stopped = true;
      clearInterval(sweep);
      clearTimeout(timer);
    },
  };
}

/** A pod that is wanted but not captured answers probes as it is. */
function probedOf({ spec, observed }: PodRecord): Probed[] {
  if (spec.desired !== "enrolled" || !spec.capture.inbound || observed.captured === null) return [];
  return spec.addresses.flatMap((address) => spec.capture.probePorts.map((port) => ({ address, port })));
}
