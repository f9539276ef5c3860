// What repeats in the clones of a Node program, made anew in each before its first request. See docs/functions.md.
//
// An instance is a copy of the program as it was when it first waited for a request. V8's state for Math.random and the bytes that Node keeps
// for crypto.randomUUID and crypto.randomInt would then be the same in every call. Preloaded (`node --require .../mayfly-resume.cjs`, or the
// environment NODE_OPTIONS), this file hands the first connection to the program only after Math.random has a state of the instance's own,
// and has the other two take fresh bytes each time. A program's own state can join with
// `require('.../mayfly-resume.cjs').onResume(() => …)`. Outside Mayfly all this does no harm.
'use strict';

const crypto = require('node:crypto');
const net = require('node:net');

const callbacks = [];
let due = true;

/** Has `callback` called before the first connection that this instance gets. */
function onResume(callback) {
  callbacks.push(callback);
}

/** Tells that the program goes on in an instance; only the first time does anything. */
function resumed() {
  if (!due) return;
  due = false;
  for (const callback of callbacks) callback();
}

// sfc32 (of PractRand), two draws a number.
const state = new Int32Array(4);
function draw() {
  const drawn = (((state[0] + state[1]) | 0) + state[3]) | 0;
  state[3] += 1;
  state[0] = state[1] ^ (state[1] >>> 9);
  state[1] = state[2] + (state[2] << 3);
  state[2] = ((state[2] << 21) | (state[2] >>> 11)) + drawn;
  return drawn;
}
function random() {
  return ((draw() >>> 5) * 2 ** 26 + (draw() >>> 6)) / 2 ** 53;
}

onResume(() => {
  crypto.randomFillSync(state);
  Math.random = random;
});

const randomUUID = crypto.randomUUID;
function freshUUID(options) {
  return randomUUID({ ...options, disableEntropyCache: true });
}
crypto.randomUUID = freshUUID;
const web = Object.getPrototypeOf(crypto.webcrypto);
Object.defineProperty(web, 'randomUUID', {
  ...Object.getOwnPropertyDescriptor(web, 'randomUUID'),
  value: function () {
    return freshUUID();
  },
});

const LARGEST = 2 ** 48 - 1;
const randomInt = crypto.randomInt;
crypto.randomInt = function (min, max, callback) {
  if (max === undefined || typeof max === 'function') [min, max, callback] = [0, min, max];
  const range = max - min;
  if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || !(range > 0 && range <= LARGEST)) {
    return randomInt(min, max, callback); // which throws the right error
  }
  if (callback !== undefined && typeof callback !== 'function') return randomInt(min, max, callback);
  const limit = LARGEST - (LARGEST % range);
  let drawn;
  do {
    drawn = crypto.randomBytes(6).readUIntBE(0, 6);
  } while (drawn >= limit);
  const value = min + (drawn % range);
  if (callback === undefined) return value;
  process.nextTick(callback, undefined, value);
};

// All servers are net.Server (http, https, tls by inheritance), which emits this before the program hears of a connection.
const emit = net.Server.prototype.emit;
net.Server.prototype.emit = function (event, ...rest) {
  if (event === 'connection') resumed();
  return emit.call(this, event, ...rest);
};

module.exports = { onResume, resumed };
