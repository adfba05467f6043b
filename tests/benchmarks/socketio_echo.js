// Socket.IO with acknowledgements: each event is answered by its acknowledgement. Nothing is kept.
const { createServer } = require("http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false });
io.on("connection", (socket) => socket.on("request", (message, answer) => answer(message)));
http.listen(0, "127.0.0.1", () => console.log(`ws://127.0.0.1:${http.address().port}/`));
