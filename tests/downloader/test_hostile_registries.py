"""What a registry can do to a pull: it is refused or given up within a bound, nothing is published, and the status names the reason."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from bundles.digests import Digest
from faas_resources import Image
from tests.downloader.conftest import Node, Start
from tests.downloader.hostile import Answer, Hostile, dripping, flooding, hostile_registry, raw, redirecting, replying, said
from tests.support.images import OCI_INDEX, OCI_MANIFEST, TinyImage, described, index_of, tiny_image

pytestmark = pytest.mark.slow  # all of them together

MANIFESTS, BLOBS = "/v2/bad/manifests/", "/v2/bad/blobs/"
IMAGE = tiny_image({"app": b"good" * 1000})
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
async def bad() -> AsyncIterator[Hostile]:
    async with hostile_registry(IMAGE) as running:
        yield running


async def refused(node: Node, registry: Hostile, reason: str, *said: str, seconds: float = 10) -> Image:
    """Applies the image and waits for the reason; nothing may come of it."""
    await node.apply(registry.reference)
    found = await node.failed(reason, seconds=seconds)
    for text in said:
        assert text in (found.status.message or "")
    assert node.current() is None
    unpacked = node.revisions.root / "unpacked"
    assert list(unpacked.iterdir()) == []
    return found


async def test_faithful_registry_is_pulled_from(node: Node, bad: Hostile, start: Start) -> None:
    await start()
    bundle = await node.published(await node.apply(bad.reference))
    assert (bundle.rootfs / "app").read_bytes() == b"good" * 1000


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable", "502 Bad Gateway", "408 Request Timeout"])
async def test_server_error_is_tried_again_quickly(node: Node, bad: Hostile, start: Start, status: str) -> None:
    bad.answers[MANIFESTS] = replying(said("UNKNOWN", "out of order\x1b[2J"), status)
    await start(retry_steady=1000)
    image = await node.apply(bad.reference)
    found = await node.failed("RegistryUnavailable")
    assert f"answered {status[:3]}: 'out of order\\x1b[2J'" in (found.status.message or "")
    bad.answers.clear()
    await node.published(image)


async def test_retry_after_is_kept(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[MANIFESTS] = replying(said("TOOMANYREQUESTS", "slow down"), "429 Too Many Requests", Retry_After="1")
    await start()
    image = await node.apply(bad.reference)
    began = time.monotonic()
    await node.failed("RegistryUnavailable")
    bad.answers.clear()
    requests = len(bad.asked)
    await node.published(image)
    assert time.monotonic() - began >= 0.9
    assert requests <= 4


async def test_retry_after_of_a_year_is_not_kept(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[MANIFESTS] = replying(b"", "429 Too Many Requests", Retry_After="31536000")
    await start(retry_after_max=0.2)
    image = await node.apply(bad.reference)
    await node.failed("RegistryUnavailable")
    bad.answers.clear()
    await node.published(image)


@pytest.mark.parametrize("path", [MANIFESTS, BLOBS])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(then="hang"), id="no answer"),
        pytest.param(dripping(b"", 0.05), id="byte by byte before the headers"),
        pytest.param(dripping(OK + b"X-Endless: ", 0.05), id="byte by byte in the headers"),
        pytest.param(dripping(OK + b"Content-Length: 1000000\r\n\r\n", 0.05), id="byte by byte in the body"),
        pytest.param(dripping(OK + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", 0.05), id="byte by byte in a chunk"),
        pytest.param(
            dripping(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 1000000\r\n\r\n", 0.05), id="byte by byte in a redirect"
        ),
        pytest.param(dripping(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000\r\n\r\n", 0.05), id="byte by byte in an error"),
    ],
)
async def test_stalling_registry_is_given_up(node: Node, bad: Hostile, start: Start, path: str, answer: Answer) -> None:
    blob = described(IMAGE.blobs[IMAGE.layers[0]], "")
    bad.answers[path if path == MANIFESTS else f"{BLOBS}{blob['digest']}"] = answer
    bad.image = _with_layer_size(1_000_000)
    await start(stall_timeout=0.5, minimum_speed=1000, retry_steady=1000, retry_attempts=0)
    began = time.monotonic()
    await refused(node, bad, "RegistryTooSlow", "the registry stalled")
    assert time.monotonic() - began < 10


def _with_layer_size(size: int) -> TinyImage:
    """The image, whose manifest announces another size of its layer."""
    document = json.loads(IMAGE.manifest)
    document["layers"][0]["size"] = size
    return TinyImage(json.dumps(document).encode(), blobs=IMAGE.blobs)


async def test_pull_has_an_end_however_well_it_goes(node: Node, bad: Hostile, start: Start) -> None:
    bad.image = _with_layer_size(10**9)
    body = OK + b"Content-Length: 1000000000\r\n\r\n"
    bad.answers[f"{BLOBS}{IMAGE.layers[0]}"] = raw(body, *[b"x" * 2000] * 1000, pause=0.02)
    await start(pull_timeout=1, stall_timeout=0.5, minimum_speed=1000, retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "RegistryTooSlow", "the pull took longer than 1 s")


async def test_deletion_ends_a_pull_that_hangs(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[BLOBS] = raw(then="hang")
    await start(stall_timeout=1000, parallel=1)
    await node.apply(bad.reference)
    await node.eventually(lambda: any(asked.path.startswith(BLOBS) for asked in bad.asked))
    await node.delete()
    bad.answers.clear()
    await node.published(await node.apply(bad.reference, "other"), seconds=10)


async def test_changed_spec_ends_a_pull_that_hangs(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[BLOBS] = raw(then="hang")
    await start(stall_timeout=1000)
    await node.apply(bad.reference)
    await node.eventually(lambda: any(asked.path.startswith(BLOBS) for asked in bad.asked))
    bad.answers.clear()
    await node.published(await node.apply(bad.reference, pool=1), seconds=10)


async def test_slow_registry_holds_up_no_other_resource(node: Node, bad: Hostile, start: Start) -> None:
    async with hostile_registry(IMAGE) as good:
        bad.answers[MANIFESTS] = raw(then="hang")
        await start(stall_timeout=1000, parallel=2)
        await node.apply(bad.reference)
        for number in range(4):
            await node.published(await node.apply(good.reference, f"good-{number}"), seconds=10)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(raw(OK + b"Content-Length: LENGTH\r\n\r\nshort"), "RegistryUnavailable", id="short read"),
        pytest.param(raw(OK + b"\r\nshort"), "DigestMismatch", id="short read without a length"),
        pytest.param(raw(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nshort"), "RegistryUnavailable", id="short read in chunks"),
        pytest.param(raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nshort\r\n"), "RegistryUnavailable", id="broken chunks"),
        pytest.param(raw(b"garbage\r\n\r\n"), "RegistryUnavailable", id="no HTTP"),
        pytest.param(raw(), "RegistryUnavailable", id="nothing"),
        pytest.param(replying(b"x" * 100), "DigestMismatch", id="wrong length"),
        pytest.param(raw(OK + b"Content-Length: -1\r\n\r\nx"), "DigestMismatch", id="negative length"),
        pytest.param(raw(OK + b"Content-Length: 99999999999999999999\r\n\r\nx"), "DigestMismatch", id="absurd length"),
        pytest.param(flooding(OK + b"\r\n"), "DigestMismatch", id="endless body"),
        pytest.param(flooding(OK + b"X: "), "RegistryUnavailable", id="endless header"),
        pytest.param(replying(said("BLOB_UNKNOWN", "gone"), "404 Not Found"), "ImageNotFound", id="missing"),
        pytest.param(replying(said("TEAPOT", "short and stout"), "418 Teapot"), "BadAnswer", id="another status"),
        pytest.param(replying(b"", "206 Partial Content"), "BadAnswer", id="partial"),
    ],
)
async def test_bad_blob_is_refused(node: Node, bad: Hostile, start: Start, answer: Answer, reason: str) -> None:
    layer = IMAGE.layers[0]

    async def adapted(writer: Any, asked: Any) -> None:
        await answer(cast(asyncio.StreamWriter, _Lengthening(writer, len(IMAGE.blobs[layer]))), asked)

    bad.answers[f"{BLOBS}{layer}"] = adapted
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, reason)
    assert not node.revisions.layout.has(Digest(layer))


class _Lengthening:
    """A writer that fills in the layer's true length."""

    def __init__(self, writer: Any, length: int) -> None:
        self._writer, self._length = writer, length

    def write(self, data: bytes) -> None:
        self._writer.write(data.replace(b"LENGTH", str(self._length).encode()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


async def test_body_with_an_encoding_nobody_asked_for_is_hashed_as_sent(node: Node, bad: Hostile, start: Start) -> None:
    layer = IMAGE.layers[0]
    bad.answers[f"{BLOBS}{layer}"] = replying(gzip.compress(IMAGE.blobs[layer]), Content_Encoding="gzip")
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "DigestMismatch")
    assert all(asked.headers["accept-encoding"] == "identity" for asked in bad.asked)


def manifest(**changes: Any) -> bytes:
    return json.dumps({**json.loads(IMAGE.manifest), **changes}).encode()


_layer = json.loads(IMAGE.manifest)["layers"][0]


@pytest.mark.parametrize(
    ("document", "media_type", "reason"),
    [
        pytest.param(b" " * (5 << 20), OCI_MANIFEST, "BadImage", id="huge"),
        pytest.param(b"[" * 100_000, OCI_MANIFEST, "BadImage", id="deep"),
        pytest.param(b"not json", OCI_MANIFEST, "BadImage", id="no JSON"),
        pytest.param(manifest(manifests=[]), OCI_MANIFEST, "BadImage", id="layers and manifests"),
        pytest.param(IMAGE.manifest[:-1] + b', "layers": []}', OCI_MANIFEST, "BadImage", id="duplicate key"),
        pytest.param(IMAGE.manifest, OCI_INDEX, "BadImage", id="announced as another thing"),
        pytest.param(manifest(layers=[{**_layer, "digest": "sha256:../../x"}]), OCI_MANIFEST, "BadImage", id="digest that is a path"),
        pytest.param(manifest(layers=[{**_layer, "digest": "nocolon"}]), OCI_MANIFEST, "BadImage", id="digest without a colon"),
        pytest.param(manifest(layers=[{**_layer, "size": -1}]), OCI_MANIFEST, "BadImage", id="negative size"),
        pytest.param(manifest(layers=[{**_layer, "size": 1 << 62}]), OCI_MANIFEST, "BadImage", id="absurd size"),
        pytest.param(manifest(layers=[_layer] * 10_000), OCI_MANIFEST, "BadImage", id="many layers"),
        pytest.param(json.dumps({"schemaVersion": 2, "manifests": []}).encode(), OCI_INDEX, "WrongPlatform", id="empty index"),
        pytest.param(json.dumps({"schemaVersion": 1}).encode(), "application/json", "BadImage", id="schema 1"),
        pytest.param(
            manifest(layers=[{**_layer, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["http://169.254.169.254/x"]}]),
            OCI_MANIFEST,
            "BadImage",
            id="foreign layer",
        ),
    ],
)  # fmt: skip
async def test_bad_manifest_is_refused(node: Node, bad: Hostile, start: Start, document: bytes, media_type: str, reason: str) -> None:
    bad.answers[MANIFESTS] = replying(document, Content_Type=media_type)
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, reason)
    assert not any(asked.path.startswith(BLOBS) for asked in bad.asked)


