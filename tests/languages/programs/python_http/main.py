"""http.server of CPython's own library."""

import json
import os
import secrets
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

calls = 0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        global calls
        calls += 1
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {
            "text": asked["text"],
            "count": calls,
            "sum": sum(n * n for n in range(asked["number"] + 1)),
            "random": secrets.token_hex(16),
            "version": sys.version.split()[0],
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
