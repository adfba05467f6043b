// The load for socketio_echo.js, as `inorder bench` makes it for others: so many connections, each
// with so many requests in flight; every answer must come once and in order.
// The only argument is the load as JSON, with times in seconds; a report as JSON is printed.
const { io } = require("socket.io-client");

const load = JSON.parse(process.argv[2]);
const params = JSON.parse(load.params);
const times = []; // microseconds
const complaints = new Set();
let begin = Infinity, end = Infinity, answered = 0, outcomes = 0, issuing = true, open = 0;

const now = () => Number(process.hrtime.bigint() / 1000n);
const sockets = Array.from({ length: load.connections }, () =>
  io(load.url, { transports: ["websocket"], forceNew: true, reconnection: false }));

function ask(socket) {
  const due = now(), seq = ++socket.sent;
  open += 1;
  socket.emit("request", { type: "request", seq, method: "echo", params }, (answer) => {
    const at = now();
    open -= 1;
    outcomes += 1;
    if (answer.seq !== socket.settled + 1) complaints.add("out of order");
    socket.settled = answer.seq;
    if (at >= begin && at < end) answered += 1;
    if (due >= begin && due < end) times.push(at - due);
    if (issuing) ask(socket);
    else if (open === 0) report();
  });
}

function report() {
  times.sort((a, b) => a - b);
  const percentile = (p) => (times[Math.max(0, Math.ceil(times.length * p / 100) - 1)] ?? 0) / 1000;
  const latency = { max: percentile(100) };
  for (const p of [50, 90, 99, 99.9]) latency[`p${p}`] = percentile(p);
  const { user, system } = process.cpuUsage(cpu);
  const busiest = (user + system) / ((load.warmup + load.seconds) * 1e6);
  const per_second = answered / load.seconds;
  console.log(JSON.stringify({ per_second, latency, outcomes, busiest, complaints: [...complaints] }));
  process.exit(0);
}

let cpu;
for (const socket of sockets) {
  socket.sent = socket.settled = 0;
  socket.on("disconnect", () => { console.log('{"lost": true}'); process.exit(1); });
}
Promise.all(sockets.map((socket) => new Promise((done) => socket.on("connect", done)))).then(() => {
  cpu = process.cpuUsage();
  begin = now() + load.warmup * 1e6;
  end = begin + load.seconds * 1e6;
  setTimeout(() => { issuing = false; }, (load.warmup + load.seconds) * 1000);
  for (const socket of sockets) for (let n = 0; n < load.inFlight; n += 1) ask(socket);
});
