"""From a folder to an OCI image layout, without Docker and without network.

Two layers: what the program needs of a system (the Python interpreter, or loader and libraries), which images share, and the program
itself in /app. The same folder on the same machine gives the same digest, byte for byte.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundles.digests import Digest
from bundles.layout import Layout
from bundles.manifests import MAX_MANIFEST, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Index, parse_manifest
from mayfly.errors import MayflyError
from mayfly.image_building import elf, interpreter, source
from mayfly.image_building.layers import Layer, WrittenLayer

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_NOBODY = "65534:65534"
_CHUNK = 1 << 20

_PASSWD = b"root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Plan:
    """What the person asked for."""

    source: Path
    output: Path
    tag: str = "latest"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 8080
    user: str = _NOBODY


@dataclass(frozen=True)
class BuiltImage:
    """What came out, as `--output json` prints it."""

    digest: Digest
    reference: str
    entrypoint: tuple[str, ...]
    layers: tuple[WrittenLayer, ...]
    warnings: tuple[str, ...]


def build(plan: Plan, progress: Callable[[str], None] = lambda _step: None) -> BuiltImage:
    """Write the image into the layout at `plan.output`, creating it where needed, and let `plan.tag` name it."""
    files = source.read(plan.source)
    program = source.program(files, plan.command)
    warnings: list[str] = []
    layout = Layout.create(plan.output)
    with tempfile.TemporaryDirectory(prefix="mayfly-build-") as scratch_name:
        scratch = Path(scratch_name)
        system, app = _system_layer(), Layer()
        python = interpreter.running() if program.python else None
        if python is not None:
            # First: a program that does not compile is the likeliest failure, and the quickest to find.
            progress("compiling the program")
            sources = [files.root / path for path in files.files]
            failed = interpreter.add_byte_code(app, python, sources, files.root, source.APP, scratch / "app")
            warnings += _judge_failures(failed, files, program)
            progress(f"packing {python.binary.name}")
            warnings += interpreter.add_interpreter(system, python, scratch / "interpreter")
        else:
            main = files.root / program.entrypoint[0].removeprefix(f"{source.APP}/")
            interpreter.add_programs(system, [main.resolve()], packed=files.root.resolve())
        progress("packing the program")
        _add_folder(app, files, system)
        written = tuple(_store(layout, layer, scratch / f"layer-{index}") for index, layer in enumerate((system, app)))
    digest = _link(layout, plan, program, written)
    reference = f"oci:{plan.output.resolve()}:{plan.tag}"
    return BuiltImage(digest, reference, (*program.entrypoint, *plan.args), written, tuple(warnings))


def _system_layer() -> Layer:
    layer = Layer()
    for directory in ("/dev", "/proc", "/sys", source.APP):
        layer.directory(directory)
    layer.directory("/tmp", 0o1777)
    layer.file("/etc/passwd", _PASSWD)
    layer.file("/etc/group", _GROUP)
    layer.file("/etc/nsswitch.conf", b"hosts: files dns\n")
    if _CERTIFICATES.is_file():
        layer.file(str(_CERTIFICATES), _CERTIFICATES.resolve(), executable=False)
    return layer


def _add_folder(layer: Layer, files: source.Source, system: Layer) -> None:
    """The folder under /app, with the libraries that its own extension modules need and the system layer has not."""
    layer.directory(source.APP)
    for path in files.files:
        layer.file(f"{source.APP}/{path}", files.root / path)
    for path, target in files.links.items():
        layer.symlink(f"{source.APP}/{path}", target)
    native = [(files.root / path).resolve() for path in files.files if elf.is_elf(files.root / path)]
    libraries = Layer()
    interpreter.add_programs(libraries, native, packed=files.root.resolve())
    layer.add_missing(libraries, system)


def _judge_failures(failed: list[tuple[str, str]], files: source.Source, program: source.Program) -> list[str]:
    """A file that does not compile is fatal where it is the program; elsewhere (a template, a test) it only stays without byte code."""
    warnings: list[str] = []
    for path, error in failed:
        packed = f"{source.APP}/{Path(path).relative_to(files.root)}"
        if packed in program.entrypoint:
            raise MayflyError(f"{path}: does not compile: {error.strip()}", hint="Correct the program, then build again.")
        warnings.append(f"{path} is packed without byte code: {error.strip().splitlines()[-1]}")
    return warnings


def _store(layout: Layout, layer: Layer, path: Path) -> WrittenLayer:
    with path.open("wb") as file:
        written = layer.write(file)
    digest = Digest(written.digest)
    if not layout.has(digest):
        with path.open("rb") as file, layout.writer(digest, written.size) as blob:
            while chunk := file.read(_CHUNK):
                blob.write(chunk)
    path.unlink()
    return written


def _link(layout: Layout, plan: Plan, program: source.Program, layers: tuple[WrittenLayer, ...]) -> Digest:
    """Write configuration and manifest, and give the image its tag; what only the image had that loses the tag goes."""
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": plan.user,
                "ExposedPorts": {f"{plan.port}/tcp": {}},
                "Env": [f"{name}={value}" for name, value in _environment(plan, program).items()],
                "Entrypoint": list(program.entrypoint),
                "Cmd": list(plan.args),
                "WorkingDir": source.APP,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": layout.put(config), "size": len(config)},
            "layers": [{"mediaType": f"{OCI_LAYER}+gzip", "digest": layer.digest, "size": layer.size} for layer in layers],
        }
    )
    digest = layout.put(manifest)
    replaced = layout.refs().get(plan.tag)
    layout.link(plan.tag, Descriptor(media_type=OCI_MANIFEST, digest=digest, size=len(manifest)))
    if replaced is not None:
        kept = {blob for image in layout.refs().values() for blob in _reachable(layout, image)}
        for blob in _reachable(layout, replaced) - kept:
            layout.remove(blob)
    return digest


def _reachable(layout: Layout, image: Descriptor) -> set[Digest]:
    """All blobs that an image consists of, itself included."""
    document = parse_manifest(layout.read(image.digest, MAX_MANIFEST), image.media_type)
    if isinstance(document, Index):
        return {image.digest}.union(*(_reachable(layout, entry) for entry in document.manifests if layout.has(entry.digest)))
    return {image.digest, *(blob.digest for blob in document.blobs)}


def _environment(plan: Plan, program: source.Program) -> dict[str, str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SSL_CERT_FILE": str(_CERTIFICATES)}
    if program.python:
        environment["PYTHONUNBUFFERED"] = "1"
    return {**environment, **plan.env}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