async def test_endless_manifest_is_refused(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[MANIFESTS] = flooding(OK + b"Content-Type: application/vnd.oci.image.manifest.v1+json\r\n\r\n")
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "BadImage", "manifest: more than 4194304 bytes")


async def test_layer_is_never_asked_for_where_its_urls_say(node: Node, bad: Hostile, start: Start) -> None:
    async with hostile_registry(IMAGE) as elsewhere:
        layer = {**_layer, "urls": [f"http://{elsewhere.address}/v2/bad/blobs/{_layer['digest']}"]}
        bad.image = TinyImage(manifest(layers=[layer]), blobs=IMAGE.blobs)
        await start()
        await node.published(await node.apply(bad.reference))
        assert elsewhere.asked == []


async def test_index_that_is_followed_by_another_manifest_is_refused(node: Node, bad: Hostile, start: Start) -> None:
    bad.image = index_of([("amd64", IMAGE)])
    bad.answers[f"{MANIFESTS}{IMAGE.digest}"] = replying(IMAGE.manifest + b" ", Content_Type=OCI_MANIFEST)
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "DigestMismatch", IMAGE.digest)


async def test_index_of_indexes_is_not_followed(node: Node, bad: Hostile, start: Start) -> None:
    inner = index_of([("amd64", IMAGE)])
    entry = described(inner.manifest, OCI_INDEX, platform={"os": "linux", "architecture": "amd64"})
    document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    bad.answers[MANIFESTS] = replying(document, Content_Type=OCI_INDEX)
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "WrongPlatform")


