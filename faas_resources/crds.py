"""CustomResourceDefinitions, generated from the models: `python -m faas_resources.crds` writes them, `--check` finds drift.

A CRD's schema is a *structural* OpenAPI v3 schema: no references, one type per place, and none of the newer words of pydantic's JSON Schema
(`const`, `anyOf` with null, `additionalProperties: false`). What it cannot say is left to the planes, which check every object again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faas_resources.image import GROUP, VERSION, Image
from faas_resources.manifests import dump_manifests
from faas_resources.metadata import Resource
from faas_resources.names import LABEL_MAX, LABEL_PATTERN

DIRECTORY = Path(__file__).resolve().parent.parent / "crds"
_FIRST = {"description": 0, "type": 1}  # what people look for
_HEADER = "# Generated from faas_resources by `python -m faas_resources.crds`; change the models instead.\n"


@dataclass(frozen=True)
class _Definition:
    """What a CRD says beyond its schema."""

    model: type[Resource]
    singular: str
    short_names: Sequence[str]
    categories: Sequence[str]
    columns: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


_DEFINITIONS = (
    _Definition(
        model=Image,
        singular="image",
        short_names=("img",),
        categories=("mayfly",),
        columns=(
            {"name": "Image", "type": "string", "jsonPath": ".spec.image", "priority": 1},
            {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
            {"name": "Digest", "type": "string", "jsonPath": ".status.digest"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            {"name": "Message", "type": "string", "jsonPath": ".status.message"},
        ),
    ),
)


def files() -> dict[str, str]:
    """Every CRD file's name and text, and the one that names them all, for `kubectl apply -k`."""
    made = {
        f"{definition.model.PLURAL}.{GROUP}.yaml": _HEADER + dump_manifests([_custom_resource_definition(definition)])
        for definition in _DEFINITIONS
    }
    together = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(made)}
    return {**made, "kustomization.yaml": _HEADER + dump_manifests([together])}


def _custom_resource_definition(definition: _Definition) -> dict[str, Any]:
    model = definition.model
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": model.KIND,
                "listKind": f"{model.KIND}List",
                "plural": model.PLURAL,
                "singular": definition.singular,
                "shortNames": list(definition.short_names),
                "categories": list(definition.categories),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [dict(column) for column in definition.columns],
                    "schema": {"openAPIV3Schema": _schema(model)},
                }
            ],
        },
    }


def _schema(model: type[Resource]) -> dict[str, Any]:
    document = model.model_json_schema(by_alias=True)
    root = structural(document, document.get("$defs", {}))
    properties = root["properties"]
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}  # the API server's own
    properties["status"].pop("default", None)
    root["required"] = ["spec"]
    root["x-kubernetes-validations"] = [
        {
            "rule": f"self.metadata.name.size() <= {LABEL_MAX} && self.metadata.name.matches('{LABEL_PATTERN}')",
            "message": f"metadata.name must be a DNS-1123 label: at most {LABEL_MAX} lower-case letters, digits and '-'",
        }
    ]
    return root


def structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema node in the words of a structural schema."""
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return structural({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    choices = [choice for choice in node.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:  # `X | None`: an absent field
        rest = {key: value for key, value in node.items() if key not in {"anyOf", "default"}}
        return structural({**choices[0], **rest}, definitions)

    result: dict[str, Any] = {}
    for key, value in node.items():
        match key:
            case "title" | "$defs" | "propertyNames":
                continue
            case "additionalProperties" if value is False:
                continue
            case "const":
                result["enum"] = [value]
            case "properties":
                result[key] = {name: structural(child, definitions) for name, child in value.items()}
            case "items" | "additionalProperties":
                result[key] = structural(value, definitions)
            case "description":
                result[key] = " ".join(value.split())
            case _:
                result[key] = value
    return {key: result[key] for key in sorted(result, key=lambda key: _FIRST.get(key, len(_FIRST)))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the CRDs, or with --check exits with 1 if the files differ from the models."""
    parser = argparse.ArgumentParser(prog="python -m faas_resources.crds", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--output", type=Path, default=DIRECTORY, metavar="DIR", help="where the files are (default: %(default)s)")
    options = parser.parse_args(arguments)
    wanted = files()
    if options.check:
        found = {path.name: path.read_text() for path in options.output.glob("*.yaml")}
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if differing:
            sys.stderr.write(f"{', '.join(differing)} in {options.output}: not what the models say; run python -m faas_resources.crds\n")
        return 1 if differing else 0
    options.output.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        (options.output / name).write_text(text)
        sys.stdout.write(f"{options.output / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
