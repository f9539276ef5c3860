"""The demonstration of `make demo-kubernetes`: a real API server, the real kubectl, k8s/, a function, an edit under load, its end.

This machine has no kubelet, so the two planes of each node are started here as the DaemonSet would start them: with the settings of k8s/
and the tokens of its two service accounts, which may do nothing but what its roles say. Everything a person does is done with kubectl. Ends
with 0 when all of it came out as it should; leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from mayfly.doctor import find_monitor
from scripts.kubernetes_parts import PartMissing, parts
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import Load, Target, call
from tests.support.registry import Registry, free_port, running_registry

ROOT = Path(__file__).resolve().parent.parent
OVERLAY = ROOT / "k8s" / "overlays" / "small"
NODES = ("node-1", "node-2")
PATH = "/default/hello/"
_PATIENCE = 120.0


class Failed(Exception):
    """The demonstration did not show what it is to show."""


class Plane:
    """One container of a node's pod, as a process."""

    def __init__(self, module: str, place: Path, environment: dict[str, str]) -> None:
        self.log = place / f"{module}.log"
        with self.log.open("wb") as log:
            command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", module]
            self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> int:
    began = time.monotonic()
    try:
        step("The parts of Kubernetes (built once, minutes)")
        say(str(parts()))
        with tempfile.TemporaryDirectory(prefix="mf-") as name, ExitStack() as stack:
            place = Path(name)
            try:
                show(place, stack)
            except (Failed, AssertionError) as error:
                print(f"\nThe demonstration failed: {error}", file=sys.stderr)
                for log in sorted(place.glob("*/*.log")):
                    print(f"\n{log}:\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
                return 1
    except PartMissing as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - began:.1f} s. Your own cluster in five minutes: docs/kubernetes.md.")
    return 0


def show(place: Path, stack: ExitStack) -> None:
    step("An API server, and k8s/ in it")
    cluster = stack.enter_context(running_cluster(place / "cluster"))
    kubectl = Kubectl(cluster)
    kubectl("version")
    kubectl("apply", "-k", str(OVERLAY.relative_to(ROOT)))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    step(f"{len(NODES)} nodes, each with both planes, by the tokens of their service accounts")
    urls = [stack.enter_context(node(cluster, name, place / name)) for name in NODES]
    for name, url in zip(NODES, urls, strict=True):
        say(f"{name}  {url}")

    step("Two images of the Python example in a registry")
    registry = stack.enter_context(running_registry(place / "registry"))
    references = [pushed(registry, place, tag) for tag in ("v1", "v2")]
    for reference in references:
        say(reference)

    step("kubectl apply of an Image")
    manifest = yaml.safe_load((ROOT / "examples/hello/image.yaml").read_text())
    manifest["spec"]["image"] = references[0]
    path = place / "image.yaml"
    path.write_text(yaml.safe_dump(manifest))
    kubectl("apply", "-f", str(path))
    kubectl("wait", "--for=condition=Ready", "--timeout=90s", "image/hello")
    await_ready(cluster, 1)
    kubectl("get", "images")

    step("A call through each node")
    for url in urls:
        answer = call(url, PATH, b"Ada")
        require(answer.ok, f"a call was not answered: {answer}")
        say(f"{answer.body.decode().strip()}  instance {answer.instance}  revision {answer.revision}  {answer.seconds * 1000:.1f} ms")

    step("kubectl edit of the tag, while both nodes are called without pause")
    with ExitStack() as loads:
        running = [loads.enter_context(Load(Target(url, PATH, body=b"Ada"), at_a_time=2)) for url in urls]
        wait_for(lambda: all(len(load.outcomes) > 20 for load in running), "calls")
        kubectl("edit", "image", "hello", KUBE_EDITOR=f"sed -i s#{references[0]}#{references[1]}#")
        await_ready(cluster, 2)
        moved = time.monotonic()
        wait_for(lambda: all(sum(each.began > moved for each in list(load.outcomes)) > 20 for load in running), "calls after it")
    kubectl("get", "images")
    for name, load in zip(NODES, running, strict=True):
        bodies = [b"v2" in each.body for each in load.outcomes]
        say(f"{name}  {len(load.outcomes)} calls, {len(load.failures)} failed; {bodies.count(False)} by v1, {bodies.count(True)} by v2")
        require(not load.failures, f"calls failed: {load.failures[:3]}")
        require(all(b"v2" in each.body for each in load.outcomes if each.began > moved), "a call after the edit was answered by v1")

    step("kubectl delete")
    kubectl("delete", "-f", str(path))
    for name, url in zip(NODES, urls, strict=True):
        wait_for(lambda url=url: call(url, PATH).status == 404, "404")  # type: ignore[misc]
        say(f"{name}  {call(url, PATH).status}")


