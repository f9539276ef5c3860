"""Which shared libraries a program needs, read from the files themselves.

`ldd` would run the loader of the file in question; here nothing of it runs. Only what the loader looks at is read: PT_INTERP and the
dynamic section (DT_NEEDED, DT_RPATH, DT_RUNPATH), for 64-bit little-endian x86 files, the only ones that a function may be made of.
The search follows ld.so(8): DT_RPATH, DT_RUNPATH, the directories of ld.so.conf, the defaults. LD_LIBRARY_PATH is left out on purpose, so
that an image does not depend on the shell that built it.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mayfly.errors import MayflyError

_MACHINE_X86_64 = 62
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 15, 29
_DEFAULT_DIRECTORIES = (Path("/lib64"), Path("/usr/lib64"), Path("/lib"), Path("/usr/lib"))
# More than any linker writes; a larger count is a damaged file, not a program.
_MOST_HEADERS = 4096


class NotForThisMachine(MayflyError):
    """An ELF file for another processor, or one that cannot be read."""


@dataclass(frozen=True)
class Elf:
    """What the loader would read of one file."""

    path: Path
    interpreter: str | None
    needed: tuple[str, ...]
    search: tuple[Path, ...]


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def read(path: Path) -> Elf:
    """Preconditions: `path` is a file for which `is_elf` holds."""
    try:
        return _read(path, path.read_bytes())
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise NotForThisMachine(f"{path}: not a readable ELF file ({error})", hint="Build the program again.") from error


def _read(path: Path, data: bytes) -> Elf:
    kind, order = data[4], data[5]
    (machine,) = struct.unpack_from("<H", data, 18)
    if (kind, order, machine) != (2, 1, _MACHINE_X86_64):
        raise NotForThisMachine(
            f"{path}: built for another processor (ELF class {kind}, machine {machine}); functions run on 64-bit x86",
            hint="Build the program for x86-64 Linux.",
        )
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    if count > _MOST_HEADERS:
        raise ValueError(f"{count} program headers")
    segments = [struct.unpack_from("<IIQQQQ", data, table + index * entry_size) for index in range(count)]
    interpreter = None
    dynamic: list[tuple[int, int]] = []
    for type_, _flags, offset, _address, _physical, size in segments:
        if type_ == _PT_INTERP:
            interpreter = _part(data, offset, size).rstrip(b"\0").decode()
        elif type_ == _PT_DYNAMIC:
            dynamic = list(_entries(_part(data, offset, size)))
    values = dict(dynamic)
    needed: list[str] = []
    search: list[Path] = []
    if _DT_STRTAB in values:
        strings = _file_offset(values[_DT_STRTAB], segments)
        needed = [_string(data, strings + value) for tag, value in dynamic if tag == _DT_NEEDED]
        paths = values.get(_DT_RUNPATH, values.get(_DT_RPATH))
        if paths is not None:
            search = [_expand(part, path) for part in _string(data, strings + paths).split(":") if part]
    return Elf(path, interpreter, tuple(needed), tuple(search))


def _part(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ValueError("a segment lies outside the file")
    return data[offset : offset + size]


def _entries(section: bytes) -> Iterator[tuple[int, int]]:
    for tag, value in struct.iter_unpack("<QQ", section[: len(section) // 16 * 16]):
        if tag == _DT_NULL:
            return
        yield tag, value


def _file_offset(address: int, segments: list[tuple[int, ...]]) -> int:
    for type_, _flags, offset, start, _physical, size in segments:
        if type_ == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError("the dynamic section points outside the file")


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def _expand(part: str, path: Path) -> Path:
    return Path(re.sub(r"\$(?:ORIGIN\b|\{ORIGIN\})", str(path.parent), part))


@dataclass(frozen=True)
class Closure:
    """The loader and the libraries that a set of files needs: path on this machine by name. `missing` maps a name to who asked for it."""

    interpreter: str | None = None
    libraries: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, Path] = field(default_factory=dict)


def closure(roots: Iterable[Path]) -> Closure:
    """Everything that the dynamic loader would bring in for `roots`, which are ELF files.

    A library that is one of the roots is never missing: what asks for it by name alone is loaded by a file that has a search path (wheels
    have such libraries).
    """
    roots = list(roots)
    present = {path.name for path in roots}
    interpreter: str | None = None
    libraries: dict[str, Path] = {}
    missing: dict[str, Path] = {}
    system = system_directories()
    # Each file with the search path of those who asked for it: DT_RPATH is inherited, and a superset does no harm.
    todo: list[tuple[Elf, tuple[Path, ...]]] = [(read(path), ()) for path in roots]
    while todo:
        elf, inherited = todo.pop(0)
        interpreter = interpreter or elf.interpreter
        search = tuple(dict.fromkeys((*elf.search, *inherited)))
        for name in elf.needed:
            if name in libraries or name in missing or _is_loader(name):
                continue
            found = _find(name, (*search, *system))
            if found is None and name in present:
                continue
            if found is None:
                missing[name] = elf.path
            else:
                libraries[name] = found
                todo.append((read(found), search))
    return Closure(interpreter, libraries, missing)


def _is_loader(name: str) -> bool:
    """The loader needs no search: glibc's is named by PT_INTERP; musl's is also the C library, under two names."""
    return name.startswith(("ld-linux", "ld-musl", "libc.musl-")) or name == "libc.so"


def _find(name: str, directories: Iterable[Path]) -> Path | None:
    for directory in directories:
        candidate = directory / name
        if candidate.is_file() and is_elf(candidate):
            try:
                read(candidate)
            except NotForThisMachine:
                continue  # the loader, too, passes over a library for another processor
            return candidate
    return None


def system_directories() -> tuple[Path, ...]:
    """Where this machine's loader looks by itself."""
    configured = _configured(Path("/etc/ld.so.conf"))
    multiarch = (Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"))
    ordered = (*multiarch, *configured, *_DEFAULT_DIRECTORIES)
    return tuple(directory for directory in dict.fromkeys(ordered) if directory.is_dir())


def _configured(file: Path, depth: int = 0) -> list[Path]:
    if not file.is_file() or depth > 8:
        return []
    found: list[Path] = []
    for line in file.read_text(errors="replace").splitlines():
        entry = line.split("#", 1)[0].strip()
        if entry.startswith("include "):
            for included in sorted(file.parent.glob(entry.removeprefix("include ").strip().removeprefix(f"{file.parent}/"))):
                found.extend(_configured(included, depth + 1))
        elif entry.startswith("/"):
            found.append(Path(entry))
    return found
