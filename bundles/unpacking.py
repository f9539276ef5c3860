"""From an image in a layout to a root file system, by umoci in a subprocess.

umoci does the dangerous part, applying layers without leaving the target; everything around it is here:

* It is given a private view: a layout with one image, described anew from the checked models, whose blobs are links into the real
  layout. It never reads JSON that a stranger wrote and never writes into the real layout.
* It runs with an empty environment, without input, in its own session, and dies with this process; the kernel lets it write below the
  target only (`confined`). The root file system is one level below the target, and next to it is only umoci's own working directory,
  because umoci 0.4.7 takes a whiteout of `..` literally.
* Limits hold while it runs, not only afterwards. Bytes: the kernel counts what the process writes (/proc/PID/io), and RLIMIT_FSIZE bounds
  each file. Files: the growing tree is counted, at intervals that keep counting under a tenth of the time. Time: it is killed.
* Afterwards one pass over the tree makes it fit to keep (`_settle`): exact totals, no special files, no setuid, setgid or capabilities on
  files.

The result is complete and durable, or absent. Giving it its final name is the caller's.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundles import confined, durable
from bundles.digests import Digest
from bundles.errors import BlobMissing, LimitExceeded, ManifestError, StorageFull, UmociMissing, UnpackError
from bundles.layout import REF_NAME, Layout
from bundles.manifests import (
    MAX_CONFIG,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    ImageConfig,
    Manifest,
    canonical_image,
    check_image,
    parse_config,
    parse_manifest,
)

logger = logging.getLogger(__name__)

ZSTD_SINCE = (0, 6)  # the first umoci that reads zstd layers

_POLL_SECONDS = 0.05  # how far a bomb gets between two looks at its bytes
_COUNT_SECONDS = 0.25  # at least between two counts of the tree
_COUNT_SHARE = 10  # and ten times as long as a count takes
_MEMORY = 512 << 20  # bytes of data for umoci, which takes 25 MB for an ordinary image
_SAID = 65536  # bytes kept of what umoci says, and what a pipe holds


@dataclass(frozen=True, slots=True)
class Limits:
    """What unpacking one image may cost."""

    bytes: int = 8 << 30  # written while unpacking; a machine-learning image has 5 GB
    files: int = 500_000  # entries of every kind; a large desktop distribution has 300,000
    seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Umoci:
    """An installed umoci."""

    path: str
    version: str

    @property
    def reads_zstd(self) -> bool:
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= ZSTD_SINCE


@functools.cache
def find_umoci(path: str | None = None) -> Umoci:
    """The umoci of this machine, or UmociMissing."""
    found = shutil.which(path or "umoci")
    if not found:
        raise UmociMissing(f"{path or 'umoci'} is not installed; install the package umoci (0.4.7 or newer)")
    try:
        result = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise UmociMissing(f"{found} does not run: {error}; install the package umoci (0.4.7 or newer)") from error
    return Umoci(os.path.abspath(found), result.stdout.strip().rpartition(" ")[2])


def read_manifest(layout: Layout, digest: Digest) -> Manifest:
    """The manifest of an image that is in the layout."""
    manifest = parse_manifest(layout.read(digest, MAX_MANIFEST))
    if not isinstance(manifest, Manifest):
        raise ManifestError(f"{digest} is an index; choose one of its manifests first")
    return manifest


def read_image(layout: Layout, digest: Digest) -> tuple[Manifest, ImageConfig]:
    """Manifest and configuration of an image for this platform that is in the layout, checked against each other."""
    manifest = read_manifest(layout, digest)
    config = parse_config(layout.read(manifest.config.digest, MAX_CONFIG))
    check_image(manifest, config)
    return manifest, config


def unpack(
    layout: Layout, digest: Digest, target: Path, *, limits: Limits = Limits(), umoci: Umoci | None = None, inherit: Sequence[int] = ()
) -> Path:
    """Unpacks the image whose manifest is `digest` into `target`/rootfs and returns that path.

    `target` must not exist; when this raises, it does not exist again. umoci inherits the descriptors `inherit`: whoever waits for a lock
    on one of them waits for umoci too, even when this process is killed.
    """
    umoci = umoci or find_umoci()
    manifest, config = read_image(layout, digest)
    for layer in manifest.layers:
        if not layout.has(layer.digest):
            raise BlobMissing(f"layer {layer.digest} is not in the layout {str(layout.path)!r}")
        if layer.media_type.endswith("zstd") and not umoci.reads_zstd:
            raise UmociMissing(
                f"the image has a zstd layer, which umoci {umoci.version} does not read; install umoci 0.6 or newer, or push gzip layers"
            )
    with durable.storage_errors(f"unpacking {digest.short}"):
        target.mkdir(0o700)
        try:
            work = target / "work"
            _make_view(layout, manifest, config, work)
            rootfs = target / "rootfs"
            _run(umoci, work, rootfs, limits, inherit)
            durable.remove_tree(work)
            if rootfs.is_symlink() or not rootfs.is_dir():
                raise UnpackError("umoci left no root directory: a layer of the image deletes it")
            _settle(rootfs, limits)
            durable.sync_filesystem(target)
        except BaseException:
            durable.remove_tree(target)
            raise
    return rootfs


def _make_view(layout: Layout, manifest: Manifest, config: ImageConfig, work: Path) -> None:
    """Writes the layout that umoci reads: `work`/view, with the image named `image`."""
    blobs = work / "view" / "blobs" / "sha256"
    blobs.mkdir(0o700, parents=True)
    image = canonical_image(manifest, config)
    for data in (image.manifest, image.config):
        (blobs / Digest.of(data).hex).write_bytes(data)
    for layer_digest in {layer.digest for layer in manifest.layers}:
        (blobs / layer_digest.hex).symlink_to(layout.blob_path(layer_digest).absolute())
    entry = {
        "mediaType": OCI_MANIFEST,
        "digest": str(Digest.of(image.manifest)),
        "size": len(image.manifest),
        "annotations": {REF_NAME: "image"},
    }
    (work / "view" / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}))
    (work / "view" / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _run(umoci: Umoci, work: Path, rootfs: Path, limits: Limits, inherit: Sequence[int]) -> None:
    """Runs umoci under watch; returns when it ended well."""
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    command = [sys.executable, "-I", "-S", confined.__file__, str(os.getpid()), str(limits.bytes), str(_MEMORY), str(rootfs.parent)]
    command += [umoci.path, "raw", "unpack", *rootless, "--image", "view:image", str(rootfs.absolute())]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(work), "TMPDIR": str(work), "LC_ALL": "C"}
    # What it says comes through a pipe: a file would say nothing about a full disk.
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as said_by, os.fdopen(writer, "wb", buffering=0) as said_to:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said_to,
            stderr=said_to,
            start_new_session=True,
            pass_fds=tuple(inherit),
        )
        try:
            said_to.close()
            said = _watch(process, said_by.fileno(), rootfs, limits)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        raise _explained(process.returncode, said.decode("utf-8", "replace").replace(str(rootfs.absolute()), ""), limits)


def _watch(process: subprocess.Popen[bytes], reader: int, rootfs: Path, limits: Limits) -> bytes:
    """Returns the end of what the process said when it has ended; raises LimitExceeded when it has to be ended."""
    began = time.monotonic()
    count_at = began + _COUNT_SECONDS
    said = b""
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(reader, select.POLLIN)
        while ended not in (ready := dict(poll.poll(_POLL_SECONDS * 1000))):
            if reader in ready:
                said = said[-_SAID:] + _read(reader)
                if not ready[reader] & select.POLLIN:
                    poll.unregister(reader)  # it closed its end
            now = time.monotonic()
            if now - began > limits.seconds:
                raise LimitExceeded(f"unpacking takes longer than {limits.seconds:g} s")
            if _written(process.pid) > limits.bytes:
                raise _too_many_bytes(limits)
            if now >= count_at:
                _count(rootfs, limits)
                done = time.monotonic()
                count_at = done + max(_COUNT_SECONDS, _COUNT_SHARE * (done - now))
    finally:
        os.close(ended)
    return said[-_SAID:] + _read(reader)


def _read(reader: int) -> bytes:
    """What is in the pipe, without waiting."""
    try:
        return os.read(reader, _SAID)
    except BlockingIOError:
        return b""


def _written(pid: int) -> int:
    """Bytes that the process has written so far, 0 where the kernel does not say: then only `_count` sees them."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"wchar:")), 0)
    except OSError:
        return 0


