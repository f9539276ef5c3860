"""What an operator may set, by environment variables named `MAYFLY_` and the field's name; each with its unit, default and reason.

Only what differs between machines or tastes is a setting. What follows from the protocol is a constant in the module that keeps it.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from faas_resources.store.choosing import StoreChoice
from faas_server.errors import SettingsError
from faas_server.monitor import SOCKET_PATH_BYTES

MIB = 1 << 20
RUNTIME = re.compile(r"[a-z][a-z0-9-]{0,30}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(StoreChoice, BaseSettings):
    """All settings. Made by `Settings.load`, which turns problems into a SettingsError that names the variable."""

    model_config = SettingsConfigDict(env_prefix="MAYFLY_", extra="ignore", frozen=True)

    # Where
    data: Path = Field(description="Directory that the planes share: bundles, resources, sockets, receipts.")
    listen: str = Field("127.0.0.1:8080", description="HOST:PORT; loopback, because nothing here asks who calls. Port 0: a free one.")
    monitor: Path = Field(Path("mayfly-monitor"), description="The monitor's program; a name without a slash is looked up in PATH.")
    runtimes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="OCI runtimes that functions may ask for (spec.runtime), separated by commas: NAME, or NAME=PATH of its program; none, "
        "because theirs is another isolation than a virtual machine for each call.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Networks, separated by commas, whose X-Forwarded-* are believed; none, because anybody can write them.",
    )
    cors_origins: str = Field(
        "*", description="Origins that may call functions from a browser: * or one origin; empty: preflights are calls like any other."
    )

    # How held
    require_layers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Layers of the jail (names of `mayfly-monitor doctor`), separated by commas, without which nothing runs here: the node "
        "is not ready then, and says which is missing. None: what the machine has is used, and receipts say what that was.",
    )
    cpu_seconds: Count | None = Field(
        None,
        description="Processor time of one instance, boot included where there is no snapshot; then it is killed. None: only time counts.",
    )

    # How much at a time
    calls: Count = Field(256, description="Calls that run at a time on this node: each is a process with a virtual machine.")
    calls_waiting: Count = Field(1024, description="Calls that wait for a place on the node; more are answered 503.")
    function_calls_waiting: Count = Field(256, description="Calls that wait for one function; more are answered 429.")
    boots: Count = Field(
        4, description="Functions that boot at a time, restart at a time, and half as many that try again: more only make all late."
    )

    # How large
    request_bytes: Count = Field(
        128 * MIB, description="Bytes of a request's body; more are answered 413. Streamed, so this protects programs."
    )
    response_bytes: Count = Field(1024 * MIB, description="Bytes of a response's body; it is cut there.")
    output_bytes: Count = Field(
        16 * MIB, description="Bytes of the output of a stdin or kontain program: held in memory until it ends; more is a failure."
    )
    log_bytes: Count = Field(MIB, description="Bytes of log lines that one instance may write; the monitor drops the rest.")
    kept_bytes_per_function: Count = Field(4 * MIB, description="Bytes of receipts, and as many of log lines, kept of each function.")
    kept_bytes: Count = Field(256 * MIB, description="Bytes of receipts and log lines kept of all functions.")

    snapshot_days: Annotated[float, Field(ge=0)] = Field(
        7.0,
        description="Days for which a restart begins from a snapshot that was kept; then it boots, with a new hash seed. 0: none is kept.",
    )

    # How long
    sleep_after: Annotated[float, Field(ge=0)] = Field(
        600.0,
        description="Seconds without a call after which a function sleeps: no process and no memory is left of it, its snapshot on disk "
        "wakes it at the next call. A function without a kept snapshot does not sleep. 0: none does.",
    )
    ready_timeout: Seconds = Field(30.0, description="Seconds in which a program must be ready after it was started.")
    fetch_timeout: Seconds = Field(
        120.0, description="Seconds for which a node that starts takes no calls because it still fetches functions; then those wait."
    )
    idle_timeout: Seconds = Field(
        75.0, description="Seconds a client has to send a request head, from when it connected or got its last answer."
    )
    drain_timeout: Seconds = Field(30.0, description="Seconds that calls in flight get to finish when the server is told to stop.")

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("runtimes", "require_layers", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("runtimes", mode="after")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not RUNTIME.fullmatch(item.partition("=")[0]):
                raise ValueError(f"{item!r} is not NAME or NAME=PATH with a name of lower-case letters, digits and dashes")
        return value

    @field_validator("data", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.absolute()

    @model_validator(mode="after")
    def _sockets_fit(self) -> Self:
        longest = len(str(self.sockets / "m00000000.sock").encode())
        if longest > SOCKET_PATH_BYTES:
            raise ValueError(
                f"data: {self.data} is too long for the sockets in it: {longest} bytes, at most {SOCKET_PATH_BYTES}; choose a shorter path"
            )
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"listen: {self.listen!r} is not HOST:PORT, such as 127.0.0.1:8080")
        return self

    @classmethod
    def load(cls, **given: object) -> Self:
        """The settings from the environment, under what is given here. Raises SettingsError."""
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            problems = "; ".join(_problem(found["loc"], found["msg"]) for found in error.errors(include_url=False))
            raise SettingsError(f"settings: {problems}") from error

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def trusts(self, remote: str | None) -> bool:
        """Whether that peer is a proxy of ours."""
        return bool(self.trusted_proxies) and remote is not None and _is_in(remote, self.trusted_proxies)

    def runtime(self, name: str) -> Path:
        """The program of an OCI runtime. Raises SettingsError where the operator does not offer it, or it is not installed."""
        for item in self.runtimes:
            offered, _, path = item.partition("=")
            if offered == name:
                found = shutil.which(path or name)
                if found is None:
                    raise SettingsError(
                        f"spec.runtime {name}: {path or name} is not installed on this node, though MAYFLY_RUNTIMES offers it"
                    )
                return Path(found).absolute()
        offers = ", ".join(item.partition("=")[0] for item in self.runtimes) or "none"
        raise SettingsError(f"spec.runtime {name}: this node offers {offers}; its operator offers runtimes by MAYFLY_RUNTIMES")

    @property
    def bundles(self) -> Path:
        """Where the store of revisions is."""
        return self.data / "bundles"

    @property
    def sockets(self) -> Path:
        """Where the monitors' sockets are."""
        return self.data / "run"

    @property
    def snapshots(self) -> Path:
        """Where the snapshots of revisions are kept."""
        return self.data / "snapshots"

    @property
    def state(self) -> Path:
        """Where receipts and log lines are kept."""
        return self.data / "state"


@lru_cache(maxsize=1024)
def _is_in(remote: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _problem(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    name = ".".join(str(part) for part in location)
    return f"{name} (MAYFLY_{name.upper()}): {message}" if name else message
