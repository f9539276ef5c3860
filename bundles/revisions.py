"""The store of revisions on a node's disk.

    layout/                             what was pulled: an OCI image layout
    unpacked/sha256-<hex>/rootfs        an image unpacked once, shared read-only by the revisions that use it
    revisions/<ns>/<name>/<revision>/   a bundle: config.json and function.json
    revisions/<ns>/<name>/current       a link to the revision that answers calls
    tmp/                                work in progress

Invariants, at every moment and after kill -9 or a power cut:

* What has its final name in `unpacked/` or `revisions/` is complete, durable, and never changed again: it is made in `tmp/` and renamed.
* `current` leads to a complete bundle whose image is unpacked. It moves last, by rename, and nothing it leads to is removed.
* A revision's id is a hash over everything that makes it: the same id is the same bundle.
* Whatever else is there is a leftover, and `collect` removes it.

Locks: who works here (pull, publish) shares the lock of `tmp/`; `collect` has it alone, so it never sees work in progress and may take
everything it does not know for a leftover. Who uses a revision shares the lock of its directory; `collect` removes only what it can lock
alone. Who unpacks an image has the lock of its manifest. Who owns the store has the lock of its root.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bundles import durable
from bundles.digests import Digest
from bundles.errors import (
    BlobMissing,
    BundlesError,
    LayoutError,
    LimitExceeded,
    ManifestError,
    RevisionError,
    RevisionGone,
    StorageError,
    StorageFull,
    StoreBusy,
    UmociMissing,
    UnpackError,
    VerificationError,
)
from bundles.layout import Layout
from bundles.locking import Locked, locked, share
from bundles.runtime_config import Deployment, FunctionSpec, function_spec, runtime_config
from bundles.unpacking import Limits, read_image, read_manifest, unpack

logger = logging.getLogger(__name__)

FORMAT = 1
"""Part of every revision's id: raise it when the same deployment has to give another bundle."""

