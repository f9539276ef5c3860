"""What a function may reach of the network: `spec.network` of an `Image`. Nothing by default; the inside of an instance is no network."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from faas_resources.model import Model

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
HOST_PATTERN = rf"^(\*\.)?{_LABEL}(\.{_LABEL})*$"
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def _rule(rule: str, message: str) -> dict[str, Any]:
    """What a server that only knows the CRD checks beyond the schema, in CEL."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message}]}


def port_range(text: str) -> tuple[int, int]:
    """`443` or `8000-8010` as first and last port; raises ValueError with the rule."""
    matched = _PORTS.fullmatch(text)
    if matched is not None:
        first = int(matched[1])
        last = int(matched[2] or matched[1])
        if 1 <= first <= last <= 65535:
            return first, last
    raise ValueError("must be a port such as 443 or a range such as 8000-8010, from 1 to 65535")


def _check_ports(text: str) -> str:
    port_range(text)
    return text


def _check_host(host: str) -> str:
    if re.fullmatch(r"[0-9.]+", host):
        raise ValueError("must be a name; write an address as cidr")
    return host


def _check_cidr(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"must be an address or a network such as 10.1.0.0/16 or 2001:db8::/32: {error}") from None
    return text


def _text_of_number(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Ports = Annotated[
    str,
    BeforeValidator(_text_of_number),
    AfterValidator(_check_ports),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 11,
            **_rule(
                "string(self).matches('^[0-9]{1,5}(-[0-9]{1,5})?$')"
                " && string(self).split('-').all(port, int(port) >= 1 && int(port) <= 65535)"
                " && int(string(self).split('-')[0]) <= int(string(self).split('-')[string(self).split('-').size() - 1])",
                "must be a port such as 443 or a range such as 8000-8010, from 1 to 65535",
            ),
        }
    ),
]
Host = Annotated[
    str,
    Field(
        max_length=253,
        pattern=HOST_PATTERN,
        json_schema_extra=_rule("!self.matches('^[0-9.]+$')", "must be a name; write an address as cidr"),
    ),
    AfterValidator(_check_host),
]
Cidr = Annotated[
    str,
    Field(
        max_length=49,
        json_schema_extra=_rule(
            "isIP(self) || (isCIDR(self) && cidr(self).masked() == cidr(self))",
            "must be an address or a network such as 10.1.0.0/16 or 2001:db8::/32",
        ),
    ),
    AfterValidator(_check_cidr),
]


class NetworkRule(Model):
    """One kind of destination: a name or a network, ports, a protocol."""

    model_config = ConfigDict(json_schema_extra=_rule("has(self.host) != has(self.cidr)", "needs host or cidr, and not both"))

    host: Annotated[Host | None, Field(description="A host name, or *.example.com for every name below example.com.")] = None
    cidr: Annotated[
        Cidr | None,
        Field(description="An address or a network. Addresses of this machine and of its link are only allowed by naming one exactly."),
    ] = None
    ports: Annotated[
        tuple[Ports, ...],
        Field(strict=False, max_length=64, description="Ports and ranges of ports, as 443 or 8000-8010; none given: every port."),
    ] = ()
    protocol: Annotated[Literal["tcp", "udp", "any"], Field(description="What is spoken.")] = "tcp"

    @model_validator(mode="after")
    def _one_destination(self) -> Self:
        if (self.host is None) == (self.cidr is None):
            raise ValueError("needs host or cidr, and not both")
        return self

    @property
    def port_ranges(self) -> tuple[tuple[int, int], ...]:
        """First and last port of each range; none: every port."""
        return tuple(port_range(text) for text in self.ports)


class Network(Model):
    """The network of a function."""

    allow: Annotated[
        tuple[NetworkRule, ...],
        Field(strict=False, max_length=64, description="What the function may connect to; none: there is no network."),
    ] = ()