async def test_manifest_that_is_not_the_digest_asked_for_is_refused(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[MANIFESTS] = replying(IMAGE.manifest + b"\n", Content_Type=OCI_MANIFEST, Docker_Content_Digest=IMAGE.digest)
    await start(retry_attempts=0, retry_steady=1000)
    await node.apply(f"docker://{bad.address}/bad@{IMAGE.digest}")
    await node.failed("DigestMismatch")
    assert node.current() is None


async def test_manifest_of_a_tag_that_is_not_what_the_registry_announces_is_refused(node: Node, bad: Hostile, start: Start) -> None:
    bad.answers[MANIFESTS] = replying(IMAGE.manifest + b"\n", Content_Type=OCI_MANIFEST, Docker_Content_Digest=IMAGE.digest)
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "DigestMismatch", IMAGE.digest)


@pytest.mark.parametrize("path", [MANIFESTS, BLOBS])
@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "DestinationRefused"),
        ("https://169.254.169.254/latest/meta-data/", "DestinationRefused"),
        ("https://[::ffff:169.254.169.254]/", "DestinationRefused"),
        ("https://[64:ff9b::a9fe:a9fe]/", "DestinationRefused"),
        ("https://[fd00:ec2::254]/", "DestinationRefused"),
        ("https://2852039166/", "DestinationRefused"),  # 169.254.169.254 as one number: the resolver reads it
        ("https://10.0.0.1/", "DestinationRefused"),
        ("https://localhost/", "DestinationRefused"),
        ("http://example.org/", "DestinationRefused"),
        ("https://user:password@127.0.0.1/", "DestinationRefused"),
        ("ftp://127.0.0.1/", "DestinationRefused"),
        ("file:///etc/passwd", "DestinationRefused"),
        ("https://:99999999/", "BadAnswer"),
        ("/v2/bad/manifests/v1", "BadAnswer"),  # for ever
    ],
)
async def test_redirect_to_where_nobody_goes_is_refused(
    node: Node, bad: Hostile, start: Start, path: str, location: str, reason: str
) -> None:
    if path == BLOBS and location.startswith("/"):
        location = f"{BLOBS}again"
    bad.answers[path] = redirecting(location)
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, reason)


