// The handler of the Node contenders: Node's own http server. With BENCH_DESCRIPTOR it is the warm process behind the front: it speaks
// docs/protocol.md on that listening socket (a greeting, an envelope), then HTTP as anywhere.
const http = require('http');
const net = require('net');

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const body = JSON.stringify({ hello: Buffer.concat(pieces).toString() });
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
    response.end(body);
  });
});

function serveFront(descriptor) {
  const greeting = `MAYFLY/1 ${process.env.BENCH_INSTANCE}\n`;
  net.createServer({ pauseOnConnect: false }, (socket) => {
    socket.write(greeting);
    let seen = Buffer.alloc(0);
    const onData = (data) => {
      seen = seen.length ? Buffer.concat([seen, data]) : data;
      const end = seen.indexOf(10);
      if (end < 0) return;
      socket.removeListener('data', onData);
      socket.pause();
      socket.unshift(seen.subarray(end + 1));
      server.emit('connection', socket);
      socket.resume();
    };
    socket.on('data', onData);
    socket.on('error', () => socket.destroy());
  }).listen({ fd: descriptor });
}

if (process.env.BENCH_DESCRIPTOR) serveFront(Number(process.env.BENCH_DESCRIPTOR));
else server.listen(process.env.PORT || 8080, process.env.BENCH_HOST || '0.0.0.0');
