// The Helm chart, made from the same base as `trackbed install`: its templates are the base with values' names in the place of values.
import { stringify } from "yaml";
import { editFiles, type ManifestFile } from "./render.ts";
import { defaults, patterns, type Values } from "./values.ts";

const ACTION = /@@(.*?)@@/g;
/** A whole scalar that stands for something other than a string loses its quotes. */
const WHOLE = /"@@(toJson .*?)@@"/g;

const placeholders: Values = {
  registry: "@@.Values.registry@@",
  tag: "@@.Values.tag | default .Chart.AppVersion@@",
  imagePullSecrets: [],
  trustDomain: "@@.Values.trustDomain@@",
  clusterDomain: "@@.Values.clusterDomain@@",
  adopt: "@@.Values.adopt@@",
  issuer: "@@.Values.issuer@@",
  otlpEndpoint: "@@.Values.otlpEndpoint@@",
  exportFile: "@@.Values.exportFile@@",
  cniBin: "@@.Values.cniBin@@",
  cniConf: "@@.Values.cniConf@@",
  kubelet: "@@.Values.kubelet@@",
};

const HELP: Record<keyof Values, string> = {
  registry: "the image is REGISTRY/trackbed:TAG",
  tag: "empty: the version of the chart",
  imagePullSecrets: "Secrets in trackbed-system, as [{name: …}]",
  trustDomain: "first part of every identity",
  clusterDomain: "DNS domain of services",
  adopt: "none, or istio: its label istio.io/dataplane-mode counts as ours",
  issuer:
    "cert-manager's Issuer/NAME, ClusterIssuer/NAME or KIND.GROUP/NAME that signs the mesh's issuer; empty: Secret cacerts, or control itself",
  otlpEndpoint: "base address of the OTLP collector that takes flow records as logs; empty: what the Secret trackbed-otlp says, or none",
  exportFile: "file on the nodes below /var/lib/trackbed, or - for the daemon's standard output, that flow records go to; empty: none",
  cniBin: "where the nodes' container runtime looks for CNI plugins",
  cniConf: "and for their configuration",
  kubelet: "the kubelet's own directory",
};

/** Path inside the chart → text. */
export function chart(base: readonly ManifestFile[], crds: readonly ManifestFile[], version: string): Map<string, string> {
  const templates = editFiles(base, placeholders, () => "@@toJson .Values.imagePullSecrets@@");
  const values = { ...defaults(version), tag: "" };
  return new Map([
    [
      "Chart.yaml",
      stringify({
        apiVersion: "v2",
        name: "trackbed",
        version,
        appVersion: version,
        type: "application",
        kubeVersion: ">=1.30.0-0",
        description: "A service mesh that lives on the node",
      }),
    ],
    [
      "values.yaml",
      (Object.keys(values) as (keyof Values)[]).map((name) => `# ${HELP[name]}\n${stringify({ [name]: values[name] })}`).join(""),
    ],
    ["values.schema.json", `${JSON.stringify(schema(), null, 2)}\n`],
    ...templates.map(({ name, text }) => [`templates/${name}`, action(text)] as const),
    // Helm's own rule for crds/ is ours: created when absent, never changed, never deleted.
    ...crds.map(({ name, text }) => [`crds/${name}`, text] as const),
  ]);
}

const action = (text: string): string => text.replace(WHOLE, "{{ $1 }}").replace(ACTION, "{{ $1 }}");

function schema(): object {
  const { imagePullSecrets, tag, ...texts } = patterns;
  const string = (pattern: string) => ({ type: "string", pattern });
  const secret = { type: "object", additionalProperties: false, required: ["name"], properties: { name: string(imagePullSecrets) } };
  return {
    $schema: "http://json-schema.org/draft-07/schema#",
    type: "object",
    additionalProperties: false,
    properties: {
      ...Object.fromEntries(Object.entries(texts).map(([name, pattern]) => [name, string(pattern)])),
      tag: string(`^$|${tag}`),
      imagePullSecrets: { type: "array", items: secret },
      global: { type: "object" }, // what a parent chart hands down to every child
    },
  };
}
