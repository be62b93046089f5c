// Runs inside a pod: so many GETs at once over one connection of HTTP/2, each read to its end.
import { once } from "node:events";
import { connect } from "node:http2";

const [url = "", count = ""] = process.argv.slice(2);
const { origin, pathname } = new URL(url);
const session = connect(origin);
await Promise.all(
  Array.from({ length: Number(count) }, async () => {
    const stream = session.request({ ":path": pathname });
    stream.resume();
    await once(stream, "close");
  }),
);
session.close();
