"""Rows of the isolation of an instance where the node is an ordinary user's: with user namespaces, and where those are refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hazards import test_isolation_rows as rows
from tests.support.compiling import compiled
from tests.support.ordinary import Ordinary, ordinary_user
from tests.support.serving import MONITOR, Serve, make_bundle

pytestmark = [pytest.mark.slow, pytest.mark.system]

test_files_of_the_host_are_not_there = rows.test_files_of_the_host_are_not_there
test_a_link_in_tmp_leads_nowhere_outside = rows.test_a_link_in_tmp_leads_nowhere_outside
test_writing_to_the_root_is_refused_as_read_only = rows.test_writing_to_the_root_is_refused_as_read_only
test_no_network = rows.test_no_network
test_a_fork_bomb_ends = rows.test_a_fork_bomb_ends
test_threads_end_with_eagain = rows.test_threads_end_with_eagain
test_ten_gibibytes_of_memory_end_with_enomem = rows.test_ten_gibibytes_of_memory_end_with_enomem
test_a_sleep_of_thirty_years_ends_at_the_deadline = rows.test_a_sleep_of_thirty_years_ends_at_the_deadline
test_descriptors_of_the_guest_are_its_own = rows.test_descriptors_of_the_guest_are_its_own
test_devices_of_the_host_are_not_there = rows.test_devices_of_the_host_are_not_there


@pytest.fixture(scope="module")
def user() -> Iterator[Ordinary]:
    with ordinary_user(MONITOR.parent) as found:
        yield found


@pytest.fixture(scope="module")
def place(user: Ordinary) -> Iterator[Path]:
    """The user's own directory."""
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        directory = Path(name)
        user.own(directory)
        yield directory


@pytest.fixture(scope="module")
def root(place: Path, user: Ordinary) -> Path:
    """The image, unpacked by the user."""
    directory = place / "image"
    directory.mkdir(mode=0o755)
    compiled(directory / "isolation", rows.PROGRAM.read_text(), "-static", "-O1", "-pthread")
    (directory / "data").write_text("data")
    (directory / "data").chmod(0o600)
    user.own(directory)
    return directory


@pytest.fixture(params=["with user namespaces", "without"], scope="module")
def serving(place: Path, root: Path, user: Ordinary, request: pytest.FixtureRequest) -> Iterator[Serve]:
    allowed = request.param == "with user namespaces"
    directory = place / request.param.replace(" ", "-")
    directory.mkdir()
    bundle = make_bundle(directory / "bundle", root, ["/isolation"], memory_bytes=rows.MEMORY)
    user.own(directory)
    program = (*(user.command if allowed else user.without_namespaces()), str(MONITOR))
    with Serve(bundle, directory, pool=1, instances=8, ready_ms=30_000, program=program) as serve:
        ready = serve.wait_for("ready")
        assert [layer["name"] for layer in ready["missing"]] == ([] if allowed else [*rows.ENCLOSURE[:4], "capabilities"])
        yield serve


@pytest.fixture
def serve(serving: Serve) -> Serve:
    """A function of one instance at a time, shared by the rows: a call leaves nothing behind."""
    return serving
