// For tests: documents as people write them become a table, and a table says which rule a request meets. Slow and plain, so that it can be read.
import assert from "node:assert/strict";
import type { HttpMatch, NamedText, Port, Routes, RuleId, RuleSet, Text } from "#contract/gen/route_pb.ts";
import { serviceHostname } from "#mesh/dns.ts";
import type { MeshObject, Service } from "#mesh/objects.ts";
import type { Route } from "#mesh/route.ts";
import { projectDocument } from "#source/project/project.ts";
import type { Known } from "./backend.ts";
import { type Destination, destinationOfService } from "./destination.ts";
import { compileTable, type Table } from "./table.ts";

export type Request = {
  /** The client's namespace. */
  readonly from: string;
  readonly port: number;
  readonly method?: string;
  /** With its query. */
  readonly path?: string;
  readonly headers?: readonly (readonly [string, string])[];
  /** Of a TLS connection. */
  readonly serverName?: string;
};

export function objectsOf(documents: readonly unknown[]): MeshObject[] {
  return documents.map((document) => {
    const { object, problems } = projectDocument(document);
    assert.deepEqual(problems, []);
    assert.ok(object !== null);
    return object;
  });
}

export const destinationOf = (service: Service): Destination =>
  destinationOfService(service, serviceHostname(service.metadata.namespace, service.metadata.name, "cluster.local"));

/** A cluster of these Services alone. */
export const knownOf = (services: readonly Service[]): Known => {
  const all = new Map(services.map(destinationOf).map((one) => [one.key, one]));
  return { destination: (key) => all.get(key), host: () => undefined };
};

/** Of the first Service among the documents. */
export function tableOf(documents: readonly unknown[]): Table {
  const objects = objectsOf(documents);
  const services = objects.filter((one): one is Service => one.kind === "Service");
  const [service] = services;
  assert.ok(service !== undefined);
  const routes = objects.filter((one): one is Route => "parents" in one);
  return compileTable(destinationOf(service), routes, knownOf(services));
}

/** "HTTPRoute shop/r 0", "own" where no route is attached, "refused" where none matches. */
export function ruleFor(routes: Routes, request: Request): string {
  const port = routes.ports.find((one) => one.port === request.port);
  const rules = rulesFor(port, request.from);
  if (rules === undefined) return "own";
  const { kind } = rules;
  assert.ok(kind.case !== undefined);
  if (kind.case === "http") {
    const entry = kind.value.entries.find(({ match }) => match !== undefined && matches(match, request));
    return entry === undefined ? "refused" : nameOf(kind.value.rules[entry.rule]?.id);
  }
  const rule = kind.value.rules.find(
    ({ serverNames }) => serverNames.length === 0 || serverNames.some((name) => covers(name, request.serverName)),
  );
  return rule === undefined ? "refused" : nameOf(rule.id);
}

const rulesFor = (port: Port | undefined, from: string): RuleSet | undefined => port?.consumers[from] ?? port?.producer;

const nameOf = (id: RuleId | undefined): string => `${id?.kind} ${id?.namespace}/${id?.name} ${id?.index}`;

const covers = (name: string, asked: string | undefined): boolean =>
  asked !== undefined && (name.startsWith("*.") ? asked.endsWith(name.slice(1)) && asked.length > name.length - 1 : asked === name);

function matches(match: HttpMatch, { method = "GET", path = "/", headers = [] }: Request): boolean {
  const [before = "", query = ""] = path.split("?");
  const params = query.split("&").map((pair) => pair.split("=") as [string, string?]);
  const header = ({ name, value }: NamedText): boolean => headers.some(([key, text]) => key.toLowerCase() === name && says(value, text));
  const param = ({ name, value }: NamedText): boolean => {
    const found = params.find(([key]) => key === name);
    return found !== undefined && says(value, found[1] ?? "");
  };
  return (
    (match.path === undefined || says(match.path, before)) &&
    (match.method === "" || match.method === method) &&
    match.headers.every(header) &&
    match.query.every(param)
  );
}

function says(text: Text | undefined, value: string): boolean {
  const kind = text?.kind;
  assert.ok(kind?.case !== undefined);
  if (kind.case === "exact") return kind.value === value;
  if (kind.case === "regex") return new RegExp(`^(?:${kind.value})$`).test(value);
  return kind.value === "/" ? value.startsWith("/") : value === kind.value || value.startsWith(`${kind.value}/`);
}
