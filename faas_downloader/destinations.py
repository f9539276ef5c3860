"""Where a pull may go. A registry names other hosts in redirects and in the realm of its login; it is not trusted to choose any.

| Destination | Allowed |
|---|---|
| the registry of the reference | at any address but those below; by TLS, or by plain HTTP if it is on loopback or listed as insecure |
| the same host on another port, or a trusted host | as the registry |
| any other host | by TLS at a public address only |
| link-local, multicast and unspecified addresses, and what clouds use for machine metadata | never |

| Credentials | Sent |
|---|---|
| to the registry | yes |
| along a redirect to another origin | never |
| to the realm of a token login | on the registry's host, beneath its parent domain (for `a.example.org`, `example.org`), on trusted hosts |
| by plain HTTP | only to a host that may be spoken to by plain HTTP at all |

Layer `urls` are not read at all: a layer comes from the registry or the image is refused. A name is resolved once, every address that it
has is checked, and the connection is made to one of these: the name cannot be turned to another address in between.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from faas_downloader.errors import Refused

# Beyond link-local: the metadata addresses that clouds put elsewhere.
_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("192.0.0.192")})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Destinations:
    """The rules for one pull. Hosts are `host` or `host:port`, in lower case."""

    registry: str  # host or host:port, as connected to
    trusted: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()

    @property
    def scheme(self) -> str:
        """How the registry itself is spoken to."""
        return "http" if self._may_be_plain(urlsplit(f"//{self.registry}")) else "https"

    def check_url(self, url: str, *, login: bool = False) -> None:
        """Raises Refused unless this URL may be asked for; `login` says that a name and password go along."""
        parts = _split(url)
        if parts.scheme == "http" and not self._may_be_plain(parts):
            raise Refused(
                f"{parts.netloc!r} would be spoken to by plain HTTP; if that is right, add it to --insecure-registries "
                "(and, unless it is the registry itself, to --trusted-hosts)"
            )
        if parts.username or parts.password:
            raise Refused(f"the registry {self.registry} sends us to {parts.hostname!r} with a login of its own in the address")
        literal = _literal(parts.hostname or "")
        if literal is not None:
            self.check_address(parts.hostname or "", literal)
        if login and not self._may_have_login(parts):
            raise Refused(
                f"the registry {self.registry} wants its login sent to {parts.hostname!r}; if that is right, "
                "add that host to --trusted-hosts"
            )

    def check_address(self, host: str, address: Address) -> None:
        """Raises Refused unless a connection for `host` may end at `address`."""
        for each in (address, *_embedded(address)):
            if each.is_link_local or each.is_multicast or each.is_unspecified or each in _METADATA:
                raise Refused(f"{host!r} is at {address}, an address that no registry has (link-local, multicast or machine metadata)")
            if not self._is_own(host) and not each.is_global:
                raise Refused(
                    f"the registry {self.registry} sends us to {host!r}, which is at the internal address {address}; if that is right, "
                    "add that host to --trusted-hosts"
                )

    def same_origin(self, url: str, other: str) -> bool:
        """Whether credentials for one URL are credentials for the other."""
        return _origin(_split(url)) == _origin(_split(other))

    def _is_own(self, host: str) -> bool:
        """Whether somebody who may decide it named this host: the reference, or the settings."""
        return host.lower() in {_host(self.registry), *(_host(each) for each in self.trusted)}

    def _may_be_plain(self, parts: SplitResult) -> bool:
        host = (parts.hostname or "").lower()
        literal = _literal(host)
        loopback = host == "localhost" or (literal is not None and literal.is_loopback)
        listed = host in self.insecure or parts.netloc.lower() in self.insecure
        return (loopback or listed) and self._is_own(host)

    def _may_have_login(self, parts: SplitResult) -> bool:
        host, registry = (parts.hostname or "").lower(), _host(self.registry)
        parent = registry.partition(".")[2]
        beneath = "." in parent and _literal(registry) is None and (host == parent or host.endswith("." + parent))
        return self._is_own(host) or beneath


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 — raises for a port that is none
    except ValueError as error:
        raise Refused(f"the registry sends us to {url[:200]!r}, which is no address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Refused(f"the registry sends us to {url[:200]!r}; only http and https are spoken")
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _host(authority: str) -> str:
    """`host` of `host:port`."""
    return (urlsplit(f"//{authority}").hostname or "").lower()


def _embedded(address: Address) -> list[Address]:
    """The IPv4 addresses that an IPv6 address leads to by way of a translator."""
    if address.version == 4:
        return []
    translated = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return [each for each in (address.ipv4_mapped, address.sixtofour, translated) if each is not None]


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
