"""Where a pull may go, and with what."""

from __future__ import annotations

import ipaddress

import pytest

from faas_downloader.destinations import Destinations
from faas_downloader.errors import Refused

EXAMPLE = Destinations("registry.example.org")
TRUSTING = Destinations("registry.example.org", trusted=frozenset({"storage.lan", "plain.lan"}), insecure=frozenset({"plain.lan:8080"}))


@pytest.mark.parametrize(
    ("registry", "insecure", "scheme"),
    [
        ("registry.example.org", (), "https"),
        ("registry.example.org:5000", (), "https"),
        ("localhost:5000", (), "http"),
        ("127.0.0.1:5000", (), "http"),
        ("127.9.9.9", (), "http"),
        ("[::1]:5000", (), "http"),
        ("10.0.0.1:5000", (), "https"),
        ("10.0.0.1:5000", ("10.0.0.1:5000",), "http"),
        ("10.0.0.1:5000", ("10.0.0.1",), "http"),
        ("10.0.0.1:5000", ("10.0.0.1:5001",), "https"),
        ("localhost.example.org", (), "https"),
    ],
)
def test_plain_http_is_for_loopback_and_where_it_is_allowed(registry: str, insecure: tuple[str, ...], scheme: str) -> None:
    assert Destinations(registry, insecure=frozenset(insecure)).scheme == scheme


@pytest.mark.parametrize(
    ("rules", "url", "login"),
    [
        (EXAMPLE, "https://registry.example.org/v2/", True),
        (EXAMPLE, "https://registry.example.org:8443/token", True),
        (EXAMPLE, "https://auth.example.org/token", True),
        (EXAMPLE, "https://example.org/token", True),
        (EXAMPLE, "https://storage.example.com/blob", False),
        (EXAMPLE, "https://8.8.8.8/blob", False),
        (TRUSTING, "https://storage.lan/token", True),
        (TRUSTING, "http://plain.lan:8080/blob", False),
        (Destinations("127.0.0.1:5000"), "http://127.0.0.1:5001/token", True),
    ],
)
def test_allowed(rules: Destinations, url: str, login: bool) -> None:
    rules.check_url(url, login=login)


@pytest.mark.parametrize(
    ("rules", "url", "login"),
    [
        (EXAMPLE, "http://registry.example.org/v2/", False),
        (EXAMPLE, "http://storage.example.com/blob", False),
        (EXAMPLE, "https://storage.example.com/token", True),
        (EXAMPLE, "https://example.org.evil.example.com/token", True),
        (EXAMPLE, "https://evilexample.org/token", True),
        (EXAMPLE, "https://org/token", True),
        (Destinations("ghcr.test"), "https://evil.test/token", True),
        (Destinations("10.0.0.1"), "https://1.0.0.1/token", True),
        (EXAMPLE, "https://10.0.0.1/", False),
        (EXAMPLE, "https://127.0.0.1/", False),
        (EXAMPLE, "http://127.0.0.1/", False),
        (EXAMPLE, "http://localhost/", False),
        (TRUSTING, "http://plain.lan:8081/blob", False),
        (TRUSTING, "http://storage.lan/blob", False),
        (EXAMPLE, "https://bob:secret@registry.example.org/", False),
        (EXAMPLE, "ftp://registry.example.org/", False),
        (EXAMPLE, "https:///nothing", False),
        (EXAMPLE, "https://[::1", False),
        (EXAMPLE, "https://registry.example.org:port/", False),
        (Destinations("169.254.169.254"), "https://169.254.169.254/", False),
    ],
)
def test_refused(rules: Destinations, url: str, login: bool) -> None:
    with pytest.raises(Refused):
        rules.check_url(url, login=login)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.170.2", "fe80::1", "fd00:ec2::254", "100.100.100.200", "224.0.0.1", "ff02::1", "0.0.0.0", "::",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_addresses_that_no_registry_has_are_refused_even_to_the_registry_itself(address: str) -> None:
    with pytest.raises(Refused, match="an address that no registry has"):
        EXAMPLE.check_address("registry.example.org", ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "::1", "fd12::1", "100.64.0.1", "::ffff:10.0.0.1"])
def test_internal_addresses_are_for_hosts_that_the_reference_or_the_settings_name(address: str) -> None:
    found = ipaddress.ip_address(address)
    EXAMPLE.check_address("registry.example.org", found)
    EXAMPLE.check_address("Registry.Example.org", found)
    TRUSTING.check_address("storage.lan", found)
    with pytest.raises(Refused, match="internal address"):
        EXAMPLE.check_address("storage.lan", found)


def test_origins() -> None:
    assert EXAMPLE.same_origin("https://a/x", "https://A:443/y")
    for other in ("http://a/x", "https://a:444/x", "https://b/x"):
        assert not EXAMPLE.same_origin("https://a/x", other)
