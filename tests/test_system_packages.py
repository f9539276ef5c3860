"""scripts/system-packages, which make calls each time: quiet when all is there, plain when it may not install."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def run(root: Path, *packages: str, privileged: bool = True) -> subprocess.CompletedProcess[str]:
    drop = [] if privileged or os.geteuid() else ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    script = (root / "scripts" / "system-packages").read_text()
    command = [*drop, "sh", "-c", script, "system-packages", *packages]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60, check=False)


def test_what_is_there_is_not_mentioned(root: Path) -> None:
    finished = run(root, "umoci", "python3-venv")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_without_privileges_it_says_exactly_what_to_run(root: Path) -> None:
    finished = run(root, "umoci", "no-such-package", "nor-this-one", privileged=False)
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        "Missing on this machine: no-such-package nor-this-one. Run this, then make again:",
        "    sudo apt-get update && sudo apt-get install --yes --no-install-recommends no-such-package nor-this-one",
    ]


@pytest.mark.parametrize("name", ["demo", "test", "check", "build", "up", "clean", "lint", "fmt", "wheel"])
def test_make_has_its_targets(root: Path, name: str) -> None:
    finished = subprocess.run(["make", "--dry-run", name], cwd=root, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
