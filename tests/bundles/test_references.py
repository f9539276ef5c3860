"""What may stand in `spec.image`, what it means, and what is refused with which advice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import Digest, Reference, ReferenceError_

D = Digest("sha256:" + "a" * 64)


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("docker://host.example/account/name:tag", "host.example", "account/name", "tag", None),
        ("docker://localhost:5000/hello", "localhost:5000", "hello", "latest", None),
        ("localhost/hello:1", "localhost", "hello", "1", None),
        ("127.0.0.1:5000/a/b/c:v1.2-rc_3", "127.0.0.1:5000", "a/b/c", "v1.2-rc_3", None),
        ("[::1]:5000/hello", "[::1]:5000", "hello", "latest", None),
        ("Host.Example/hello", "Host.Example", "hello", "latest", None),
        (f"host.example/hello@{D}", "host.example", "hello", None, D),
        (f"host.example/hello:1@{D}", "host.example", "hello", "1", D),
        ("hello", "docker.io", "library/hello", "latest", None),
        ("docker://hello:2", "docker.io", "library/hello", "2", None),
        ("account/hello", "docker.io", "account/hello", "latest", None),
        ("docker.io/hello", "docker.io", "library/hello", "latest", None),
        ("docker.io/library/hello", "docker.io", "library/hello", "latest", None),
        ("host.example/a__b/c--d/e.f", "host.example", "a__b/c--d/e.f", "latest", None),
        ("dir:latest", "docker.io", "library/dir", "latest", None),
    ],
)
def test_registry_references(text: str, registry: str, repository: str, tag: str | None, digest: Digest | None) -> None:
    reference = Reference.parse(text)
    assert reference == Reference("registry", registry=registry, repository=repository, tag=tag, digest=digest)
    assert Reference.parse(str(reference)) == reference
    assert reference.pinned == (digest is not None)


@pytest.mark.parametrize(
    ("text", "path", "tag"),
    [
        ("oci:/srv/images/hello", "/srv/images/hello", None),
        ("oci:/srv/images/hello:v1", "/srv/images/hello", "v1"),
        ("oci://srv/./images//hello/", "/srv/images/hello", None),
        ("oci:/größe", "/größe", None),
    ],
)
def test_local_references(text: str, path: str, tag: str | None) -> None:
    reference = Reference.parse(text, allow_local=True)
    assert reference == Reference("local", path=path, tag=tag)
    assert Reference.parse(str(reference), allow_local=True) == reference


def test_a_relative_directory_is_taken_from_the_base() -> None:
    assert Reference.parse("oci:../images/hello:1", allow_local=True, base=Path("/srv/app")).path == "/srv/images/hello"
    with pytest.raises(ReferenceError_, match="must be absolute"):
        Reference.parse("oci:images/hello", allow_local=True)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "1 to 4096 characters"),
        ("a" * 4097, "1 to 4096 characters"),
        ("dir:/etc", "write docker://host/name:tag"),
        ("docker-archive:/x.tar", "write docker://host/name:tag"),
        ("containers-storage:[overlay@/var]x", "write docker://host/name:tag"),
        ("https://host.example/hello", "write docker://host/name:tag"),
        ("file:///etc/passwd", "write docker://host/name:tag"),
        ("oci:/x", "single node only"),
        ("--authfile=/x", "not a repository name"),
        ("-v", "not a repository name"),
        ("docker://-v/x", "not a repository name"),
        ("docker://--authfile=/x/y", "not a repository name"),
        ("docker://host.example/../x", "not a repository name"),
        ("docker://host.example/a/../../x", "not a repository name"),
        ("docker://../x", "not a host"),
        ("host.example//x", "not a repository name"),
        ("host.example/x/", "not a repository name"),
        ("host.example/Hello", "not a repository name"),
        ("host.example/hello?x=1", "not a repository name"),
        ("host.example/hello#x", "not a repository name"),
        ("host.example/h%2e%2e", "not a repository name"),
        ("host.example/größe", "not a repository name"),
        ("host.example/hello:", "not a tag"),
        ("host.example/hello:a/b", "not a tag"),
        ("host.example/hello:" + "t" * 129, "not a tag"),
        ("host.example/hello:-x", "not a tag"),
        ("host.example:0/hello", "not a host or host:port"),
        ("host.example:65536/hello", "not a host or host:port"),
        ("host.example:x/hello", "not a host or host:port"),
        ("user:password@host.example/hello", "credentials belong into the registry configuration file"),
        ("host.example/hello@sha256:../../x", "credentials belong"),
        ("host.example/hello@sha256:..", "not a digest"),
        ("host.example/hello@md5:" + "a" * 32, "not a digest"),
        ("host.example/hello@", "not a digest"),
        (f"host.example/hello@{D}@{D}", "not a digest"),
        ("host.example/hello:1 --x", "space or a control character"),
        ("host.example/hello\n", "space or a control character"),
        ("host.example/hel\x00lo", "space or a control character"),
        ("host.example/hel\ud800lo", "surrogate"),
        ("host.example/" + "a/" * 130 + "a", "more than 255 characters"),
        ("docker://", "not a repository name"),
    ],
)
def test_refused(text: str, advice: str) -> None:
    with pytest.raises(ReferenceError_, match=re.escape(advice)) as caught:
        Reference.parse(text)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    assert "password" not in message


@pytest.mark.parametrize("text", ["oci:", "oci::tag", "oci:/x:", "oci:/x:a/b", "oci:/x:--y", "oci:/x:y:z"])
def test_refused_local_references(text: str) -> None:
    with pytest.raises(ReferenceError_):
        Reference.parse(text, allow_local=True)


@given(st.text() | st.text("abc/:.@-_[]0 A").map("docker://".__add__) | st.text("abc/:.@-_0"))
def test_what_parses_is_safe_and_round_trips(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ReferenceError_:
        return
    assert reference.kind == "registry"
    assert Reference.parse(str(reference)) == reference
    url = f"https://{reference.registry}/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"
    assert re.fullmatch(r"[A-Za-z0-9/:._\[\]-]+", url)
    assert ".." not in url.split("/")
    assert not reference.repository.startswith(("-", "/", "."))


@given(st.text() | st.text("ab/:.").map("oci:".__add__))
def test_local_references_round_trip(text: str) -> None:
    try:
        reference = Reference.parse(text, allow_local=True, base=Path("/base"))
    except ReferenceError_:
        return
    assert Reference.parse(str(reference), allow_local=True) == reference
    assert reference.kind == "registry" or (reference.path.startswith("/") and ".." not in reference.path.split("/"))
