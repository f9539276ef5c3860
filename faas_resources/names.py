"""Names and namespaces: DNS-1123 labels, as Kubernetes has them, less the words that the HTTP fronts use.

A request's first path segment is either a namespace (`/<namespace>/<function>/…`) or a word of one of the fronts, so a namespace of that
word could never be called. Words that are no DNS-1123 label (`_mayfly`, `create_function`) need no entry here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_MAX = 63

RESERVED_NAMESPACES: Mapping[str, str] = MappingProxyType(
    {
        "api": "the management API (/api/func)",
        "async-function": "asynchronous calls (/async-function/NAME)",
        "dispatcher": "calls of the Containerless front (/dispatcher/NAME)",
        "fn": "calls of the svrless front (/fn/USER/NAME)",
        "func": "functions of the svrless front (/func)",
        "function": "calls of the OpenFaaS front (/function/NAME)",
        "healthz": "the health check",
        "login": "logins of the svrless front",
        "metrics": "the metrics page",
        "ready": "readiness of the Containerless front",
        "readyz": "the readiness check",
        "register": "registrations of the svrless front",
        "system": "the OpenFaaS management API (/system/functions)",
        "ui": "the web page",
        "user": "users of the svrless front (/user/refresh-jwt)",
    }
)

_LABEL = re.compile(LABEL_PATTERN)


def check_name(text: str) -> str:
    """Returns `text` if it is a DNS-1123 label; raises ValueError with the rule otherwise."""
    if len(text) > LABEL_MAX:
        raise ValueError(f"has {len(text)} characters; at most {LABEL_MAX} are allowed")
    if not _LABEL.fullmatch(text):
        raise ValueError("must be lower-case letters, digits and '-', and begin and end with a letter or digit (DNS-1123 label)")
    return text


def check_namespace(text: str) -> str:
    """Returns `text` if functions may live in this namespace; raises ValueError with the rule otherwise."""
    check_name(text)
    if text in RESERVED_NAMESPACES:
        raise ValueError(f"is reserved for {RESERVED_NAMESPACES[text]}; choose another namespace")
    return text


_SCHEMA = WithJsonSchema({"type": "string", "pattern": LABEL_PATTERN, "minLength": 1, "maxLength": LABEL_MAX})
Name = Annotated[str, AfterValidator(check_name), _SCHEMA]
Namespace = Annotated[str, AfterValidator(check_namespace), _SCHEMA]
