"""Digests have one spelling; a verifier lets exactly the promised bytes pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bundles import Digest, DigestError, VerificationError, Verifier

ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_digest_is_the_text_it_was_made_of() -> None:
    digest = Digest.of(b"abc")
    assert digest == ABC
    assert digest.hex == ABC[7:]
    assert digest.short == "ba7816bf8f01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:../../etc/passwd",
        "sha256:" + "../" * 21 + "x",
        ABC[7:],
        ABC + "\n",
        ABC + "0",
        ABC[:-1],
        ABC.upper(),
        "SHA256:" + ABC[7:],
        "sha512:" + ABC[7:] * 2,
        "sha256:" + "０" * 64,
        "sha256+b64:" + ABC[7:],
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DigestError):
        Digest(text)


@given(st.text())
def test_whatever_is_accepted_has_one_spelling(text: str) -> None:
    try:
        digest = Digest(text)
    except DigestError:
        return
    assert len(digest) == 71
    assert set(digest.hex) <= set("0123456789abcdef")


def test_models_take_digests() -> None:
    adapter: TypeAdapter[Digest] = TypeAdapter(Digest)
    assert type(adapter.validate_json(f'"{ABC}"')) is Digest
    with pytest.raises(ValidationError, match="64 lowercase hex"):
        adapter.validate_python("sha256:x")


def test_the_promised_bytes_pass_in_any_pieces() -> None:
    for pieces in ([b"abc"], [b"a", b"", b"bc"], [b"a", b"b", b"c"]):
        verifier = Verifier(Digest(ABC), 3)
        for piece in pieces:
            verifier.update(piece)
        verifier.finish()
        assert verifier.seen == 3


def test_too_few_bytes_are_refused_at_the_end() -> None:
    verifier = Verifier(Digest(ABC), 3)
    verifier.update(b"ab")
    with pytest.raises(VerificationError, match="2 bytes were sent, 3 were announced"):
        verifier.finish()


def test_the_first_byte_too_many_is_refused_at_once() -> None:
    verifier = Verifier(Digest(ABC), 3)
    with pytest.raises(VerificationError, match="more than the 3 bytes"):
        verifier.update(b"abcd")


def test_other_bytes_of_the_same_length_are_refused() -> None:
    verifier = Verifier(Digest(ABC), 3)
    verifier.update(b"abd")
    with pytest.raises(VerificationError, match="have digest sha256:"):
        verifier.finish()


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(VerificationError, match="-1 bytes"):
        Verifier(Digest(ABC), -1)
