"""apply → Ready of an image in a registry, beside what skopeo and umoci take to bring the same image to the same disk, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import tarfile
import time
from pathlib import Path

from bench import images
from bench.node import Node, manifest, running
from bench.results import Arrival, Part
from bench.stages.plan import Plan
from tests.support.registry import running_registry

MIB, FILES = 28, 4600  # beside the interpreter, which has the rest of 55 MB and 7,000 files


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
                began = time.time()
                node.apply([{**manifest(layout, "arrives"), "spec": {"image": f"docker://{name}"}}])
                ready.append(time.time() - began)
                parts = _parts(node, ready[-1])
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


def _parts(node: Node, whole: float) -> list[Part]:
    """Where the last arrival's time went, as far as the server says it."""
    status = node.get("/_mayfly/functions/default/arrives") or {}
    boot = (status.get("serving") or {}).get("boot_ms")
    found = [Part(name="apply to Ready", value=whole, unit="s")]
    if boot is not None:
        found.append(Part(name="of it: the boot until the program is ready", value=boot / 1000, unit="s"))
    return found


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
