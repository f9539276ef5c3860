"""Counter: shows that no call sees another.

It counts its calls in a global variable. A server that reuses processes would answer 1, 2, 3, …; here every call starts from the same
snapshot, in which nobody has called yet, so every answer is 1.
"""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

calls = 0


class Counter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        global calls
        calls += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"{calls}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    HTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Counter).serve_forever()