async def test_redirect_is_followed_to_the_same_host_and_takes_no_login_along(
    node: Node, bad: Hostile, start: Start, tmp_path: Path
) -> None:
    packed = base64.b64encode(b"bob:secret").decode()
    async with hostile_registry(IMAGE) as storage:

        async def wanting_a_login(writer: Any, asked: Any) -> None:
            if asked.headers.get("authorization") != f"Basic {packed}":
                await replying(b"", "401 Unauthorized", WWW_Authenticate='Basic realm="x"')(writer, asked)
            elif asked.path.startswith(BLOBS):
                await redirecting(f"http://{storage.address}{asked.path}")(writer, asked)
            else:
                await bad.faithfully(writer, asked)

        bad.answers["/"] = wanting_a_login
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {bad.address: {"auth": packed}}}))
        await start(registry_config=config)
        await node.published(await node.apply(bad.reference))
        assert {asked.path for asked in storage.asked} == {f"{BLOBS}{digest}" for digest in IMAGE.blobs}
        assert not any("authorization" in asked.headers for asked in storage.asked)


def bearer(realm: str) -> Answer:
    return replying(b"", "401 Unauthorized", WWW_Authenticate=f'Bearer realm="{realm}",service="s",scope="repository:bad:pull"')


@pytest.mark.parametrize(
    "realm", ["http://169.254.169.254/token", "https://10.0.0.1/token", "https://localhost/token", "http://example.org/token"]
)
async def test_realm_at_an_internal_address_is_refused(node: Node, bad: Hostile, start: Start, realm: str) -> None:
    bad.answers["/"] = bearer(realm)
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "DestinationRefused")


