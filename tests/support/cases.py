"""Programs of named cases (`tests/monitor/conformance/case.h`), run natively, under `mayfly-monitor run`, and jailed as a function."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.compiling import SHARED, STATIC, compiled
from tests.support.once import made_once
from tests.support.serving import Serve, make_bundle

# What one run showed: the lines of each case.
Shown = dict[str, list[str]]
Runner = Callable[[Sequence[str], Path], list[str]]


def cases_in(source: Path) -> list[str]:
    """The names of the cases of a file."""
    return re.findall(r"^CASE\((\w+)\)", source.read_text(), re.MULTILINE)


def few_descriptors() -> None:
    """What a shell gives; the numbers at which a table is full are part of what programs show."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))


def lines_of(command: Sequence[str | Path], directory: Path) -> list[str]:
    """What a program writes that runs in a directory."""
    directory.mkdir(parents=True)
    words = [str(word) for word in command]
    try:
        finished = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, cwd=directory, timeout=30, check=False, preexec_fn=few_descriptors
        )
    except subprocess.TimeoutExpired as expired:
        return [*(expired.stdout or b"").decode("utf-8", "replace").splitlines(), "ended: it waits for ever"]
    ended = [] if finished.returncode == 0 else [f"ended with {finished.returncode}: {finished.stderr.decode('utf-8', 'replace')[-500:]}"]
    return finished.stdout.decode("utf-8", "replace").splitlines() + ended


def in_the_jail(program: Path, names: Sequence[str], directory: Path) -> list[str]:
    """What a program writes as a function; it ends before it is ready."""
    root = directory / "root"
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "program").write_bytes(program.read_bytes())
    (root / "program").chmod(0o755)
    bundle = make_bundle(directory / "bundle", root, ["/program", *names], cwd="/tmp")
    with Serve(bundle, directory, "--log-limit", "1000000", ready_ms=60_000) as serve:
        try:
            failed = serve.wait_for("failed")
            ended = [] if "exited with status 0" in failed["message"] else [f"ended: {failed['message']} {serve.errors()}"]
        except AssertionError as error:
            ended = [f"ended: {error}"]
        return [event["line"] for event in serve.events if event["event"] == "log" and event["stream"] == "stdout"] + ended


def by_case(run: Runner, names: Sequence[str], directory: Path) -> Shown:
    """Runs all cases, again without those done and the one that ended the program, until none is left."""
    shown: Shown = {}
    left = list(names)
    while left:
        current = ""
        for line in run(left, directory / str(len(left))):
            if line.startswith("== "):
                current = line.removeprefix("== ")
                shown[current] = []
            else:
                shown.setdefault(current, []).append(line)
        left = [] if "" in shown else [name for name in left if name not in shown]
        if not shown:
            return {}
    return shown


def runs(source: Path, monitor: Path, directory: Path, *, jailed: bool = True) -> dict[str, Shown]:
    """What all cases of a file show: `native`, `run`, and `jail`."""
    program = compiled(directory / "program", source.read_text(), *STATIC, f"-I{SHARED}", f"-I{SHARED.parent / 'conformance'}")
    names = cases_in(source)
    result = {
        "native": by_case(lambda names, at: lines_of([program, *names], at), names, directory / "native"),
        "run": by_case(lambda names, at: lines_of([monitor, "run", "--", program, *names], at), names, directory / "run"),
    }
    if jailed:
        result["jail"] = by_case(lambda names, at: in_the_jail(program, names, at), names, directory / "jail")
    return result


def shown_once(source: Path, monitor: Path, factory: pytest.TempPathFactory, *, jailed: bool = True) -> dict[str, Shown]:
    """`runs`, made once for all tests of the run."""

    def make(directory: Path) -> None:
        (directory / "shown.json").write_text(json.dumps(runs(source, monitor, directory, jailed=jailed)))

    shown: dict[str, Shown] = json.loads((made_once(factory, f"cases-{source.stem}", make) / "shown.json").read_text())
    return shown


def judge(shown: dict[str, Shown], case: str) -> None:
    """A case must hold natively, and everywhere else show the same."""
    native = shown["native"][case]
    assert not [line for line in native if line.startswith(("FAILED", "ended"))], f"it does not hold natively: {native}"
    different = {where: shown[where].get(case) for where in shown if shown[where].get(case) != native}
    assert not different, f"natively: {native}, but {different}"
