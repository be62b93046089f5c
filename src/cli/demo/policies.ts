// The documents that the demo writes into its working copy.
import type { MutualTlsMode } from "#mesh/objects.ts";

export const denyTicker = `# Written by the demo: the shopper may not listen to the ticker.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: demo-no-ticker
  namespace: shop
spec:
  selector:
    matchLabels:
      app: ticker
  action: DENY
  rules:
    - from:
        - source:
            principals: [cluster.local/ns/shop/sa/shopper]
`;

export const peerAuthentication = (mode: MutualTlsMode): string => `# Written by the demo: what the shop's pods accept.
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: demo-mtls
  namespace: shop
spec:
  mtls:
    mode: ${mode}
`;

export type StockRoute = {
  readonly backends: readonly (readonly [service: string, weight: number])[];
  /** 503 is tried again. */
  readonly retry?: boolean;
};

export const stockRoute = ({ backends, retry = false }: StockRoute): string => `# Written by the demo: where requests for stock go.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: stock
  namespace: shop
spec:
  parentRefs:
    - { group: "", kind: Service, name: stock }
  rules:
    - backendRefs:
${backends.map(([name, weight]) => `        - { name: ${name}, port: 80, weight: ${weight} }\n`).join("")}${retry ? "      retry: { codes: [503], attempts: 3, backoff: 10ms }\n" : ""}`;

const onStock = '  targetRefs:\n    - { group: "", kind: Service, name: stock }\n';
const named = (apiVersion: string, kind: string, name: string): string =>
  `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata:\n  name: ${name}\n  namespace: shop\nspec:\n${onStock}`;

export const tokenOfShopper = (issuer: string, jwks: string): string => `# Written by the demo: who asks for stock shows a token.
${named("security.istio.io/v1", "RequestAuthentication", "demo-token")}  jwtRules:
    - issuer: ${issuer}
      jwks: '${jwks}'
---
${named("security.istio.io/v1", "AuthorizationPolicy", "demo-token")}  rules:
    - from:
        - source:
            requestPrincipals: ["${issuer}/shopper"]
`;

export const rateLimit = (requests: number): string => `# Written by the demo: so many requests for stock, for each client.
${named("trackbed.dev/v1alpha1", "RequestPolicy", "demo-limit")}  rateLimit:
    local:
      rules:
        - limit: { requests: ${requests}, unit: Hour }
          keys: [{ type: Identity }]
`;

export const outlierDetection = `# Written by the demo: a pod of stock that fails three times in a row is left out for a while.
${named("trackbed.dev/v1alpha1", "BackendPolicy", "demo-outlier")}  loadBalancer: { type: RoundRobin }
  healthCheck:
    passive: { consecutive5XxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50 }
`;
