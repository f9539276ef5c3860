// worker_threads: one worker that lives since before the snapshot, and one that each call starts.
"use strict";
const http = require("node:http");
const crypto = require("node:crypto");
const { Worker, isMainThread, parentPort, threadId } = require("node:worker_threads");

function squares(number) {
  let sum = 0;
  for (let n = 0; n <= number; n++) sum += n * n;
  return sum;
}

function ask(worker, number) {
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.postMessage(number);
  });
}

function serve() {
  const old = new Worker(__filename);
  let calls = 0;
  const server = http.createServer(async (request, response) => {
    calls += 1;
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const asked = JSON.parse(Buffer.concat(pieces));
    const young = new Worker(__filename);
    const [first, second] = await Promise.all([ask(old, asked.number), ask(young, asked.number)]);
    await young.terminate();
    const body = JSON.stringify({
      text: asked.text,
      count: calls,
      sum: first.sum,
      agree: first.sum === second.sum && first.thread !== second.thread,
      random: crypto.randomBytes(16).toString("hex"),
      version: process.version,
    });
    response.writeHead(200, { "Content-Length": Buffer.byteLength(body) });
    response.end(body);
  });
  old.once("online", () => server.listen(process.env.PORT));
}

if (isMainThread) serve();
else parentPort.on("message", (number) => parentPort.postMessage({ sum: squares(number), thread: threadId }));
