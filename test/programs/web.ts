// A web server that says who it is and what it was asked: NAME PORT. Path /fail answers 503; a header x-slow says after how
// many milliseconds to answer. Behind each answer is a trailer with its length; what wishes to upgrade hears its own bytes.
import { createServer } from "node:http";

const [name = "", port = ""] = process.argv.slice(2);

const server = createServer((request, response) => {
  const { method = "", url = "", headers } = request;
  let bytes = 0;
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  request.on("end", () => {
    const answer = (): void => {
      response.writeHead(url.startsWith("/fail") ? 503 : 200, {
        "content-type": "application/json",
        "x-served-by": name,
        trailer: "x-sum",
      });
      const text = JSON.stringify({ name, method, url, headers, bytes });
      response.write(text);
      response.addTrailers({ "x-sum": String(text.length) });
      response.end();
    };
    setTimeout(answer, Number(headers["x-slow"] ?? 0));
  });
});
server.on("upgrade", ({ headers }, socket) => {
  const key = headers["sec-websocket-key"] === undefined ? "none" : "some";
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Served-By: ${name}\r\nX-Key: ${key}\r\n\r\n`,
  );
  socket.pipe(socket);
});
server.listen(Number(port), "::", () => console.log("listening"));
