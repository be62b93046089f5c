// Claims about HTTP, which a waypoint serves: a canary that shifts by weight, and a retry that hides a pod that fails.
import { join } from "node:path";
import type { PodPlace } from "../../lab/api.ts";
import { until } from "../../lab/until.ts";
import type { Demo } from "./checks.ts";
import { stockRoute } from "./policies.ts";
import type { Requests } from "./requests.ts";

const FILE = "41-stock-route.yaml";
const CANARY = { requests: 300, least: 8, most: 75 }; // one in ten of 300, and so far from it that chance does not reach
const RETRIED = 40; // half of them are tried again, far below what a waypoint allows in a second
const PROPAGATION_MS = 3000;

const ask = async (pod: PodPlace, count: number): Promise<Requests> =>
  JSON.parse(
    await pod.run(["node", join(import.meta.dirname, "requests.ts"), "http://stock/", String(count)], { timeoutMs: 30_000 }),
  ) as Requests;

function assertOnly(status: string, { statuses }: Requests, what: string): void {
  if (Object.keys(statuses).some((one) => one !== status)) throw new Error(`${what}: answers were ${JSON.stringify(statuses)}`);
}

export async function canaryShifts({ lab, copy }: Demo): Promise<string> {
  const shopper = lab.pod("shopper");
  const before = await ask(shopper, CANARY.requests);
  assertOnly("200", before, "with a weight of one in ten");
  const canary = before.versions["v2"] ?? 0;
  if (canary < CANARY.least || canary > CANARY.most)
    throw new Error(`v2 has one in ten by weight and answered ${canary} of ${CANARY.requests}`);
  const begun = performance.now();
  copy.write(FILE, stockRoute({ backends: [["stock-v2", 1]] }));
  const shifted = async (): Promise<Requests | null> => {
    const now = await ask(shopper, 10);
    assertOnly("200", now, "while the weights change");
    return Object.keys(now.versions).join() === "v2" ? now : null;
  };
  await until("only v2 answers", shifted, PROPAGATION_MS);
  return `v2 answered ${canary} of ${CANARY.requests}, and all ${Math.round(performance.now() - begun)} ms after its weight was all there is; none failed`;
}

export async function retryHides({ lab, copy }: Demo): Promise<string> {
  const [shopper, failing] = [lab.pod("shopper"), lab.pod("stock-v2")];
  try {
    await failing.run(["touch", "/run/failing"]);
    copy.write(FILE, stockRoute({ backends: [["stock", 1]] }));
    const seen = await until("a request meets the pod that fails", () => bothAnswer(shopper), PROPAGATION_MS);
    copy.write(FILE, stockRoute({ backends: [["stock", 1]], retry: true }));
    await until("no request meets the pod that fails", async () => (await ask(shopper, 10)).statuses["503"] === undefined, PROPAGATION_MS);
    const hidden = await ask(shopper, RETRIED);
    assertOnly("200", hidden, "with a retry");
    return `${seen.statuses["503"]} of ${total(seen)} answers were 503 without the retry, 0 of ${RETRIED} with it`;
  } finally {
    await failing.run(["rm", "-f", "/run/failing"]);
    copy.write(
      FILE,
      stockRoute({
        backends: [
          ["stock-v1", 9],
          ["stock-v2", 1],
        ],
      }),
    );
  }
}

/** Null until both pods are asked, the one that fails and the one that does not. */
async function bothAnswer(shopper: PodPlace): Promise<Requests | null> {
  const now = await ask(shopper, RETRIED);
  return now.statuses["503"] !== undefined && now.versions["v1"] !== undefined ? now : null;
}

const total = ({ statuses }: Requests): number => Object.values(statuses).reduce((sum, count) => sum + count, 0);
