"""Programs of the tests, built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compiling import compiled
from tests.support.serving import MONITOR

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def monitor() -> Path:
    """The built monitor."""
    assert MONITOR.is_file(), f"{MONITOR} is missing: run `make build`"
    return MONITOR


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds programs/<name>.c, statically unless told otherwise, once for each set of flags."""
    directory = tmp_path_factory.mktemp("programs")

    def build(name: str, *flags: str) -> Path:
        flags = flags or ("-static", "-O1", "-pthread")
        path = directory / "-".join([name, *(flag.strip("-") for flag in flags)])
        if not path.exists():
            compiled(path, (PROGRAMS / f"{name}.c").read_text(), f"-I{PROGRAMS}", *flags)
        return path

    return build


@pytest.fixture(scope="session")
def server_root(program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the program `server` as /server and nothing else."""
    root = tmp_path_factory.mktemp("root")
    (root / "server").write_bytes(program("server").read_bytes())
    (root / "server").chmod(0o755)
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir()
    return root
