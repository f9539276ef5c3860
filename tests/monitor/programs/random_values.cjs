// Answers each request with random values of many kinds, of all of which some were drawn before the first.
'use strict';
const crypto = require('node:crypto');
const { readFileSync } = require('node:fs');

function values() {
  return {
    'Math.random': String(Math.random()),
    randomUUID: crypto.randomUUID(),
    'webcrypto.randomUUID': globalThis.crypto.randomUUID(),
    randomInt: `${crypto.randomInt(2 ** 48 - 1)} ${crypto.randomInt(2 ** 48 - 1)}`,
    randomBytes: crypto.randomBytes(16).toString('hex'),
    boot_id: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
  };
}

for (let i = 0; i < 10; i++) values();
require('node:http')
  .createServer((request, response) => {
    const body = JSON.stringify(values());
    response.writeHead(200, { 'Content-Length': Buffer.byteLength(body), Connection: 'close' });
    response.end(body);
  })
  .listen(Number(process.env.PORT));
