"""The base of every API object: what is not known is refused, nothing is coerced, and an error names the whole path.

Field names in Python are snake_case, in manifests camelCase; a manifest is parsed by its camelCase names only. `checked` turns what
pydantic finds into `Problem`s that name the field path, the value, the rule and the way out.
"""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from faas_resources.errors import InvalidResource, Problem


class Model(BaseModel):
    """An immutable part of an API object."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        # Where Python asks for a name, both are accepted; `checked` asks for aliases only.
    )


M = TypeVar("M", bound=BaseModel)

_values = reprlib.Repr()
_values.maxstring = 80
_values.maxother = 80


def checked(model: type[M], data: object, *, source: str = "", context: Mapping[str, object] | None = None) -> M:
    """`data` (of a manifest) as a model; raises InvalidResource naming every problem."""
    try:
        return model.model_validate(data, by_alias=True, by_name=False, context=dict(context or {}))
    except pydantic.ValidationError as error:
        raise InvalidResource(problems_of(error, model), source) from error


def problems_of(error: pydantic.ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic found, as problems for people."""
    return [Problem(_path(found["loc"]), _text(found, model)) for found in error.errors(include_url=False)]


def _path(location: Iterable[int | str]) -> str:
    """`("spec", "env", 0, "name")` as `spec.env[0].name`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part == "[key]":
            path += " (key)"
        elif not path:
            path = part
        else:
            # A label's key has dots and slashes of its own.
            path += f".{part}" if part.replace("_", "").replace("-", "").isalnum() else f"[{part!r}]"
    return path


def _text(found: Any, model: type[BaseModel]) -> str:
    kind, context, value = found["type"], found.get("ctx", {}), found["input"]
    if kind == "extra_forbidden":
        *parents, name = found["loc"]
        known = _fields_at(model, parents)
        close = difflib.get_close_matches(str(name), known, n=1)
        return f"unknown field; {f'did you mean {close[0]}? ' if close else ''}known: {', '.join(known)}"
    if kind == "missing":
        return "is missing and has no default"
    rule = _rule(kind, context, value, found["msg"])
    return rule if rule.startswith(repr(value)[:20]) else f"{_values.repr(value)}: {rule}"


def _rule(kind: str, context: Mapping[str, Any], value: object, message: str) -> str:
    match kind:
        case "value_error":
            return str(context["error"])
        case "string_type":
            quoted = f'; quote it: "{str(value).lower() if isinstance(value, bool) else value}"'
            return "must be a string" + (quoted if isinstance(value, bool | int | float) else "")
        case "int_type" | "int_parsing":
            return "must be a whole number" + ("; remove the quotes" if isinstance(value, str) and value.isdigit() else "")
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "literal_error" | "enum":
            return f"must be {context['expected']}"
        case "list_type" | "tuple_type":
            return "must be a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be a mapping (key: value)"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "too_long":
            return f"must have at most {context['max_length']} entries, has {context['actual_length']}"
        case _:
            return message[:1].lower() + message[1:]


def _fields_at(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """The names of the fields that are known at a place in a model."""
    current: Any = model
    for part in location:
        if isinstance(part, str):  # an index into a list stays at the list's model
            fields = {field.alias or name: field for name, field in current.model_fields.items()}
            current = _model_in(fields[part].annotation)
    return sorted(field.alias or name for name, field in current.model_fields.items())


def _model_in(annotation: Any) -> Any:
    """The model inside `Model`, `Model | None`, `tuple[Model, ...]` or `dict[str, Model]`; the annotation itself if there is none."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, tuple, list, dict, typing.Annotated}:
        for argument in typing.get_args(annotation):
            inner = _model_in(argument)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                return inner
    return annotation
