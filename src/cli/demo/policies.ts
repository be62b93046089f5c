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
