// The manifests of an installation: the base's documents with an operator's values put where they belong. Pure; comments survive, so that
// what is printed before it is applied still says why each right is there.
import { type Document, isMap, isScalar, isSeq, type Pair, parseAllDocuments, Scalar, visit, type YAMLSeq } from "yaml";
import { faultsOf, type Values } from "./values.ts";

/** One file of the base. */
export type ManifestFile = { readonly name: string; readonly text: string };

export type Manifest = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
};

type Edit = {
  readonly what: keyof Values;
  /** The scalar of the base that this replaces: key it stands under (empty in a list) and its text. */
  readonly matches: (key: string, text: string) => boolean;
  readonly replace: (text: string, values: Values) => string;
};

const after = (prefix: string) => (key: string, text: string) => key === "" && text.startsWith(prefix);

const EDITS: readonly Edit[] = [
  { what: "registry", matches: (key) => key === "image", replace: (_, { registry, tag }) => `${registry}/trackbed:${tag}` },
  // Named after the image: an engine that goes on with an older version keeps the profile that it started with.
  { what: "tag", matches: (key) => key === "localhostProfile", replace: (_, { tag }) => profileOf(tag) },
  { what: "tag", matches: after("--profile="), replace: (_, { tag }) => `--profile=${profileOf(tag)}` },
  { what: "trustDomain", matches: after("--trust-domain="), replace: (_, { trustDomain }) => `--trust-domain=${trustDomain}` },
  { what: "clusterDomain", matches: after("--cluster-domain="), replace: (_, { clusterDomain }) => `--cluster-domain=${clusterDomain}` },
  { what: "adopt", matches: after("--adopt="), replace: (_, { adopt }) => `--adopt=${adopt}` },
  { what: "issuer", matches: after("--issuer="), replace: (_, { issuer }) => `--issuer=${issuer}` },
  {
    what: "otlpEndpoint",
    matches: after("--otlp-endpoint="),
    replace: (_, { otlpEndpoint }) => `--otlp-endpoint=${otlpEndpoint}`,
  },
  { what: "exportFile", matches: after("--export-file="), replace: (_, { exportFile }) => `--export-file=${exportFile}` },
  { what: "cniBin", matches: (key, text) => key === "path" && text === "/opt/cni/bin", replace: (_, { cniBin }) => cniBin },
  { what: "cniConf", matches: (key, text) => key === "path" && text === "/etc/cni/net.d", replace: (_, { cniConf }) => cniConf },
  {
    what: "kubelet",
    matches: (key, text) => key === "path" && text.startsWith("/var/lib/kubelet/"),
    replace: (text, { kubelet }) => text.replace("/var/lib/kubelet", kubelet),
  },
];

const profileOf = (tag: string): string => `trackbed/engine-${tag}.json`;

/** How a list of pull secrets is written: the API's objects, or a placeholder of a template. */
export type Secrets = (names: readonly string[]) => unknown;
const asObjects: Secrets = (names) => names.map((name) => ({ name }));

/** The same files, edited. Throws when a value cannot be used, or when base and edits do not fit each other. */
export function renderFiles(files: readonly ManifestFile[], values: Values): ManifestFile[] {
  const faults = faultsOf(values);
  if (faults.length > 0) throw new Error(faults.join("; "));
  return editFiles(files, values, asObjects);
}

/** Without looking at the values: for placeholders of templates. */
export function editFiles(files: readonly ManifestFile[], values: Values, secrets: Secrets): ManifestFile[] {
  const unused = new Set<Edit>(EDITS);
  const edited = files.map(({ name, text }) => {
    const documents = parse({ name, text });
    for (const document of documents) edit(document, values, secrets, unused);
    return { name, text: join(documents.map((document) => document.toString({ lineWidth: 0 }))) };
  });
  const [left] = unused;
  if (left !== undefined) throw new Error(`nothing in the base is replaced by ${left.what}: base and renderer differ`);
  return edited;
}

/** Texts of documents as one file; those that came after another begin with their separator already. */
export const join = (documents: readonly string[]): string =>
  documents.map((text, index) => (index === 0 || text.startsWith("---") ? text : `---\n${text}`)).join("");

function edit(document: Document.Parsed, values: Values, secrets: Secrets, unused: Set<Edit>): void {
  visit(document, {
    Pair(_, pair: Pair) {
      if (isScalar(pair.key) && pair.key.value === "imagePullSecrets" && isSeq(pair.value))
        pair.value = document.createNode(secrets(values.imagePullSecrets)) as YAMLSeq;
    },
    Scalar(key, node, path) {
      if (key === "key" || typeof node.value !== "string") return;
      const parent = path.at(-1);
      const name = parent !== undefined && "key" in parent && isScalar(parent.key) ? String(parent.key.value) : "";
      const text = node.value;
      for (const one of EDITS)
        if (one.matches(name, text)) {
          node.value = one.replace(text, values);
          node.type = Scalar.QUOTE_DOUBLE; // whatever a value looks like, it stays a string
          unused.delete(one);
        }
    },
  });
}

/** The objects in the files, in order. */
export const objectsOf = (files: readonly ManifestFile[]): Manifest[] =>
  files.flatMap((file) => parse(file).map((document) => document.toJS() as Manifest));

function parse({ name, text }: ManifestFile): Document.Parsed[] {
  const documents = parseAllDocuments(text);
  if (!Array.isArray(documents)) throw new Error(`${name}: no document`);
  return (documents as Document.Parsed[]).map((document) => {
    const [error] = document.errors;
    if (error !== undefined) throw new Error(`${name}: ${error.message}`);
    if (!isMap(document.contents)) throw new Error(`${name}: a document is not an object`);
    return document;
  });
}
