"""Who a program is in a clone: what runtimes remember of themselves over the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.serving import Serve, make_bundle

SAME = "getpid same, gettid same, raise same, kill same, tgkill same, /proc/self same, task same, calls 1\n"


def answers(program: Path, directory: Path, *arguments: str) -> set[str]:
    """What a server of `clones.c` says in some calls, each in a clone."""
    root = directory / "root"
    for name in ("proc", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "clones").write_bytes(program.read_bytes())
    (root / "clones").chmod(0o755)
    bundle = make_bundle(directory / "bundle", root, ["/clones", *arguments])
    with Serve(bundle, directory) as serve:
        assert serve.wait_for("ready")["snapshot"], serve.events
        return {serve.call(f"call-{number}").body.decode() for number in range(4)}


@pytest.mark.parametrize("kind", ["-static", "-static-pie"])
def test_a_clone_has_the_numbers_of_the_boot(program: Callable[..., Path], tmp_path: Path, kind: str) -> None:

    assert answers(program("clones", "-O1", "-pthread", kind), tmp_path) == {SAME}


def test_a_generator_of_random_numbers_sees_another_process_and_nobody_else(program: Callable[..., Path], tmp_path: Path) -> None:
    told = answers(program("clones", "-O1", "-pthread", "-static", "-DGENERATOR"), tmp_path)
    assert told == {SAME.replace("getpid same", "getpid DIFFERENT")}


def test_a_listener_added_to_a_set_that_a_thread_waits_in_is_the_moment(program: Callable[..., Path], tmp_path: Path) -> None:
    told = answers(program("clones", "-O1", "-pthread", "-static"), tmp_path, "threads")
    # The call is answered by another thread than the one that was asked who it is.
    assert told == {SAME.replace("gettid same", "gettid DIFFERENT")}
