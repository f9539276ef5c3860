"""Faults of the guest arrive as the right signals, with the address and the instruction, wherever they happen."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

PLACES = ["here", "child", "thread"]


def lines(command: list[str | Path]) -> list[str]:
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    return finished.stdout.decode().splitlines()


@pytest.mark.parametrize("place", PLACES)
def test_faults_are_the_signals_that_they_are_natively(monitor: Path, program: Callable[..., Path], place: str) -> None:
    path = program("faults")
    native = lines([path, place])
    assert "caught 2000" in native
    assert lines([monitor, "run", "--", path, place]) == native


@pytest.mark.parametrize("place", PLACES)
def test_and_so_they_are_in_a_clone(program: Callable[..., Path], tmp_path: Path, place: str) -> None:
    path = program("faults")
    root = tmp_path / "image"
    root.mkdir()
    (root / "faults").write_bytes(path.read_bytes())
    (root / "faults").chmod(0o755)
    with Serve(make_bundle(tmp_path / "bundle", root, ["/faults", place], contract="stdin"), tmp_path) as serve:
        assert serve.wait_for("ready")["snapshot"] is not None
        answer = serve.call("c", milliseconds=60_000)
        assert answer.status == 200, serve.ended("c")
        assert answer.body.decode().splitlines() == lines([path, place])