def await_ready(cluster: Cluster, generation: int) -> None:
    """Until every node serves that generation."""

    def ready() -> bool:
        status = cluster.objects("get", "image", "hello").get("status", {})
        entries = {entry["name"]: {each["type"]: each for each in entry["conditions"]} for entry in status.get("nodes", [])}
        serving = [name for name, found in entries.items() if found.get("Ready", {}).get("reason") == "Serving"]
        current = [entry["name"] for entry in status.get("nodes", []) if entry.get("observedGeneration") == generation]
        about = all(
            str(entry.get("revision")) in entries[entry["name"]]["Ready"]["message"] for entry in status.get("nodes", []) if serving
        )
        return sorted(serving) == sorted(current) == sorted(NODES) and about

    wait_for(ready, f"generation {generation} on every node")


@contextmanager
def node(cluster: Cluster, name: str, place: Path) -> Iterator[str]:
    """A node, as the pods of k8s/ are it; the URL of its server."""
    place.mkdir()
    monitor = find_monitor()
    require(monitor is not None, "the monitor is not built: run `make build`")
    port = free_port()
    rendered = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(OVERLAY))))
    pod = next(each for each in rendered if each["kind"] == "DaemonSet" and each["metadata"]["name"] == "mayfly")["spec"]["template"][
        "spec"
    ]
    own = {"MAYFLY_DATA": str(place / "d"), "MAYFLY_NODE": name, "MAYFLY_SYSTEM_NAMESPACE": "mayfly-system", "MAYFLY_MONITOR": str(monitor)}
    own |= {"MAYFLY_LISTEN": f"127.0.0.1:{port}", "MAYFLY_POLL_INTERVAL": "1"}
    planes = []
    try:
        for container in pod["containers"]:
            settings = {each["name"]: each["value"] for each in container["env"] if "value" in each}
            token = cluster.kubectl("create", "token", f"mayfly-{container['name']}", "-n", "mayfly-system").strip()
            settings |= {**own, "MAYFLY_KUBECONFIG": str(cluster.kubeconfig(token))}
            planes.append(Plane(container["command"][-1], place, settings))
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), f"{name} to be ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        for plane in planes:
            plane.stop()


def pushed(registry: Registry, place: Path, tag: str) -> str:
    """The Python example, which says its tag, in the registry; its reference."""
    folder = place / tag
    shutil.copytree(ROOT / "examples" / "hello", folder, ignore=shutil.ignore_patterns("*.oci", "__pycache__"))
    program = folder / "main.py"
    program.write_text(program.read_text().replace('"path": self.path', f'"path": self.path, "version": "{tag}"'))
    layout = place / f"{tag}.oci"
    run([str(Path(sys.executable).parent / "mayfly"), "image", "build", str(folder), "-o", str(layout)])
    run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{registry.address}/hello:{tag}"])
    return f"{registry.address}/hello:{tag}"


class Kubectl:
    """The real kubectl, with what it is told and what it says shown."""

    def __init__(self, cluster: Cluster) -> None:
        self._parts = parts()
        self._config = cluster.kubeconfig()

    def __call__(self, *arguments: str, **environment: str) -> None:
        say(f"$ kubectl {' '.join(arguments)}")
        settings = {**os.environ, "KUBECONFIG": str(self._config), **environment}
        say(run([str(self._parts / "kubectl"), *arguments], settings).rstrip() + "\n")


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints; Failed with what it says."""
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if finished.returncode:
        raise Failed(f"`{' '.join(command)}` ended with {finished.returncode}:\n{finished.stderr.strip()}")
    return finished.stdout


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(json.load(answer)["ready"])
    except (OSError, ValueError):
        return False


def wait_for(condition: Callable[[], Any], what: str) -> None:
    ends = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > ends:
            raise Failed(f"{what}: not within {_PATIENCE:g} s")
        time.sleep(0.05)


def require(what: bool, otherwise: str) -> None:
    if not what:
        raise Failed(otherwise)


def step(text: str) -> None:
    print(f"\n── {text}", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
