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
