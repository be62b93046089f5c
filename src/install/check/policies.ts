// Policies that are written already, read as control would read them: what is wrong with them, and what would be stricter than people expect.
import { kubernetes } from "#contract/tables.ts";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import type { MeshObject, PeerAuthentication } from "#mesh/objects.ts";
import { formatPath } from "#source/project/problem.ts";
import { projectDocument } from "#source/project/project.ts";

import { type Finding, finding } from "../finding.ts";

export type PolicyDocument = {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly [field: string]: unknown;
};

type Conditions = {
  readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string }[];
};

/** Control is the judge in force: where it has spoken, our own reading of the document is not told beside it. */
const refusal = (document: PolicyDocument) =>
  (document["status"] as Conditions | undefined)?.conditions?.find(
    ({ type, status }) => type === kubernetes.acceptedCondition && status === "False",
  );

/** What control could not put in force as it is written. */
export const conditionFindings = (documents: readonly PolicyDocument[]): Finding[] =>
  documents.flatMap((document) => {
    const { reason = "", message = "" } = refusal(document) ?? {};
    const { kind, metadata } = document;
    return reason === "" ? [] : [finding("DOCUMENT_FAULT", `${kind} ${metadata.namespace}/${metadata.name}`, `${message} (${reason})`)];
  });

/** `enrolled` says whether anything of a namespace is, or is to be, in the mesh; elsewhere a policy has no effect. */
export function policyFindings(
  documents: readonly PolicyDocument[],
  enrolled: (namespace: string) => boolean,
  rootNamespace: string,
): Finding[] {
  return documents.flatMap((document) => {
    const { key, object, problems } = projectDocument(document);
    const [kind = "", namespace = "", name = ""] = (key ?? "").split("/");
    if (namespace !== rootNamespace && !enrolled(namespace)) return [];
    const subject = `${kind} ${namespace}/${name}`;
    return [
      ...(refusal(document) === undefined ? problems : []).map(({ path, reason }) =>
        finding("POLICY_INVALID", subject, `${formatPath(path) || "the document"}: ${reason}`),
      ),
      ...(object === null ? [] : stricter(object, subject)),
    ];
  });
}

function stricter(object: MeshObject, subject: string): Finding[] {
  if (object.kind === "AuthorizationPolicy") return unenforceable(object, subject);
  return object.kind === "PeerAuthentication" && isStrict(object)
    ? [
        finding(
          "POLICY_STRICT",
          subject,
          "STRICT refuses plaintext, also from pods that are not in the mesh yet and from outside the cluster",
        ),
      ]
    : [];
}

function unenforceable({ action, unenforceable: fields, dryRun }: AuthorizationPolicy, subject: string): Finding[] {
  if (fields.length === 0 || dryRun) return [];
  const effect = action === "DENY" ? "everything it selects is denied" : "the rules that hold them allow nothing";
  return [finding("POLICY_STRICTER", subject, `${fields.join(", ")} cannot be enforced without HTTP: ${effect}`)];
}

const isStrict = ({ mode, portModes, dryRun }: PeerAuthentication): boolean =>
  !dryRun && (mode === "STRICT" || Object.values(portModes).includes("STRICT"));
