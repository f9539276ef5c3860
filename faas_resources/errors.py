"""What can go wrong with resources, for whoever calls this package.

ResourceError
├── InvalidResource    a manifest breaks a rule; `problems` names each field, value, rule and way out
├── NotFound           no such resource
├── Conflict           somebody else was first: another resourceVersion, or another resource of the same name
└── StoreFailed        the store itself cannot be read or written (disk full, no permission); trying again may help
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ResourceError(Exception):
    """Root of this package's errors."""


@dataclass(frozen=True)
class Problem:
    """One broken rule: where (`spec.env[0].name`), and what the rule and the way out are."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class InvalidResource(ResourceError):
    """A manifest breaks a rule."""

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"{source}: {lines}" if source else lines)


class NotFound(ResourceError):
    """No such resource."""

    def __init__(self, kind: str, namespace: str, name: str) -> None:
        super().__init__(f"{kind} {namespace}/{name}: not found")


class Conflict(ResourceError):
    """Somebody else was first."""


class StoreFailed(ResourceError):
    """The store itself cannot be read or written."""
