// Where the API server keeps the kinds that an installation is made of, and those that the checks look at.

export type Place = { readonly root: string; readonly plural: string; readonly namespaced: boolean };

const at = (root: string, plural: string, namespaced = true): Place => ({ root, plural, namespaced });

export const kinds = {
  Namespace: at("/api/v1", "namespaces", false),
  Node: at("/api/v1", "nodes", false),
  Pod: at("/api/v1", "pods"),
  Service: at("/api/v1", "services"),
  ConfigMap: at("/api/v1", "configmaps"),
  Secret: at("/api/v1", "secrets"),
  ServiceAccount: at("/api/v1", "serviceaccounts"),
  Deployment: at("/apis/apps/v1", "deployments"),
  DaemonSet: at("/apis/apps/v1", "daemonsets"),
  PodDisruptionBudget: at("/apis/policy/v1", "poddisruptionbudgets"),
  ClusterRole: at("/apis/rbac.authorization.k8s.io/v1", "clusterroles", false),
  ClusterRoleBinding: at("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", false),
  Role: at("/apis/rbac.authorization.k8s.io/v1", "roles"),
  RoleBinding: at("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
  NetworkPolicy: at("/apis/networking.k8s.io/v1", "networkpolicies"),
  CustomResourceDefinition: at("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", false),
  ValidatingAdmissionPolicy: at("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies", false),
  ValidatingAdmissionPolicyBinding: at("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", false),
  AuthorizationPolicy: at("/apis/security.istio.io/v1", "authorizationpolicies"),
  PeerAuthentication: at("/apis/security.istio.io/v1", "peerauthentications"),
  RequestAuthentication: at("/apis/security.istio.io/v1", "requestauthentications"),
  BackendPolicy: at("/apis/trackbed.dev/v1alpha1", "backendpolicies"),
  RequestPolicy: at("/apis/trackbed.dev/v1alpha1", "requestpolicies"),
  ServiceEntry: at("/apis/networking.istio.io/v1", "serviceentries"),
  GatewayClass: at("/apis/gateway.networking.k8s.io/v1", "gatewayclasses", false),
  Gateway: at("/apis/gateway.networking.k8s.io/v1", "gateways"),
  HTTPRoute: at("/apis/gateway.networking.k8s.io/v1", "httproutes"),
  GRPCRoute: at("/apis/gateway.networking.k8s.io/v1", "grpcroutes"),
  FelixConfiguration: at("/apis/crd.projectcalico.org/v1", "felixconfigurations", false),
} as const satisfies Record<string, Place>;

export type KindName = keyof typeof kinds;

export const isKind = (kind: string): kind is KindName => Object.hasOwn(kinds, kind);

/** Path of a kind's list, in one namespace or in all. */
export function listPath(kind: KindName, namespace?: string): string {
  const { root, plural, namespaced } = kinds[kind];
  return namespaced && namespace !== undefined ? `${root}/namespaces/${encodeURIComponent(namespace)}/${plural}` : `${root}/${plural}`;
}

export const objectPath = (kind: KindName, name: string, namespace?: string): string =>
  `${listPath(kind, namespace)}/${encodeURIComponent(name)}`;
