"""Kontain: a function as Kontain FAAS calls it.

The request lies in `/.request`, as JSON: {"Method", "Url", "Headers": {name: [values]}, "Data": base64}. The program reads it, writes
its answer to `/.reply`, {"Status", "Data": base64}, and exits. Calls are cloned from the moment when it first opens `/.request`.

This one answers with the request's method, URL and body.
"""

import base64
import json
from pathlib import Path


def main() -> None:
    request = json.loads(Path("/.request").read_bytes())
    body = base64.b64decode(request.get("Data") or "")
    answer = f"{request['Method']} {request['Url']}\n".encode() + body
    Path("/.reply").write_text(json.dumps({"Status": 200, "Data": base64.b64encode(answer).decode()}))


if __name__ == "__main__":
    main()
