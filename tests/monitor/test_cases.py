"""Each case of `conformance/<area>.c` states one thing about a system call. It holds natively, and in the virtual machine the same happens.

An area is one program; it runs natively, under `mayfly-monitor run`, and jailed as a function that never becomes ready. What a run shows of
each case is kept for all tests of the session. A case that ends its program costs nothing to the others: they are run again without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cases import Shown, cases_in, judge, shown_once

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
AREAS = {path.stem: cases_in(path) for path in sorted((HERE / "conformance").glob("*.c"))}
CASES = [(area, name) for area, names in AREAS.items() for name in names]
# Its cases execute programs of this machine, which the image lacks.
RUN_ONLY = frozenset({"processes"})


@pytest.fixture(scope="session")
def area(tmp_path_factory: pytest.TempPathFactory, monitor: Path) -> Callable[[str], dict[str, Shown]]:
    """What the runs of an area showed."""

    @functools.cache
    def shown(name: str) -> dict[str, Shown]:
        return shown_once(HERE / "conformance" / f"{name}.c", monitor, tmp_path_factory, jailed=name not in RUN_ONLY)

    return shown


@pytest.mark.parametrize(("subject", "case"), CASES, ids=[f"{subject}-{case}" for subject, case in CASES])
def test_it_is_so_in_the_virtual_machine(area: Callable[[str], dict[str, Shown]], subject: str, case: str) -> None:
    judge(area(subject), case)


def test_cases_have_names_of_their_own() -> None:
    assert len(CASES) == len(set(CASES))
    assert len(CASES) >= 350
