"""An OCI image layout on disk: blobs by digest, and an index of names.

A blob that has its name in `blobs/sha256/` was verified, byte for byte, and is durable: it is written beside, hashed while it streams,
synced, and renamed. `index.json` is replaced whole. Nothing else in the directory is trusted or followed: names are digests, files are
opened without following links.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bundles import durable
from bundles.digests import Bytes, Digest, Verifier
from bundles.errors import BlobMissing, LayoutError, ManifestError, VerificationError
from bundles.locking import locked
from bundles.manifests import MAX_ENTRIES, MAX_MANIFEST, OCI_INDEX, Descriptor, Index, load_object, parse_manifest

REF_NAME = "org.opencontainers.image.ref.name"
_PIECE = 1 << 20
_TEMPORARY = ".tmp-"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:@+/-]{0,253}[A-Za-z0-9])?")


class BlobWriter:
    """A blob that is being written. Made by `Layout.writer`."""

    def __init__(self, descriptor: int, verifier: Verifier) -> None:
        self._descriptor = descriptor
        self._verifier = verifier

    def write(self, chunk: Bytes) -> None:
        """Takes the next bytes; raises VerificationError as soon as there are more than announced."""
        self._verifier.update(chunk)
        with durable.storage_errors(f"writing blob {self._verifier.digest.short}"):
            durable.write_all(self._descriptor, chunk)

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._verifier.seen


class Layout:
    """A layout directory. Methods may be called from several threads and processes at once."""

    def __init__(self, path: Path) -> None:
        """Opens an existing layout."""
        self.path = path
        self._blobs = path / "blobs" / "sha256"
        try:
            marker = load_object(_read_small(path / "oci-layout", 4096), 4096, "oci-layout")
        except (OSError, ManifestError) as error:
            raise LayoutError(f"{str(path)!r} is not an OCI image layout: {error}") from error
        if marker.get("imageLayoutVersion") != "1.0.0":
            raise LayoutError(f"{str(path)!r}: imageLayoutVersion must be '1.0.0'")

    @classmethod
    def create(cls, path: Path) -> Self:
        """Opens the layout, and makes it first where there is none."""
        with durable.storage_errors(f"making the image layout {path}"):
            durable.make_directory(path / "blobs" / "sha256")
            for name, content in (("index.json", _index_bytes([])), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')):
                if not (path / name).exists():
                    _replace(path, name, content)
        return cls(path)

    # Blobs

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here, verified and whole."""
        try:
            return stat.S_ISREG(os.lstat(self.blob_path(digest)).st_mode)
        except FileNotFoundError:
            return False

    def read(self, digest: Digest, limit: int) -> bytes:
        """The content of a small blob, hashed again on the way."""
        try:
            data = _read_small(self.blob_path(digest), limit)
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {digest} is not in the layout {str(self.path)!r}") from error
        except OSError as error:
            raise LayoutError(f"blob {digest} cannot be read: {error}") from error
        if Digest.of(data) != digest:
            raise VerificationError(f"blob {digest} in {str(self.path)!r} was altered on disk")
        return data

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """The content of a blob of any size, in pieces, unchecked: whoever writes it somewhere verifies it there."""
        try:
            descriptor = _open_regular(self.blob_path(digest))
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {digest} is not in the layout {str(self.path)!r}") from error
        except OSError as error:
            raise LayoutError(f"blob {digest} cannot be read: {error}") from error
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece

    @contextmanager
    def writer(self, digest: Digest, size: int) -> Iterator[BlobWriter]:
        """Receives a blob. It is in the layout when the block has ended well, and otherwise never was.

        Raises VerificationError, on the write or at the end of the block, when the bytes are not the promised ones.
        """
        verifier = Verifier(digest, size)
        doing = f"writing blob {digest.short}"
        temporary = durable.unique(self.path, _TEMPORARY)
        with durable.storage_errors(doing):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                yield BlobWriter(descriptor, verifier)  # errors of the block are the caller's own: a lost connection is an OSError too
                verifier.finish()
                with durable.storage_errors(doing):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with durable.storage_errors(doing):
                durable.move(temporary, self.blob_path(digest))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def put(self, data: bytes) -> Digest:
        """Stores a small blob."""
        digest = Digest.of(data)
        if not self.has(digest):
            with self.writer(digest, len(data)) as writer:
                writer.write(data)
        return digest

    def copy(self, source: Layout, digest: Digest, size: int) -> None:
        """Takes a blob from another layout, verifying it, unless it is here already."""
        if not self.has(digest):
            with self.writer(digest, size) as writer:
                for piece in source.chunks(digest):
                    writer.write(piece)

    def blobs(self) -> Iterator[Digest]:
        """The digests of all blobs, in no order. Files that are not named like a blob are passed over."""
        with durable.storage_errors(f"listing the blobs of {self.path}"), os.scandir(self._blobs) as entries:
            for entry in entries:
                if len(entry.name) == 64 and not entry.name.strip("0123456789abcdef"):
                    yield Digest(f"sha256:{entry.name}")

    def remove(self, digest: Digest) -> None:
        """Removes a blob, if it is there."""
        with durable.storage_errors(f"removing blob {digest.short}"):
            self.blob_path(digest).unlink(missing_ok=True)

    def discard_damaged(self, digests: Iterable[Digest]) -> list[Digest]:
        """Hashes blobs again, removes those that were altered since they were written, and says which."""
        damaged = []
        for digest in digests:
            if self.has(digest):
                checksum = hashlib.sha256()
                for piece in self.chunks(digest):
                    checksum.update(piece)
                if checksum.hexdigest() != digest.hex:
                    self.remove(digest)
                    damaged.append(digest)
        return damaged

    def remove_leftovers(self) -> int:
        """Removes what interrupted writers left. Precondition: nobody writes to this layout."""
        removed = 0
        with durable.storage_errors(f"cleaning {self.path}"), os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY):
                    os.unlink(entry.path)
                    removed += 1
        return removed

    # Names

    def refs(self) -> dict[str, Descriptor]:
        """The named images. A name that two entries have belongs to none."""
        entries = [(name, descriptor) for name, descriptor, _ in self._entries() if name]
        names = Counter(name for name, _ in entries)
        return {name: descriptor for name, descriptor in entries if names[name] == 1}

    def resolve(self, name: str | None = None) -> Descriptor:
        """The image of that name, or the only one there is."""
        entries = self._entries()
        matching = [descriptor for entry, descriptor, _ in entries if name is None or entry == name]
        if len(matching) == 1:
            return matching[0]
        known = ", ".join(sorted({entry for entry, _, _ in entries if entry}))[:300]
        wanted = "; name one by its tag" if name is None else f" with tag {name!r}"
        raise LayoutError(f"the layout {str(self.path)!r} has {len(matching) or 'no'} images{wanted}; its tags: {known or 'none'}")

    def link(self, name: str, descriptor: Descriptor) -> None:
        """Gives an image a name, taking it from the one that had it."""
        if not _NAME.fullmatch(name):
            raise LayoutError(f"{name[:100]!r} cannot name an image: letters, digits and ._:@+/- , at most 255")
        added = {**descriptor.json_dict(), "annotations": {REF_NAME: name}}
        self._rewrite(name, [added])

    def unlink(self, name: str) -> None:
        """Takes a name away, if it is given."""
        self._rewrite(name, [])

    def retain_names(self, digests: Set[Digest]) -> None:
        """Takes the names from all images that are not among `digests`."""
        with durable.storage_errors(f"writing the index of {self.path}"), locked(self.path):
            entries = self._entries()
            kept = [item for _, descriptor, item in entries if descriptor.digest in digests]
            if len(kept) != len(entries):
                _replace(self.path, "index.json", _index_bytes(kept))

    def _rewrite(self, name: str, added: list[dict[str, Any]]) -> None:
        """Replaces all entries of `name`."""
        with durable.storage_errors(f"writing the index of {self.path}"), locked(self.path):
            kept = [item for entry, _, item in self._entries() if entry != name]
            if len(kept) + len(added) > MAX_ENTRIES:
                raise LayoutError(f"the layout {str(self.path)!r} has {MAX_ENTRIES} names, the most that are read again; unlink some")
            _replace(self.path, "index.json", _index_bytes(kept + added))

    def _entries(self) -> list[tuple[str, Descriptor, dict[str, Any]]]:
        """Of each entry of the index: its name or "", what it describes, and its JSON."""
        what = f"the index of {str(self.path)!r}"
        try:
            data = _read_small(self.path / "index.json", MAX_MANIFEST)
            index = parse_manifest(data, OCI_INDEX)
            items = load_object(data, MAX_MANIFEST, what)["manifests"] or []
        except (OSError, ManifestError) as error:
            raise LayoutError(f"{what} cannot be read: {error}") from error
        assert isinstance(index, Index)  # parse_manifest checked the announced type
        return [(_name_of(item), descriptor, item) for item, descriptor in zip(items, index.manifests, strict=True)]


def _name_of(item: dict[str, Any]) -> str:
    annotations = item.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _index_bytes(items: list[dict[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": items}, indent=1).encode()


def _replace(directory: Path, name: str, data: bytes) -> None:
    """Replaces a small file whole."""
    temporary = durable.unique(directory, _TEMPORARY)
    try:
        durable.write_file(temporary, data)
        durable.move(temporary, directory / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open_regular(path: Path) -> int:
    """Opens a regular file for reading; never waits for the other end of a pipe, never follows a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _read_small(path: Path, limit: int) -> bytes:
    with os.fdopen(_open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data
