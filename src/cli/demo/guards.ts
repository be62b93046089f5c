// Claims about what a waypoint guards: who gets in, how often, and that an endpoint which fails is spared until it is well.
import { generateKeyPairSync, sign } from "node:crypto";
import { join } from "node:path";
import type { PodPlace } from "../../lab/api.ts";
import { until } from "../../lab/until.ts";
import type { Demo } from "./checks.ts";
import { outlierDetection, rateLimit, stockRoute, tokenOfShopper } from "./policies.ts";
import type { Requests } from "./requests.ts";

const FILE = "60-demo-guard.yaml";
const ROUTE_FILE = "41-stock-route.yaml";
const ISSUER = "https://id.shop.example";
const LIMIT = { requests: 20, asked: 50 };
const PROPAGATION_MS = 10_000;
const HEALED_MS = 20_000;

const ask = async (pod: PodPlace, count: number, ...headers: string[]): Promise<Requests> =>
  JSON.parse(
    await pod.run(["node", join(import.meta.dirname, "requests.ts"), "http://stock/", String(count), ...headers], { timeoutMs: 30_000 }),
  ) as Requests;

const isOnly = (status: string, { statuses }: Requests): boolean => Object.keys(statuses).join() === status;

async function onceOnly(pod: PodPlace, status: string, what: string, ...headers: string[]): Promise<void> {
  await until(what, async () => isOnly(status, await ask(pod, 1, ...headers)), PROPAGATION_MS);
}

const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

export async function tokenIsAsked({ lab, copy }: Demo): Promise<string> {
  const shopper = lab.pod("shopper");
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const signed = (key: typeof privateKey): string => {
    const text = `${encode({ alg: "ES256", kid: "shop" })}.${encode({ iss: ISSUER, sub: "shopper", exp: Math.floor(Date.now() / 1000) + 600 })}`;
    return `authorization:Bearer ${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
  };
  const direct = `http://${lab.pod("stock-v1").ips[0]}:8080/`;
  const passes = async (): Promise<boolean> =>
    (await shopper.exec(["curl", "-sS", "--max-time", "3", "-o", "/dev/null", direct])).code === 0;
  if (!(await passes())) throw new Error("the pod could not be reached by its own address before there was a policy");
  try {
    copy.write(FILE, tokenOfShopper(ISSUER, JSON.stringify({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "shop" }] })));
    await onceOnly(shopper, "403", "nobody gets in without a token");
    await onceOnly(shopper, "200", "the shopper's token", signed(privateKey));
    await onceOnly(shopper, "401", "a forged token", signed(generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey));
    await until("nobody gets past the waypoint", async () => !(await passes()), PROPAGATION_MS);
    return "403 without a token, 401 with a forged one, 200 with the shopper's; the pod itself refuses who comes past the waypoint";
  } finally {
    copy.write(FILE, null);
    await onceOnly(shopper, "200", "without the policy it is as before");
  }
}

export async function limitHolds({ lab, copy }: Demo): Promise<string> {
  const shopper = lab.pod("shopper");
  try {
    copy.write(FILE, rateLimit(0));
    await onceOnly(shopper, "429", "the limit holds");
    copy.write(FILE, rateLimit(LIMIT.requests));
    // The first that is admitted is one of so many.
    await onceOnly(shopper, "200", "the new limit holds");
    const { statuses } = await ask(shopper, LIMIT.asked);
    const admitted = (statuses["200"] ?? 0) + 1;
    if (admitted !== LIMIT.requests || statuses["429"] !== LIMIT.asked + 1 - LIMIT.requests)
      throw new Error(`of ${LIMIT.asked} requests at a limit of ${LIMIT.requests}: ${JSON.stringify(statuses)}`);
    return `${LIMIT.requests} of ${LIMIT.asked + 1} requests in an hour were admitted, the others answered 429`;
  } finally {
    copy.write(FILE, null);
    await onceOnly(shopper, "200", "without the limit it is as before");
  }
}

export async function outlierLeavesAndReturns({ lab, copy }: Demo): Promise<string> {
  const [shopper, failing] = [lab.pod("shopper"), lab.pod("stock-v2")];
  const versionsOf = async (count: number): Promise<Requests> => ask(shopper, count);
  try {
    copy.write(ROUTE_FILE, stockRoute({ backends: [["stock", 1]] }));
    copy.write(FILE, outlierDetection);
    await until("both answer", async () => Object.keys((await versionsOf(20)).versions).length === 2, PROPAGATION_MS);
    await failing.run(["touch", "/run/failing"]);
    let failed = 0;
    const spared = async (): Promise<boolean> => {
      const now = await versionsOf(20);
      failed += now.statuses["503"] ?? 0;
      return isOnly("200", now);
    };
    await until("the one that fails is spared", spared, PROPAGATION_MS);
    await failing.run(["rm", "-f", "/run/failing"]);
    const begun = performance.now();
    await until("it is asked again", async () => (await versionsOf(20)).versions["v2"] !== undefined, HEALED_MS);
    return `${failed} requests failed before v2 was spared; ${Math.round((performance.now() - begun) / 100) / 10} s after it was well it answered again`;
  } finally {
    await failing.run(["rm", "-f", "/run/failing"]);
    copy.write(FILE, null);
    copy.write(
      ROUTE_FILE,
      stockRoute({
        backends: [
          ["stock-v1", 9],
          ["stock-v2", 1],
        ],
      }),
    );
  }
}
