"""Answers each request with random values of many kinds, of all of which some were drawn before the first."""

import ctypes
import json
import os
import random
import ssl
import sys
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy

if os.environ.get("SHIM"):
    import mayfly_resume

    generator = numpy.random.default_rng()

    @mayfly_resume.on_resume
    def renew() -> None:
        global generator  # noqa: PLW0603 - as programs do
        generator = numpy.random.default_rng()

else:
    generator = numpy.random.default_rng()

AT_RANDOM = 25
getauxval = ctypes.CDLL(None).getauxval
getauxval.restype = ctypes.c_void_p


def values() -> dict[str, str]:
    with open("/dev/urandom", "rb") as device, open("/proc/sys/kernel/random/boot_id") as boot:
        return {
            "getrandom": os.getrandom(16).hex(),
            "urandom": device.read(16).hex(),
            "uuid4": str(uuid.uuid4()),
            "random": repr(random.random()),
            "numpy": repr(numpy.random.random()),
            "generator": repr(generator.random()),
            "openssl": ssl.RAND_bytes(16).hex(),
            "boot_id": boot.read().strip(),
            "at_random": ctypes.string_at(getauxval(AT_RANDOM), 16).hex(),
            "hash": str(hash("text")),
        }


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.dumps(values()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 - the name that http.server asks for


for _ in range(10):
    values()
sys.stdout.flush()
HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
