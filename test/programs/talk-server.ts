// Runs inside a pod: gRPC by HTTP/2 in plain text, and a WebSocket that sends back what it is sent.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { createServer as createHttp2 } from "node:http2";

const [grpc = "", webSocket = ""] = process.argv.slice(2);

const framed = (message: Buffer): Buffer => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};

createHttp2()
  .on("stream", (stream) => {
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.resume().on("end", () => stream.end(framed(Buffer.from("\x0a\x05hello", "latin1"))));
  })
  .listen(Number(grpc));

/** RFC 6455, 4.2.2. */
const KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

createServer()
  .on("upgrade", (request, socket) => {
    const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}${KEY}`).digest("base64");
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
    );
    socket.on("data", (frame: Buffer) => {
      const length = (frame[1] ?? 0) & 127; // short and masked: the test sends no other
      const [mask, data] = [frame.subarray(2, 6), frame.subarray(6, 6 + length)];
      const plain = data.map((byte, index) => byte ^ (mask[index % 4] ?? 0));
      socket.write(Buffer.concat([Buffer.of(frame[0] ?? 0, length), plain]));
      if (((frame[0] ?? 0) & 15) === 8) socket.end();
    });
  })
  .listen(Number(webSocket), () => console.log("listening"));
