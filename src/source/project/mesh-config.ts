// The mesh's ConfigMap: YAML below its key `mesh`, of which every field is read or refused. Other ConfigMaps are nothing to the mesh.
import { parse, YAMLParseError } from "yaml";
import { z } from "zod";
import { kubernetes } from "#contract/tables.ts";
import type { ExtensionProvider, MeshConfig } from "#mesh/mesh-config.ts";
import { metadata, port } from "./fields.ts";
import { invalid, type Path, type Problem, problemsOf } from "./problem.ts";
import type { Projector } from "./projector.ts";

/** Each provider that policies name goes to every waypoint that holds such a policy. */
const MOST = { providers: 64, headers: 64, bodyBytes: 1_048_576 };

const headerName = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$/, "must be the name of an HTTP header, or its beginning and *");
const headers = z.array(headerName).max(MOST.headers);
const timeout = z
  .string()
  .regex(/^(?:[0-9]{1,3}(?:\.[0-9]{1,9})?s|[0-9]{1,6}ms)$/, "must be a duration: 1s, 500ms")
  .transform((text) => Math.round(Number.parseFloat(text) * (text.endsWith("ms") ? 1 : 1000)));
/** Envoy's enumeration is numbers; people write "403". */
const status = z.union([z.string(), z.int()]).transform(Number).pipe(z.int().min(200).max(599));
const body = z.strictObject({
  maxRequestBytes: z.int().min(1).max(MOST.bodyBytes),
  allowPartialMessage: z.boolean().default(false),
  packAsBytes: z.boolean().default(false),
});
const common = {
  service: z.string().min(1).max(320),
  port,
  timeout: timeout.default(0),
  failOpen: z.boolean().default(false),
  statusOnError: status.default(0),
  includeRequestBodyInCheck: body.optional(),
  /** A waypoint looks for the rule after it has asked, so there is nothing to clear. */
  clearRouteCache: z.boolean().optional(),
};
const grpc = z.strictObject(common);
const http = z.strictObject({
  ...common,
  pathPrefix: z.string().startsWith("/").max(1024).default(""),
  includeRequestHeadersInCheck: headers.default([]),
  /** Istio's older name of the same. */
  includeHeadersInCheck: headers.default([]),
  includeAdditionalHeadersInCheck: z.record(headerName, z.string().regex(/^[^\r\n\0]*$/, "must be one line")).default({}),
  headersToUpstreamOnAllow: headers.optional(),
  headersToDownstreamOnAllow: headers.optional(),
  headersToDownstreamOnDeny: headers.optional(),
});
const provider = z
  .strictObject({ name: z.string().min(1).max(253), envoyExtAuthzGrpc: grpc.optional(), envoyExtAuthzHttp: http.optional() })
  .refine(
    (one) => (one.envoyExtAuthzGrpc === undefined) !== (one.envoyExtAuthzHttp === undefined),
    "needs one of envoyExtAuthzGrpc and envoyExtAuthzHttp",
  );
const mesh = z.strictObject({ extensionProviders: z.array(provider).max(MOST.providers).default([]) });

const document = z.object({ metadata, data: z.record(z.string(), z.string()).default({}) });

const AT: Path = ["data", "mesh"];

export const projectMeshConfig: Projector<MeshConfig, z.infer<typeof document>> = {
  kind: "ConfigMap",
  scope: "namespace",
  schema: document,
  project: ({ data }, meta) => {
    if (meta.name !== kubernetes.meshConfigMap) return { object: null, problems: [] };
    const stray = Object.keys(data).filter((key) => key !== "mesh");
    if (stray.length > 0)
      return { object: null, problems: stray.map((key) => invalid(["data", key], "the mesh reads the key mesh alone")) };
    const { value, problems } = read(data["mesh"] ?? "");
    if (value === null) return { object: null, problems };
    const extensionProviders = value.extensionProviders.map(providerOf);
    const names = extensionProviders.map(({ name }) => name);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) return { object: null, problems: [invalid([...AT, "extensionProviders"], `${twice} stands twice`)] };
    return { object: { kind: "ConfigMap", metadata: meta, extensionProviders }, problems: [] };
  },
};

function read(text: string): { readonly value: z.infer<typeof mesh> | null; readonly problems: readonly Problem[] } {
  try {
    const parsed = mesh.safeParse(parse(text) ?? {});
    if (parsed.success) return { value: parsed.data, problems: [] };
    return { value: null, problems: problemsOf(parsed.error).map((one) => ({ ...one, path: [...AT, ...one.path] })) };
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    return { value: null, problems: [invalid(AT, error.message)] };
  }
}

function providerOf({ name, envoyExtAuthzGrpc, envoyExtAuthzHttp }: z.infer<typeof provider>): ExtensionProvider {
  const {
    pathPrefix = "",
    includeRequestHeadersInCheck = [],
    includeHeadersInCheck = [],
    includeAdditionalHeadersInCheck = {},
    headersToUpstreamOnAllow = null,
    headersToDownstreamOnAllow = null,
    headersToDownstreamOnDeny = null,
  } = envoyExtAuthzHttp ?? {};
  const one = envoyExtAuthzHttp ?? envoyExtAuthzGrpc;
  return {
    name,
    protocol: envoyExtAuthzHttp === undefined ? "grpc" : "http",
    service: one?.service ?? "",
    port: one?.port ?? 0,
    timeoutMilliseconds: one?.timeout ?? 0,
    failOpen: one?.failOpen ?? false,
    statusOnError: one?.statusOnError ?? 0,
    includeRequestBodyInCheck: one?.includeRequestBodyInCheck ?? null,
    pathPrefix,
    includeRequestHeadersInCheck: [...includeRequestHeadersInCheck, ...includeHeadersInCheck],
    includeAdditionalHeadersInCheck,
    headersToUpstreamOnAllow,
    headersToDownstreamOnAllow,
    headersToDownstreamOnDeny,
  };
}