def _count(rootfs: Path, limits: Limits) -> None:
    """Raises LimitExceeded when the tree, which is still being written, is over a limit."""
    size = 0
    for entries, (_, status) in enumerate(_walk(rootfs, changing=True), 1):
        size += _size(status)
        if entries > limits.files:
            raise _too_many_files(limits)
        if size > limits.bytes:
            raise _too_many_bytes(limits)


def _settle(rootfs: Path, limits: Limits) -> None:
    """Makes an unpacked tree fit to keep, in one pass.

    * Special files go. A device node would be the host's device; a pipe would join instances that share this tree, even read-only.
    * setuid, setgid and file capabilities go from files: instances have no new privileges, and local users of the host get none here.
    * Unprivileged, the owner can read everything, as root in the image could; as root, everybody can enter the root directory.
    """
    privileged = os.geteuid() == 0
    entries = size = 0
    # As root, the image's users are not this one: whatever the mask here, they may pass through their root directory.
    os.chmod(rootfs, stat.S_IMODE(os.stat(rootfs).st_mode) | (0o755 if privileged else 0o700))
    for entry, status in _walk(rootfs, changing=False):
        entries += 1
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            continue
        if stat.S_ISREG(mode):
            size += _size(status)
            wanted = stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID) | (0 if privileged else 0o400)
            if wanted != stat.S_IMODE(mode):
                os.chmod(entry.path, wanted)
            if privileged:
                _drop_capabilities(entry.path)
        elif stat.S_ISDIR(mode):
            if not privileged and mode & 0o700 != 0o700:
                os.chmod(entry.path, stat.S_IMODE(mode) | 0o700)
        else:
            os.unlink(entry.path)
            logger.debug("special file dropped", extra={"path": entry.path})
        if entries > limits.files:
            raise _too_many_files(limits)
        if size > limits.bytes:
            raise _too_many_bytes(limits)


