"""The directory store's files, and the few operations on them that must be whole. Blocking; `DirectoryStore` calls it in threads.

    DATA/resources/<namespace>/<plural>/<name>.yaml    what the author wants; edited by people, or replaced by `apply`
    DATA/status/<namespace>/<plural>/<name>.yaml       the record (`records.py`); written here alone

Any number of processes may use one tree. Files are replaced by rename, so readers need no lock; whoever changes a record holds the lock of
DATA/status from its read to its write. A file changed by hand may be seen half-written: a change is believed only once the file has been
quiet for `SETTLE` seconds. What `apply` writes needs no such wait, because it brings the record along.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

import structlog

from bundles import durable
from bundles.errors import StorageError
from bundles.locking import locked
from faas_resources.conditions import StatusPatch
from faas_resources.errors import Conflict, InvalidResource, NotFound, Problem, StoreFailed
from faas_resources.manifests import TEXT_MAX, dump_manifests, load_data, load_manifest
from faas_resources.metadata import Resource
from faas_resources.model import checked
from faas_resources.names import check_name, check_namespace
from faas_resources.store.port import Applied, Key
from faas_resources.store.records import Record

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

SETTLE = 0.1
_SUFFIX = ".yaml"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class View(Generic[R]):
    """What there is under a key. Unsettled: it may be something else in a moment."""

    resource: R | None = None
    problem: str | None = None
    settled: bool = True


@dataclass(frozen=True)
class _Cached:
    signature: tuple[int, ...]
    content: object


class Tree:
    """The files of one data directory."""

    def __init__(self, data_dir: Path, *, allow_local: bool) -> None:
        self.manifests = data_dir / "resources"
        self.records = data_dir / "status"
        self._allow_local = allow_local
        self._cache: dict[Path, _Cached] = {}
        self._complained: set[Path] = set()
        self.roots()

    def roots(self) -> dict[Path, int]:
        """The two directories, made where they are missing, and the inode each has."""
        with _store_errors(f"preparing {self.manifests.parent}"):
            for directory in (self.manifests, self.records):
                durable.make_directory(directory, 0o755)
            return {directory: directory.stat().st_ino for directory in (self.manifests, self.records)}

    def keys(self, kind: type[R]) -> set[Key]:
        """What has a manifest file."""
        return self._keys(self.manifests, kind)

    def recorded(self, kind: type[R]) -> set[Key]:
        """What has a record."""
        return self._keys(self.records, kind)

    def look(self, kind: type[R], key: Key, *, believe: bool = False) -> View[R]:
        """What there is, after bringing the record in step with the file. `believe` takes a file that is not quiet yet."""
        with _store_errors(f"reading {kind.KIND} {key[0]}/{key[1]}"):
            found, age = self._manifest(kind, key)
            if found is None:
                return View()
            record = self._record(kind, key)
            if record is None or not record.says(found):
                if age < SETTLE and not believe:
                    return _view(kind, record, settled=False)
                record = self._observe(kind, key)
            return _view(kind, record)

    def apply(self, resource: R) -> tuple[R, Applied]:
        """See Store.apply."""
        kind, key = type(resource), (resource.namespace, resource.name)
        manifest = resource.manifest()
        text = dump_manifests([manifest])
        load_manifest(text, allow_local=self._allow_local)  # what is written is what will be read: the same checks
        with _store_errors(f"writing {kind.KIND} {key[0]}/{key[1]}"), self._locked():
            found, _ = self._manifest(kind, key)
            record = self._record(kind, key) if found is not None else None
            version = resource.metadata.resource_version
            if version is not None and version != (str(record.resource_version) if record else None):
                raise Conflict(
                    f"{kind.KIND} {key[0]}/{key[1]}: it changed since resourceVersion {version} was read; "
                    "read it again, or leave metadata.resourceVersion out to replace it whatever it is"
                )
            if not (isinstance(found, kind) and found.manifest() == manifest):  # a file that says the same keeps its author's comments
                self._replace(self._path(self.manifests, kind, key), text, 0o644)
            after = self._keep(kind, key, record, (record or Record.new()).observing(resource))
            did: Applied = "created" if found is None else "unchanged" if after is record else "configured"
            return self._in_force(kind, key, after), did

    def delete(self, kind: type[R], key: Key) -> None:
        """See Store.delete."""
        with _store_errors(f"deleting {kind.KIND} {key[0]}/{key[1]}"), self._locked():
            manifest, record = self._path(self.manifests, kind, key), self._path(self.records, kind, key)
            if not manifest.exists():
                raise NotFound(kind.KIND, *key)
            # The manifest first: a kill between the two leaves a record without a manifest, which `forget` takes away.
            _remove(manifest)
            _remove(record)

    def forget(self, kind: type[R], key: Key) -> bool:
        """Drops the record of a manifest that is gone; false if it is there again."""
        with _store_errors(f"forgetting {kind.KIND} {key[0]}/{key[1]}"), self._locked():
            if self._path(self.manifests, kind, key).exists():
                return False
            _remove(self._path(self.records, kind, key))
            return True

    def patch_status(self, kind: type[R], key: Key, patch: StatusPatch, uid: str | None) -> R:
        """See Store.patch_status."""
        with _store_errors(f"reporting on {kind.KIND} {key[0]}/{key[1]}"), self._locked():
            record = self._record(kind, key)
            if record is None or not self._path(self.manifests, kind, key).exists() or (uid is not None and record.uid != uid):
                raise NotFound(kind.KIND, *key)
            record = self._keep(kind, key, record, record.reporting(patch))
            return self._in_force(kind, key, record)

    def _observe(self, kind: type[R], key: Key) -> Record | None:
        with self._locked():
            found, _ = self._manifest(kind, key)
            record = self._record(kind, key)
            return record if found is None else self._keep(kind, key, record, (record or Record.new()).observing(found))

    def _in_force(self, kind: type[R], key: Key, record: Record) -> R:
        resource = record.resource(kind)
        if resource is None:
            raise InvalidResource([Problem("", record.problem or "was never valid")])
        return resource

    # Files

    def _locked(self) -> AbstractContextManager[int]:
        durable.make_directory(self.records, 0o755)
        return locked(self.records)

    def _path(self, root: Path, kind: type[R], key: Key) -> Path:
        try:
            return root / check_namespace(key[0]) / kind.PLURAL / f"{check_name(key[1])}{_SUFFIX}"
        except ValueError as error:
            raise InvalidResource([Problem("metadata", f"{key[0]!r}/{key[1]!r}: {error}")]) from error

    def _keys(self, root: Path, kind: type[R]) -> set[Key]:
        with _store_errors(f"listing {root}"):
            return {
                (namespace.name, manifest.name.removesuffix(_SUFFIX))
                for namespace in self._entries(root, check_namespace)
                for manifest in self._entries(namespace / kind.PLURAL, _check_file)
            }

    def _entries(self, directory: Path, check: Callable[[str], object]) -> Iterator[Path]:
        """What is in a directory and may be; says once of anything else that it is passed over. Hidden files are editors' and our own."""
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            path = directory / name
            try:
                check(name)
            except ValueError as error:
                if not name.startswith(".") and path not in self._complained:
                    self._complained.add(path)
                    log.warning("passed over", path=str(path), reason=str(error))
                continue
            yield path

    def _manifest(self, kind: type[R], key: Key) -> tuple[R | str | None, float]:
        """What the manifest file says (a resource, why it is none, or None without a file), and for how long already."""
        path = self._path(self.manifests, kind, key)
        shown = str(path.relative_to(self.manifests.parent))

        def parse(data: bytes) -> R | str:
            try:
                resource = load_manifest(_text(data), allow_local=self._allow_local, source=shown)
            except InvalidResource as error:
                return str(error)
            if not isinstance(resource, kind):
                return f"{shown}: kind: {resource.kind!r}: this directory is for {kind.KIND}"
            explicit = "namespace" in resource.metadata.model_fields_set
            if resource.name != key[1] or (explicit and resource.namespace != key[0]):
                found = f"{resource.namespace if explicit else key[0]}/{resource.name}"
                return f"{shown}: metadata: {found!r}: must be {key[0]}/{key[1]} as the file's path says; rename the file or the resource"
            return resource.with_metadata(namespace=key[0])

        try:
            return self._read(path, parse)
        except OSError as error:
            return f"{shown}: cannot be read: {error.strerror}", SETTLE

    def _record(self, kind: type[R], key: Key) -> Record | None:
        path = self._path(self.records, kind, key)

        def parse(data: bytes) -> Record | str:
            try:
                return checked(Record, load_data(_text(data)), source=str(path))
            except InvalidResource as error:
                return str(error)

        record, _ = self._read(path, parse)
        if isinstance(record, str):
            # Nobody else writes here, so this is a damaged disk or a curious hand. The resource begins a new life from its manifest.
            log.error("record is damaged and set aside", path=str(path), reason=record)
            os.rename(path, path.with_name(f".damaged-{path.name}"))
            return None
        return record

    def _read(self, path: Path, parse: Callable[[bytes], T]) -> tuple[T | None, float]:
        """The parsed content of a file and the seconds since it changed. A file that has not changed since is not read again."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._cache.pop(path, None)
            return None, 0.0
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is not a regular file", str(path))
            age = max(0.0, time.time() - status.st_ctime)
            signature = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
            cached = self._cache.get(path)
            if cached is not None and cached.signature == signature:
                return cast(T, cached.content), age
            content = parse(file.read(TEXT_MAX + 1))
        # Two changes within one tick of the file system's clock look alike: what is that young is read again.
        if age > SETTLE / 2:
            self._cache[path] = _Cached(signature, content)
        return content, age

    def _keep(self, kind: type[R], key: Key, before: Record | None, record: Record) -> Record:
        if record is not before:
            text = dump_manifests([record.model_dump(mode="json", by_alias=True, exclude_defaults=True)])
            self._replace(self._path(self.records, kind, key), text, 0o644)
        return record

    def _replace(self, path: Path, text: str, mode: int) -> None:
        durable.make_directory(path.parent, 0o755)
        temporary = durable.unique(path.parent, ".new")
        try:
            durable.write_file(temporary, text.encode(), mode)
            durable.move(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _view(kind: type[R], record: Record | None, *, settled: bool = True) -> View[R]:
    return View(record.resource(kind), record.problem, settled) if record else View(settled=settled)


def _check_file(name: str) -> None:
    stem, dot, suffix = name.rpartition(".")
    if dot + suffix != _SUFFIX:
        raise ValueError(f"manifests are named NAME{_SUFFIX}")
    check_name(stem)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidResource([Problem("", f"is not UTF-8 at byte {error.start}")]) from error


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.exists():
        durable.sync_directory(path.parent)


@contextmanager
def _store_errors(doing: str) -> Iterator[None]:
    try:
        with durable.storage_errors(doing):
            yield
    except StorageError as error:
        raise StoreFailed(str(error)) from error
