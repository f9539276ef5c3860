"""The API objects, their checks, and the stores they live in."""

from faas_resources.conditions import Condition, ConditionReport, ImageStatus, StatusPatch, Truth
from faas_resources.errors import Conflict, InvalidResource, NotFound, Problem, ResourceError, StoreFailed
from faas_resources.image import Image, ImageSpec, Variable
from faas_resources.manifests import dump_manifests, load_manifest, load_manifests
from faas_resources.metadata import DEFAULT_NAMESPACE, Metadata, Resource
from faas_resources.names import RESERVED_NAMESPACES

__all__ = [
    "DEFAULT_NAMESPACE",
    "RESERVED_NAMESPACES",
    "Condition",
    "ConditionReport",
    "Conflict",
    "Image",
    "ImageSpec",
    "ImageStatus",
    "InvalidResource",
    "Metadata",
    "NotFound",
    "Problem",
    "Resource",
    "ResourceError",
    "StatusPatch",
    "StoreFailed",
    "Truth",
    "Variable",
    "dump_manifests",
    "load_manifest",
    "load_manifests",
]
