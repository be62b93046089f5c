// Claims about when the host's rules for kubelet probes are made, made anew and taken away.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Probed, Prober } from "#redirect/host.ts";
import type { KubeletCgroup } from "./kubelet.ts";
import { newRecord, type PodRecord } from "./pod.ts";
import { probeRules } from "./probes.ts";
import { specimen } from "./specimen.ts";

const CAPTURED = { bootId: "boot", cookie: 1n };
const KUBELET: KubeletCgroup = { path: "/sys/fs/cgroup/kubelet", level: 1, inode: 7n };

function host(t: TestContext) {
  const records: PodRecord[] = [];
  const calls: string[] = [];
  const told: (string | null)[] = [];
  const state = { kubelet: KUBELET as KubeletCgroup | null, listing: null as string | null, fails: false };
  const probes = probeRules({
    rules: {
      apply: async ({ cgroup }: Prober, probed: readonly Probed[]) => {
        if (state.fails) throw new Error("nft refuses");
        calls.push(`apply ${cgroup?.path ?? "root"} ${probed.map(({ address, port }) => `${address}:${port}`).join(" ")}`);
        state.listing = `listing ${calls.length}`;
        return state.listing;
      },
      list: async () => state.listing,
      remove: async () => {
        calls.push("remove");
        state.listing = null;
      },
    },
    kubelet: async () => state.kubelet,
    records: () => records,
    placed: () => undefined,
    trouble: (error) => told.push(error?.code ?? null),
    sweepMilliseconds: 3_600_000,
  });
  t.after(() => probes.stop());
  const pod = (uid: string, captured: boolean, ports: readonly number[]): PodRecord => {
    const { capture } = specimen(uid);
    return newRecord(specimen(uid, { capture: { ...capture, probePorts: ports } }), captured ? CAPTURED : null);
  };
  return { records, calls, told, state, probes, pod };
}

test("the rules name captured pods with probes and nobody else, and go with the last of them", async (t) => {
  const { calls, pod, probes, records, state } = host(t);
  await probes.mend();
  records.push(pod("a", true, [8080, 9090]), pod("b", false, [1]), pod("c", true, []));
  await probes.mend();
  await probes.mend();
  records.length = 0;
  await probes.mend();
  assert.deepEqual(calls, ["remove", "apply /sys/fs/cgroup/kubelet 10.0.0.1:8080 10.0.0.1:9090", "remove"]);
  assert.deepEqual([state.listing, probes.standing], [null, false]);
});

test("a kubelet that was started again, and rules that somebody changed, have them made anew", async (t) => {
  const { calls, pod, probes, records, state } = host(t);
  records.push(pod("a", true, [8080]));
  await probes.mend();
  state.kubelet = { ...KUBELET, inode: 8n };
  await probes.mend();
  state.listing = "edited";
  await probes.mend();
  state.kubelet = null;
  await probes.mend();
  assert.deepEqual(
    calls.map((call) => call.split(" ")[1]),
    ["/sys/fs/cgroup/kubelet", "/sys/fs/cgroup/kubelet", "/sys/fs/cgroup/kubelet", "root"],
  );
});

test("what goes wrong is told once, tried again, and told when it is mended", async (t) => {
  const { pod, probes, records, state, told } = host(t);
  records.push(pod("a", true, [8080]));
  state.fails = true;
  await probes.mend();
  await probes.mend();
  assert.deepEqual([told, probes.problem?.code], [["E_PROBE_RULES_FAILED"], "E_PROBE_RULES_FAILED"]);
  state.fails = false;
  await probes.mend();
  assert.deepEqual([told, probes.problem], [["E_PROBE_RULES_FAILED", null], null]);
});
