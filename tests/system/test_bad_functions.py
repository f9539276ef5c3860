"""Functions that cannot be: wrong manifests, wrong images, programs that do not start, no room on the disk.

Each is told in the function's status, what was there before goes on answering, and no other function notices.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from faas_resources import Truth
from tests.support.images import TinyImage, described, digest_of, index_of, tiny_image, write_layout
from tests.support.load import Load, Target, call
from tests.support.node import Node, until
from tests.support.registry import Registry, free_port
from tests.support.system import (
    SmallDisk,
    condition,
    edit,
    failed,
    function,
    image_of,
    kept_running,
    layout_of,
    management,
    node_with_neighbour,
    resource,
    undisturbed,
    variables,
    write,
)

pytestmark = pytest.mark.slow

HEAD = "apiVersion: build.kontain.app/v1\nkind: Image\nmetadata: {name: served}\nspec:\n"


@pytest.fixture(scope="module")
def node(root: Path, monitor: Path, program: bytes) -> Iterator[Node]:
    """With a function `served`, which the tests try to spoil, and its neighbour."""
    with (
        tempfile.TemporaryDirectory(prefix="mf-") as name,
        node_with_neighbour(root, Path(name), monitor, program, ready_timeout=6, retry_first=0.2, retry_steady=1) as running,
    ):
        running.deploy(layout_of(Path(name) / "served.oci", program), "served", env=variables(VERSION="served"))
        yield running


@pytest.fixture(autouse=True)
def _undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    if "small_disk" in request.fixturenames:
        yield  # it has a node and a neighbour of its own
    else:
        with undisturbed(request.getfixturevalue("node")):
            yield


def still_served(node: Node) -> None:
    outcome = call(node.url, "/default/served/version")
    assert (outcome.status, outcome.body) == (200, b"- served 1"), outcome


# ---- manifests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a: [", "is not YAML: line 1, column 5", id="no yaml"),
        pytest.param(f"{HEAD}  image: oci:/a\n  image: oci:/b\n", "key 'image' stands here twice", id="a key twice"),
        pytest.param("a: &a [*a]\n", "an alias holds itself", id="endless"),
        pytest.param(f"{HEAD}  image: oci:/a\n  colour: red\n", "spec.colour: unknown field", id="unknown field"),
        pytest.param(f"{HEAD}  image: oci:/a\n  timeout: soon\n", "spec.timeout: 'soon': must be a duration", id="no duration"),
        pytest.param(f"{HEAD}  image: docker://host/Upper Case\n", "spec.image: ", id="no reference"),
        pytest.param(f"{HEAD}  image: docker://host/name@sha256:12\n", "spec.image: ", id="no digest"),
    ],
)
def test_wrong_manifest_is_refused_and_changes_nothing(node: Node, text: str, said: str) -> None:
    finished = node.mayfly("apply", "-f", "-", stdin=text)
    assert finished.returncode == 1
    assert f"error: standard input: {said}" in finished.stderr or said in finished.stderr
    # Written by hand, where nobody can refuse it, it is not in force, and the status says why.
    edited = node.data / "resources" / "default" / "images" / "served.yaml"
    good = edited.read_text()
    before = resource(node, "served")
    try:
        write(node, "served", text)
        refused = failed(node, "served", "Accepted", said)
        assert refused.reason == "InvalidManifest"
        assert resource(node, "served").spec == before.spec
        still_served(node)
    finally:
        write(node, "served", good)
    until(lambda: (found := condition(node, "served", "Accepted")) is None or found.status is Truth.TRUE, "the mended manifest")


# ---- images


def of_another_cpu(program: bytes) -> TinyImage:
    return image_of(program, architecture="arm64")


def index_without_this_cpu(program: bytes) -> TinyImage:
    return index_of([("arm64", of_another_cpu(program))])


def broken_layer(program: bytes) -> TinyImage:
    """An image whose layer is what its digest says, but no archive."""
    image = image_of(program)
    manifest = json.loads(image.manifest)
    garbage = b"this is no archive at all"
    manifest["layers"][0] = described(garbage, manifest["layers"][0]["mediaType"])
    return TinyImage(json.dumps(manifest).encode(), blobs={**image.blobs, digest_of(garbage): garbage})


@pytest.mark.parametrize(
    ("image", "reason", "said"),
    [
        pytest.param(of_another_cpu, "WrongPlatform", "linux/arm64", id="for another cpu"),
        pytest.param(index_without_this_cpu, "WrongPlatform", "linux/amd64", id="index without this cpu"),
        pytest.param(broken_layer, "", "umoci refused the image", id="layer that is no archive"),
        pytest.param(lambda program: tiny_image({"app": program}, config={"Entrypoint": []}), "", "command", id="without a command"),
    ],
)
def test_wrong_image_is_named_and_the_old_revision_answers(
    node: Node, program: bytes, tmp_path: Path, image: Callable[[bytes], TinyImage], reason: str, said: str
) -> None:
    write_layout(image(program), tmp_path / "image")
    _refused(node, f"oci:{tmp_path}/image", reason, said)


def test_image_that_a_registry_does_not_give_is_named_and_the_old_revision_answers(
    node: Node, registry: Registry, private_registry: Registry, program: bytes
) -> None:
    pushed = registry.push(image_of(program), "team/function")
    wrong = f"sha256:{'0' * 64}"
    _refused(node, f"{pushed.removesuffix(':latest')}@{wrong}", "ImageNotFound", wrong)
    _refused(node, f"docker://{registry.address}/team/nothing:1", "ImageNotFound", "team/nothing:1")
    _refused(node, private_registry.push(image_of(program), "team/function"), "Unauthorized", "wants a login")
    down = f"127.0.0.1:{free_port()}"
    _refused(node, f"docker://{down}/team/function:1", "RegistryUnavailable", down)
    # It is asked again for as long as it is wanted: nobody has to do anything once the image is there.
    edit(node, "served", f"docker://{registry.address}/team/late:1", env=variables(VERSION="late"))
    failed(node, "served", "Pulled", "team/late:1")
    registry.push(image_of(program), "team/late", "1")
    until(lambda: call(node.url, "/default/served/version").body == b"- late 1", "the late image")
    edit(node, "served", pushed, env=variables(VERSION="served"))
    until(lambda: call(node.url, "/default/served/version").body == b"- served 1", "the first specification")


def _refused(node: Node, reference: str, reason: str, said: str) -> None:
    before = resource(node, "served").status.revision
    edit(node, "served", reference, env=variables(VERSION="spoiled"))

    def told() -> bool:
        conditions = (condition(node, "served", "Pulled"), condition(node, "served", "Published"))
        return any(found is not None and found.status is Truth.FALSE and said in found.message for found in conditions)

    until(told, f"{reference} is refused with {said!r}")
    found = next(found for type_ in ("Pulled", "Published") if (found := condition(node, "served", type_)) and found.status is Truth.FALSE)
    assert reason in found.reason
    assert f"revision {before}" in found.message
    assert "stays in force" in found.message
    assert resource(node, "served").status.revision == before
    still_served(node)


# ---- programs


def for_another_cpu(program: bytes) -> bytes:
    """The program, said to be for ARM (e_machine 183)."""
    return program[:18] + b"\xb7\x00" + program[20:]


STILLBORN: dict[str, tuple[Callable[[bytes], bytes], dict[str, Any], str]] = {
    "missing": (lambda program: program, {"command": ["/nope"]}, "/nope: No such file or directory"),
    "a-directory": (lambda program: program, {"command": ["/"]}, "(program)"),
    "text": (lambda _: b"hello\n", {}, "/app: not a program that Linux on x86-64 can run"),
    "empty": (lambda _: b"", {}, "/app: not a program that Linux on x86-64 can run"),
    "cut-off": (lambda program: program[:1000], {}, "(program)"),
    "no-interpreter": (lambda _: b"#!/no/interpreter\n", {}, "/no/interpreter"),
    "another-cpu": (for_another_cpu, {}, "/app: a program for another processor (ARM64), not x86-64"),
    "exits": (lambda program: program, {"env": variables(START="exit")}, "status 4 before it was ready (exited); its last output:\ncannot"),
    "crashes": (lambda program: program, {"env": variables(START="crash")}, "signal 11 (SIGSEGV)"),
    "never-ready": (lambda program: program, {"env": variables(START="never")}, "in time (timeout); its last output:\nstill thinking"),
    "spins": (lambda program: program, {"env": variables(START="spin")}, "in time (timeout); its last output:\nbusy thinking"),
    "no-memory": (lambda program: program, {"memory": "1Mi"}, "Cannot allocate memory"),
    "stdin-of-http": (lambda program: program, {"env": variables(CONTRACT="stdin")}, "exited with status 0 before it was ready"),
    "http-of-stdin": (lambda program: program, {"contract": "stdin"}, "did not read its standard input in time"),
    "http-of-kontain": (lambda program: program, {"contract": "kontain"}, "did not open /.request in time"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stillborn(node: Node, program: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All functions that cannot start, deployed at once."""
    place = tmp_path_factory.mktemp("stillborn")
    for name, (make, spec, _) in STILLBORN.items():
        edit(node, name, f"oci:{layout_of(place / name, make(program))}", **spec)
    yield
    for name in STILLBORN:
        (node.data / "resources" / "default" / "images" / f"{name}.yaml").unlink()
    until(lambda: not management(node, "/functions")["functions"][2:], "the end of what could not start")


