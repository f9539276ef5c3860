"""Settings of the downloader: each with its unit, its default and the reason for it.

A setting comes from the command line (`--stall-timeout 10`), else from the environment (`MAYFLY_STALL_TIMEOUT=10`), else it is the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from faas_resources.store.choosing import StoreChoice


def _hosts(value: Any) -> Any:
    """`a.example, b.example:5000` as a set."""
    return frozenset(part.strip().lower() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Hosts = Annotated[frozenset[str], NoDecode, BeforeValidator(_hosts)]


class Settings(StoreChoice, BaseSettings):
    """What a downloader can be told."""

    model_config = SettingsConfigDict(
        env_prefix="MAYFLY_",
        frozen=True,
        extra="ignore",
        cli_prog_name="python -m faas_downloader",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    data: Annotated[Path, AfterValidator(Path.absolute), Field(description="Data directory: resources, status and bundles live in it.")]

    # Registries
    registry_config: Annotated[
        Path | None, Field(description="Docker config file with logins (auths). Default none: nobody's login is used unasked.")
    ] = None
    insecure_registries: Annotated[
        Hosts, Field(description="Hosts (host or host:port, separated by commas) spoken to by plain HTTP; those on loopback always are.")
    ] = frozenset()
    trusted_hosts: Annotated[
        Hosts,
        Field(
            description="Hosts that registries may send us to though they have an internal address, and that may see a registry's login."
        ),
    ] = frozenset()
    registry_ca: Annotated[Path | None, Field(description="PEM file of the authorities for TLS. Default: the public ones (certifi).")] = (
        None
    )

    # Time
    connect_timeout: Annotated[
        PositiveFloat, Field(description="Seconds to make a connection. Ten: a handshake across the world takes one.")
    ] = 10
    stall_timeout: Annotated[
        PositiveFloat, Field(description="Seconds of waiting for a registry in which at least minimum-speed × this many bytes must come.")
    ] = 30
    minimum_speed: Annotated[
        PositiveInt, Field(description="Bytes per second; a registry that is slower is given up. 1024: a modem had more.")
    ] = 1024
    pull_timeout: Annotated[PositiveFloat, Field(description="Seconds for all of one image. 1800: 5 GB at 3 MB/s.")] = 1800
    poll_interval: Annotated[
        PositiveFloat,
        Field(
            description="Seconds between looks at whether a tag has moved. 60: one small request. (A digest never moves; nobody is asked.)"
        ),
    ] = 60
    local_poll_interval: Annotated[
        PositiveFloat, Field(description="The same for local layouts (oci:DIR), where a look is one small file.")
    ] = 2

    # Trying again
    retry_attempts: Annotated[int, Field(ge=0, description="Quick tries after a failure that may pass. Five: they span half a minute.")] = 5
    retry_first: Annotated[PositiveFloat, Field(description="Seconds before the first quick try; each next one waits twice as long.")] = 1
    retry_steady: Annotated[
        PositiveFloat, Field(description="Seconds between tries after that, for as long as the resource wants it. As the poll interval.")
    ] = 60
    retry_after_max: Annotated[PositiveFloat, Field(description="Seconds that a registry may ask us to stay away (Retry-After).")] = 600

    # Size
    parallel: Annotated[
        int, Field(ge=1, le=64, description="Images in work at once. Four: a slow registry does not hold up the others.")
    ] = 4
    image_bytes: Annotated[
        PositiveInt, Field(description="Bytes of all layers of one image, compressed. 8 GiB: more than any sane function.")
    ] = 8 << 30
    unpack_bytes: Annotated[PositiveInt, Field(description="Bytes that one image may unpack to.")] = 8 << 30
    unpack_files: Annotated[PositiveInt, Field(description="Files that one image may unpack to. A large distribution has 300,000.")] = (
        500_000
    )
    unpack_timeout: Annotated[PositiveFloat, Field(description="Seconds that unpacking one image may take.")] = 600

    # Housekeeping
    collect_interval: Annotated[
        PositiveFloat, Field(description="Seconds between collections of what no resource needs; one also follows each change.")
    ] = 60
    worker_timeout: Annotated[PositiveFloat, Field(description="Seconds until the worker of a resource with nothing to do is let go.")] = 10
    stop_timeout: Annotated[
        PositiveFloat, Field(description="Seconds for work to end at SIGTERM. Then it is cut off, which loses nothing but the work.")
    ] = 5
    owner_timeout: Annotated[
        PositiveFloat, Field(description="Seconds to wait for another downloader on the same data directory to go before giving up.")
    ] = 5
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$", description="Least level that is logged.")] = "info"
    log_format: Annotated[
        str, Field(pattern="^(auto|json|console)$", description="Lines of JSON, or for people; auto: for people on a terminal.")
    ] = "auto"
