"""Programs of the tests, built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compiling import SHARED, programs_of
from tests.support.serving import MONITOR


@pytest.fixture(scope="session")
def monitor() -> Path:
    """The built monitor."""
    assert MONITOR.is_file(), f"{MONITOR} is missing: run `make build`"
    return MONITOR


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds programs/<name>.c, with these flags."""
    return programs_of(SHARED, tmp_path_factory)


@pytest.fixture(scope="session")
def server_root(program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the program `server` as /server and nothing else."""
    root = tmp_path_factory.mktemp("root")
    (root / "server").write_bytes(program("server").read_bytes())
    (root / "server").chmod(0o755)
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir()
    return root
