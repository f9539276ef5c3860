"""Roots for tests: an installed program of this machine with all that it loads, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

from mayfly.image_building import elf
from mayfly.image_building.interpreter import library_files, running


def make_root(directory: Path) -> Path:
    """An empty root."""
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        (directory / name).mkdir(parents=True)
    return directory


def put(root: Path, place: str, file: Path) -> None:
    """Copies a file to `place` in the root."""
    target = root / place.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(file.resolve(), target)


def add_programs(root: Path, programs: Iterable[Path]) -> None:
    """The loader and the libraries of these programs."""
    found = elf.closure(programs)
    assert not found.missing, found.missing
    if found.interpreter is not None:
        put(root, found.interpreter, Path(found.interpreter))
    libraries = dict(found.libraries)
    if "libc.so.6" in libraries:
        libraries.setdefault("libgcc_s.so.1", libraries["libc.so.6"].parent / "libgcc_s.so.1")
    directory = libraries["libc.so.6"].parent
    for name, path in libraries.items():
        put(root, f"{directory}/{name}", path)


def add_node(root: Path) -> str:
    """Node.js of this machine; the path of its program in the root."""
    program = shutil.which("node")
    assert program is not None, "node is missing: install Node.js 20 or newer"
    put(root, "/usr/bin/node", Path(program))
    add_programs(root, [Path(program).resolve()])
    return "/usr/bin/node"


def add_python(root: Path, *packages: str) -> str:
    """CPython of this machine with these packages of its environment; the path of its program in the root."""
    interpreter = running()
    put(root, interpreter.packed_binary, interpreter.binary)
    modules = sorted((interpreter.stdlib / "lib-dynload").glob("*.so"))
    wanted = [module for module in modules if not elf.closure([module]).missing and not module.name.startswith("_tkinter")]
    for file in [*library_files(interpreter.stdlib), *wanted]:
        put(root, f"{interpreter.packed_stdlib}/{file.relative_to(interpreter.stdlib)}", file)
    binaries = [interpreter.binary.resolve(), *wanted]
    for package in packages:
        found = importlib.util.find_spec(package)
        assert found is not None, f"{package} is missing: run `make test`, which installs it"
        assert found.origin is not None
        installed = Path(found.origin).parent
        for tree in (installed, installed.parent / f"{package}.libs"):
            if tree.is_dir():
                shutil.copytree(tree, root / "packages" / tree.name, ignore=shutil.ignore_patterns("tests", "*.pyi"))
                binaries += [file for file in tree.rglob("*.so*") if file.is_file()]
    add_programs(root, binaries)
    return interpreter.packed_binary
