"""Each case of `conformance/<area>.c` states one thing about a system call. It holds natively, and in the virtual machine the same happens.

An area is one program; it runs natively, under `mayfly-monitor run`, and jailed as a function that never becomes ready. What a run shows of
each case is kept for all tests of the session. A case that ends its program costs nothing to the others: they are run again without it.
"""

from __future__ import annotations

import fcntl
import json
import re
import resource
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.compiling import compiled
from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
AREAS = {path.stem: re.findall(r"^CASE\((\w+)\)", path.read_text(), re.MULTILINE) for path in sorted((HERE / "conformance").glob("*.c"))}
CASES = [(area, name) for area, names in AREAS.items() for name in names]
# An instance has one process.
RUN_ONLY = frozenset({"processes"})

# What one run showed: the lines of each case.
Shown = dict[str, list[str]]
Runner = Callable[[Sequence[str], Path], list[str]]


def few_descriptors() -> None:
    """What a shell gives."""
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


@pytest.fixture(scope="session")
def area(tmp_path_factory: pytest.TempPathFactory, monitor: Path, worker_id: str) -> Callable[[str], dict[str, Shown]]:
    """What the three runs of an area showed; made once, whichever worker asks first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "conformance"
    shared.mkdir(exist_ok=True)
    known: dict[str, dict[str, Shown]] = {}

    def made(name: str) -> dict[str, Shown]:
        directory = shared / name
        directory.mkdir()
        source = (HERE / "conformance" / f"{name}.c").read_text()
        flags = ("-static", "-O1", "-pthread", f"-I{HERE / 'programs'}", f"-I{HERE / 'conformance'}")
        program = compiled(directory / "program", source, *flags)
        names = AREAS[name]
        result = {
            "native": by_case(lambda names, at: lines_of([program, *names], at), names, directory / "native"),
            "run": by_case(lambda names, at: lines_of([monitor, "run", "--", program, *names], at), names, directory / "run"),
        }
        if name not in RUN_ONLY:
            result["jail"] = by_case(lambda names, at: in_the_jail(program, names, at), names, directory / "jail")
        return result

    def get(name: str) -> dict[str, Shown]:
        if name not in known:
            with (shared / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                kept = shared / f"{name}.json"
                if not kept.exists():
                    kept.write_text(json.dumps(made(name)))
            known[name] = json.loads(kept.read_text())
        return known[name]

    return get


@pytest.mark.parametrize(("subject", "case"), CASES, ids=[f"{subject}-{case}" for subject, case in CASES])
def test_it_is_so_in_the_virtual_machine(area: Callable[[str], dict[str, Shown]], subject: str, case: str) -> None:
    shown = area(subject)
    native = shown["native"][case]
    assert not [line for line in native if line.startswith(("FAILED", "ended"))], f"it does not hold natively: {native}"
    different = {where: shown[where].get(case) for where in shown if shown[where].get(case) != native}
    assert not different, f"natively: {native}, but {different}"


def test_cases_have_names_of_their_own() -> None:
    assert len(CASES) == len(set(CASES))
    assert len(CASES) >= 350
