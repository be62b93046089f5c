// Blanks what must not be seen of HTTP/1: values of headers and bodies become "x", byte for byte, so that lengths and framing stay true. Pure.
import type { RecordingLine } from "./recording.ts";

/**
 * `authorization`: values of the headers that let somebody in. `headers`: all values but those that tell what a body is, and queries. `bodies`:
 * bodies. With the last two whatever is not HTTP/1 is blanked as a whole: nobody could tell what of it is secret.
 */
export const redactions = ["authorization", "headers", "bodies"] as const;
export type Redaction = (typeof redactions)[number];

const SECRET: ReadonlySet<string> = new Set(["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"]);
const SHOWN: ReadonlySet<string> = new Set([
  "content-length",
  "transfer-encoding",
  "content-type",
  "content-encoding",
  "connection",
  "upgrade",
]);
/** Longer lines and names are no HTTP that anybody serves. */
const LINE_CHARACTERS = 16_384;
/** Requests on their way in one connection; more are answered by nobody. */
const PIPELINED = 1000;
const X = 0x78;
const [NEWLINE, RETURN, SPACE, TAB, COLON, QUESTION] = [10, 13, 32, 9, 58, 63];

type From = "client" | "server";
/**
 * What both sides of a connection know: methods of requests that wait for their answer. What comes after an upgrade is another protocol, which
 * only the strict hide.
 */
type Talk = { readonly methods: string[]; isHttp: boolean; isUpgraded: boolean };
type Side = { blank(bytes: Buffer, offset: number): void };

/** Lines come in the order of their connections, and go out in it; their bytes are blanked where they are. */
export function redactor(what: readonly Redaction[]): (line: RecordingLine) => RecordingLine {
  const sides = new Map<string, Record<From, Side>>();
  return (line) => {
    if (what.length === 0) return line;
    if (line.type === "opened") {
      const talk: Talk = { methods: [], isHttp: false, isUpgraded: false };
      const { sent, received } = line;
      sides.set(line.connection, { client: sideOf("client", talk, what, sent), server: sideOf("server", talk, what, received) });
    }
    if (line.type === "closed") sides.delete(line.connection);
    if (line.type !== "chunk") return line;
    const { buffer, byteOffset, length } = line.payload;
    const bytes = Buffer.from(buffer, byteOffset, length);
    const side = sides.get(line.connection)?.[line.from];
    if (side === undefined) bytes.fill(X);
    else side.blank(bytes, line.offset);
    return line;
  };
}

/**
 * `start`: a message begins here. `lost`: where one begins is not known. `other`: no HTTP any more. In `name` and `value` a header is read, in
 * `size` the length of a chunk; `body` has `left` bytes to go.
 */
type State = "start" | "line" | "name" | "value" | "body" | "size" | "chunk" | "afterChunk" | "toEnd" | "lost" | "other";

