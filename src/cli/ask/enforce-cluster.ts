// Policies of a cluster that were only tried: their dry run ended and begun again by their annotation, and who was denied since, as control knows it.
import { setTimeout as sleep } from "node:timers/promises";
import type { FlowRecord } from "#inspect/flow.ts";
import { readQuestion } from "#inspect/question.ts";
import { objectPath } from "#install/kinds.ts";
import { DRY_RUN } from "#mesh/dry-run.ts";
import { explainError } from "#mesh/error.ts";
import type { Api } from "#source/kubernetes/api.ts";
import type { ClusterAsker } from "../cluster/ask.ts";
import { sayOnStderr } from "../cluster/wait.ts";

/** Where policies are enforced, and taken back. */
export type Enforcement = {
  enforce(): Promise<void>;
  /** Throws with what is left in force, and what ends it. */
  back(): Promise<void>;
  /** Who was denied for want of an ALLOW since then. Throws when it cannot go on; ends with `over`. */
  denials(since: Date, over: AbortSignal): AsyncGenerator<FlowRecord>;
};

/** A replica of control that is replaced answers again within seconds; longer nobody shall be denied without our knowing. */
const BLIND_MS = 15_000;
const ASK_MS = 10_000;
const POLL_MS = 2000;
/** An API server that is away at the wrong moment. */
const BACK_TRIES = 15;
const EVENT_CHARACTERS = 1024;

type Parts = {
  readonly api: Pick<Api, "call">;
  readonly asker: Pick<ClusterAsker, "ask">;
  readonly namespace: string;
  /** In the order in which they are enforced: what denies everybody else comes last. */
  readonly policies: readonly string[];
  /** For tests. */
  readonly pollMs?: number;
};

export function inCluster({ api, asker, namespace, policies, pollMs = POLL_MS }: Parts): Enforcement {
  const enforced: string[] = [];

  async function annotate(name: string, dryRun: boolean): Promise<void> {
    const path = objectPath("AuthorizationPolicy", name, namespace);
    const body = { metadata: { annotations: { [DRY_RUN]: String(dryRun) } } };
    await api.call({ method: "PATCH", path, type: "application/merge-patch+json", body });
  }

  async function enforce(): Promise<void> {
    await tellNamespace("PoliciesEnforced", `the dry run of ${policies.join(", ")} ends; it is back when somebody who was seen is denied`);
    for (const name of policies) {
      // Noted first: nobody knows whether a call that failed was heard.
      enforced.unshift(name);
      await annotate(name, false);
    }
  }

  async function back(): Promise<void> {
    const all = [...enforced];
    for (let tries = 1; ; tries++)
      try {
        for (const name of [...enforced]) {
          await annotate(name, true);
          enforced.shift();
        }
        break;
      } catch (error) {
        if (tries < BACK_TRIES) await sleep(pollMs);
        else
          throw new Error(
            `${enforced.join(", ")} of namespace ${namespace} are STILL IN FORCE: ${explainError(error)}. End it with: kubectl -n ${namespace} annotate authorizationpolicy ${enforced.join(" ")} ${DRY_RUN}=true --overwrite`,
            { cause: error },
          );
      }
    if (all.length > 0) await tellNamespace("PoliciesDryRun", `${all.join(", ")} are only tried again`);
  }

  /** Asked again and again: who is not answered knows it soon, where a stream may be silent because it is dead. */
  async function* denials(since: Date, over: AbortSignal): AsyncGenerator<FlowRecord> {
    const filter = 'verdict == denied && code == "E_POLICY_NO_ALLOW"';
    const question = readQuestion({ about: "flows", since: since.getTime(), namespaces: [namespace], filter });
    let answered = Date.now();
    while (!over.aborted) {
      try {
        const late = AbortSignal.timeout(ASK_MS);
        for await (const line of asker.ask(question, AbortSignal.any([late, over]))) {
          if (line.type === "missing") throw new Error(`${line.node} is not watched: ${line.reason}`);
          if (line.type === "flow") yield line.flow;
        }
        if (late.aborted && !over.aborted) throw new Error(`control did not answer within ${ASK_MS / 1000} s`);
        answered = Date.now();
      } catch (error) {
        if (over.aborted) return;
        if (Date.now() - answered > BLIND_MS) throw new Error(`denials could not be watched: ${explainError(error)}`, { cause: error });
      }
      await sleep(pollMs, undefined, { signal: over }).catch(() => undefined); // an abort ends the loop
    }
  }

  /** On the policy that denies the most. Who may not write Events is told here alone. */
  async function tellNamespace(reason: string, message: string): Promise<void> {
    const now = new Date().toISOString();
    const name = policies.at(-1) ?? "";
    const body = {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name: `${name.slice(0, 200)}.${Date.now().toString(16)}`, namespace },
      involvedObject: { apiVersion: "security.istio.io/v1", kind: "AuthorizationPolicy", namespace, name },
      type: reason === "PoliciesEnforced" ? "Normal" : "Warning",
      reason,
      message: message.slice(0, EVENT_CHARACTERS),
      source: { component: "trackbed" },
      ...{ firstTimestamp: now, lastTimestamp: now, count: 1 },
    };
    try {
      await api.call({ method: "POST", path: `/api/v1/namespaces/${encodeURIComponent(namespace)}/events`, body });
    } catch (error) {
      sayOnStderr(`trackbed: no Event in ${namespace}: ${explainError(error)}`);
    }
  }

  return { enforce, back, denials };
}