CURRENT = "current"

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_REVISION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A published revision."""

    path: Path
    spec: FunctionSpec
    rootfs: Path

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps the revision, and what it needs, from being collected. Raises RevisionGone when it already was."""
        name = f"revision {self.spec.revision} of {self.spec.namespace}/{self.spec.name}"
        with ExitStack() as stack:
            try:
                with durable.storage_errors(f"holding {name}"):
                    stack.enter_context(locked(self.path, shared=True))
            except StorageError as error:
                if self.path.exists():
                    raise
                raise RevisionGone(f"{name} is gone; look up the current one again") from error
            yield


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` removed."""

    revisions: int
    images: int
    blobs: int
    leftovers: int


def revision_id(image: Digest, deployment: Deployment) -> str:
    """The id of the bundle that `publish` makes of the two."""
    document = {"format": FORMAT, "image": image, "deployment": deployment.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


class RevisionStore:
    """The store under one directory. Methods may be called from several threads and processes at once."""

    def __init__(self, root: Path) -> None:
        """Opens the store, and makes it first where there is none."""
        self.root = root.absolute()
        self.revisions = self.root / "revisions"
        self._unpacked = self.root / "unpacked"
        self._tmp = self.root / "tmp"
        with durable.storage_errors(f"making the bundle store {self.root}"):
            for directory in (self.revisions, self._unpacked, self._tmp):
                durable.make_directory(directory)
        self.layout = Layout.create(self.root / "layout")

    # Reading

    def current(self, namespace: str, name: str) -> Bundle | None:
        """The revision that answers calls, None where there is none. Raises RevisionError when it is damaged."""
        if not (is_label(namespace) and is_label(name)):
            return None
        link = self.revisions / namespace / name / CURRENT
        revision = _target(link)
        while revision is not None:
            try:
                return self._load(link.parent / revision)
            except RevisionError:
                before, revision = revision, _target(link)
                if revision == before:
                    raise
        return None

    def functions(self) -> Iterator[Bundle]:
        """The current revision of every function. A damaged one is logged and passed over, so that it does not take the others along."""
        for directory in self._functions():
            try:
                bundle = self.current(directory.parent.name, directory.name)
            except RevisionError as error:
                logger.error("revision skipped: %s", error)
                continue
            if bundle:
                yield bundle

    def unpacked(self, image: Digest) -> Path | None:
        """The root file system of an image, None where it is not unpacked."""
        rootfs = self._rootfs(image)
        return rootfs if rootfs.is_dir() else None

    # Writing

    @contextmanager
    def working(self) -> Iterator[int]:
        """Keeps `collect` away: a blob or an image that is here stays here until the block ends. Gives the lock's descriptor."""
        with ExitStack() as stack:
            with durable.storage_errors(f"locking the bundle store {self.root}"):
                descriptor = stack.enter_context(locked(self._tmp, shared=True))
            yield descriptor

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Makes this process the only one that changes the store, or raises StoreBusy: two downloaders on one volume would publish against
        each other."""
        with ExitStack() as stack:
            try:
                with durable.storage_errors(f"locking the bundle store {self.root}"):
                    stack.enter_context(locked(self.root, wait=False))
            except Locked as error:
                raise StoreBusy(f"another process owns the bundle store {self.root}; stop it, or use another data directory") from error
            yield

    def publish(self, deployment: Deployment, image: Digest, *, limits: Limits = Limits()) -> Bundle:  # noqa: B008
        """Makes the revision of `deployment` on the image in the layout whose manifest is `image`, and moves `current` to it.

        What is there already is not made again. When this raises, the revision that was current still is.
        """
        function = self.revisions / deployment.namespace / deployment.name
        revision = revision_id(image, deployment)
        with self.working() as lock, durable.storage_errors(f"publishing {deployment.namespace}/{deployment.name}"):
            with self._healing(image):
                _, config = read_image(self.layout, image)
                rootfs = self._unpack_once(image, limits, lock)
            files = {
                "config.json": json.dumps(runtime_config(config, deployment, rootfs), indent=1),
                "function.json": function_spec(deployment, image, revision, config).model_dump_json(indent=1),
            }
            durable.make_directory(function)
            self._write_bundle(function / revision, files)
            bundle = self._load(function / revision)
            self._make_current(function / CURRENT, revision)
            return bundle

    def unpublish(self, namespace: str, name: str) -> None:
        """Makes the function disappear. Its revisions stay until nobody holds them and `collect` comes by."""
        link = self.revisions / namespace / name / CURRENT
        if is_label(namespace) and is_label(name) and link.is_symlink():
            with durable.storage_errors(f"unpublishing {namespace}/{name}"):
                link.unlink(missing_ok=True)
                durable.sync_directory(link.parent)

    def collect(self, keep: Iterable[Digest] = ()) -> Collected:
        """Removes revisions that are neither current nor held, then images and blobs that no remaining revision and no digest in `keep`
        needs, and whatever interrupted work has left. For the owner. Raises StoreBusy, and removes nothing, while somebody works."""
        try:
            with durable.storage_errors("collecting"), locked(self._tmp, wait=False) as lock:
                collected = self._collect(set(keep))
                rubbish = list(self._tmp.iterdir())
                share(lock)  # the long part, in which others may work, but not collect
                for path in rubbish:
                    durable.remove_tree(path)
                return collected
        except Locked as error:
            raise StoreBusy(f"somebody works in the bundle store {self.root}; collect later") from error

    # Inside

    def _functions(self) -> list[Path]:
        """The directories of all functions, in order."""
        return sorted(path for path in self.revisions.glob("*/*") if is_label(path.name) and is_label(path.parent.name))

    def _rootfs(self, image: Digest) -> Path:
        return self._unpacked / f"sha256-{image.hex}" / "rootfs"

    def _load(self, path: Path) -> Bundle:
        try:
            spec = FunctionSpec.model_validate_json((path / "function.json").read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error) if isinstance(error, OSError) else "function.json is not what was written"
            raise RevisionError(f"the bundle {path} is damaged: {reason}; let the downloader publish it again") from error
        rootfs = self._rootfs(spec.image)
        if not rootfs.is_dir():
            raise RevisionError(f"the bundle {path} is damaged: {rootfs} is missing; let the downloader publish it again")
        return Bundle(path, spec, rootfs)

    def _unpack_once(self, image: Digest, limits: Limits, lock: int) -> Path:
        rootfs = self._rootfs(image)
        with locked(self.layout.blob_path(image)):  # the second of two who want the same image waits, and finds it
            if not rootfs.is_dir():
                fresh = durable.unique(self._tmp, "image")
                unpack(self.layout, image, fresh, limits=limits, inherit=(lock,))
                durable.move(fresh, rootfs.parent)
        return rootfs

    @contextmanager
    def _healing(self, image: Digest) -> Iterator[None]:
        """Where an image turns out to be unusable because the disk altered a blob of it, removes that blob, so that it is fetched again."""
        try:
            yield
        except (VerificationError, UnpackError) as error:
            if isinstance(error, LimitExceeded | UmociMissing):
                raise
            damaged = self.layout.discard_damaged([image])
            with suppress(LayoutError, ManifestError):  # without the manifest, which is among the damaged, the others are not known
                damaged += self.layout.discard_damaged(blob.digest for blob in read_manifest(self.layout, image).blobs)
            if damaged:
                raise BlobMissing(f"blob {damaged[0]} was altered on disk and has been removed; fetch it again") from error
            raise

    def _write_bundle(self, path: Path, files: dict[str, str]) -> None:
        fresh = durable.unique(self._tmp, "bundle")
        if path.is_dir():
            if all((path / name).is_file() and (path / name).read_text() == content for name, content in files.items()):
                return
            durable.move(path, fresh)  # not what was written: a leftover now
            fresh = durable.unique(self._tmp, "bundle")
        try:
            fresh.mkdir(0o700)
            for name, content in files.items():
                durable.write_file(fresh / name, content.encode())
            durable.sync_directory(fresh)
            durable.move(fresh, path)
        except BaseException:
            durable.remove_tree(fresh)
            raise

    def _make_current(self, link: Path, revision: str) -> None:
        with suppress(RevisionError):  # whatever else the link was, it is replaced
            if _target(link) == revision:
                return
        # Names that were there already may be the work of a process that was killed before it made them durable.
        for directory in (self._unpacked, self.revisions, link.parent.parent):
            durable.sync_directory(directory)
        fresh = durable.unique(self._tmp, CURRENT)
        fresh.symlink_to(revision)
        durable.move(fresh, link)

    def _collect(self, keep: set[Digest]) -> Collected:
        """Precondition: the lock of tmp/ is held alone.

        What goes is moved to tmp/, so that it disappears at once and whole. Afterwards everything in tmp/ is rubbish. Works on a full disk.
        """
        leftovers = sum(1 for _ in self._tmp.iterdir()) + self.layout.remove_leftovers()
        revisions = 0
        for function in self._functions():
            revisions += self._collect_revisions(function, keep)
            _remove_empty(function)
            _remove_empty(function.parent)
        wanted = {self._rootfs(image).parent for image in keep}
        images = [path for path in self._unpacked.iterdir() if path not in wanted]
        for path in images:
            self._discard(path)
        return Collected(revisions, len(images), self._collect_blobs(keep), leftovers)

    def _collect_revisions(self, function: Path, keep: set[Digest]) -> int:
        """Discards what can go from one function, adds the images of what stays to `keep`, and returns how many revisions went."""
        removed = 0
        try:
            current = _target(function / CURRENT)
        except RevisionError as error:
            logger.error("nothing of %s/%s is current: %s", function.parent.name, function.name, error)
            current = None
        for path in sorted(path for path in function.iterdir() if path.name != CURRENT):
            if path.name != current and self._discard_unheld(path):
                removed += 1
                continue
            try:
                keep.add(self._load(path).spec.image)
            except RevisionError as error:
                logger.error("a revision in use is damaged: %s", error)
        return removed

    def _discard_unheld(self, path: Path) -> bool:
        """Discards a revision, or what pretends to be one, unless it is held. The lock is kept until it is gone."""
        if not _REVISION.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            self._discard(path)
            return True
        try:
            with locked(path, wait=False):
                self._discard(path)
                return True
        except Locked:
            return False

    def _collect_blobs(self, keep: set[Digest]) -> int:
        needed = set(keep)
        for image in keep:
            try:
                manifest = read_manifest(self.layout, image)
            except BundlesError as error:  # without its manifest an image cannot be unpacked again: its layers are of no use
                logger.warning("the blobs of image %s are not kept: %s", image.short, error)
                continue
            needed.update(blob.digest for blob in manifest.blobs)
        unneeded = [blob for blob in self.layout.blobs() if blob not in needed]
        for blob in unneeded:
            self.layout.remove(blob)
        try:
            self.layout.retain_names(needed)
        except StorageFull as error:  # the next time, then: nothing in the store goes by names
            logger.warning("names of collected images stay: %s", error)
        return len(unneeded)

    def _discard(self, path: Path) -> None:
        durable.move(path, durable.unique(self._tmp, "discarded"))


def is_label(text: str) -> bool:
    """Whether `text` can name a namespace or a function: a DNS-1123 label."""
    return bool(_LABEL.fullmatch(text))


def _target(link: Path) -> str | None:
    """The revision that a `current` link names."""
    try:
        target = os.readlink(link)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise RevisionError(f"{link} cannot be read: {error}; it must be a link to a revision") from error
    if not _REVISION.fullmatch(target):
        raise RevisionError(f"{link} leads to {target[:100]!r}; it must be a link to a revision")
    return target


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):  # not empty: somebody still lives there
        directory.rmdir()
