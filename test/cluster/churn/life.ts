// One pod from its address to its end, in the order of a real kubelet: sandbox, container, status; and container, sandbox, address, object.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import type { Api } from "#source/kubernetes/api.ts";
import { ALL } from "./addresses.ts";
import type { ApiPod } from "./follow.ts";
import type { Pool } from "./pool.ts";
import type { Account, Member, Record } from "./records.ts";
import { makeSandbox, removeSandbox, type Sandbox } from "./sandbox.ts";

export type Life = {
  /** The pod is being deleted: what runs has so many seconds. */
  end(graceSeconds: number): void;
  /** Nothing of it is left on the node. */
  readonly over: Promise<void>;
};

export type World = { readonly api: Api; readonly pool: Pool; readonly write: (record: Record) => void; readonly node: string };

/** A kubelet tries a sandbox that could not be made again with every sync of the pod; ours are in more of a hurry. */
const AGAIN_MS = 300;
const CGROUP_MS = 20;

export function live(pod: ApiPod, world: World): Life {
  const asked = Promise.withResolvers<number>();
  let ending = false;
  // By which a daemon that starts anew finds the pod.
  const cgroup = `/sys/fs/cgroup/pids/${process.env["CLUSTER"]}/${world.node}/pods/kubepods/besteffort/pod${pod.metadata.uid}`;
  return {
    end: (graceSeconds) => {
      ending = true;
      asked.resolve(graceSeconds);
    },
    over: whole().catch((error: unknown) => {
      console.error(`pod ${pod.metadata.name}: ${String(error)}`);
      process.exit(1); // an address would be lost: better no kubelet than one that tells stories
    }),
  };

  async function whole(): Promise<void> {
    const { api, pool } = world;
    const { namespace, name, uid } = pod.metadata;
    const address = await pool.take();
    const sandbox = await born(address);
    if (sandbox !== null) {
      const child = start(sandbox);
      const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      const done = exited.then(() => -1);
      await status("Running", address);
      const grace = await Promise.race([done, asked.promise]);
      if (grace >= 0) await kill(child, exited, grace);
      await removeCgroup();
      await clear(sandbox);
      pool.give(address);
      if (grace < 0) {
        await status("Succeeded", address);
        await asked.promise;
      }
    } else pool.give(address);
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    const body = { gracePeriodSeconds: 0, preconditions: { uid } };
    await api.call({ method: "DELETE", path, body }).catch(unlessGone);
  }

  /** Null when the pod was deleted before it could start. */
  async function born(address: string): Promise<Sandbox | null> {
    const { namespace, name, uid } = pod.metadata;
    for (let attempt = 0; !ending; attempt++) {
      const id = `cni-${uid}-${attempt}`;
      const sandbox = { pod: { namespace, name, uid }, id, netns: `/run/netns/${id}`, address };
      try {
        const meshMs = Math.round(await makeSandbox(sandbox));
        world.write({ kind: "started", at: Date.now(), uid, address, meshMs });
        return sandbox;
      } catch (error) {
        world.write({ kind: "refused", at: Date.now(), uid, reason: error instanceof Error ? error.message : String(error) });
        await clear(sandbox);
        await Promise.race([pause(AGAIN_MS), asked.promise]);
      }
    }
    return null;
  }

  async function clear(sandbox: Sandbox): Promise<void> {
    const began = performance.now();
    for (const reason of await removeSandbox(sandbox)) world.write({ kind: "refused", at: Date.now(), uid: pod.metadata.uid, reason });
    const delMs = Math.round(performance.now() - began);
    world.write({ kind: "ended", at: Date.now(), uid: pod.metadata.uid, address: sandbox.address, delMs });
  }

  function start({ netns, address }: Sandbox): ChildProcess {
    const { uid, labels = {} } = pod.metadata;
    const account = pod.spec.serviceAccountName as Account;
    const me: Member = { uid, account, guard: labels["guard"] as Account, meshed: labels["trackbed.dev/mesh"] !== "disabled" };
    const targets = ALL.filter((one) => one !== address);
    mkdirSync(cgroup, { recursive: true });
    const argv = [`--net=${netns}`, process.execPath, `${import.meta.dirname}/member.ts`, JSON.stringify({ me, targets })];
    const child = spawn("sh", ["-c", `echo $$ >${cgroup}/cgroup.procs && exec nsenter "$@"`, "nsenter", ...argv], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    createInterface({ input: child.stdout }).on("line", (line) => world.write(JSON.parse(line) as Record));
    const lifetime = Number(labels["lifetime"] ?? 0);
    if (lifetime > 0) setTimeout(() => child.kill("SIGTERM"), lifetime); // a Job whose work is done
    return child;
  }

  async function kill(child: ChildProcess, exited: Promise<void>, graceSeconds: number): Promise<void> {
    if (graceSeconds > 0) child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), graceSeconds * 1000);
    await exited;
    clearTimeout(late);
  }

  /** The kernel lets it go when the last of the dead has left it. */
  async function removeCgroup(): Promise<void> {
    while (existsSync(cgroup)) {
      try {
        rmdirSync(cgroup);
      } catch {
        await pause(CGROUP_MS);
      }
    }
  }

  async function status(phase: string, podIP: string): Promise<void> {
    const { namespace, name, uid } = pod.metadata;
    const ready = { type: "Ready", status: phase === "Running" ? "True" : "False" };
    const body = { metadata: { uid }, status: { phase, podIP, podIPs: [{ ip: podIP }], conditions: [ready] } };
    const path = `/api/v1/namespaces/${namespace}/pods/${name}/status`;
    await world.api.call({ method: "PATCH", path, type: "application/strategic-merge-patch+json", body }).catch(unlessGone);
  }
}

/** Deleted by force meanwhile, or another pod has the name by now. */
function unlessGone(error: unknown): void {
  const status = typeof error === "object" && error !== null && "status" in error ? error.status : 0;
  if (status !== 404 && status !== 409) throw error;
}
