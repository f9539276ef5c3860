"""`mayfly syscalls`: functions and images by what system calls they make, in real machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.references import Reference
from bundles.revisions import RevisionStore
from bundles.runtime_config import Deployment
from faas_downloader.copying import LocalSource
from faas_downloader.publishing import Publisher
from faas_downloader.settings import Settings
from tests.cli.conftest import Mayfly
from tests.support.compiling import programs_of
from tests.support.images import tiny_image, write_layout

PROGRAMS = Path(__file__).resolve().parent.parent / "monitor" / "programs"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return programs_of(PROGRAMS, tmp_path_factory)


def layout(directory: Path, program: Callable[..., Path], kind: str) -> Path:
    image = tiny_image({"wishes": program("wishes").read_bytes()}, config={"Entrypoint": ["/wishes", kind]})
    write_layout(image, directory, "v1")
    return directory


@pytest.mark.system
def test_an_image_is_unpacked_run_and_judged(mayfly: Mayfly, program: Callable[..., Path], tmp_path: Path) -> None:
    layout(tmp_path / "image.oci", program, "stdin")
    done = mayfly("syscalls", "oci:image.oci:v1", "--contract", "stdin", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ready"] is True
    missing = {call["name"] for call in found["calls"] if call["missing"]}
    assert "io_uring_setup" in missing
    assert "write" not in missing
    done = mayfly("syscalls", "oci:image.oci:v1", "--contract", "stdin")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("missing: ")]
    assert "io_uring_setup" in line


@pytest.mark.system
def test_a_published_function_is_found_by_its_name(mayfly: Mayfly, program: Callable[..., Path], tmp_path: Path) -> None:
    source = LocalSource(Reference.parse(f"oci:{layout(tmp_path / 'image.oci', program, 'http')}:v1", allow_local=True))
    settings = Settings(data=tmp_path / "data")
    deployment = Deployment(namespace="here", name="wishes", reference="oci:/image.oci:v1", contract="http", memory_bytes=64 << 20)
    Publisher(RevisionStore(settings.data / "bundles"), settings).fetch_and_publish(source, source.resolve(), deployment, [])
    done = mayfly("syscalls", "wishes", "-n", "here")
    assert done.returncode == 0, done.stderr
    assert "io_uring_setup" in done.stdout
    done = mayfly("syscalls", "wishes")
    assert done.returncode == 4
    assert "default/wishes" in done.stderr
    assert "oci:DIR" in done.stderr


@pytest.mark.system
def test_a_program_that_is_not_ready_is_status_1(mayfly: Mayfly, program: Callable[..., Path], tmp_path: Path) -> None:
    layout(tmp_path / "image.oci", program, "brief")
    done = mayfly("syscalls", "oci:image.oci:v1")
    assert (done.returncode, "exit_group" in done.stdout) == (1, True), done.stderr


@pytest.mark.system
@pytest.mark.parametrize(
    ("image", "said"),
    [("oci:nowhere", "nowhere"), ("http://example.org/x", "docker://"), ("oci:", "names no directory")],
)
def test_what_is_no_image_is_refused_with_the_way_out(mayfly: Mayfly, image: str, said: str) -> None:
    done = mayfly("syscalls", image)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
