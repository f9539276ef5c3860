"""Runs the command line many times without paying for its imports each time.

A helper process imports `mayfly.cli` once and forks for each run. A run is a process of its own, with its own environment, directory and
streams, and ends as `python -m mayfly` does; it only begins with the modules loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_HELPER = """
import json, os, sys
import mayfly.cli, mayfly.image_building
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
            os.dup2(os.open(request[name], flags), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["directory"])
        sys.argv = ["mayfly", *request["arguments"]]
        status = 0
        try:
            mayfly.cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class CommandLine:
    """The helper process; a context manager."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": str(self._root)}
        command = [sys.executable, "-c", _HELPER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()

    def run(
        self, arguments: Sequence[str], *, stdin: str, environment: Mapping[str, str], directory: Path
    ) -> subprocess.CompletedProcess[str]:
        """One run of `mayfly`, from its arguments to its exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as streams_name:
            streams = {name: Path(streams_name, name) for name in ("stdin", "stdout", "stderr")}
            for name, path in streams.items():
                path.write_text(stdin if name == "stdin" else "")
            request = {
                "arguments": list(arguments),
                "environment": dict(environment),
                "directory": str(directory),
                **{name: str(path) for name, path in streams.items()},
            }
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            output, errors = (streams[name].read_bytes().decode() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(list(arguments), status, output, errors)
