"""The files of a Python interpreter, as a layer: the one that runs this program.

It is laid out under /usr whatever prefix it has here, since an interpreter finds its library relative to itself. What functions do not
need is left out (tests, IDLE, Tk, pip's installer, headers, site-packages), and byte code is compiled ahead with unchecked hashes: the root
file system of a function is read-only, and a time stamp in it would change the digest.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mayfly.errors import MayflyError
from mayfly.image_building import elf
from mayfly.image_building.layers import Layer

_SKIPPED_DIRECTORIES = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
_SKIPPED_FILES = {"EXTERNALLY-MANAGED", "turtle.py"}
# Extension modules for tests and desktops; _tkinter alone would bring in X11.
_SKIPPED_MODULES = ("_tkinter.", "_test", "_ctypes_test.", "_xxtestfuzz.", "_xxsubinterpreters.", "xxlimited", "xxsubtype.", "nis.")
# The loader brings it in by name when a thread ends, so no file asks for it.
_OPENED_AT_RUN_TIME = ("libgcc_s.so.1",)

# Run by the interpreter that is packed, in one process, in the order given and with a fixed hash seed: the order of constants in byte code
# depends on all three.
_COMPILE = """
import json, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
failed = []
for source, shown, target in json.load(sys.stdin):
    try:
        py_compile.compile(source, cfile=target, dfile=shown, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, SyntaxError, ValueError) as error:
        failed.append([source, str(error)])
json.dump(failed, sys.stdout)
"""


@dataclass(frozen=True)
class Interpreter:
    """One installed CPython."""

    binary: Path
    prefix: Path
    stdlib: Path
    tag: str

    @property
    def packed_binary(self) -> str:
        return f"/usr/bin/{self.binary.name}"

    @property
    def packed_stdlib(self) -> str:
        return f"/usr/{self.stdlib.relative_to(self.prefix)}"


def running() -> Interpreter:
    """The interpreter under the virtual environment, if any, that this program runs in."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = Path(sys.base_prefix)
    binary = prefix / "bin" / name
    if not binary.exists():
        binary = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    tag = sys.implementation.cache_tag
    if not tag or not stdlib.is_relative_to(prefix) or not (stdlib / "os.py").is_file():
        raise MayflyError(
            f"{sys.executable}: this Python keeps its library in {stdlib}, which cannot be packed",
            hint="Run mayfly with a Python that is installed as files under one prefix.",
        )
    return Interpreter(binary, prefix, stdlib, tag)


def add_interpreter(layer: Layer, interpreter: Interpreter, scratch: Path) -> list[str]:
    """Enter all files of `interpreter`; byte code goes to `scratch`, which must outlive `layer`. Returns what was left out and why."""
    warnings: list[str] = []
    modules = sorted((interpreter.stdlib / "lib-dynload").glob("*.so"))
    wanted = [module for module in modules if not module.name.startswith(_SKIPPED_MODULES)]
    for module in list(wanted):
        missing = elf.closure([module]).missing
        if missing:
            wanted.remove(module)
            warnings.append(f"module {module.name.split('.')[0]} is left out: this machine has no {', '.join(sorted(missing))}")
    add_programs(layer, [interpreter.binary.resolve(), *wanted])

    layer.file(interpreter.packed_binary, interpreter.binary.resolve(), executable=True)
    layer.symlink("/usr/bin/python3", interpreter.binary.name)
    layer.symlink("/usr/bin/python", interpreter.binary.name)
    for module in wanted:
        layer.file(f"{interpreter.packed_stdlib}/lib-dynload/{module.name}", module, executable=False)

    sources = [path for path in library_files(interpreter.stdlib) if path.suffix != ".so"]
    for path in sources:
        layer.file(f"{interpreter.packed_stdlib}/{path.relative_to(interpreter.stdlib)}", path.resolve(), executable=False)
    # A few files of the library are broken on purpose (for tests of the compiler): they stay as sources.
    add_byte_code(layer, interpreter, sources, interpreter.stdlib, interpreter.packed_stdlib, scratch)
    return warnings


def library_files(stdlib: Path) -> Iterator[Path]:
    """The files of a standard library that functions can use."""
    for folder, directories, names in os.walk(stdlib):
        directories[:] = sorted(name for name in directories if name not in _SKIPPED_DIRECTORIES and not name.startswith("config-"))
        for name in sorted(names):
            path = Path(folder, name)
            if name not in _SKIPPED_FILES and path.suffix not in {".pyc", ".a", ".o"} and path.is_file():
                yield path


def add_programs(layer: Layer, programs: Iterable[Path], *, packed: Path | None = None) -> None:
    """Enter the loader and the shared libraries that `programs` need; not the programs themselves, nor what lies under `packed`."""
    found = elf.closure(programs)
    if found.missing:
        name, wanted_by = min(found.missing.items())
        raise MayflyError(f"{wanted_by}: needs {name}, which this machine does not have", hint=f"Install the package that has {name}.")
    if found.interpreter is None and not found.libraries:
        return
    if found.interpreter is not None:
        layer.file(found.interpreter, Path(found.interpreter).resolve(), executable=True)
    # All in the directory of the C library, which every loader searches by itself: no cache file is needed.
    libc = found.libraries.get("libc.so.6")
    directory = str(libc.parent) if libc is not None else "/lib"
    libraries = {name: path for name, path in found.libraries.items() if packed is None or not path.is_relative_to(packed)}
    if libc is not None:
        libraries.update({name: libc.parent / name for name in _OPENED_AT_RUN_TIME if (libc.parent / name).is_file()})
    for name, path in libraries.items():
        layer.file(f"{directory}/{name}", path.resolve(), executable=False)


def add_byte_code(
    layer: Layer, interpreter: Interpreter, sources: Iterable[Path], base: Path, packed: str, scratch: Path
) -> list[tuple[str, str]]:
    """Compile the Python files among `sources`, which lie under `base` here and `packed` in the image. Returns (file, error) pairs."""
    jobs: list[tuple[str, str, str]] = []
    for source in sources:
        if source.suffix != ".py":
            continue
        within = source.relative_to(base)
        compiled = within.parent / "__pycache__" / f"{within.stem}.{interpreter.tag}.pyc"
        jobs.append((str(source), f"{packed}/{within}", str(scratch / compiled)))
    environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    command = [str(interpreter.binary), "-S", "-s", "-W", "ignore", "-c", _COMPILE]
    finished = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, env=environment, check=False)
    if finished.returncode != 0:
        raise MayflyError(f"{interpreter.binary}: compiling {base} failed: {finished.stderr.strip()[-2000:]}")
    failed: dict[str, str] = dict(json.loads(finished.stdout))
    for name, _shown, target in jobs:
        if name not in failed:
            layer.file(f"{packed}/{Path(target).relative_to(scratch)}", Path(target), executable=False)
    return sorted(failed.items())
