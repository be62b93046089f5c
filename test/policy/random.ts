// Random policies about the pods of the test mesh, as documents: every field that L4 knows, values that are often about somebody who is there.
import { authorization, NAMESPACE, peerAuthentication, principal, ROOT_NAMESPACE } from "./documents.ts";

export type Random = {
  /** From 0 to below. */
  below(count: number): number;
  chance(share: number): boolean;
  one<T>(of: readonly T[]): T;
};

/** Mulberry32: the same seed, the same policies, on every machine. */
export function random(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (count: number): number => Math.floor(next() * count);
  return {
    below,
    chance: (share) => next() < share,
    one: (of) => {
      const found = of[below(of.length)];
      if (found === undefined) throw new Error("nothing to choose from");
      return found;
    },
  };
}

/** What values are about. */
export type Cast = { readonly accounts: readonly string[]; readonly addresses: readonly string[]; readonly ports: readonly number[] };

const MOST_POLICIES = 4;

/** Documents by file name; files that are not named are not there. */
export function randomPolicies(dice: Random, cast: Cast): Map<string, string> {
  const documents = new Map<string, string>();
  for (let index = dice.below(MOST_POLICIES + 1); index > 0; index--) {
    const rules = Array.from({ length: dice.below(3) }, () => rule(dice, cast));
    const scope = dice.chance(0.15)
      ? { namespace: ROOT_NAMESPACE }
      : dice.chance(0.5)
        ? { selector: { app: dice.one(["server", "neighbour"]) } }
        : {};
    const text = authorization(`random-${index}`, dice.chance(0.6) ? "ALLOW" : "DENY", rules, scope);
    documents.set(`random-${index}.yaml`, dice.chance(0.2) ? dryRun(text) : text);
  }
  if (dice.chance(0.3)) {
    const port = { portLevelMtls: { [dice.one(cast.ports)]: { mode: dice.one(["STRICT", "PERMISSIVE"]) } } };
    const selected = dice.chance(0.5);
    const spec = { mtls: { mode: dice.one(["STRICT", "PERMISSIVE"]) }, ...(selected && dice.chance(0.5) ? port : {}) };
    documents.set(
      "random-peer.yaml",
      peerAuthentication("random-peer", spec, selected ? { selector: { app: dice.one(["server", "neighbour"]) } } : {}),
    );
  }
  return documents;
}

function dryRun(text: string): string {
  const document = JSON.parse(text) as { metadata: object };
  return JSON.stringify({ ...document, metadata: { ...document.metadata, annotations: { "istio.io/dry-run": "true" } } });
}

/** Without any part it is a rule that matches everybody. */
function rule(dice: Random, cast: Cast): object {
  const some = <T>(share: number, make: () => T): T[] => (dice.chance(share) ? [make(), ...(dice.chance(0.3) ? [make()] : [])] : []);
  const [from, to, when] = [
    some(0.8, () => source(dice, cast)),
    some(0.4, () => operation(dice, cast)),
    some(0.3, () => condition(dice, cast)),
  ];
  return {
    ...(from.length === 0 ? {} : { from: from.map((source) => ({ source })) }),
    ...(to.length === 0 ? {} : { to: to.map((operation) => ({ operation })) }),
    ...(when.length === 0 ? {} : { when }),
  };
}

function source(dice: Random, cast: Cast): object {
  const values: Readonly<Record<string, () => string>> = {
    principals: () => principalOf(dice, cast),
    namespaces: () => dice.one([NAMESPACE, "legacy", "a*", "*p", "*"]),
    serviceAccounts: () => `${NAMESPACE}/${dice.one(cast.accounts)}`,
    ipBlocks: () => block(dice, cast),
  };
  const name = dice.one(Object.keys(values));
  const second = dice.chance(0.25) ? [dice.one(Object.keys(values).filter((other) => other !== name))] : [];
  return Object.fromEntries([name, ...second].map((field) => [named(dice, field), list(dice, values[field] ?? (() => ""))]));
}

const operation = (dice: Random, cast: Cast): object => ({ [named(dice, "ports")]: list(dice, () => `${dice.one(cast.ports)}`) });

function condition(dice: Random, cast: Cast): object {
  const values: Readonly<Record<string, () => string>> = {
    "source.ip": () => block(dice, cast),
    "source.namespace": () => dice.one([NAMESPACE, "legacy"]),
    "source.principal": () => principalOf(dice, cast),
    "destination.ip": () => block(dice, cast),
    "destination.port": () => `${dice.one(cast.ports)}`,
  };
  const key = dice.one(Object.keys(values));
  return { key, [dice.chance(0.7) ? "values" : "notValues"]: list(dice, values[key] ?? (() => "")) };
}

const named = (dice: Random, field: string): string => (dice.chance(0.7) ? field : `not${field[0]?.toUpperCase()}${field.slice(1)}`);

const list = (dice: Random, value: () => string): string[] => [...new Set([value(), ...(dice.chance(0.4) ? [value()] : [])])];

function principalOf(dice: Random, cast: Cast): string {
  const whole = principal(dice.one(cast.accounts));
  return dice.one([whole, whole, `${whole.slice(0, -2)}*`, `*/${whole.split("/").slice(1).join("/")}`, "*"]);
}

function block(dice: Random, cast: Cast): string {
  const address = dice.one(cast.addresses);
  return dice.one([address, `${address}/${address.includes(":") ? 64 : 24}`, address.includes(":") ? "::/0" : "0.0.0.0/0"]);
}
