"""Hello: the `http` contract, with nothing but the standard library.

A function is an ordinary HTTP server on $PORT. It is started once, when it is deployed; at the moment when it first waits for a connection,
a snapshot is taken, and every call runs in a fresh copy of that moment. So what is done here before `serve_forever` costs no call anything.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"hello": "world", "path": self.path})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({"hello": body.decode("utf-8", "replace") or "world", "path": self.path})

    def answer(self, value: dict[str, str]) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """What the function prints is kept, and `mayfly logs hello` shows it; one line for each request is the server's work."""


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Hello).serve_forever()
