"""A real Kubernetes API server on loopback: etcd, kube-apiserver and kubectl, without nodes or controllers.

Its parts are built once by scripts/kubernetes_parts.py. One server serves a whole test session (under pytest-xdist one for each worker,
which so depend on nobody else's life); a test works in a namespace of its own. What only controllers do (default service accounts,
garbage collection, the end of a namespace) does not happen here.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from scripts.kubernetes_parts import parts
from tests.support.registry import free_port

_START_SECONDS = 120
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_TRIES = 5  # somebody else may take a port that was free
_numbers = itertools.count()


class KubectlFailed(Exception):
    """kubectl ended with an error; the text is what it said."""


class Cluster:
    """An API server that runs, or was killed and can come back on the same port with the same state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._parts = parts()
        self._token = secrets.token_hex(16)
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._etcd_port = self.port = 0
        self._write_keys()

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate by which the server is known."""
        return self.directory / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Starts etcd and the API server on free ports."""
        for _ in range(_TRIES):
            self._etcd_port = free_port()
            self._etcd = self._run("etcd", self._etcd_options(free_port()))
            if self._answers(self._etcd, f"http://127.0.0.1:{self._etcd_port}/health"):
                break
            self._kill(self._etcd)
        else:
            raise RuntimeError(f"etcd does not start: {self._log('etcd')}")
        for _ in range(_TRIES):
            self.port = free_port()
            if self.start_server():
                return
        raise RuntimeError(f"kube-apiserver does not start: {self._log('kube-apiserver')}")

    def start_server(self) -> bool:
        """Starts the API server on its port; whether it got ready. Precondition: it does not run."""
        self._server = self._run("kube-apiserver", self._server_options())
        if self._answers(self._server, f"{self.url}/readyz"):
            return True
        self.kill_server()
        return False

    def kill_server(self) -> None:
        """Ends the API server at once, and leaves etcd as it is."""
        self._kill(self._server)
        self._server = None

    def stop(self) -> None:
        """Ends both, the server first."""
        self.kill_server()
        self._kill(self._etcd)
        self._etcd = None

    # Using it

    def kubeconfig(self, token: str | None = None, *, server: str | None = None, namespace: str = "default") -> Path:
        """Writes a kubeconfig; by default the administrator's. A `server` named here (a proxy of the tests) speaks plain HTTP."""
        cluster: dict[str, str] = {"server": server or self.url}
        if server is None:
            cluster["certificate-authority"] = str(self.authority)
        path = self.directory / f"kubeconfig-{next(_numbers)}"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token or self._token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def kubectl(self, *arguments: str, kubeconfig: Path | None = None, given: str | None = None, patience: float = 60) -> str:
        """What kubectl prints; raises KubectlFailed with what it says."""
        command: list[str | Path] = [self._parts / "kubectl", "--kubeconfig", kubeconfig or self._admin(), *arguments]
        finished = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", check=False, timeout=patience)
        if finished.returncode:
            raise KubectlFailed(finished.stderr.strip())
        return finished.stdout

    def objects(self, *arguments: str) -> Any:
        """What kubectl prints as JSON."""
        return json.loads(self.kubectl(*arguments, "-o", "json"))

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Applies objects, by the server."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(documents))

    def namespace(self) -> str:
        """A new namespace."""
        name = f"t-{next(_numbers)}-{secrets.token_hex(3)}"
        self.kubectl("create", "namespace", name)
        return name

    def empty(self) -> None:
        """Deletes every Image: a node serves those of all namespaces, also what another test left, whose registry is gone."""
        self.kubectl("delete", "images", "--all", "--all-namespaces")

    def requests(self) -> Counter[str]:
        """How many requests the API server has answered, by what they were about."""
        counted: Counter[str] = Counter()
        for line in self.kubectl("get", "--raw", "/metrics").splitlines():
            if line.startswith("apiserver_request_total{") and (matched := re.search(r'resource="([^"]*)"', line)) is not None:
                counted[matched[1]] += int(float(line.rpartition(" ")[2]))
        return counted

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account, which is made if it is not there."""
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}})
        return self.kubectl("create", "token", account, "--namespace", namespace).strip()

    def log(self) -> str:
        """The last that the API server wrote."""
        return self._log("kube-apiserver")

    # Its processes

    def _admin(self) -> Path:
        path = self.directory / "admin"
        if not path.exists() or self.url not in path.read_text():
            self.kubeconfig().replace(path)
        return path

    def _write_keys(self) -> None:
        self._signing_key = self.directory / "service-accounts.key"
        command = ["openssl", "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", str(self._signing_key)]
        subprocess.run(command, check=True, capture_output=True)
        (self.directory / "tokens.csv").write_text(f"{self._token},admin,admin,system:masters\n")

    def _etcd_options(self, peer_port: int) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer_port}"
        return [
            f"--data-dir={self.directory / f'etcd-{self._etcd_port}'}", "--name=one", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}",
        ]  # fmt: skip

    def _server_options(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}", f"--cert-dir={self.authority.parent}", f"--token-auth-file={self.directory / 'tokens.csv'}",
            f"--service-account-key-file={self._signing_key}", f"--service-account-signing-key-file={self._signing_key}",
            f"--service-account-issuer={_ISSUER}", "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=none", "--allow-privileged=true",
        ]  # fmt: skip

    def _run(self, name: str, options: list[str]) -> subprocess.Popen[bytes]:
        # Whatever becomes of the tests, their servers end with them.
        command = ["setpriv", "--pdeathsig", "KILL", str(self._parts / name), *options]
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory)

    def _kill(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is not None:
            process.kill()
            process.wait()

    def _log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]

    def _answers(self, process: subprocess.Popen[bytes], url: str) -> bool:
        """Waits until a URL answers 200; false if the process ends before."""
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5, context=unchecked) as answer:
                    if answer.status == 200:
                        return process.poll() is None
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        return False


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """A cluster, until the block ends."""
    cluster = Cluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
