// node:http, with a timer, the thread pool (pbkdf2) and a garbage collection's worth of objects in each call.
"use strict";
const http = require("node:http");
const crypto = require("node:crypto");
const { setTimeout: sleep } = require("node:timers/promises");
const { promisify } = require("node:util");

let calls = 0;
// The generator is seeded before the snapshot: what it gives afterwards must not be the same in each clone.
crypto.randomBytes(16);

async function answer(asked) {
  let sum = 0;
  for (let n = 0; n <= asked.number; n++) sum += n * n;
  const key = promisify(crypto.pbkdf2)("mayfly", "salt", 10, 16, "sha256");
  await sleep(1);
  const words = Array.from({ length: 20000 }, (_, index) => ({ index, word: `w${index}` }));
  return {
    text: asked.text,
    count: calls,
    sum,
    random: crypto.randomBytes(16).toString("hex"),
    key: (await key).toString("hex"),
    words: words.filter((entry) => entry.word.endsWith("9")).length,
    version: process.version,
  };
}

http
  .createServer(async (request, response) => {
    calls += 1;
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const body = JSON.stringify(await answer(JSON.parse(Buffer.concat(pieces))));
    response.writeHead(200, { "Content-Length": Buffer.byteLength(body) });
    response.end(body);
  })
  .listen(process.env.PORT);
