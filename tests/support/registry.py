"""A real registry (Debian's docker-registry) on a free port of loopback."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.images import TinyImage, push


@dataclass
class Registry:
    """A registry that runs."""

    address: str  # host:port
    storage: Path
    login: tuple[str, str] | None = None

    def push(self, image: TinyImage, name: str, tag: str = "latest") -> str:
        """Pushes, and returns the reference."""
        push(image, self.address, name, tag, self.login)
        return f"docker://{self.address}/{name}:{tag}"

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob."""
        text = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / text[:2] / text / "data"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running_registry(directory: Path, login: tuple[str, str] | None = None, tls: tuple[Path, Path] | None = None) -> Iterator[Registry]:
    """Runs a registry until the block ends: with basic auth if a login is given, by TLS if a certificate and its key are."""
    directory.mkdir(parents=True, exist_ok=True)
    storage = directory / "storage"
    for _ in range(5):  # somebody else may take the port that was free
        address = f"127.0.0.1:{free_port()}"
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
            "http": {"addr": address},
        }
        if tls:
            config["http"] = {"addr": address, "tls": {"certificate": str(tls[0]), "key": str(tls[1])}}
        if login:
            passwords = directory / "htpasswd"
            subprocess.run(["htpasswd", "-Bbc", str(passwords), *login], check=True, capture_output=True)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
        path = directory / "config.yml"
        path.write_text(json.dumps(config))
        log = (directory / "log").open("wb")
        command = [shutil.which("docker-registry") or "/usr/bin/docker-registry", "serve", str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        log.close()
        try:
            if _listens(process, address):
                yield Registry(address, storage, login)
                return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"docker-registry does not start: {(directory / 'log').read_text()[-1000:]}")


def _listens(process: subprocess.Popen[bytes], address: str) -> bool:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process.poll() is None
    return False


def write_login(path: Path, registry: Registry) -> Path:
    """A docker config file with the registry's login, as `docker login` writes it."""
    assert registry.login
    packed = base64.b64encode(":".join(registry.login).encode()).decode()
    path.write_text(json.dumps({"auths": {registry.address: {"auth": packed}}}))
    return path
