"""What a change of a CRD's schema breaks: objects that were accepted before and would not be now. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def breaking_changes(old: Schema, new: Schema, path: str = "") -> Iterator[str]:
    """A sentence for each. Rules in CEL are not compared: the API server only checks those whose fields change."""
    if old.get("x-kubernetes-preserve-unknown-fields") and not new.get("x-kubernetes-preserve-unknown-fields"):
        yield f"{path}: unknown fields were kept and are not any more"
    if "type" in old and new.get("type") != old["type"]:
        yield f"{path}: was {old['type']}, is {new.get('type')}"
        return
    gone = set(map(str, old.get("enum", []))) - set(map(str, new.get("enum", old.get("enum", []))))
    if gone or ("enum" in new and "enum" not in old):
        yield f"{path}: values {sorted(gone)} are not accepted any more"
    for lower in ("minimum", "minLength", "minItems", "minProperties"):
        if lower in new and new[lower] > old.get(lower, float("-inf")):
            yield f"{path}: {lower} rose from {old.get(lower)} to {new[lower]}"
    for upper in ("maximum", "maxLength", "maxItems", "maxProperties"):
        if upper in new and new[upper] < old.get(upper, float("inf")):
            yield f"{path}: {upper} fell from {old.get(upper)} to {new[upper]}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{path}: the pattern changed from {old.get('pattern')} to {new['pattern']}"
    for name in sorted(set(new.get("required", [])) - set(old.get("required", []))):
        if "default" not in new["properties"][name]:
            yield f"{path}.{name}: is required now"
    for name, inner in sorted(old.get("properties", {}).items()):
        if name in new.get("properties", {}):
            yield from breaking_changes(inner, new["properties"][name], f"{path}.{name}")
        elif not new.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name}: does not exist any more"
    for nested in ("items", "additionalProperties"):
        if isinstance(old.get(nested), dict):
            yield from breaking_changes(old[nested], new.get(nested) or {}, f"{path}[]")
