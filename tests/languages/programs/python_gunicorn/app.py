"""A Flask application, as gunicorn finds it."""

import secrets
import sys
from importlib.metadata import version

from flask import Flask, request

app = Flask(__name__)
calls = 0


@app.post("/")
def call() -> dict[str, object]:
    global calls
    calls += 1
    asked = request.get_json()
    return {
        "text": asked["text"],
        "count": calls,
        "sum": sum(n * n for n in range(asked["number"] + 1)),
        "random": secrets.token_hex(16),
        "version": f"{sys.version.split()[0]}, Flask {version('flask')}, gunicorn {version('gunicorn')}",
    }
