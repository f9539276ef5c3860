"""Whose login is used for which registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from faas_downloader.credentials import Login, login_for
from faas_downloader.errors import BadConfig


def packed(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    auths: dict[str, Any] = {
        "registry.example.org": packed("bob", "a:b"),
        "registry.example.org:5000": {"username": "eve", "password": "x"},
        "https://index.docker.io/v1/": packed("hub", "x"),
        "https://Other.Example.org/v2/": packed("url", "x"),
        "helper.example.org": {},
    }
    path.write_text(json.dumps({"auths": auths, "credsStore": "desktop"}))
    return path


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("registry.example.org", Login("bob", "a:b")),
        ("REGISTRY.example.org", Login("bob", "a:b")),
        ("registry.example.org:5000", Login("eve", "x")),
        ("registry.example.org:5001", None),
        ("example.org", None),
        ("docker.io", Login("hub", "x")),
        ("other.example.org", Login("url", "x")),
        ("helper.example.org", None),
    ],
)
def test_entry_of_exactly_that_registry_is_used(config: Path, registry: str, expected: Login | None) -> None:
    assert login_for(registry, config) == expected


def test_no_file_is_no_login(tmp_path: Path) -> None:
    assert login_for("registry.example.org", None) is None


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(Login("bob", "secret"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"auths": []}',
        b" " * (2 << 20),
        b'{"auths": {"r": {"auth": "%%"}}}',
        b'{"auths": {"r": {"auth": "Ym9i"}}}',
        b'{"auths": {"r": {"username": "x"}}}',
        b'{"auths": {"r": {"auth": 5}}}',
    ],
)
def test_unusable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadConfig, match=r"config\.json"):
        login_for("r", path)
