// Claims about the way to control through an API server: whose token is shown, that it is asked for once, and that each refusal says whose it is.
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import { kubernetes } from "#contract/tables.ts";
import { type AnswerLine, readQuestion } from "#inspect/question.ts";
import { isMeshError } from "#mesh/error.ts";
import type { Api, ApiRequest } from "#source/kubernetes/api.ts";
import { apiFailure } from "#source/kubernetes/failure.ts";
import { askerThrough } from "./ask.ts";

const QUESTION = readQuestion({ about: "flows", namespaces: ["shop"] });
const never = new AbortController().signal;

type Answers = { readonly token?: () => unknown; readonly control?: () => string };

function through({ token, control }: Answers, account: string | null = null) {
  const asked: ApiRequest[] = [];
  const expirationTimestamp = new Date(Date.now() + 600_000).toISOString();
  const api: Api = {
    server: "https://fake",
    call: async (request) => {
      asked.push(request);
      return token?.() ?? { status: { token: "a-token", expirationTimestamp } };
    },
    open: async (request) => {
      asked.push(request);
      return Readable.from([Buffer.from(control?.() ?? '\n{"type":"answered","nodes":["a"]}\n')]);
    },
    close: async () => undefined,
  };
  const asker = askerThrough(api, account);
  const ask = async (): Promise<AnswerLine[]> => {
    const lines: AnswerLine[] = [];
    for await (const line of asker.ask(QUESTION, never)) lines.push(line);
    return lines;
  };
  return { ask, asked };
}

const refusal =
  (status: number, message: string, reason = "") =>
  (): never => {
    throw apiFailure("GET", "/api/v1/x", { status, reason, message });
  };

test("the account's token, and no credential of ours, is shown to control, and it is asked for once", async () => {
  const { ask, asked } = through({}, "shop/reader");
  assert.deepEqual(await ask(), [{ type: "answered", nodes: ["a"] }]);
  await ask();
  assert.deepEqual(
    asked.map(({ method, path }) => `${method} ${path}`),
    [
      "POST /api/v1/namespaces/shop/serviceaccounts/reader/token",
      "GET /api/v1/namespaces/trackbed-system/services/https:trackbed-control:15012/proxy/v1/ask",
      "GET /api/v1/namespaces/trackbed-system/services/https:trackbed-control:15012/proxy/v1/ask",
    ],
  );
  const [request, question] = asked;
  assert.deepEqual((request?.body as { spec: unknown } | undefined)?.spec, {
    audiences: [kubernetes.viewerAudience],
    expirationSeconds: 600,
  });
  assert.deepEqual(question?.headers, { "x-trackbed-token": "a-token" });
  assert.deepEqual(JSON.parse(question?.query?.["question"] ?? ""), QUESTION);
});

test("who names no account asks as the one that sees everything", async () => {
  const { ask, asked } = through({});
  await ask();
  assert.equal(asked[0]?.path, "/api/v1/namespaces/trackbed-system/serviceaccounts/trackbed-viewer/token");
  assert.throws(() => through({}, "reader"), /--account reader is not NAMESPACE\/NAME/);
});

test("each refusal says whose it is", async () => {
  const cases: [Answers, string, RegExp][] = [
    [{ token: refusal(403, "forbidden", "Forbidden") }, "E_INSPECTION_REFUSED", /no right to create tokens/],
    [
      { token: refusal(404, "not found", "NotFound") },
      "E_INSPECTION_REFUSED",
      /there is no ServiceAccount trackbed-system\/trackbed-viewer/,
    ],
    [
      { control: refusal(403, "services is forbidden", "Forbidden") },
      "E_INSPECTION_REFUSED",
      /the API server does not let us reach control/,
    ],
    [{ control: refusal(403, "bob may not get flows.trackbed.dev of namespace bank") }, "E_INSPECTION_REFUSED", /^bob may not/],
    [{ control: refusal(401, "not authenticated") }, "E_INSPECTION_REFUSED", /^not authenticated$/],
    [{ control: refusal(400, "filter, character 1") }, "E_QUESTION", /^filter, character 1$/],
    [{ control: refusal(503, "no endpoints", "ServiceUnavailable") }, "E_API_UNREACHABLE", /no endpoints/],
  ];
  for (const [answers, code, message] of cases)
    await assert.rejects(
      through(answers).ask(),
      (error: unknown) => isMeshError(error) && error.code === code && message.test(error.message),
    );
});
