// Puts a question to a cluster: a token of an account from the API server, shown to control through the API server. Our own credentials stay there.
import { kubernetes, ports, product } from "#contract/tables.ts";
import { lineOf, readFrames } from "#inspect/frames.ts";
import type { AnswerLine, Question } from "#inspect/question.ts";
import { meshError } from "#mesh/error.ts";
import { type Api, connectApi } from "#source/kubernetes/api.ts";
import { isApiFailure, isStatus } from "#source/kubernetes/failure.ts";
import { usage } from "../outcome.ts";
import { defaultKubeconfig, type Target } from "./client.ts";

export type ClusterAsker = {
  ask(question: Question, stop: AbortSignal): AsyncGenerator<AnswerLine>;
  close(): Promise<void>;
};

/** The API server gives none for less. */
const TOKEN_SECONDS = 600;
/** A new one is asked for when less than this is left of it. */
const TOKEN_MARGIN_MS = 60_000;

/** `account`: NAMESPACE/NAME of the ServiceAccount that is shown; null: the one that may read everything. */
export async function clusterAsker({ kubeconfig, context }: Target, account: string | null): Promise<ClusterAsker> {
  return askerThrough(await connectApi(kubeconfig ?? defaultKubeconfig(), context === undefined ? {} : { context }), account);
}

export function askerThrough(api: Api, account: string | null): ClusterAsker {
  const [namespace = "", name = "", ...rest] = (account ?? `${product.controlPlaneNamespace}/${kubernetes.viewer}`).split("/");
  if (namespace === "" || name === "" || rest.length > 0) throw usage(`--account ${account} is not NAMESPACE/NAME of a ServiceAccount`);
  let token = { text: "", until: 0 };

  async function currentToken(): Promise<string> {
    if (Date.now() < token.until - TOKEN_MARGIN_MS) return token.text;
    const body = {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      spec: { audiences: [kubernetes.viewerAudience], expirationSeconds: TOKEN_SECONDS },
    };
    const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/serviceaccounts/${encodeURIComponent(name)}/token`;
    const answer = (await api.call({ method: "POST", path, body }).catch((error: unknown) => {
      if (isStatus(error, 404))
        throw refused(`there is no ServiceAccount ${namespace}/${name}: name one with --account, or run trackbed install`, error);
      if (isStatus(error, 403))
        throw refused(`no right to create tokens of the ServiceAccount ${namespace}/${name}: name one of yours with --account`, error);
      throw error;
    })) as { readonly status?: { readonly token?: string; readonly expirationTimestamp?: string } };
    token = { text: answer.status?.token ?? "", until: Date.parse(answer.status?.expirationTimestamp ?? "") || 0 };
    return token.text;
  }

  async function* ask(question: Question, stop: AbortSignal): AsyncGenerator<AnswerLine> {
    const service = `https:${kubernetes.control}:${ports.control}`;
    const body = await api
      .open({
        method: "GET",
        path: `/api/v1/namespaces/${product.controlPlaneNamespace}/services/${service}/proxy/v1/ask`,
        query: { question: JSON.stringify(question) },
        headers: { [kubernetes.viewerTokenHeader]: await currentToken() },
        signal: stop,
      })
      .catch((error: unknown) => {
        throw explained(error);
      });
    try {
      for await (const frame of readFrames(body)) yield lineOf<AnswerLine>(frame);
    } catch (error) {
      if (!stop.aborted) throw error;
    } finally {
      body.destroy();
    }
  }

  return { ask, close: () => api.close() };
}

const refused = (message: string, cause: unknown): Error => meshError("E_INSPECTION_REFUSED", message, cause);

/** The API server gives a reason with each refusal of its own; control's refusals have none, and come through as they are. */
function explained(error: unknown): unknown {
  if (!isApiFailure(error) || ![400, 401, 403].includes(error.status)) return error;
  if (error.reason !== "") return refused("the API server does not let us reach control: that takes the Role trackbed-viewer", error);
  const words = error.message.replace(/^.*?: HTTP \d+ /, "");
  return meshError(error.status === 400 ? "E_QUESTION" : "E_INSPECTION_REFUSED", words);
}
