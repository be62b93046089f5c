// What is said once for the whole mesh, in the ConfigMap that tables.json names: who answers for policies of action CUSTOM, in Istio's words.
import type { ObjectMeta } from "./objects.ts";

export type CheckBody = { readonly maxRequestBytes: number; readonly allowPartialMessage: boolean; readonly packAsBytes: boolean };

/** Istio's envoyExtAuthzGrpc and envoyExtAuthzHttp. */
export type ExtensionProvider = {
  readonly name: string;
  readonly protocol: "grpc" | "http";
  /** "namespace/hostname", or a hostname. */
  readonly service: string;
  readonly port: number;
  /** 0: the default. */
  readonly timeoutMilliseconds: number;
  readonly failOpen: boolean;
  /** 0: 403. */
  readonly statusOnError: number;
  /** Null: no body goes along. */
  readonly includeRequestBodyInCheck: CheckBody | null;
  /** Of HTTP; null: left out, which is not the same as empty for what goes to the client on a denial. */
  readonly pathPrefix: string;
  readonly includeRequestHeadersInCheck: readonly string[];
  readonly includeAdditionalHeadersInCheck: Readonly<Record<string, string>>;
  readonly headersToUpstreamOnAllow: readonly string[] | null;
  readonly headersToDownstreamOnAllow: readonly string[] | null;
  readonly headersToDownstreamOnDeny: readonly string[] | null;
};

export type MeshConfig = {
  readonly kind: "ConfigMap";
  readonly metadata: ObjectMeta;
  readonly extensionProviders: readonly ExtensionProvider[];
};
