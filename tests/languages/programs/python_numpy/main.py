"""numpy with its BLAS threads inside http.server."""

import json
import os
import secrets
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy

calls = 0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        global calls
        calls += 1
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        row = numpy.arange(asked["number"] + 1, dtype=numpy.float64)
        # Large enough for the BLAS to use its threads: the product of a matrix with its inverse is the identity.
        matrix = numpy.eye(256) * 2 + numpy.tri(256, k=-1)
        identity = matrix @ numpy.linalg.inv(matrix)
        answer = {
            "text": asked["text"],
            "count": calls,
            "sum": int(row @ row),
            "random": secrets.token_hex(16),
            "identity": bool(numpy.allclose(identity, numpy.eye(256))),
            "version": f"{sys.version.split()[0]}, numpy {numpy.__version__}",
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
