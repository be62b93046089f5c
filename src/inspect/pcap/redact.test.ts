// What is redacted is nowhere in the lines that go out, and nothing else has changed, however the bytes were cut into pieces.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { FlowRecord } from "../flow.ts";
import type { RecordingLine } from "./recording.ts";
import { type Redaction, redactor } from "./redact.ts";

type Said = { readonly from: "client" | "server"; readonly text: string; readonly offset?: number };

/** What comes out, by side. `cut`: how many bytes a piece has at most. */
function redacted(what: readonly Redaction[], said: readonly Said[], cut: number, sent = 0): { client: string; server: string } {
  const redact = redactor(what);
  const out = { client: "", server: "" };
  const at = { client: sent, server: 0 };
  redact({ type: "opened", connection: "1", time: "0", flow: {} as FlowRecord, sent, received: 0 });
  for (const { from, text, offset } of said) {
    at[from] = offset ?? at[from];
    const bytes = Buffer.from(text, "latin1");
    for (let start = 0; start < bytes.length; start += cut) {
      const piece = bytes.subarray(start, start + cut);
      const line: RecordingLine = {
        type: "chunk",
        connection: "1",
        time: "0",
        from,
        offset: at[from],
        length: piece.length,
        payload: Buffer.from(piece),
      };
      const got = redact(line);
      assert.ok(got.type === "chunk" && got.length === piece.length);
      const shown = Buffer.from(got.payload);
      assert.equal(shown.length, piece.length, "lengths stay");
      out[from] += shown.toString("latin1");
      at[from] += piece.length;
    }
  }
  return out;
}

/** The same for every way to cut it. Where other protocols are hidden, a first line that came in pieces is hidden too. */
function always(what: readonly Redaction[], said: readonly Said[]): { client: string; server: string } {
  const whole = redacted(what, said, 1 << 20);
  if (what.some((one) => one !== "authorization")) return whole;
  for (const cut of [1, 2, 3, 7, 16, 50]) assert.deepEqual(redacted(what, said, cut), whole, `in pieces of ${cut}`);
  return whole;
}

const QUESTION =
  "POST /pay?card=4711 HTTP/1.1\r\nHost: bank\r\nAuthorization: Bearer s3cret\r\nCookie: id=s3cret\r\nContent-Length: 11\r\n\r\nhello=world";
const ANSWER =
  "HTTP/1.1 200 OK\r\nSet-Cookie: id=s3cret\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n";

test("what lets somebody in is blanked, everything else stays as it was", () => {
  const { client, server } = always(
    ["authorization"],
    [
      { from: "client", text: QUESTION + QUESTION },
      { from: "server", text: ANSWER + ANSWER },
    ],
  );
  assert.equal(client, QUESTION.replace("Bearer s3cret", "xxxxxx xxxxxx").replace("id=s3cret", "xxxxxxxxx").repeat(2));
  assert.equal(server, ANSWER.replace("id=s3cret", "xxxxxxxxx").repeat(2));
});

test("bodies are blanked within their framing, headers but for those that frame", () => {
  const both = always(
    ["bodies"],
    [
      { from: "client", text: QUESTION },
      { from: "server", text: ANSWER },
    ],
  );
  assert.match(both.client, /\r\n\r\nx{11}$/);
  assert.match(both.server, /\r\n\r\n5\r\nxxxxx\r\n6;x=y\r\nxxxxxx\r\n0\r\nX-Trailer: t\r\n\r\n$/);
  const headers = always(["headers"], [{ from: "client", text: QUESTION }]);
  assert.equal(headers.client.split("\r\n")[0], "POST /pay?xxxxxxxxx HTTP/1.1");
  assert.match(headers.client, /Host: xxxx\r\n.*Content-Length: 11\r\n\r\nhello=world$/s);
});

test("however it is cut, nothing of a body or a value is shown", () => {
  for (const cut of [1, 2, 3, 7, 16, 50]) {
    const { client, server } = redacted(
      ["bodies", "headers"],
      [
        { from: "client", text: QUESTION },
        { from: "server", text: ANSWER },
      ],
      cut,
    );
    assert.doesNotMatch(client + server, /4711|s3cret|hello|world|bank/, `in pieces of ${cut}`);
    assert.match(client, /Content-Length: 11\r\n\r\nx{11}$/);
  }
});

test("an answer to HEAD has no body, one without a length goes on to the end, a folded value is one value", () => {
  const { server } = always(
    ["bodies", "authorization"],
    [
      { from: "client", text: "HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n" },
      { from: "server", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.0 200 OK\r\nSet-Cookie: a\r\n b\r\n\r\nall the rest" },
    ],
  );
  assert.match(server, /Content-Length: 5\r\n\r\nHTTP\/1\.0 200 OK\r\nSet-Cookie: x\r\n x\r\n\r\nx{12}$/);
});

test("other protocols are left alone by default, and are hidden as a whole when bodies or headers are", () => {
  for (const text of ["*1\r\n$4\r\nPING\r\n", "PING\r\n", "AUTH secret\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nsecret", "\x00\x03secret"]) {
    assert.equal(always(["authorization"], [{ from: "client", text }]).client, text);
    for (const cut of [1, 5, 1000]) assert.match(redacted(["bodies"], [{ from: "client", text }], cut).client, /^x+$/);
  }
});

test("what follows an upgrade is another protocol, both ways", () => {
  const said = [
    { from: "client", text: "GET /talk HTTP/1.1\r\nUpgrade: websocket\r\nCookie: s3cret\r\n\r\n" },
    { from: "server", text: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi" },
    { from: "client", text: "\x81\x82GET there" },
  ] as const;
  const { client, server } = always(["authorization"], said);
  assert.match(client, /Cookie: x{6}\r\n\r\n\x81\x82GET there$/);
  assert.ok(server.endsWith("\x81\x02hi"));
  assert.doesNotMatch(redacted(["bodies"], said, 1000).server, /hi$/);
});

test("after a gap, and in a connection that was open before, nothing is shown until a message begins", () => {
  const gap = redacted(
    ["authorization"],
    [
      { from: "client", text: "GET / HTTP/1.1\r\nHost: a\r\n" },
      { from: "client", text: "ation: Bearer s3cret\r\n\r\n", offset: 500 },
      { from: "client", text: QUESTION, offset: 600 },
    ],
    1 << 20,
  );
  assert.doesNotMatch(gap.client, /s3cret/);
  assert.match(gap.client, /hello=world$/);
  const midway = redacted(
    ["bodies"],
    [
      { from: "client", text: "secret", offset: 10 },
      { from: "client", text: QUESTION, offset: 16 },
    ],
    1 << 20,
    10,
  );
  assert.doesNotMatch(midway.client, /secret|hello/);
});

test("a length that cannot be trusted hides what follows", () => {
  const text = "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nGET / HTTP/1.1\r\nCookie: s3cret\r\n\r\n";
  assert.doesNotMatch(always(["authorization"], [{ from: "client", text }]).client, /s3cret/);
});
