"""Nodes with the real monitor, and images that several tests use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas_server.node import examine
from mayfly.doctor import MONITOR_VARIABLE, find_monitor
from mayfly.image_building import Plan, build
from tests.support.node import Node, running_node
from tests.support.once import made_once
from tests.support.system import function_program


@pytest.fixture(scope="session")
def monitor() -> Path:
    """The built monitor, on a machine that can use it. Tests of the whole system are not skipped: where they cannot run, they fail."""
    named = os.environ.get(MONITOR_VARIABLE)
    found = find_monitor(Path(named) if named else None)
    assert found is not None, "the monitor is not built: run `make build`"
    assert (problem := examine(found).problem) is None, problem
    return found


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A function in C that does what its path says: programs/function.c."""
    return (made_once(tmp_path_factory, "function", function_program) / "function").read_bytes()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        yield Path(name)


@pytest.fixture
def node(root: Path, place: Path, monitor: Path) -> Iterator[Node]:
    """A node of this test alone."""
    with running_node(root, place, monitor) as running:
        yield running


@pytest.fixture(scope="module")
def shared_node(root: Path, monitor: Path) -> Iterator[Node]:
    """A node for the tests of one module that leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="mf-") as name, running_node(root, Path(name), monitor) as running:
        yield running


@pytest.fixture(scope="session")
def examples(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built: `examples / NAME / "image.oci"`."""
    return made_once(tmp_path_factory, "examples", lambda place: _build_examples(root, place))


def _build_examples(root: Path, place: Path) -> None:
    for source in (root / "examples").iterdir():
        if not (source / "image.yaml").is_file():
            continue
        folder = place / source.name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.oci", "__pycache__", "filter"))
        if (folder / "Makefile").is_file():
            subprocess.run(["make", "-C", str(folder)], check=True, capture_output=True)
        build(Plan(folder, folder / "image.oci"))


@pytest.fixture
def filter_image(examples: Path) -> Path:
    """A function in C, quick to deploy."""
    return examples / "filter" / "image.oci"
