"""apply → Ready of an image in a registry, beside what skopeo and umoci take to bring the same image to the same disk, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import ClassVar

from bench import images
from bench.node import manifest, running
from bench.results import Arrival, Part
from bench.stages.plan import Plan
from tests.support.registry import running_registry

_LOOK_S = 0.005
MIB, FILES = 52, 5780  # beside the interpreter, which has the rest of 55 MB and 7,000 files


def measure(plan: Plan, place: Path) -> Arrival:
    """Each time on a node without the image."""
    layout = images.many_files(MIB, FILES)
    size, files = _measured(layout)
    ready, reference, took, parts = [], list[float](), list[float](), list[Part]()
    with running_registry(place / "registry") as registry:
        name = f"{registry.address}/bench/image:1"
        _run("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{name}")
        for number in range(plan.arrivals):
            with running(place, images.floor(), name=f"arrival-{number}") as node:
                began = time.perf_counter()
                with Watch(node.data) as watch:
                    node.apply([{**manifest(layout, "arrives"), "spec": {"image": f"docker://{name}"}}])
                ready.append(time.perf_counter() - began)
                boot = (node.get("/_mayfly/functions/default/arrives") or {})["serving"]["boot_ms"]
                parts = watch.parts(boot / 1000 if boot else None, ready[-1])
            took = []
            for words in (
                ("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{name}", f"oci:{place}/copy-{number}:latest"),
                ("umoci", "unpack", "--image", f"{place}/copy-{number}:latest", f"{place}/unpacked-{number}"),
            ):
                began = time.perf_counter()
                _run(*words)
                took.append(time.perf_counter() - began)
            reference.append(sum(took))
    parts += [
        Part(name=f"{words}, the reference", value=value, unit="s")
        for words, value in zip(("skopeo copy", "umoci unpack"), took, strict=True)
    ]
    return Arrival(
        image_mib=size,
        files=files,
        ready_s=ready,
        reference_s=reference,
        ratio=statistics.median(ready) / statistics.median(reference),
        parts=parts,
    )


class Watch:
    """When what a deployment leaves on disk was first there, seconds from the beginning, while the block runs."""

    # In their order; a part ends when its trace is there, and the next begins then.
    TRACES: ClassVar = (
        ("resolving the reference, until the first byte is here", "bundles/layout/blobs/sha256/*"),
        ("pulling and verifying, until unpacking begins", "bundles/tmp/*/work"),
        ("unpacking with umoci, and syncing to disk", "bundles/unpacked/sha256-*/rootfs"),
        ("publishing the revision", "bundles/revisions/default/arrives/current"),
    )

    def __init__(self, data: Path) -> None:
        self.seen: dict[str, float] = {}
        self._data = data
        self._over = threading.Event()
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        left = list(self.TRACES)
        while not self._over.wait(_LOOK_S):
            for trace in list(left):
                name, pattern = trace
                if any(True for _ in self._data.glob(pattern)):
                    self.seen[name] = time.perf_counter() - self._began
                    left.remove(trace)

    def parts(self, boot_s: float | None, whole: float) -> list[Part]:
        """What lies between the traces; what left none is in the part after it."""
        found, before = [], 0.0
        for name, _ in self.TRACES:
            if (at := self.seen.get(name)) is not None and at >= before:
                found.append(Part(name=name, value=at - before, unit="s"))
                before = at
        if boot_s is not None:
            found.append(Part(name="booting the program, until it is ready", value=boot_s, unit="s"))
            before += boot_s
        found.append(Part(name="rehearsing, the first instance, and telling", value=max(0.0, whole - before), unit="s"))
        return [*found, Part(name="apply to Ready", value=whole, unit="s")]


def _measured(layout: Path) -> tuple[float, int]:
    """MiB and files of an image."""
    index = json.loads((layout / "index.json").read_text())

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    document = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    files = 0
    for layer in document["layers"]:
        with tarfile.open(blob(layer["digest"])) as archive:
            files += sum(member.isfile() for member in archive)
    return sum(layer["size"] for layer in document["layers"]) / (1 << 20), files


def _run(*words: str) -> None:
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{' '.join(words[:2])}: {finished.stderr.strip()[-1000:]}")