function sideOf(from: From, talk: Talk, what: readonly Redaction[], begin: number): Side {
  const isStrict = what.includes("headers") || what.includes("bodies");
  const hidesBodies = what.includes("bodies");
  let state: State = begin === 0 ? "start" : "lost";
  let expected = begin;
  /** Of the line, name or value that is being read. */
  let text = "";
  let name = "";
  let hides = false;
  let inTrailers = false;
  let left = 0;
  let length: number | null = null;
  let isChunked = false;
  let status = 0;
  /** Of the request that this answers. */
  let method = "";

  function blank(bytes: Buffer, offset: number): void {
    if (offset !== expected) miss(offset - expected);
    expected = offset + bytes.length;
    // Someone who was lost finds his way where a piece begins like a message.
    if (state === "lost" && looksLikeStart(bytes)) state = "start";
    for (let at = 0; at < bytes.length; ) at = step(bytes, at);
  }

  function miss(count: number): void {
    if (state === "body" && count <= left) left -= count;
    else if (state !== "toEnd" && state !== "other") state = "lost";
    if (state === "body" && left === 0) state = "start";
  }

  const looksLikeStart = (bytes: Buffer): boolean => {
    const beginning = bytes.toString("latin1", 0, 24);
    return from === "client" ? /^[A-Z]{1,20} [^ ]/.test(beginning) : /^HTTP\/1\.[01] [1-5]/.test(beginning);
  };

  /** Could still become one. */
  const maybeStart = (bytes: Buffer, at: number): boolean => {
    const beginning = bytes.toString("latin1", at, at + 24);
    if (from === "server") return "HTTP/1.".startsWith(beginning.slice(0, 7)) || beginning.startsWith("HTTP/1.");
    return /^[A-Z]{1,20}(?: |$)/.test(beginning);
  };

  function step(bytes: Buffer, at: number): number {
    switch (state) {
      case "start":
        // A client may send empty lines between requests.
        if (talk.isHttp && (bytes[at] === RETURN || bytes[at] === NEWLINE)) return at + 1;
        state = maybeStart(bytes, at) ? "line" : "other";
        [text, inTrailers, length, isChunked] = ["", false, null, false];
        return at;
      case "line":
        return readLine(bytes, at);
      case "name":
        return readName(bytes, at);
      case "value":
        return readValue(bytes, at);
      case "size":
        return readSize(bytes, at);
      case "body":
      case "chunk": {
        const end = Math.min(bytes.length, at + left);
        if (hidesBodies) bytes.fill(X, at, end);
        left -= end - at;
        if (left === 0) state = state === "body" ? "start" : "afterChunk";
        return end;
      }
      case "afterChunk":
        if (bytes[at] === NEWLINE) [state, text] = ["size", ""];
        return at + 1;
      case "toEnd":
        if (hidesBodies) bytes.fill(X, at);
        return bytes.length;
      case "lost":
        if (isStrict || talk.isHttp) bytes.fill(X, at);
        return bytes.length;
      case "other":
        if (isStrict || (talk.isHttp && !talk.isUpgraded)) bytes.fill(X, at);
        return bytes.length;
    }
  }

  function readLine(bytes: Buffer, at: number): number {
    const newline = bytes.indexOf(NEWLINE, at);
    const end = newline < 0 ? bytes.length : newline + 1;
    const isWhole = text === "" && newline >= 0;
    text += bytes.toString("latin1", at, end);
    const pattern = from === "client" ? /^([A-Z]{1,20}) \S+ HTTP\/1\.[01]\r?\n$/ : /^(HTTP\/1\.[01]) ([1-5][0-9][0-9])(?: .*)?\r?\n$/;
    const [, word, code] = pattern.exec(text) ?? [];
    // Only a line that is HTTP may be shown where other protocols are not; what of it came before is known too late.
    if (isStrict && (word === undefined || !isWhole)) bytes.fill(X, at, end);
    else if (what.includes("headers") && from === "client") blankQuery(bytes, at, end);
    if (newline < 0 && text.length <= LINE_CHARACTERS) return end;
    text = "";
    state = word === undefined ? "other" : "name";
    if (word === undefined) return end;
    talk.isHttp = true;
    if (from === "client") {
      method = word;
      if (talk.methods.length < PIPELINED) talk.methods.push(word);
    } else {
      status = Number(code);
      method = talk.methods[0] ?? "";
      if (status >= 200 || status === 101) talk.methods.shift();
    }
    return end;
  }

  function blankQuery(bytes: Buffer, at: number, end: number): void {
    const line = bytes.subarray(at, end);
    const query = line.indexOf(QUESTION);
    if (query >= 0) line.fill(X, query + 1, line.lastIndexOf(SPACE));
  }

  function readName(bytes: Buffer, at: number): number {
    const byte = bytes[at] ?? 0;
    if (byte === COLON) {
      name = text.toLowerCase();
      hides = SECRET.has(name) || (what.includes("headers") && !SHOWN.has(name));
      [state, text] = ["value", ""];
    } else if (byte === NEWLINE) {
      if (text.trim() === "") endOfHeaders();
      else state = "other"; // a header without a colon
      text = "";
    } else if ((byte === SPACE || byte === TAB) && text === "" && name !== "") {
      state = "value"; // a value that goes on in this line
    } else {
      text += String.fromCharCode(byte);
      if (text.length > LINE_CHARACTERS) state = "other";
    }
    return at + 1;
  }

  function readValue(bytes: Buffer, at: number): number {
    const byte = bytes[at] ?? 0;
    if (byte === NEWLINE) {
      framing(text.trim());
      [state, text] = ["name", ""];
    } else {
      if (SHOWN.has(name) && text.length < LINE_CHARACTERS) text += String.fromCharCode(byte);
      if (hides && byte !== RETURN && byte !== SPACE) bytes[at] = X;
    }
    return at + 1;
  }

  function framing(value: string): void {
    if (inTrailers) return;
    if (name === "transfer-encoding") isChunked = /(?:^|,)\s*chunked$/i.test(value);
    if (name !== "content-length") return;
    // Two that differ, or one that is no number, would have us look for a message in the middle of a body.
    const count = /^[0-9]{1,15}$/.test(value) ? Number(value) : Number.NaN;
    length = length === null || length === count ? count : Number.NaN;
  }

  function endOfHeaders(): void {
    name = "";
    if (inTrailers) {
      state = "start";
      return;
    }
    if (from === "server" && (status === 101 || (method === "CONNECT" && status >= 200 && status < 300))) {
      state = "other";
      talk.isUpgraded = true;
      return;
    }
    const hasNone = from === "server" && (method === "HEAD" || status < 200 || status === 204 || status === 304);
    if (hasNone) state = "start";
    else if (isChunked) state = "size";
    else if (Number.isNaN(length)) state = "other";
    else if (length !== null) [state, left] = [length === 0 ? "start" : "body", length];
    else state = from === "server" ? "toEnd" : "start";
  }

  function readSize(bytes: Buffer, at: number): number {
    const byte = bytes[at] ?? 0;
    if (byte !== NEWLINE) {
      text += String.fromCharCode(byte);
      if (text.length > LINE_CHARACTERS) state = "other";
      return at + 1;
    }
    const [, digits] = /^([0-9a-f]{1,12})\s*(?:;|$)/i.exec(text.trim()) ?? [];
    text = "";
    if (digits === undefined) state = "other";
    else {
      left = Number.parseInt(digits, 16);
      if (left > 0) state = "chunk";
      else [state, inTrailers] = ["name", true];
    }
    return at + 1;
  }

  return { blank };
}
