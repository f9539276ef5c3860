"""What the tests of a whole node share: nodes with settings, functions in C, a look at the store on disk and at processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import yaml

from bundles.errors import BundlesError
from bundles.revisions import Bundle, RevisionStore
from bundles.unpacking import read_manifest
from faas_resources import Condition, Image, Truth
from faas_resources.store.directory import DirectoryStore
from tests.support.compiling import compiled
from tests.support.images import TinyImage, tiny_image, write_layout
from tests.support.load import Load, Target
from tests.support.node import Node, processes, until

PROGRAMS = Path(__file__).resolve().parent.parent / "system" / "programs"


def size(name: str, default: int) -> int:
    """How much of something a test does: a little unless the environment asks for more, as `make prove` does."""
    return int(os.environ.get(f"MAYFLY_TEST_{name}", default))


# ---- functions


def function_program(directory: Path) -> bytes:
    """tests/system/programs/function.c, built."""
    path = directory / "function"
    return compiled(path, (PROGRAMS / "function.c").read_text(), "-static", "-O1", "-pthread").read_bytes()


def layout_of(directory: Path, program: bytes, files: Mapping[str, bytes] | None = None) -> Path:
    """An image layout of one program and some files."""
    write_layout(image_of(program, files), directory)
    return directory


def image_of(program: bytes, files: Mapping[str, bytes] | None = None, **options: Any) -> TinyImage:
    return tiny_image({"app": program}, *([files] if files else ()), **options)


# ---- nodes


@contextmanager
def configured_node(root: Path, place: Path, monitor: Path, **settings: object) -> Iterator[Node]:
    """A node of these settings (`ready_timeout=5` is MAYFLY_READY_TIMEOUT) that leaves no process behind."""
    node = Node(root, place, monitor)
    node.environment.update({f"MAYFLY_{name.upper()}": str(value) for name, value in settings.items()})
    with kept_running(node):
        yield node


@contextmanager
def kept_running(node: Node) -> Iterator[None]:
    """Starts the node, and ends it in order; whatever happens, it leaves no process behind."""
    try:
        node.start()
        yield
        assert node.stop() == 0, node.said()
    finally:
        node.kill()
        mark = str(node.disk if isinstance(node, SmallDisk) else node.data)
        until(lambda: not processes(mark), "the end of the node's processes")


class SmallDisk(Node):
    """A node whose data directory is a file system of its own, in a mount namespace of its own; `data` is how others get there."""

    def __init__(self, root: Path, place: Path, monitor: Path, options: str) -> None:
        super().__init__(root, place, monitor)
        self.disk = self.data
        self.disk.mkdir()
        self._options = options

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        mount = f'mount -t tmpfs -o {self._options} tmpfs "$0" && exec "$@"'
        private = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c", mount, str(self.disk)]
        command = [*private, sys.executable, "-m", "mayfly", "up", "--listen", "127.0.0.1:0", *arguments]
        environment = {**self.environment, "MAYFLY_DATA": str(self.disk)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, cwd=self._place, stdout=log, stderr=log)
        self.data = Path(f"/proc/{self._process.pid}/root{self.disk}")
        self.environment["MAYFLY_DATA"] = str(self.data)
        return self._process


def edit(node: Node, name: str, image: str, **spec: Any) -> None:
    """Writes a manifest as a person with an editor does, only atomically. Returns at once."""
    document = {
        "apiVersion": "build.kontain.app/v1",
        "kind": "Image",
        "metadata": {"name": name},
        "spec": {"image": image, **spec},
    }
    write(node, name, yaml.safe_dump(document))


def write(node: Node, name: str, text: str) -> None:
    """Writes a manifest file, whatever is in it."""
    path = node.data / "resources" / "default" / "images" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{name}.new")
    fresh.write_text(text)
    fresh.rename(path)


def variables(**values: object) -> list[dict[str, str]]:
    """`spec.env`."""
    return [{"name": name, "value": str(value)} for name, value in values.items()]


# ---- a neighbour

NEIGHBOUR = "neighbour"
NOTICED = 10.0  # seconds: a call of the neighbour that takes longer was held up by something, however busy the machine is


@contextmanager
def node_with_neighbour(root: Path, place: Path, monitor: Path, program: bytes, **settings: object) -> Iterator[Node]:
    """A node with a function that nothing else is to disturb."""
    with configured_node(root, place, monitor, **settings) as node:
        node.deploy(layout_of(place / "neighbour.oci", program), NEIGHBOUR, env=variables(VERSION="neighbour"))
        yield node


@contextmanager
def undisturbed(node: Node) -> Iterator[Load]:
    """Around something bad: the neighbour is called all the time and notices nothing, and the planes and its monitor live on."""

    def alive() -> tuple[object, ...]:
        return node.plane("faas_server"), node.plane("faas_downloader"), function(node, NEIGHBOUR)["serving"]["monitor_pid"]

    before = alive()
    with Load(Target(node.url, f"/default/{NEIGHBOUR}/version"), pause=0.01) as load:
        yield load
        done = len(load.outcomes)
        until(lambda: len(load.outcomes) > done + 1, "the neighbour's answer")
    assert load.failures == []
    assert {outcome.body for outcome in load.outcomes} == {b"- neighbour 1"}
    assert max(outcome.seconds for outcome in load.outcomes) < NOTICED
    assert alive() == before


# ---- what a node says


def management(node: Node, path: str) -> Any:
    """A document under /_mayfly, None for a 404."""
    try:
        with urlopen(f"{node.url}/_mayfly{path}", timeout=30) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise


def function(node: Node, name: str) -> Any:
    """What the server says of a function, None while there is none."""
    return management(node, f"/functions/default/{name}")


def resource(node: Node, name: str) -> Image:
    """What the store says of a function, as `mayfly get` reads it."""
    return asyncio.run(DirectoryStore(node.data).get(Image, "default", name))


def condition(node: Node, name: str, type_: str) -> Condition | None:
    """A condition of a function's status."""
    return resource(node, name).status.condition(type_)


