"""From an image and a specification to the two files of a bundle.

`Deployment` is what somebody asked for, in plain units. `FunctionSpec` is function.json: how the function is called (docs/protocol.md,
section 1). `runtime_config` writes config.json: what runs, as an OCI runtime configuration that the monitor reads and any OCI runtime can
run.

How image and specification combine, as in Kubernetes and Docker:

| | |
|---|---|
| `command` given | replaces the image's entrypoint, and its default arguments are dropped |
| `args` given | replaces the image's default arguments |
| environment | the image's, then the specification's; then `PORT` always, and `PATH` and `HOME` where they are missing |
| directory | the image's, else `/` |
| user | the image's: `user`, `uid`, `user:group`, `uid:gid` and mixtures, names looked up in the image; else 0:0 |
| port | the specification's, else the image's `PORT`, else its only exposed TCP port, else 8080 |

There is no `$(NAME)` expansion.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bundles.digests import Digest
from bundles.errors import ConfigError
from bundles.manifests import ImageConfig
from bundles.users import User, find_user

DEFAULT_PORT = 8080
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MAX_STRING = 128 << 10  # bytes of one argument or variable with its end: MAX_ARG_STRLEN of Linux
MAX_STRINGS = 1 << 20  # bytes of all of them together

Contract = Literal["http", "stdin", "kontain"]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Words = Annotated[tuple[str, ...], Field(strict=False)]  # a list will do
Runtime = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class NetworkRule(_Frozen):
    """What a function may connect to: `host`, a name or `*.` and a name, or `cidr`, an address or a network; one of them is None."""

    host: str | None = None
    cidr: str | None = None
    ports: Annotated[tuple[tuple[Port, Port], ...], Field(strict=False)] = ()  # first and last; none: every port
    protocol: Literal["tcp", "udp", "any"] = "tcp"


class _Calling(_Frozen):
    """What both models say in the same words."""

    namespace: Label
    name: Label
    reference: str = Field(max_length=8192)
    contract: Contract
    timeout_ms: int = Field(ge=1)
    memory_bytes: int = Field(ge=1)
    concurrency: int = Field(ge=1)
    pool: int = Field(ge=0)
    check: bool = True
    network: Annotated[tuple[NetworkRule, ...], Field(strict=False)] = ()
    runtime: Runtime | None = None  # an OCI runtime in the monitor's place


class Deployment(_Calling):
    """What an `Image` resource asks for, with its defaults filled in and its quantities in plain units."""

    contract: Contract = "http"
    timeout_ms: int = Field(60_000, ge=1)
    memory_bytes: int = Field(256 << 20, ge=1)
    concurrency: int = Field(64, ge=1)
    pool: int = Field(4, ge=0)
    port: Port | None = None
    command: Words = ()
    args: Words = ()
    env: dict[str, str] = Field(default_factory=dict)


class FunctionSpec(_Calling):
    """function.json, version 1: every field present."""

    version: Literal[1] = 1
    revision: Revision
    image: Digest
    port: Port


def function_spec(deployment: Deployment, image: Digest, revision: str, config: ImageConfig) -> FunctionSpec:
    """function.json of a deployment of this image."""
    shared = deployment.model_dump(include=set(_Calling.model_fields))
    return FunctionSpec(**shared, revision=revision, image=image, port=_port(config, deployment))


def runtime_config(config: ImageConfig, deployment: Deployment, rootfs: Path) -> dict[str, Any]:
    """config.json for a process of this image in `rootfs`, or ConfigError."""
    user = find_user(rootfs, config.config.user)
    arguments = _arguments(config, deployment)
    environment = _environment(config, deployment, user)
    _check_size(arguments, environment)
    empty: list[str] = []
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": user.uid, "gid": user.gid, **({"additionalGids": list(user.groups)} if user.groups else {})},
            "args": arguments,
            "env": environment,
            "cwd": _directory(config),
            "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), empty),
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": deployment.name,
        "mounts": [
            _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
            _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=64m"),
            _mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777", "size=64m"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": deployment.memory_bytes}},
            "maskedPaths": [
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/sched_debug",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _arguments(config: ImageConfig, deployment: Deployment) -> list[str]:
    entrypoint = deployment.command or config.config.entrypoint
    arguments = deployment.args or (() if deployment.command else config.config.cmd)
    found = [*entrypoint, *arguments]
    if not found:
        raise ConfigError("nothing to run: the image has neither Entrypoint nor Cmd; give spec.command")
    if not found[0]:
        raise ConfigError("nothing to run: the first word of the command is empty; give spec.command")
    for number, argument in enumerate(found):
        if "\0" in argument:
            raise ConfigError(f"the command's word {number} has a NUL character, which no argument can hold")
    return found


def _environment(config: ImageConfig, deployment: Deployment, user: User) -> list[str]:
    found: dict[str, str] = {}
    for item in config.config.env:
        name, equals, value = item.partition("=")
        if not name or not equals or "\0" in item:
            raise ConfigError(f"the image's Env has {item[:100]!r}; it must be NAME=value without NUL characters")
        found[name] = value
    for name, value in deployment.env.items():
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(f"spec.env: {name[:100]!r} is not a name: letters, digits and _ - . , not beginning with a digit")
        if "\0" in value:
            raise ConfigError(f"spec.env: the value of {name} has a NUL character, which no variable can hold")
        found[name] = value
    port = str(_port(config, deployment))
    if deployment.env.get("PORT", port) != port:
        raise ConfigError(
            f"spec.env: PORT is {deployment.env['PORT'][:20]!r} and the function's port is {port}; set spec.port and leave PORT out"
        )
    found["PORT"] = port
    found.setdefault("PATH", DEFAULT_PATH)
    found.setdefault("HOME", user.home)
    return [f"{name}={value}" for name, value in found.items()]


def _check_size(arguments: list[str], environment: list[str]) -> None:
    """Refuses here what execve would refuse on every call."""
    total = 0
    for kind, strings in (("the command's word", arguments), ("the variable", environment)):
        for text in strings:
            try:
                size = len(text.encode()) + 1
            except UnicodeEncodeError as error:
                raise ConfigError(f"{kind} {text[:40]!r} has half of a surrogate pair") from error
            if size > MAX_STRING:
                raise ConfigError(f"{kind} {text[:40]!r}… has {size} bytes; Linux takes at most {MAX_STRING}")
            total += size
    if total > MAX_STRINGS:
        raise ConfigError(f"command and environment have {total} bytes together; at most {MAX_STRINGS} are passed")


def _directory(config: ImageConfig) -> str:
    directory = config.config.working_dir
    if "\0" in directory or len(directory) > 4095:
        raise ConfigError(f"the image's WorkingDir {directory[:100]!r} is not a path")
    return posixpath.join("/", directory)


def _port(config: ImageConfig, deployment: Deployment) -> int:
    if deployment.port is not None:
        return deployment.port
    for item in config.config.env:
        if item.startswith("PORT=") and (port := _number(item.removeprefix("PORT="))):
            return port
    exposed = [port for text in config.config.exposed_ports if (port := _number(text.removesuffix("/tcp")))]
    return exposed[0] if len(exposed) == 1 else DEFAULT_PORT


def _number(text: str) -> int | None:
    """A port number, None where `text` is not one."""
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536 else None
