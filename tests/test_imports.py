"""Every module can be imported first, and imports go down only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGES = ("bundles", "faas_downloader", "faas_resources", "faas_server", "mayfly")

# One process loads the libraries; each module is then imported in a fork that has none of ours, with warnings as errors.
_IMPORT_EACH = """
import importlib, json, os, sys, traceback
import kubernetes.aio.client, kubernetes.aio.config
import aiohttp, httptools, oras.client, prometheus_client, pydantic_settings, structlog, typer, uvloop, watchfiles
failed = {}
for name in json.load(sys.stdin):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            import warnings
            warnings.simplefilter("error")
            importlib.import_module(name)
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-60000:])
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as text:
        said = text.read()
    if os.waitpid(child, 0)[1]:
        failed[name] = said
json.dump(failed, sys.stdout)
"""


def _modules(root: Path) -> list[str]:
    files = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    names = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files}
    return sorted(name for name in names if not name.endswith("__main__"))


def test_each_module_can_be_imported_alone(root: Path) -> None:
    modules = _modules(root)
    assert set(PACKAGES) <= set(modules)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    finished = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH],
        input=json.dumps(modules),
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == {}


def test_imports_go_down_only(root: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
