// fetch inside: each call asks a second server of the same program over the loopback.
"use strict";
const http = require("node:http");
const crypto = require("node:crypto");

let calls = 0;

const inner = http.createServer((request, response) => {
  let sum = 0;
  for (let n = 0; n <= Number(new URL(request.url, "http://inner").searchParams.get("number")); n++) sum += n * n;
  response.end(JSON.stringify({ sum }));
});

const outer = http.createServer(async (request, response) => {
  calls += 1;
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const asked = JSON.parse(Buffer.concat(pieces));
  const fetched = await fetch(`http://127.0.0.1:9000/?number=${asked.number}`);
  const body = JSON.stringify({
    text: asked.text,
    count: calls,
    sum: (await fetched.json()).sum,
    random: crypto.randomBytes(16).toString("hex"),
    version: process.version,
  });
  response.writeHead(200, { "Content-Length": Buffer.byteLength(body) });
  response.end(body);
});

inner.listen(9000, "127.0.0.1", () => outer.listen(process.env.PORT));
