"""Generated HybridModels, valid and not, from the schema that users get; each spoilt one knows which field it is."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
Schema = dict[str, Any]

SAMPLES = {
    "^sha256:[0-9a-f]{64}$": ("sha256:" + "0a" * 32,),
    r"^(file|s3|gs)://[^\s]+$": ("file:///artifacts/x.npz", "s3://bucket/net.onnx", "gs://bucket/ü"),
    "^[A-Za-z_][A-Za-z0-9_]*$": ("A", "_x9"),
    "^[0-9*/,-]+( [0-9*/,-]+){4}$": ("0 3 * * *", "*/5 * * * 1-5"),
    "^([01][0-9]|2[0-3]):[0-5][0-9]$": ("00:00", "23:59"),
    "^[a-z]([-a-z0-9]*[a-z0-9])?$": ("net", "a-1"),
    "^([A-Z]{2}|WORLD|[0-9]{1,4})$": ("SE", "WORLD", "30"),
}
"""Texts for each pattern of the schema; a new pattern needs a line here."""
QUANTITIES = ("1", "500m", "2Gi", "0")
WRONG: tuple[Any, ...] = ("", "scribble\n", -1, 0, 10**12, 1.5, True, [], {}, [{}], {"a": {"b": 1}}, "x" * 5000, "☃")
CHANCE = 0.25
"""Of an optional field to be there."""


@dataclass(frozen=True)
class Generated:
    """A manifest; `field` is the one that was spoilt, empty where none was."""

    manifest: dict[str, Any]
    field: str


def spec_schema(path: Path = ROOT / "crds" / "hybridmodels.ecompile.dev.yaml") -> Schema:
    """Schema of the spec in a CRD."""
    definition = yaml.safe_load(path.read_text())
    found: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def generate(random: Random, name: str, namespace: str, schema: Schema) -> Generated:
    """Three of four are spoilt in one field. CEL rules may refuse even what is not spoilt."""
    spec = _value(schema, random, "spec")
    spoilt = _spoil(spec, schema, random) if random.random() < 0.75 else ""
    return Generated(
        {
            "apiVersion": "ecompile.dev/v1alpha1",
            "kind": "HybridModel",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        },
        spoilt,
    )


def _value(schema: Schema, random: Random, path: str) -> Any:
    if "enum" in schema:
        return random.choice(schema["enum"])
    match schema.get("type"):
        case "object" if "properties" in schema:
            required = set(schema.get("required", []))
            chosen = {k: s for k, s in schema["properties"].items() if k in required or random.random() < CHANCE}
            return {k: _value(s, random, f"{path}.{k}") for k, s in chosen.items()}
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            names = random.sample(("cpu", "memory", "a"), random.randint(0, 2))
            return {k: _value(schema["additionalProperties"], random, f"{path}.{k}") for k in names}
        case "object":
            return {}
        case "array":
            count = random.randint(schema.get("minItems", 0), min(schema.get("maxItems", 3), 3))
            return [_value(schema["items"], random, f"{path}[{i}]") for i in range(count)]
        case "boolean":
            return random.random() < 0.5
        case "integer":
            low = int(schema.get("minimum", 0)) + bool(schema.get("exclusiveMinimum"))
            return random.randint(low, int(schema.get("maximum", low + 100)))
        case "number":
            low, high = float(schema.get("minimum", 0.0)), float(schema.get("maximum", 10.0))
            return round(low + (high - low) * random.uniform(0.01, 0.99), 6)
        case _:
            if "pattern" in schema:
                return random.choice(SAMPLES[schema["pattern"]])
            return random.choice(QUANTITIES)


def _spoil(spec: dict[str, Any], schema: Schema, random: Random) -> str:
    """Change one place of the spec to something else. Returns its path as the API server writes it."""
    places = list(_places(spec, schema, "spec"))
    holder, key, path, required = random.choice(places)
    what = random.random()
    if what < 0.15 and required:
        del holder[key]
    elif what < 0.3 and isinstance(holder[key], dict):
        holder[key]["nonsense"] = 1
        return f"{path}.nonsense"
    else:
        holder[key] = copy.deepcopy(random.choice(WRONG))
    return path


def _places(value: Any, schema: Schema, path: str) -> Any:
    """(holder, key, path, required) of each field below."""
    if isinstance(value, dict):
        for key in value:
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
            yield value, key, f"{path}.{key}", key in schema.get("required", [])
            if isinstance(inner, dict):
                yield from _places(value[key], inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index, f"{path}[{index}]", False
            yield from _places(item, schema.get("items", {}), f"{path}[{index}]")


def names_field(message: str, field: str) -> bool:
    """Whether a refusal names the spoilt field or one above it. Where nothing was spoilt, or a rule over several fields
    spoke, any field of the spec."""
    plain = message.replace('"', "")
    parts = field.replace("[", ".[").split(".") if field else []
    above = [".".join(parts[:n]).replace(".[", "[") for n in range(len(parts), 1, -1)]
    by_rule = not field or "Invalid value: object" in plain
    return any(path in plain for path in above) or (by_rule and re.search(r"spec\.[a-zA-Z]+", plain) is not None)