def _size(status: os.stat_result) -> int:
    """What an entry adds to the total: a file with several names is spread over them."""
    return status.st_size // status.st_nlink if stat.S_ISREG(status.st_mode) else 0


def _drop_capabilities(path: str) -> None:
    try:
        if "security.capability" in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, "security.capability", follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # a file system without attributes has no capabilities either
            raise


def _walk(rootfs: Path, *, changing: bool) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """All entries below `rootfs`, each directory before what is in it, without following links or recursing.

    A tree that is `changing` loses entries while it is read, and may have directories that cannot be read yet.
    """
    queue = [os.fspath(rootfs)]
    while queue:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        if not changing:
                            raise
                        continue
                    yield entry, status
                    if stat.S_ISDIR(status.st_mode):
                        queue.append(entry.path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            if not changing:
                raise


def _explained(code: int, said: str, limits: Limits) -> UnpackError | StorageFull:
    """The error for an umoci that failed, from the end of what it said."""
    lines = [line.strip(" •⨯") for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines() if line.strip()]
    last = lines[-1][:1000] if lines else f"nothing (exit status {code})"
    if "no space left on device" in last or "disk quota exceeded" in last:
        return StorageFull(f"unpacking: {last!r}; make room (space, inodes or quota) on the volume of the data directory")
    if "file too large" in last:
        return _too_many_bytes(limits)
    if any(line.startswith("fatal error: ") and "out of memory" in line for line in lines):
        return LimitExceeded(f"umoci needs more than {_MEMORY >> 20} MiB of memory for this image; make it of fewer files or layers")
    if code < 0:
        return UnpackError(
            f"umoci was killed by signal {-code} while unpacking; if this happens again, look into the kernel's log for the reason"
        )
    return UnpackError(f"umoci refused the image: {last!r}")


def _too_many_bytes(limits: Limits) -> LimitExceeded:
    return LimitExceeded(f"the image unpacks to more than {limits.bytes} bytes; make it smaller, or raise the node's limit")


def _too_many_files(limits: Limits) -> LimitExceeded:
    return LimitExceeded(f"the image unpacks to more than {limits.files} files; make it smaller, or raise the node's limit")
