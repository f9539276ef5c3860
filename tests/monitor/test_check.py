"""The check after a boot: two clones and a fresh boot are asked the same, and what repeats is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.roots import make_root
from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def root(program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("root") / "root")
    for name in ("repeating", "server"):
        shutil.copy(program(name), root / name)
    return root


def checked(root: Path, directory: Path, *args: str) -> dict[str, Any]:
    """The event; a call is answered meanwhile, and nobody has heard of the others."""
    bundle = make_bundle(directory / "bundle", root, args, check=True)
    with Serve(bundle, directory) as serve:
        serve.wait_for("ready")
        assert serve.call().status == 200
        found = serve.wait_for("checked")
        serve.ended("call-1")
        assert {event["call"] for event in serve.events if event["event"] in {"accepted", "ended"}} <= {"call-1", None}
        return found


def test_what_was_drawn_before_the_snapshot_is_told(root: Path, tmp_path: Path) -> None:
    found = checked(root, tmp_path, "/repeating", "early")
    assert found["reason"] is None
    repeats = {repeated["what"]: repeated["examples"] for repeated in found["repeats"]}
    assert set(repeats) == {"values in the answer", "temporary names", "ports"}
    (value,) = repeats["values in the answer"]
    assert value.startswith("1")
    assert repeats["temporary names"] == [f"work-{value[1:]}0"]
    assert repeats["ports"] == [str(20000 + int(value[1:], 16) % 20000)]


def test_a_program_that_draws_when_it_is_called_repeats_nothing(root: Path, tmp_path: Path) -> None:
    found = checked(root, tmp_path, "/repeating", "late")
    assert (found["repeats"], found["reason"]) == ([], None)


def test_a_program_that_does_not_answer_is_not_judged(root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", root, ["/server", "silent"], check=True)
    with Serve(bundle, tmp_path) as serve:
        serve.wait_for("ready")
        assert serve.wait_for("checked")["reason"] == "an example call was not answered in time"


def test_no_example_call_is_made_where_none_is_wanted(root: Path, tmp_path: Path) -> None:
    for number, (wanted, kept) in enumerate([(False, False), (True, True)]):
        directory = tmp_path / str(number)
        directory.mkdir()
        options = ("--snapshot", str(directory / "snapshot")) if kept else ()
        bundle = make_bundle(directory / "bundle", root, ["/repeating", "early"], check=wanted)
        if kept:
            with Serve(bundle, directory, *options) as serve:
                serve.wait_for("kept")
                serve.wait_for("checked")
        with Serve(bundle, directory, *options) as serve:
            serve.wait_for("ready")
            serve.command(command="drain")
            assert serve.process.wait(30) == 0
            assert not [event for event in serve.events if event["event"] == "checked"]
