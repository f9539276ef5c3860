"""Everything that can go wrong on the shared floor.

    BundlesError
    ├── ReferenceError_        the text does not name an image
    ├── DigestError            not `sha256:` and 64 hex digits
    ├── ManifestError          a manifest, an index or an image configuration breaks a rule
    │   └── PlatformError      a sound image, but not for this kind of machine
    ├── ConfigError            command, environment, directory or user do not make a process
    ├── LayoutError            the directory is not an OCI image layout, or not a usable one
    │   ├── BlobMissing        a blob is not in the layout: fetch it
    │   └── VerificationError  bytes differ from their digest or size: refused, nothing kept
    ├── UnpackError            the image could not be unpacked, nothing kept
    │   ├── LimitExceeded      too many bytes or files, or too long
    │   └── UmociMissing       umoci is not installed, or too old for this image
    ├── RevisionError          a published bundle is damaged, or cannot be published
    │   ├── RevisionGone       collected between the look and the hold: look again
    │   └── StoreBusy          another process has the store
    └── StorageError           the file system refused
        └── StorageFull        no space, no inodes, no quota left: nothing kept

A subclass exists only where a caller acts on it. The text of an error is written for the person who deployed the function: it names the
input, the rule and the way out. Text that comes from an image is quoted with `repr`, so that it cannot forge a line of a log.
"""


class BundlesError(Exception):
    """Root of every error of this package."""


class ReferenceError_(BundlesError, ValueError):  # noqa: N801
    """The text does not name an image. (The underscore keeps it apart from Python's own ReferenceError.)"""


class DigestError(BundlesError, ValueError):
    """The text is not a digest that this system accepts."""


class ManifestError(BundlesError):
    """A manifest, an index or an image configuration breaks a rule."""


class PlatformError(ManifestError):
    """The image has nothing for this kind of machine."""


class ConfigError(BundlesError):
    """Image configuration and specification do not make a process that can run."""


class LayoutError(BundlesError):
    """The directory is not an OCI image layout, or not a usable one."""


class BlobMissing(LayoutError):
    """A blob is not in the layout."""


class VerificationError(LayoutError):
    """Bytes differ from the digest or the size that was promised."""


class UnpackError(BundlesError):
    """An image could not be unpacked; nothing of it was kept."""


class LimitExceeded(UnpackError):
    """Unpacking would take more bytes, files or time than allowed."""


class UmociMissing(UnpackError):
    """umoci is not installed, or too old for what the image needs."""


class RevisionError(BundlesError):
    """A published bundle is damaged, or cannot be published."""


class RevisionGone(RevisionError):
    """The revision was collected before it could be held."""


class StoreBusy(RevisionError):
    """Another process has the store."""


class StorageError(BundlesError):
    """The file system refused an operation."""


class StorageFull(StorageError):
    """The file system has no space, no inodes or no quota left."""