def failed(node: Node, name: str, type_: str, said: str = "") -> Condition:
    """The condition, as soon as it is false with that in its message, and not only on the way."""

    def false() -> Condition | None:
        found = condition(node, name, type_)
        hopeless = found is not None and found.status is Truth.FALSE and found.reason not in {"Booting", "Restarting"}
        return found if hopeless and found is not None and said in found.message else None

    try:
        found: Condition = until(false, f"{type_} of {name} is false and says {said!r}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {condition(node, name, type_)}") from error
    return found


def receipt(node: Node, call: str) -> dict[str, Any]:
    """The receipt of a call, with the monitor's part."""

    def whole() -> Any:
        found = management(node, f"/receipts/{call}")
        return found if found and found["monitor"] else None

    found: dict[str, Any] = until(whole, f"the receipt of {call}")
    return found


def log_lines(node: Node, name: str) -> list[str]:
    """What the function's instances have written, as far as it is kept."""
    with urlopen(f"{node.url}/_mayfly/functions/default/{name}/logs?tail=10000", timeout=30) as answer:
        return [json.loads(line)["line"] for line in answer]


# ---- processes


def descendants(pid: int) -> set[int]:
    """The living processes below one, without the init of a process namespace, which lives as long as its monitor."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                state, parent = rest.split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z" and name != "mayfly-init":
                parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process has, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


# ---- the store on disk


def check_store(bundles: Path, images: Mapping[str, Mapping[str, bytes]]) -> None:
    """Everything that has its final name is whole: blobs, unpacked images (by digest, file by file), and what `current` leads to.

    The node may be running: what it takes away during the look is not looked at.
    """
    for blob in _entries(bundles / "layout" / "blobs" / "sha256"):
        try:
            content = blob.read_bytes()
        except FileNotFoundError:
            continue
        assert hashlib.sha256(content).hexdigest() == blob.name
    for unpacked in _entries(bundles / "unpacked"):
        different = _different(unpacked / "rootfs", images[unpacked.name.replace("-", ":")])
        assert not different or not unpacked.exists(), (unpacked.name, different)
    store = RevisionStore(bundles)
    for link in sorted((bundles / "revisions").glob("*/*/current")):
        _check_current(store, link.parent.parent.name, link.parent.name)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _different(rootfs: Path, files: Mapping[str, bytes]) -> list[str]:
    """The names whose content is not that of the image."""

    def differs(name: str, content: bytes) -> bool:
        try:
            return (rootfs / name).read_bytes() != content
        except FileNotFoundError:
            return True

    return [name for name, content in files.items() if differs(name, content)]


def _check_current(store: RevisionStore, namespace: str, name: str) -> None:
    while True:
        bundle = store.current(namespace, name)  # raises when it leads to something that is not whole
        problem = "" if bundle is None else _problem(store, bundle)
        if not problem:
            return
        assert store.current(namespace, name) != bundle, problem  # else it moved while it was looked at


def _problem(store: RevisionStore, bundle: Bundle) -> str:
    if not bundle.rootfs.is_dir():
        return f"{bundle.path}: its image is not unpacked"
    try:
        missing = [str(blob.digest) for blob in read_manifest(store.layout, bundle.spec.image).blobs if not store.layout.has(blob.digest)]
    except BundlesError as error:
        return f"{bundle.path}: {error}"
    return f"{bundle.path}: blobs are missing: {missing}" if missing else ""
