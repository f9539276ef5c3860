"""The floor that everything stands on: references, digests, the OCI layout, unpacking, runtime configuration, and the store of revisions.

No network, no asyncio: plain functions and a directory. Callers with an event loop call them in a thread.
"""

from bundles.digests import Digest, Verifier
from bundles.errors import (
    BlobMissing,
    BundlesError,
    ConfigError,
    DigestError,
    LayoutError,
    LimitExceeded,
    ManifestError,
    PlatformError,
    ReferenceError_,
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
from bundles.manifests import Descriptor, ImageConfig, Index, Manifest, Platform, parse_config, parse_manifest
from bundles.references import Reference
from bundles.revisions import Bundle, Collected, RevisionStore, revision_id
from bundles.runtime_config import Deployment, FunctionSpec, runtime_config
from bundles.unpacking import Limits, Umoci, find_umoci, read_image, unpack

__all__ = [
    "BlobMissing",
    "Bundle",
    "BundlesError",
    "Collected",
    "ConfigError",
    "Deployment",
    "Descriptor",
    "Digest",
    "DigestError",
    "FunctionSpec",
    "ImageConfig",
    "Index",
    "Layout",
    "LayoutError",
    "LimitExceeded",
    "Limits",
    "Manifest",
    "ManifestError",
    "Platform",
    "PlatformError",
    "Reference",
    "ReferenceError_",
    "RevisionError",
    "RevisionGone",
    "RevisionStore",
    "StorageError",
    "StorageFull",
    "StoreBusy",
    "Umoci",
    "UmociMissing",
    "UnpackError",
    "VerificationError",
    "Verifier",
    "find_umoci",
    "parse_config",
    "parse_manifest",
    "read_image",
    "revision_id",
    "runtime_config",
    "unpack",
]
