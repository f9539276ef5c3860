"""The handler of the CPython contenders, in a virtual machine, a container or a warm process: an ordinary server of the standard library.

| Path | Answer |
|---|---|
| `/` | `{"hello": body}` |
| `/echo` | the body |
| `/touch?mib=N` | writes to every page of N MiB of new memory, then `{"touched": N}` |
| `/stream?parts=N` | N parts, 20 ms apart, each the time of its writing in nanoseconds |
| `/give?mib=N` | N MiB |
| `/take` | reads the body and says how long it was |

With `BENCH_UNSNAPSHOTTABLE` it holds something that no snapshot carries, so that every call boots.
"""

import json
import os
import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = 4096
PIECE = bytes(1 << 18)
HELD = []

if os.environ.get("BENCH_UNSNAPSHOTTABLE"):
    HELD = list(socket.socketpair())
    HELD[0].send(b"unread")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        self.handle_call()

    def do_POST(self):
        self.handle_call()

    def handle_call(self):
        parts = urlsplit(self.path)
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length", 0))
        if parts.path == "/take":
            self.answer(json.dumps({"taken": self.take(length)}).encode())
            return
        body = self.rfile.read(length)
        if parts.path == "/echo":
            self.answer(body, "application/octet-stream")
        elif parts.path == "/touch":
            memory = bytearray(query["mib"] << 20)
            for at in range(0, len(memory), PAGE):
                memory[at] = 1
            self.answer(json.dumps({"touched": len(memory) >> 20}).encode())
        elif parts.path == "/stream":
            self.stream(query["parts"])
        elif parts.path == "/give":
            self.give(query["mib"] << 20)
        else:
            self.answer(json.dumps({"hello": body.decode("utf-8", "replace")}).encode())

    def answer(self, body, media_type="application/json"):
        self.begin(media_type, len(body))
        self.wfile.write(body)

    def begin(self, media_type, length=None):
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        if length is None:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def take(self, length):
        left = length
        while left:
            piece = self.rfile.read(min(left, len(PIECE)))
            if not piece:
                break
            left -= len(piece)
        return length - left

    def give(self, length):
        self.begin("application/octet-stream", length)
        for _ in range(0, length, len(PIECE)):
            self.wfile.write(PIECE)

    def stream(self, parts):
        self.begin("text/plain")
        self.wfile.flush()
        for _ in range(parts):
            time.sleep(0.02)
            self.wfile.write(b"%d\n" % time.time_ns())
            self.wfile.flush()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
