// Who answers for policies of action CUSTOM, as a waypoint asks them: a port of a service that it knows.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ProviderSchema } from "#contract/gen/authorization_pb.ts";
import { serviceHostname } from "#mesh/dns.ts";
import type { ExtensionProvider } from "#mesh/mesh-config.ts";
import type { Service } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";

export type WireProvider = MessageInitShape<typeof ProviderSchema> & { readonly service: string };

export type KnownServices = { readonly clusterDomain: string; service(namespace: string, name: string): Service | undefined };

/** The service that it names: "opa.infra", "opa.infra.svc", "opa.infra.svc.cluster.local", each also behind "infra/". */
export function serviceOf(
  { service }: ExtensionProvider,
  clusterDomain: string,
): { readonly namespace: string; readonly name: string } | null {
  const slash = service.indexOf("/");
  const [prefix, host] = slash < 0 ? ["", service] : [service.slice(0, slash), service.slice(slash + 1)];
  const short = host.endsWith(`.svc.${clusterDomain}`) ? host.slice(0, -`.svc.${clusterDomain}`.length) : host.replace(/\.svc$/, "");
  const [name = "", namespace = prefix, more] = short.split(".");
  if (name === "" || namespace === "" || more !== undefined || (prefix !== "" && prefix !== namespace)) return null;
  return { namespace, name };
}

/** Text: why it cannot be asked. */
export function compileProvider(provider: ExtensionProvider, known: KnownServices): WireProvider | string {
  const { name, protocol, port, timeoutMilliseconds, failOpen, statusOnError, includeRequestBodyInCheck: body } = provider;
  const wanted = serviceOf(provider, known.clusterDomain);
  if (wanted === null) return `${provider.service} is not the name of a Service of the cluster`;
  const found = known.service(wanted.namespace, wanted.name);
  if (found === undefined) return `there is no Service ${wanted.namespace}/${wanted.name}`;
  if (!found.ports.some((one) => one.port === port && isTcp(one)))
    return `Service ${wanted.namespace}/${wanted.name} has no TCP port ${port}`;
  return {
    name,
    service: `${wanted.namespace}/${serviceHostname(wanted.namespace, wanted.name, known.clusterDomain)}`,
    port,
    timeoutMilliseconds,
    failOpen,
    statusOnError,
    ...(body === null
      ? {}
      : { body: { maximumBytes: body.maxRequestBytes, partial: body.allowPartialMessage, asBytes: body.packAsBytes } }),
    protocol: protocol === "grpc" ? { case: "grpc", value: {} } : { case: "http", value: httpCheck(provider) },
  };
}

const httpCheck = (provider: ExtensionProvider) => ({
  pathPrefix: provider.pathPrefix,
  ...texts("headers", provider.includeRequestHeadersInCheck),
  additionalHeaders: Object.entries(provider.includeAdditionalHeadersInCheck)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => ({ name: name.toLowerCase(), value })),
  ...texts("toUpstreamOnAllow", provider.headersToUpstreamOnAllow),
  ...texts("toDownstreamOnAllow", provider.headersToDownstreamOnAllow),
  ...texts("toDownstreamOnDeny", provider.headersToDownstreamOnDeny),
});

/** Names of headers, whole or by their beginning or end. */
const texts = <F extends string>(field: F, names: readonly string[] | null) =>
  names === null || names.length === 0 ? {} : ({ [field]: { any: names.map((name) => textOf(name.toLowerCase())), none: [] } } as const);

const textOf = (name: string) =>
  name === "*"
    ? { kind: { case: "presence" as const, value: true } }
    : name.endsWith("*")
      ? { kind: { case: "prefix" as const, value: name.slice(0, -1) } }
      : name.startsWith("*")
        ? { kind: { case: "suffix" as const, value: name.slice(1) } }
        : { kind: { case: "exact" as const, value: name } };
