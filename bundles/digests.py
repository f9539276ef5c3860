"""Digests, and checking bytes against them while they stream.

Only SHA-256 exists here. A `Digest` is a `str` that was checked when it was made, so whoever holds one may put it into a path or a URL:
it has no separator, no dot and one spelling.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from bundles.errors import DigestError, VerificationError

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

Bytes = bytes | bytearray | memoryview


class Digest(str):
    """`sha256:` and 64 lowercase hex digits."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Raises DigestError when `text` is anything else."""
        if not _DIGEST.fullmatch(text):
            raise DigestError(f"{text[:100]!r} is not a digest: it must be sha256: and 64 lowercase hex digits")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: Bytes) -> Self:
        """The digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self[7:]

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self[7:19]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(max_length=100))


class Verifier:
    """Counts and hashes bytes as they pass; `finish` says whether they were the promised ones.

    Refuses the first byte beyond `size`, so a sender cannot make the receiver keep more than was announced.
    """

    def __init__(self, digest: Digest, size: int) -> None:
        if size < 0:
            raise VerificationError(f"{digest}: a size of {size} bytes was announced")
        self.digest = digest
        self.size = size
        self.seen = 0
        self._hash = hashlib.sha256()

    def update(self, chunk: Bytes) -> None:
        """Takes the next bytes."""
        self.seen += len(chunk)
        if self.seen > self.size:
            raise VerificationError(f"{self.digest}: more than the {self.size} bytes announced were sent")
        self._hash.update(chunk)

    def finish(self) -> None:
        """Raises VerificationError unless exactly the promised bytes have passed."""
        if self.seen != self.size:
            raise VerificationError(f"{self.digest}: {self.seen} bytes were sent, {self.size} were announced")
        actual = self._hash.hexdigest()
        if actual != self.digest.hex:
            raise VerificationError(f"{self.digest}: the bytes that were sent have digest sha256:{actual}")
