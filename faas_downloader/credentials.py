"""Names and passwords for registries, from a docker config file: what `docker login` and `skopeo login` write.

Read anew for each pull, so that a new login needs no restart. Only `auths` is used: helpers (`credsStore`, `credHelpers`) are programs, and
none is run here. Whose entry it is is decided by the whole host and port, and nothing is ever sent to another registry.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundles.references import DEFAULT_REGISTRY
from faas_downloader.errors import BadConfig

_MAX = 1 << 20


@dataclass(frozen=True)
class Login:
    """One entry."""

    user: str
    password: str = field(repr=False)


def login_for(registry: str, config: Path | None) -> Login | None:
    """The login for a registry (`host` or `host:port`), None where the file has none for it. Raises BadConfig."""
    if config is None:
        return None
    auths = _read(config).get("auths", {})
    if not isinstance(auths, dict):
        raise BadConfig(f"{config}: auths: must be an object of registries")
    for key, entry in auths.items():
        if _registry_of(key) == registry.lower() and isinstance(entry, dict) and entry:
            return _login(entry, f"{config}: auths[{key!r}]")
    return None


def _read(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            data = file.read(_MAX + 1)
    except OSError as error:
        raise BadConfig(f"the docker config file {config} cannot be read: {error.strerror}; correct --registry-config") from error
    try:
        document = json.loads(data) if len(data) <= _MAX else None
    except ValueError as error:
        raise BadConfig(f"the docker config file {config} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadConfig(f"the docker config file {config} must be a JSON object of at most {_MAX} bytes")
    return document


def _registry_of(key: str) -> str:
    """The host that a key of `auths` is for: keys may carry a scheme and a path, and the default registry has a historic one."""
    host = key.lower().partition("://")[2] or key.lower()
    host = host.partition("/")[0]
    return DEFAULT_REGISTRY if host == f"index.{DEFAULT_REGISTRY}" else host


def _login(entry: dict[str, Any], where: str) -> Login:
    user, password, packed = entry.get("username"), entry.get("password"), entry.get("auth")
    if packed:
        try:
            user, colon, password = base64.b64decode(str(packed), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise BadConfig(f"{where}.auth: must be base64 of user:password; log in again") from error
        if not colon:
            raise BadConfig(f"{where}.auth: has no ':' between user and password; log in again")
    if not isinstance(user, str) or not isinstance(password, str) or not user:
        raise BadConfig(f"{where}: must have auth, or username and password; log in again (credential helpers are not run)")
    return Login(user, password)
