"""Registries by TLS: only with a certificate that the node knows an authority for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.downloader.conftest import Node, Start
from tests.support.images import tiny_image, write_layout
from tests.support.registry import Registry, running_registry

pytestmark = pytest.mark.slow

# An address of loopback that is a name to the rules (they know 127.0.0.1 and localhost, which are spoken to by plain HTTP).
NAME = "127.1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for NAME that signs itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    made, key = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=test", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def push(registry: Registry, layout: Path) -> str:
    """Pushes with skopeo, which takes our word for the certificate; returns the reference by NAME."""
    write_layout(tiny_image({"app": b"by TLS"}), layout, "v1")
    target = f"docker://{registry.address}/tls:v1"
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:v1", target], check=True, timeout=60)
    return target.replace("127.0.0.1", NAME)


async def test_certificate_is_verified(node: Node, start: Start, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with running_registry(tmp_path / "registry", tls=certificate) as registry:
        reference = push(registry, tmp_path / "layout")
        await start()
        await node.apply(reference)
        found = await node.failed("RegistryUnavailable")
        assert "no TLS: " in (found.status.message or "")
        assert "self-signed certificate" in (found.status.message or "").replace("self signed", "self-signed")
        assert "--registry-ca" in (found.status.message or "")
        assert node.current() is None


async def test_authority_of_the_node_is_accepted(node: Node, start: Start, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with running_registry(tmp_path / "registry", tls=certificate) as registry:
        reference = push(registry, tmp_path / "layout")
        await start(registry_ca=certificate[0])
        bundle = await node.published(await node.apply(reference))
        assert (bundle.rootfs / "app").read_bytes() == b"by TLS"


async def test_registry_without_tls_is_not_spoken_to_in_plain(node: Node, registry: Registry, start: Start) -> None:
    reference = registry.push(tiny_image({"app": b"x"}), "plain").replace("127.0.0.1", NAME)
    await start()
    await node.apply(reference)
    found = await node.failed("RegistryUnavailable")
    assert "no TLS: " in (found.status.message or "")


async def test_registry_that_the_node_calls_insecure_is_spoken_to_in_plain(node: Node, registry: Registry, start: Start) -> None:
    reference = registry.push(tiny_image({"app": b"x"}), "insecure").replace("127.0.0.1", NAME)
    await start(insecure_registries=frozenset({NAME}))
    await node.published(await node.apply(reference))
