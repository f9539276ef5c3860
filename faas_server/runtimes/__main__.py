"""`python -m faas_server.runtimes --runtime NAME --program PATH serve …`: the command line of `mayfly-monitor serve`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from bundles.runtime_config import FunctionSpec
from faas_server.runtimes.container import Runtime
from faas_server.runtimes.serving import Adapter


def main() -> int:
    """Reads the command line and serves. Exit status: 0 drained, 1 the function could not be started, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="faas_server.runtimes")
    parser.add_argument("--runtime", required=True, help="the runtime's name")
    parser.add_argument("--program", required=True, type=Path, help="its program")
    serve = parser.add_subparsers(required=True).add_parser("serve")
    for option, kind in (("bundle", Path), ("socket", Path)):
        serve.add_argument(f"--{option}", required=True, type=kind)
    for option in ("pool", "instances", "ready-timeout", "log-limit", "output-limit"):
        serve.add_argument(f"--{option}", required=True, type=int)
    serve.add_argument("--cpu-limit", type=int)
    given, _ = parser.parse_known_args()  # the monitor has options that mean nothing here
    try:
        spec = FunctionSpec.model_validate_json((given.bundle / "function.json").read_bytes())
    except (OSError, ValidationError) as error:
        print(f"faas_server.runtimes: {given.bundle}: {error}", file=sys.stderr)  # noqa: T201 - the operator's log
        return 2
    runtime = Runtime(given.runtime, given.program, given.bundle, given.socket.with_suffix(".scratch"), given.cpu_limit)
    adapter = Adapter(
        spec,
        runtime,
        given.socket,
        instances=given.instances,
        ready_s=given.ready_timeout / 1000,
        log_bytes=given.log_limit,
        output_bytes=given.output_limit,
    )
    signal.signal(signal.SIGTERM, lambda *_: adapter.drain())
    return adapter.run()


if __name__ == "__main__":
    sys.exit(main())
