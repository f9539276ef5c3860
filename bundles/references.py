"""References to images: what a person writes in `spec.image`.

Two kinds. A *registry* reference is what skopeo writes, `docker://host/repository[:tag][@sha256:…]`, or the same without `docker://`; a
name without a host belongs to the default registry, as everywhere else. A *local* reference, `oci:DIR[:tag]`, is an OCI image layout on
this machine; it is read only where the caller says `allow_local`, because it names files of the node.

The grammar is the boundary: whatever parses is safe in a URL path and never an option, a file name or another transport.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Self

from bundles.digests import Digest
from bundles.errors import DigestError, ReferenceError_

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library"  # where the default registry keeps names without a slash
DEFAULT_TAG = "latest"

MAX_LENGTH = 4096  # of the whole text; PATH_MAX
MAX_REPOSITORY = 255  # the distribution specification's own limit

_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]{2,45}\])(?::([0-9]{1,5}))?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_TRANSPORT = re.compile(r"[a-z][a-z0-9-]*(?=:)")

# What skopeo knows and this system does not read: naming them gives a better error than "not a repository name".
_FOREIGN_TRANSPORTS = frozenset(
    {
        "dir",
        "docker-archive",
        "docker-daemon",
        "oci-archive",
        "containers-storage",
        "ostree",
        "sif",
        "tarball",
        "atomic",
        "http",
        "https",
        "file",
    }
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is. Fields that do not belong to the kind are empty."""

    kind: Literal["registry", "local"]
    registry: str = ""
    repository: str = ""
    path: str = ""  # absolute, normalised
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str, *, allow_local: bool = False, base: Path | None = None) -> Self:
        """Reads `text`, or raises ReferenceError_.

        A relative directory of a local reference is taken from `base`; without `base` it is refused, because a daemon's working directory
        means nothing to the person who wrote the reference.
        """
        if not text or len(text) > MAX_LENGTH:
            _refuse(text, f"it must have 1 to {MAX_LENGTH} characters")
        if any(ord(character) < 0x21 or ord(character) == 0x7F for character in text):
            _refuse(text, "it has a space or a control character")
        if any(0xD800 <= ord(character) < 0xE000 for character in text):
            _refuse(text, "it has half of a surrogate pair, which no file name and no URL can hold")
        if text.startswith("oci:"):
            return cls._parse_local(text, allow_local, base)
        transport = _TRANSPORT.match(text)
        if transport and transport[0] in _FOREIGN_TRANSPORTS and _looks_like_transport(text, transport.end()):
            _refuse(text, f"images are not read from {transport[0]}:; copy the image to a registry and write docker://host/name:tag")
        return cls._parse_registry(text)

    @classmethod
    def _parse_local(cls, text: str, allow_local: bool, base: Path | None) -> Self:
        if not allow_local:
            _refuse(
                text,
                "oci: names a directory of one machine and is read on a single node only; push the image and write docker://host/name:tag",
            )
        directory, colon, tag = text.removeprefix("oci:").partition(":")
        if not directory:
            _refuse(text, "it names no directory; write oci:/directory or oci:/directory:tag")
        if colon and not _TAG.fullmatch(tag):
            _refuse(text, "after the directory there may be a tag: a letter, digit or _, then at most 127 of letters, digits, _ . -")
        if not os.path.isabs(directory):
            if base is None:
                _refuse(text, "the directory must be absolute; write oci:/directory")
            directory = os.path.join(base, directory)
        # normpath keeps two leading slashes, which POSIX leaves to the system
        return cls("local", path=os.path.normpath("/" + directory.lstrip("/")), tag=tag or None)

    @classmethod
    def _parse_registry(cls, text: str) -> Self:
        rest = text.removeprefix("docker://")
        rest, at, digest_text = rest.partition("@")
        digest: Digest | None = None
        if "/" in digest_text:  # the text before the @ is not shown
            raise ReferenceError_(
                f"{_shown('…@' + digest_text)} is not an image reference: credentials belong into the registry configuration file"
            )
        if at:
            try:
                digest = Digest(digest_text)
            except DigestError as error:
                raise ReferenceError_(f"{_shown(text)}: {error}") from error
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            host, name = first, remainder
        else:
            host, name = DEFAULT_REGISTRY, rest
        matched = _HOST.fullmatch(host)
        if not matched or (matched[1] and not 0 < int(matched[1]) < 65536):
            _refuse(text, f"{_shown(host)} is not a host or host:port")
        name, colon, tag = name.partition(":")
        if colon and not _TAG.fullmatch(tag):
            _refuse(text, f"{_shown(tag)} is not a tag: a letter, digit or _, then at most 127 of letters, digits, _ . -")
        if not _REPOSITORY.fullmatch(name):
            _refuse(text, f"{_shown(name)} is not a repository name: lowercase letters and digits, parted by . _ - or /")
        if host == DEFAULT_REGISTRY and "/" not in name:
            name = f"{DEFAULT_NAMESPACE}/{name}"
        if len(name) > MAX_REPOSITORY:
            _refuse(text, f"the repository name has more than {MAX_REPOSITORY} characters")
        if not tag and digest is None:
            tag = DEFAULT_TAG
        return cls("registry", registry=host, repository=name, tag=tag or None, digest=digest)

    @property
    def pinned(self) -> bool:
        """Whether the reference means the same image for ever."""
        return self.digest is not None

    def __str__(self) -> str:
        """The one spelling of this reference: parsing it gives an equal one."""
        tag = f":{self.tag}" if self.tag else ""
        if self.kind == "local":
            return f"oci:{self.path}{tag}"
        digest = f"@{self.digest}" if self.digest else ""
        return f"docker://{self.registry}/{self.repository}{tag}{digest}"


def _looks_like_transport(text: str, colon: int) -> bool:
    """Tells `dir:/etc` from an image that is called `dir` and has a tag."""
    return not _TAG.fullmatch(text[colon + 1 :])


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "…")


def _refuse(text: str, reason: str) -> NoReturn:
    raise ReferenceError_(f"{_shown(text)} is not an image reference: {reason}")
