// Runs inside a pod, in front of a client: passes connections on and keeps, of each, what its client said and what it heard.
import { createWriteStream } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";

const [listen = "", host = "", port = "", directory = ""] = process.argv.slice(2);
let count = 0;

const server = createServer({ allowHalfOpen: true }, (client) => {
  const server = connect({ host, port: Number(port), allowHalfOpen: true });
  server.on("connect", () => {
    const name = join(directory, `${listen}-${count++}-${server.localPort}`);
    const [said, heard] = [createWriteStream(`${name}.said`), createWriteStream(`${name}.heard`)];
    client.on("data", (bytes) => said.write(bytes)).pipe(server);
    server.on("data", (bytes) => heard.write(bytes)).pipe(client);
    client.on("end", () => said.end());
    server.on("end", () => heard.end());
  });
  for (const [one, other] of [
    [client, server],
    [server, client],
  ] as const)
    one.on("error", () => other.destroy());
});
server.listen(Number(listen), "127.0.0.1", () => console.log("listening"));
