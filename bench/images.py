"""The images that contenders run, built with `mayfly image build` from bench/programs, kept in a cache until they change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.machine import BIN

PROGRAMS = Path(__file__).parent / "programs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mayfly-bench"
REQUIREMENTS = ("chameleon==4.6.0", "igraph==1.0.0", "jinja2==3.1.6", "numpy==2.3.5", "pyaes==1.6.1")

# Changed when an image of the same sources is made in another way.
FORM = "1"


def cpython() -> Path:
    """The layout of the CPython hello, echo and streams."""
    return _kept("cpython", [PROGRAMS / "cpython/main.py"], lambda folder: _image(PROGRAMS / "cpython", folder))


def node() -> Path:
    """The layout of the Node hello, with this machine's Node."""
    program = Path(shutil.which("node") or "node")

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            shutil.copy(program.resolve(), Path(name, "node"))
            shutil.copy(PROGRAMS / "node/main.js", name)
            _image(Path(name), folder, "--command", "/app/node", "--arg", "/app/main.js")

    return _kept("node", [PROGRAMS / "node/main.js", program.resolve()], make)


def go() -> Path:
    """The layout of the static Go hello."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": ""}
            _run(["go", "build", "-trimpath", "-o", f"{name}/main", str(PROGRAMS / "go/main.go")], environment)
            _image(Path(name), folder)

    return _kept("go", [PROGRAMS / "go/main.go"], make)


def functions() -> Path:
    """The layout of SeBS's and FunctionBench's functions, with their packages."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            packages = [
                "--quiet",
                "--disable-pip-version-check",
                "--no-compile",
                "--only-binary=:all:",
                "--no-binary=pyaes",
                "--target",
                name,
                *REQUIREMENTS,
            ]
            _run([sys.executable, "-m", "pip", "install", *packages])
            for found in (*Path(name).rglob("tests"), *Path(name).glob("bin")):
                shutil.rmtree(found, ignore_errors=True)
            shutil.copy(PROGRAMS / "functions/main.py", name)
            _image(Path(name), folder)

    return _kept("functions", [PROGRAMS / "functions/main.py"], make, "".join(REQUIREMENTS))


def floor() -> Path:
    """The program of the empty virtual machine."""

    def make(folder: Path) -> None:
        folder.mkdir()
        _run(["gcc", "-O2", "-Wall", "-Werror", "-o", str(folder / "floor"), str(PROGRAMS / "floor.c")])

    return _kept("floor", [PROGRAMS / "floor.c"], make) / "floor"


def sized(mib: int) -> Path:
    """The CPython program with so many MiB beside it, which do not compress."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            shutil.copy(PROGRAMS / "cpython/main.py", name)
            with Path(name, "ballast").open("wb") as file:
                file.writelines(os.urandom(1 << 20) for _ in range(mib))
            _image(Path(name), folder)

    return _kept(f"sized-{mib}", [PROGRAMS / "cpython/main.py"], make)


def many_files(mib: int, files: int) -> Path:
    """The CPython program with so many MiB in so many files, half of which compress, as program code does."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            shutil.copy(PROGRAMS / "cpython/main.py", name)
            size = (mib << 20) // files
            for number in range(files):
                path = Path(name, f"library/part{number % 100}", f"module{number}.dat")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(os.urandom(size // 2) + b"def function(argument): return argument\n" * (size // 80))
            _image(Path(name), folder)

    return _kept(f"files-{mib}-{files}", [PROGRAMS / "cpython/main.py"], make)


def _kept(name: str, sources: Sequence[Path], make: Callable[[Path], None], more: str = "") -> Path:
    key = hashlib.sha256(f"{FORM} {sys.version} {more}".encode())
    for source in sources:
        key.update(source.read_bytes())
    found = CACHE / f"{name}-{key.hexdigest()[:16]}"
    if not found.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            making = Path(directory, "made")
            make(making)
            for old in CACHE.glob(f"{name}-{'?' * 16}"):  # made of what these sources were before
                shutil.rmtree(old, ignore_errors=True)
            making.rename(found)
    return found


def _image(source: Path, layout: Path, *options: str) -> None:
    _run([str(BIN / "mayfly"), "image", "build", str(source), "-o", str(layout), *options])


def _run(words: list[str], environment: dict[str, str] | None = None) -> None:
    finished = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{' '.join(words[:4])}: {finished.stderr.strip()[-2000:]}")
