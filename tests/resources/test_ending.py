"""What a store of a cluster leaves behind when it is closed: nothing, however slow the API server is in saying goodbye."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from gc import collect
from pathlib import Path

import pytest
import yaml

from faas_resources import Image
from faas_resources.store import EventType
from faas_resources.store.kubernetes import KubernetesStore

_EMPTY = json.dumps({"kind": "ImageList", "metadata": {"resourceVersion": "5"}, "items": []}).encode()
_HELLO = {"metadata": {"namespace": "default", "name": "hello", "uid": "1", "resourceVersion": "6"}, "spec": {"image": "r.example/hello"}}
_ADDED = json.dumps({"type": "ADDED", "object": {"apiVersion": Image.API_VERSION, "kind": "Image", **_HELLO}}).encode() + b"\n"


class Deaf:
    """Answers a list and tells one event to a watch; from then on it reads nothing more, not even that the client goes."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(accepted,)))
                self._threads[-1].start()

    def _serve(self, accepted: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(accepted, server_side=True) as connection:
            while request := connection.recv(65536):
                if b"watch=1" in request:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(_ADDED), _ADDED))
                    self._over.wait()
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_EMPTY), _EMPTY))


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[tuple[Deaf, Path]]:
    """The server, and a kubeconfig for it."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = Deaf(certificate, key)
    cluster = {"server": f"https://127.0.0.1:{server.port}", "certificate-authority": str(certificate)}
    config = {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": "any"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    yield server, tmp_path / "kubeconfig"
    server.close()


def test_watch_that_is_ended_leaves_no_connection(deaf: tuple[Deaf, Path]) -> None:
    _, kubeconfig = deaf

    async def watch() -> None:
        async with KubernetesStore(kubeconfig=str(kubeconfig)) as store:
            events = store.watch(Image)
            assert (await anext(events)).type is EventType.SYNCED
            assert (await anext(events)).type is EventType.ADDED
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(watch())
        collect()
    assert [str(each.message) for each in caught if each.category is ResourceWarning] == []
