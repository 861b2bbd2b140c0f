// A hub over plain ws: rooms by path, and every message of a publisher sent to all of its room. Each message is made
// into a buffer once; compression is off, as it is by default. No Redis, no history: the least that Node can do.
import { WebSocketServer } from "ws";

const rooms = new Map();
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.env.PORT),
  perMessageDeflate: false,
  clientTracking: false,
});

server.on("connection", (socket, request) => {
  socket.on("error", () => socket.terminate());
  if (request.url === "/publish") {
    socket.on("message", (message) => {
      const end = message.indexOf(10);
      const event = message.subarray(end + 1);
      for (const member of rooms.get(message.toString("latin1", 0, end)) ?? []) {
        member.send(event, { binary: false });
      }
    });
    return;
  }
  const name = request.url.startsWith("/room/") ? request.url.slice(6) : undefined;
  if (name === undefined) return;
  let room = rooms.get(name);
  if (room === undefined) rooms.set(name, (room = new Set()));
  room.add(socket);
  socket.on("close", () => {
    room.delete(socket);
    if (room.size === 0 && rooms.get(name) === room) rooms.delete(name);
  });
});