async def test_login_is_not_sent_to_a_realm_elsewhere(node: Node, bad: Hostile, start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {bad.address: {"username": "bob", "password": "secret"}}}))
    bad.answers["/"] = bearer("https://elsewhere.example.org/token")
    await start(registry_config=config, retry_attempts=0, retry_steady=1000)
    await refused(node, bad, "DestinationRefused", "wants its login sent to 'elsewhere.example.org'", "--trusted-hosts")


@pytest.mark.parametrize("login", [False, True])
async def test_token_of_the_registrys_own_host_is_used(node: Node, bad: Hostile, start: Start, tmp_path: Path, login: bool) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {bad.address: {"username": "bob", "password": "secret"}} if login else {}}))

    async def wanting_a_token(writer: Any, asked: Any) -> None:
        granted = asked.headers.get("authorization") == "Bearer t0ken"
        await (bad.faithfully if granted else bearer(f"http://{bad.address}/token"))(writer, asked)

    bad.answers["/v2/"] = wanting_a_token
    bad.answers["/token"] = replying(b'{"token": "t0ken"}')
    await start(registry_config=config)
    await node.published(await node.apply(bad.reference))
    asked = next(asked for asked in bad.asked if asked.path.startswith("/token"))
    assert asked.headers.get("authorization") == (f"Basic {base64.b64encode(b'bob:secret').decode()}" if login else None)


@pytest.mark.parametrize(
    ("challenge", "reason"),
    [
        ("Bearer", "BadAnswer"),
        ('Bearer realm=""', "BadAnswer"),
        ('Bearer realm="x y"', "BadAnswer"),
        ('Digest realm="x"', "BadAnswer"),
        ('Basic realm="x"', "Unauthorized"),
        ("", "Unauthorized"),
    ],
)
async def test_strange_challenge_is_named(node: Node, bad: Hostile, start: Start, challenge: str, reason: str) -> None:
    bad.answers["/"] = replying(b"", "401 Unauthorized", **({"WWW_Authenticate": challenge} if challenge else {}))
    await start(retry_attempts=0, retry_steady=1000)
    await refused(node, bad, reason)


@pytest.mark.parametrize("token", [b"[]", b"{}", b"no json", b'{"token": ["x"]}', b'{"token": "a\\r\\nX-Evil: 1"}', b" " * (2 << 20)])
async def test_strange_token_is_named(node: Node, bad: Hostile, start: Start, token: bytes) -> None:
    bad.answers["/v2/"] = bearer(f"http://{bad.address}/token")
    bad.answers["/token"] = replying(token)
    await start(retry_attempts=0, retry_steady=1000)
    await node.apply(bad.reference)
    found = await node.until(lambda found: any(condition.status == "False" for condition in found.status.conditions))
    assert found.status.conditions[0].reason in {"BadAnswer", "Unauthorized", "RegistryUnavailable"}
    assert not any("x-evil" in asked.headers for asked in bad.asked)
