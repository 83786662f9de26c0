"""CRD YAML from the types: `python -m ecompile_crds.schema [DIRECTORY]` writes one file per kind.

The types are the only source; `make verify` checks that the files are current.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from .compiledmodule import CompiledModuleSpec, CompiledModuleStatus
from .hybridmodel import HybridModelSpec, HybridModelStatus
from .names import GROUP, MAX_MODEL_NAME, VERSION

Schema = dict[str, Any]

HEADER = "# Generated from the types in ecompile_crds by `make generate`. Do not edit.\n"
KEPT = frozenset(
    {
        "type",
        "description",
        "default",
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "required",
        "x-kubernetes-validations",
    }
)
"""JSON Schema keywords that a structural schema may carry as they are (OpenAPI v3, Kubernetes CRDs)."""
OPEN_OBJECT_LIMIT = 64
"""Most entries of a free-form map; bounds the cost of CEL rules."""


def structural(model: type[BaseModel]) -> Schema:
    """OpenAPI v3 structural schema of a pydantic model: references inlined, `null` dropped."""
    root = model.model_json_schema(by_alias=True)
    return _convert(root, root.get("$defs", {}))


def _convert(node: Schema, definitions: Schema) -> Schema:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        node = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
    if "anyOf" in node:
        choices = [c for c in node["anyOf"] if c.get("type") != "null"]
        rest = {k: v for k, v in node.items() if k != "anyOf"}
        if len(choices) == 1:
            return _convert({**choices[0], **rest}, definitions)
        types = sorted(c["type"] for c in choices)
        assert types == ["integer", "string"], f"no structural form for a union of {types}"
        return {**_kept(rest), "x-kubernetes-int-or-string": True}
    result = _kept(node)
    if "const" in node:
        result["enum"] = [node["const"]]
        result["type"] = "string"
    for bound, flag in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            result[flag] = node[bound]
            result[bound] = True
    if result.get("type") == "object":
        _convert_object(node, result, definitions)
    if result.get("type") == "array":
        items = node.get("items", {})
        if "prefixItems" in node:
            items = node["prefixItems"][0]
        result["items"] = _convert(items, definitions)
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    return result


def _kept(node: Schema) -> Schema:
    return {k: v for k, v in node.items() if k in KEPT and not (k == "default" and v is None)}


def _convert_object(node: Schema, result: Schema, definitions: Schema) -> None:
    if "properties" in node:
        result["properties"] = {name: _convert(value, definitions) for name, value in node["properties"].items()}
        return
    values = node.get("additionalProperties")
    if isinstance(values, dict) and values:
        result["additionalProperties"] = _convert(values, definitions)
        result["maxProperties"] = OPEN_OBJECT_LIMIT
    else:
        result["x-kubernetes-preserve-unknown-fields"] = True


def _column(name: str, path: str, *, type_: str = "string", wide: bool = False, about: str = "") -> Schema:
    column: Schema = {"name": name, "type": type_, "jsonPath": path}
    if about:
        column["description"] = about
    if wide:
        column["priority"] = 1
    return column


def _definition(
    kind: str,
    plural: str,
    short: str,
    spec: type[BaseModel],
    status: type[BaseModel],
    columns: list[Schema],
    about: str,
) -> Schema:
    root: Schema = {
        "type": "object",
        "description": about,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the API, ecompile.dev/v1alpha1."},
            "kind": {"type": "string", "description": f"{kind}."},
            "metadata": {"type": "object"},
            "spec": structural(spec),
            "status": structural(status),
        },
    }
    if kind == "HybridModel":
        root["x-kubernetes-validations"] = [
            {
                "rule": f"self.metadata.name.size() <= {MAX_MODEL_NAME}",
                "message": f"metadata.name: at most {MAX_MODEL_NAME} characters, so that names of children fit",
            },
            {
                "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "message": "metadata.name: lower-case letters, digits and '-', starting with a letter",
            },
        ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "ecompile"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["ecompile"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def definitions() -> dict[str, Schema]:
    """Both CustomResourceDefinitions by file name."""
    age = _column("Age", ".metadata.creationTimestamp", type_="date")
    model_columns = [
        _column("Phase", ".status.phase"),
        _column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
        _column("Coverage", ".status.deterministicCoverage", type_="number", about="Share of requests served by code."),
        _column("Speed-up", ".status.speedup", type_="number", about="Against ONNX Runtime at batch 1."),
        _column("Evidence", ".status.evidence"),
        _column("Progress", ".status.progress"),
        age,
        _column("Generation", ".status.routing.generation", type_="integer", wide=True),
        _column("Pods", ".status.readyReplicas", type_="integer", wide=True),
        _column("Message", ".status.message", wide=True),
    ]
    module_columns = [
        _column("Model", ".spec.modelRef"),
        _column("Segment", ".spec.segment", type_="integer"),
        _column("Phase", ".status.phase"),
        _column("Step", ".status.step"),
        _column("Evidence", ".spec.evidence.kind"),
        _column("Speed-up", ".spec.speedup", type_="number"),
        age,
        _column("Rollbacks", ".status.rollbacks", type_="integer", wide=True),
        _column("Message", ".status.message", wide=True),
    ]
    model = _definition(
        "HybridModel",
        "hybridmodels",
        "hm",
        HybridModelSpec,
        HybridModelStatus,
        model_columns,
        "A trained network, what equivalent means for it, and how it is served.",
    )
    module = _definition(
        "CompiledModule",
        "compiledmodules",
        "cmod",
        CompiledModuleSpec,
        CompiledModuleStatus,
        module_columns,
        "One immutable attempt to replace one segment of a HybridModel by code. Written by the operator.",
    )
    return {f"hybridmodels.{GROUP}.yaml": model, f"compiledmodules.{GROUP}.yaml": module}


def render(definition: Schema) -> str:
    """The file's text; equal types give equal bytes."""
    return HEADER + yaml.safe_dump(definition, sort_keys=True, width=110, allow_unicode=True)


def write(directory: Path) -> list[Path]:
    """Write both files."""
    paths = []
    for name, definition in definitions().items():
        path = directory / name
        path.write_text(render(definition), encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent):
        print(written)
