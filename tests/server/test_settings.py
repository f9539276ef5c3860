"""Settings from the environment and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from faas_server.errors import SettingsError
from faas_server.settings import Settings
from tests.support.nodes import ROOT


def test_every_setting_has_a_description_and_all_but_data_a_default() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.is_required() is (name == "data")


def test_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_DATA", str(tmp_path))
    monkeypatch.setenv("MAYFLY_CALLS", "7")
    monkeypatch.setenv("MAYFLY_TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8")
    settings = Settings.load(listen="[::1]:0")
    assert (settings.data, settings.calls, settings.address) == (tmp_path, 7, ("::1", 0))
    assert settings.trusts("10.1.2.3")
    assert settings.trusts("fd00::1")
    assert not settings.trusts("11.1.2.3")
    assert not settings.trusts(None)
    assert not settings.trusts("unix")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"listen": "8080"}, ["listen", "HOST:PORT"]),
        ({"listen": "127.0.0.1:99999"}, ["listen", "HOST:PORT"]),
        ({"calls": "0"}, ["calls", "MAYFLY_CALLS", "1"]),
        ({"calls": "many"}, ["MAYFLY_CALLS", "integer"]),
        ({"trusted_proxies": "10.0.0.0/99"}, ["MAYFLY_TRUSTED_PROXIES"]),
        ({"data": "/" + "d" * 100}, ["data", "too long", "shorter"]),
        ({"ready_timeout": "-1"}, ["MAYFLY_READY_TIMEOUT"]),
    ],
)
def test_a_wrong_setting_names_the_variable_and_the_rule(tmp_path: Path, given: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load(**{"data": tmp_path, **given})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "nonsense"], "HOST:PORT"),
        (["--listen", "192.0.2.1:1"], "--listen"),
        (["--data", "/proc/nothing"], "--data"),
    ],
)
def test_what_cannot_work_ends_with_status_2_and_says_why(tmp_path: Path, arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "faas_server", "--data", str(tmp_path), "--listen", "127.0.0.1:0", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
    assert finished.returncode == 2, finished.stderr
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr
