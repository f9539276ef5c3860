"""Layers that are the same bytes whenever their content is the same.

Entries are sorted by path, owned by root, without times; the compressor gets no name and no time. So an unchanged folder gives an unchanged
digest, and two images that carry the same interpreter share its layer.
"""

import gzip
import hashlib
import io
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

# Of an interpreter's layer: 26.8 MB in 1.1 s. Level 6 takes 2.7 s for 2.5 % less.
_COMPRESSION_LEVEL = 4


@dataclass(frozen=True)
class _Entry:
    kind: bytes
    mode: int
    content: Path | bytes | str


@dataclass(frozen=True)
class WrittenLayer:
    """A compressed layer in a file, with the two digests that an image names it by."""

    digest: str
    diff_id: str
    size: int
    entries: int


class Layer:
    """A file tree to be written: absolute image paths, each entered once."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __contains__(self, path: str) -> bool:
        return _name(path) in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._entries[_name(path)] = _Entry(tarfile.DIRTYPE, mode, b"")

    def file(self, path: str, content: Path | bytes, *, executable: bool | None = None) -> None:
        """A regular file; who may execute it follows `content` on disk unless said."""
        if executable is None:
            executable = isinstance(content, Path) and bool(content.stat().st_mode & stat.S_IXUSR)
        self._entries[_name(path)] = _Entry(tarfile.REGTYPE, 0o755 if executable else 0o644, content)

    def symlink(self, path: str, target: str) -> None:
        self._entries[_name(path)] = _Entry(tarfile.SYMTYPE, 0o777, target)

    def add_missing(self, other: "Layer", below: "Layer") -> None:
        """Enter what `other` has and neither this layer nor the one `below` it."""
        for name, entry in other._entries.items():
            if name not in below._entries:
                self._entries.setdefault(name, entry)

    def write(self, file: BinaryIO) -> WrittenLayer:
        """Preconditions: the files that were named still have the size that they have now."""
        compressed = _Hashing(file.write)
        with gzip.GzipFile(filename="", mode="wb", fileobj=compressed, compresslevel=_COMPRESSION_LEVEL, mtime=0) as zipped:
            plain = _Hashing(zipped.write)
            with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for name, entry in sorted(self._with_parents().items()):
                    _add(archive, name, entry)
        return WrittenLayer(f"sha256:{compressed.hexdigest()}", f"sha256:{plain.hexdigest()}", compressed.size, len(self))

    def _with_parents(self) -> dict[str, _Entry]:
        entries = dict(self._entries)
        for name in self._entries:
            for parent in PurePosixPath(name).parents:
                if str(parent) != ".":
                    entries.setdefault(str(parent), _Entry(tarfile.DIRTYPE, 0o755, b""))
        return entries


class _Hashing(io.RawIOBase):
    """A file-like object that passes on what is written, and hashes and counts it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        block = bytes(data)  # type: ignore[call-overload]
        self._hash.update(block)
        self.size += len(block)
        self._write(block)
        return len(block)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _name(path: str) -> str:
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{path}: an image path is absolute and has no '..'")
    return str(pure.relative_to("/"))


def _add(archive: tarfile.TarFile, name: str, entry: _Entry) -> None:
    info = tarfile.TarInfo(name)
    info.type = entry.kind
    info.mode = entry.mode
    if isinstance(entry.content, str):
        info.linkname = entry.content
        archive.addfile(info)
    elif isinstance(entry.content, bytes):
        info.size = len(entry.content)
        archive.addfile(info, io.BytesIO(entry.content))
    else:
        with entry.content.open("rb") as source:
            info.size = source.seek(0, io.SEEK_END)
            source.seek(0)
            archive.addfile(info, source)