@pytest.mark.usefixtures("stillborn")
@pytest.mark.parametrize("name", STILLBORN)
def test_program_that_does_not_start_is_told_with_its_last_words(node: Node, name: str) -> None:
    said = STILLBORN[name][2]
    found = failed(node, name, "Ready", said)
    assert found.reason == "CannotStart"
    outcome = call(node.url, f"/default/{name}/version")
    assert outcome.status == 503
    assert "could not be started" in outcome.body.decode()
    assert int(outcome.headers["retry-after"]) > 0


@pytest.mark.usefixtures("stillborn")
def test_new_revision_that_does_not_start_leaves_the_old_one_to_its_calls(node: Node, program: bytes, tmp_path: Path) -> None:
    before = function(node, "served")["revision"]
    edit(node, "served", f"oci:{layout_of(tmp_path / 'image', program)}", env=variables(VERSION="spoiled", START="never"))
    found = failed(node, "served", "Ready", "still thinking")
    assert f"revision {before} still serves" in found.message
    still_served(node)
    edit(node, "served", f"oci:{tmp_path}/image", env=variables(VERSION="served", MENDED=1))
    until(lambda: function(node, "served")["revision"] not in {before, None}, "the mended revision")
    still_served(node)


# ---- a full disk


@pytest.fixture
def small_disk(root: Path, place: Path, monitor: Path) -> Iterator[SmallDisk]:
    node = SmallDisk(root, place, monitor, "size=600m")  # `mayfly up` wants half a gibibyte
    node.environment.update({"MAYFLY_RETRY_FIRST": "0.2", "MAYFLY_RETRY_STEADY": "0.5"})
    with kept_running(node):
        yield node


