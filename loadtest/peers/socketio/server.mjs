// A hub over Socket.IO 4.8 with the Redis adapter. WebSocket only, without compression (the default), because that is
// the fastest that it has; everything else as it comes.
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const io = new Server({
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"],
  perMessageDeflate: false,
  serveClient: false,
});

io.on("connection", (socket) => {
  socket.on("join", async (room, done) => {
    await socket.join(room);
    done("ok");
  });
  socket.on("publish", (room, data) => io.to(room).emit("e", data));
  // What a client says is read and left alone: for the comparison of frames that come in.
  socket.on("note", () => {});
});

io.httpServer?.on("error", () => process.exit(1));
io.listen(Number(process.env.PORT));
