"""The rehearsal: what it learns makes clones warm, and is all that is left of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system


def root_of(directory: Path, program: Path) -> Path:
    root = directory / "root"
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "main").write_bytes(program.read_bytes())
    (root / "main").chmod(0o755)
    return root


@pytest.mark.parametrize(
    ("mode", "learns"),
    [("good", True), ("lingers", True), ("exits", True), ("crashes", False), ("hangs", False)],
)
def test_a_rehearsal_leaves_nothing_but_a_working_set(program: Callable[..., Path], tmp_path: Path, mode: str, learns: bool) -> None:
    bundle = make_bundle(tmp_path / "bundle", root_of(tmp_path, program("rehearsed")), ["/main", mode])
    with Serve(bundle, tmp_path, pool=1) as serve:
        ready = serve.wait_for("ready")
        assert (ready["snapshot"]["warm_pages"] > 0) == learns
        answers = [serve.call(f"c-{number}").body for number in range(10)]
        # Neither the count nor the pages that it wrote are those of the rehearsal.
        assert answers == [b"gets 0 posts 1 sum 448"] * 10
        receipts = [serve.ended(f"c-{number}") for number in range(10)]
        assert {receipt["cause"] for receipt in receipts} == {"closed"}
        assert {event["line"] for event in serve.events if event["event"] == "log"} == {"posted"}
        assert {event["call"] for event in serve.events if event["event"] == "ended" and event["call"]} == {
            f"c-{number}" for number in range(10)
        }


def test_a_body_is_rehearsed_but_what_a_refused_call_touches_does_not_count(program: Callable[..., Path], tmp_path: Path) -> None:
    warm = {}
    for mode in ("good", "takes", "refuses"):
        (tmp_path / mode).mkdir()
        bundle = make_bundle(tmp_path / mode / "bundle", root_of(tmp_path / mode, program("rehearsed")), ["/main", mode])
        with Serve(bundle, tmp_path / mode, pool=1) as serve:
            warm[mode] = serve.wait_for("ready")["snapshot"]["warm_pages"]
            assert serve.call("c").status == (400 if mode == "refuses" else 200)
    # 64 pages are written when a body comes.
    assert warm["takes"] - warm["good"] >= 60
    assert abs(warm["refuses"] - warm["good"]) <= 10


def test_without_warmth_there_is_no_rehearsal(program: Callable[..., Path], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", root_of(tmp_path, program("rehearsed")), ["/main"])
    with Serve(bundle, tmp_path, "--clones", "cold", "--clones", "threads", pool=1) as serve:
        assert serve.wait_for("ready")["snapshot"]["warm_pages"] == 0
        assert serve.call("c").body == b"gets 0 posts 1 sum 448"


def test_what_is_much_read_and_never_written_is_in_huge_pages(program: Callable[..., Path], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", root_of(tmp_path, program("rehearsed")), ["/main"])
    with Serve(bundle, tmp_path, pool=1) as serve:
        pid = serve.wait_for("parked")["pid"]
        huge = [int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps").read_text().splitlines() if line.startswith("ShmemPmdMapped:")]
        # Four regions of 2 MiB or five touch the 6 MiB; at least two lie within. A kernel without huge pages goes on with small ones.
        assert sum(huge) >= (4096 if Path("/sys/kernel/mm/transparent_hugepage").exists() else 0)
        assert serve.call("c").body == b"gets 0 posts 1 sum 448"


@pytest.mark.parametrize("contract", ["stdin", "kontain"])
def test_other_contracts_are_rehearsed_with_an_empty_input(tmp_path: Path, contract: str) -> None:
    script = {
        "stdin": "read line; echo said:$line",
        "kontain": 'read -r line < /.request; echo \'{"Status": 200, "Data": "c2FpZA=="}\' > /.reply',
    }[contract]
    bundle = make_bundle(tmp_path / "bundle", Path("/"), ["/bin/sh", "-c", script], contract=contract)
    with Serve(bundle, tmp_path, pool=1) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        assert ready["snapshot"]["warm_pages"] > 0
        answer = serve.call("c", b"it\n")
        assert answer.status == 200, (answer, serve.ended("c"))
