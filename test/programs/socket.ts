// A WebSocket's stream of HTTP/2 (RFC 8441), as Node opens it: AUTHORITY PATH WORD; prints the answer and what came back of the word.
import { connect } from "node:http2";

export type Opened = { readonly status: number; readonly by: string; readonly key: string; readonly heard: string };

const DEADLINE_MS = 8_000;

if (import.meta.main) {
  const [authority = "", path = "", word = ""] = process.argv.slice(2);
  const late = setTimeout(() => process.exit(1), DEADLINE_MS);
  const session = connect(`http://${authority}`);
  // Whoever asks before the server said that it knows them breaks the standard.
  session.once("remoteSettings", ({ enableConnectProtocol }) => {
    if (enableConnectProtocol !== true) throw new Error("the server knows no extended CONNECT");
    const stream = session.request(
      {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":scheme": "http",
        ":authority": authority,
        ":path": path,
        "sec-websocket-version": "13",
      },
      { endStream: false },
    );
    let [status, by, key, heard] = [0, "", "", ""];
    stream.on("response", (headers) => {
      status = headers[":status"] ?? 0;
      [by, key] = [String(headers["x-served-by"] ?? ""), String(headers["x-key"] ?? "")];
      stream.end(word);
    });
    stream.setEncoding("utf8").on("data", (text: string) => {
      heard += text;
    });
    stream.on("end", () => {
      console.log(JSON.stringify({ status, by, key, heard } satisfies Opened));
      session.close();
      clearTimeout(late);
    });
  });
}
