// Runs inside a pod: one gRPC call and one conversation by WebSocket, through the ports given.
import { once } from "node:events";
import { connect } from "node:http2";

const [grpc = "", webSocket = ""] = process.argv.slice(2);

const session = connect(`http://127.0.0.1:${grpc}`);
const call = session.request({ ":method": "POST", ":path": "/test.Greeter/Greet", "content-type": "application/grpc", te: "trailers" });
call.end(Buffer.from("\x00\x00\x00\x00\x07\x0a\x05world", "latin1"));
call.resume();
await once(call, "close");
session.close();

const socket = new WebSocket(`ws://127.0.0.1:${webSocket}/talk`);
await once(socket, "open");
socket.send("over a websocket");
const [{ data }] = (await once(socket, "message")) as [MessageEvent];
if (data !== "over a websocket") throw new Error(`heard ${String(data)}`);
socket.close();
await once(socket, "close");
console.log("talked");