def test_full_disk_is_named_and_costs_no_call(small_disk: SmallDisk, program: bytes, tmp_path: Path) -> None:
    node = small_disk
    node.deploy(layout_of(tmp_path / "small", program), "small", env=variables(VERSION=1))
    large = layout_of(tmp_path / "large", program, {"zeros": bytes(32 << 20)})
    filler = node.data / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(node.data) - (16 << 20))
    with Load(Target(node.url, "/default/small/version"), pause=0.01) as load:
        edit(node, "large", f"oci:{large}")
        assert "make room" in until(lambda: _full(node, "large"), "a full disk")
        (node.data / "resources" / "default" / "images" / "large.yaml").unlink()
        # Not a byte is left: nothing can be recorded any more, and calls are answered all the same.
        until(lambda: not list((node.data / "bundles" / "tmp").iterdir()), "the end of leftovers")
        with filler.open("ab") as file:
            while left := free(node.data):
                with suppress(OSError):  # the node has taken some of it meanwhile
                    os.posix_fallocate(file.fileno(), filler.stat().st_size, left)
        done = len(load.outcomes)
        until(lambda: len(load.outcomes) > done + 50, "calls on a full disk")
        finished = node.mayfly("apply", "-f", "-", stdin=_manifest("another", tmp_path / "small"))
        assert finished.returncode == 1
        assert finished.stderr.startswith("error: ")
        assert "make room" in finished.stderr
        # With room it goes on by itself.
        filler.unlink()
        node.deploy(tmp_path / "small", "another", env=variables(VERSION=2))
        assert call(node.url, "/default/another/version").body == b"- 2 1"
    assert load.failures == []
    assert {outcome.body for outcome in load.outcomes} == {b"- 1 1"}


def free(path: Path) -> int:
    """Bytes that are left where the path is."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _full(node: Node, name: str) -> str:
    """What the status says of a full disk, empty while it does not."""
    conditions = (condition(node, name, "Pulled"), condition(node, name, "Published"))
    return next((found.message for found in conditions if found is not None and found.reason == "DiskFull"), "")


def _manifest(name: str, layout: Path) -> str:
    return f"{HEAD.replace('served', name)}  image: oci:{layout}\n"
