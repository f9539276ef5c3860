"""Random sequences of system calls end natively and in the virtual machine with the same results, errors, files and memory.

The sequences follow from their numbers (`programs/sequences.c`), so a failing one is run again by its number, and kept in `ONCE_WRONG`.
`MAYFLY_TEST_SEQUENCES` says how many are made, `MAYFLY_TEST_FIRST_SEQUENCE` which number is the first.
"""

from __future__ import annotations

import difflib
import os
import resource
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.figures import Figure

pytestmark = pytest.mark.system

CALLS = 40
COUNT = int(os.environ.get("MAYFLY_TEST_SEQUENCES", "1000"))
FIRST = int(os.environ.get("MAYFLY_TEST_FIRST_SEQUENCE", "1"))
# Sequences that once were different, beyond those that are always made.
ONCE_WRONG = (1160, 2150, 2531, 5748, 9198, 10452, 10982, 22006)


def bounded() -> None:
    """What a shell gives of descriptors, and files that fill no disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))


def output(command: list[str], directory: Path) -> list[str]:
    """What a program writes that runs in a new directory."""
    directory.mkdir(parents=True)
    limit = 60 + COUNT // 10
    finished = subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False, preexec_fn=bounded
    )
    assert finished.returncode == 0, f"{command}: {finished.returncode}, {finished.stderr.decode('utf-8', 'replace')[-500:]}"
    return finished.stdout.decode().splitlines()


class Comparison:
    """One program in both worlds."""

    def __init__(self, program: Path, monitor: Path, directory: Path) -> None:
        self._program = program
        self._monitor = monitor
        self._directory = directory
        self._runs = 0

    def both(self, first: int, count: int, *words: str) -> tuple[list[str], list[str]]:
        self._runs += 1
        at = self._directory / str(self._runs)
        command = [str(self._program), str(first), str(count), str(CALLS), *words]
        with ThreadPoolExecutor(2) as threads:
            native = threads.submit(output, command, at / "native")
            inside = threads.submit(output, [str(self._monitor), "run", "--", *command], at / "inside")
            return native.result(), inside.result()

    def explain(self, sequence: int) -> str:
        """The first calls of a sequence that are different."""
        native, inside = self.both(sequence, 1, "loud")
        shown = list(difflib.unified_diff(native, inside, "native", "inside", n=3, lineterm=""))
        return f"sequence {sequence}:\n" + "\n".join(shown[:16])


@pytest.fixture
def comparison(program: Callable[..., Path], monitor: Path, tmp_path: Path) -> Comparison:
    return Comparison(program("sequences", "-static", "-O1", "-w"), monitor, tmp_path)


@pytest.mark.timeout(120 + COUNT // 5)
def test_random_sequences_of_calls_are_the_same(comparison: Comparison, figure: Figure) -> None:
    native, inside = comparison.both(FIRST, COUNT)
    assert len(native) == COUNT + 1
    assert len(inside) == len(native)
    different = [int(one.split()[0]) for one, other in zip(native[:-1], inside[:-1], strict=True) if one != other]
    figure(f"{COUNT} sequences from number {FIRST}, {native[-1]}: {'all equal' if not different else f'{len(different)} differ'}")
    assert not different, "\n".join(comparison.explain(one) for one in different[:3])
    assert inside[-1] == native[-1]


@pytest.mark.parametrize("sequence", ONCE_WRONG)
def test_a_sequence_that_once_was_different_is_the_same(comparison: Comparison, sequence: int) -> None:
    native, inside = comparison.both(sequence, 1, "loud")
    assert inside == native
