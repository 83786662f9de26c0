"""Reference pages from the types: `python docs/generate_reference.py docs/reference`. Called by `make generate`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecompile_crds import names
from ecompile_crds.compiledmodule import CompiledModuleSpec, CompiledModuleStatus
from ecompile_crds.errors import EXIT_STATUS, RETRYABLE, Code
from ecompile_crds.hybridmodel import HybridModelSpec, HybridModelStatus
from ecompile_crds.schema import structural
from ecompile_operator.settings import ENV_PREFIX, Settings
from pydantic import BaseModel

HEADER = "<!-- Generated from the types by `make generate`. Do not edit. -->\n"
GROUPS = {
    1: ("DataError", "the user's data cannot be used as it is"),
    2: ("ModelError", "the user's network or a compiled module cannot be used"),
    3: ("ResourceError", "something the machine or cluster must provide is missing"),
    4: ("DeadlineError", "something took too long"),
    5: ("InternalError", "a fault of ours"),
}


def cell(text: object) -> str:
    """Text for one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def limits(node: dict[str, Any]) -> str:
    """What values are allowed, in words."""
    parts = []
    if "enum" in node.get("items", {}):
        parts.append("of " + ", ".join(f"`{value}`" for value in node["items"]["enum"]))
    if "enum" in node:
        parts.append("one of " + ", ".join(f"`{value}`" for value in node["enum"]))
    if "minimum" in node:
        parts.append(f"{'>' if node.get('exclusiveMinimum') else '>='} {node['minimum']:,}")
    if "maximum" in node:
        parts.append(f"{'<' if node.get('exclusiveMaximum') else '<='} {node['maximum']:,}")
    if "pattern" in node:
        parts.append(f"matches `{node['pattern']}`")
    if "maxLength" in node:
        parts.append(f"at most {node['maxLength']:,} characters")
    if "maxItems" in node:
        parts.append(f"{node.get('minItems', 0)} to {node['maxItems']} items")
    return "; ".join(parts)


def type_of(node: dict[str, Any]) -> str:
    """A short name of the type."""
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if node.get("type") == "array":
        return f"list of {type_of(node['items'])}"
    if node.get("type") == "object" and "additionalProperties" in node:
        return f"map to {type_of(node['additionalProperties'])}"
    return str(node.get("type", "any"))


def fields(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every field below a node, with its path and whether it is required."""
    node = node["items"] if node.get("type") == "array" else node
    for name, child in node.get("properties", {}).items():
        suffix = "[]" if child.get("type") == "array" else ""
        path = f"{prefix}.{name}{suffix}"
        yield path, child, name in node.get("required", ())
        yield from fields(child, path)


def rules(node: dict[str, Any]) -> Iterator[str]:
    """Messages of all cross-field rules below a node."""
    for rule in node.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for child in node.get("properties", {}).values():
        yield from rules(child)
    if node.get("type") == "array":
        yield from rules(node["items"])


def table(model: type[BaseModel], prefix: str, *, user_writes: bool) -> str:
    """One table of all fields of a type."""
    root = structural(model)
    lines = ["| Field | Type | Meaning |", "| --- | --- | --- |"]
    for path, node, required in fields(root, prefix):
        notes = [node.get("description", "").rstrip(".") + "."]
        if limits(node):
            notes.append(f"{limits(node)[0].upper()}{limits(node)[1:]}.")
        if user_writes and required:
            notes.append("**Required.**")
        elif user_writes and node.get("default") not in (None, "", [], {}):
            notes.append(f"Default `{json.dumps(node['default'])}`.")
        lines.append(f"| `{path}` | {type_of(node)} | {cell(' '.join(notes))} |")
    sentences = [f"- {cell(message)}" for message in rules(root)]
    text = "\n".join(lines) + "\n"
    if sentences:
        text += (
            "\nRules across fields, with the sentence that `kubectl apply` answers:\n\n" + "\n".join(sentences) + "\n"
        )
    return text


def kind(name: str, short: str, about: str, spec: type[BaseModel], status: type[BaseModel], *, by_user: bool) -> str:
    """The page of one kind."""
    return (
        f"{HEADER}# {name}\n\n`{names.API_VERSION}`, short name `{short}`. {about}\n\n"
        f"## spec\n\n{table(spec, 'spec', user_writes=by_user)}\n"
        f"## status\n\n{table(status, 'status', user_writes=False)}"
    )


def errors() -> str:
    """The page of error codes."""
    text = f"{HEADER}# Error codes\n\n"
    text += (
        "The same codes appear in REST answers, Job results, `status` and the command line. A cause that is *retryable* "
        "may be gone on the next attempt without anyone changing an input.\n"
    )
    for group, (class_name, about) in GROUPS.items():
        text += f"\n## {group}xxx: {about}\n\n`{class_name}`; a process ends with status {EXIT_STATUS[group]}.\n\n"
        text += "| Code | Name | Retryable |\n| --- | --- | --- |\n"
        for code in Code:
            if code // 1000 == group:
                text += f"| {int(code)} | `{code.name}` | {'yes' if code in RETRYABLE else 'no'} |\n"
    return text


def environment() -> str:
    """The page of environment variables of the operator."""
    text = f"{HEADER}# Environment\n\n## Operator\n\n{inspect.getdoc(Settings)}\nThe Helm chart sets them.\n\n"
    text += "| Variable | Meaning | Default |\n| --- | --- | --- |\n"
    for name, field in Settings.model_fields.items():
        variable = "POD_NAME" if name == "pod_name" else f"{ENV_PREFIX}{name.upper()}"
        default = field.get_default()
        shown = "" if default in ("", ()) else f"`{json.dumps(default)}`"
        text += f"| `{variable}` | {cell(field.description or '')} | {shown} |\n"
    text += "\n## Development\n\n| Variable | Meaning | Default |\n| --- | --- | --- |\n"
    text += "| `ECO_CACHE_DIR` | Binaries and images that were built. | `~/.cache/ecompile` |\n"
    text += "| `ECO_CLUSTER_DIR` | State of the development cluster. | `<cache>/cluster` |\n"
    text += "| `ECO_UPDATE_GOLDEN` | Tests rewrite their golden files (`make golden`). | |\n"
    return text


def pages() -> dict[str, str]:
    """Text of each page by file name."""
    return {
        "hybridmodel.md": kind(
            "HybridModel",
            "hm",
            "A trained network, what *equivalent* means for it, and how it is served. You write its `spec`.",
            HybridModelSpec,
            HybridModelStatus,
            by_user=True,
        ),
        "compiledmodule.md": kind(
            "CompiledModule",
            "cmod",
            "One immutable attempt to replace one segment by code. The operator writes it; you read it, and may annotate it.",
            CompiledModuleSpec,
            CompiledModuleStatus,
            by_user=False,
        ),
        "errors.md": errors(),
        "environment.md": environment(),
    }


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")
        print(directory / name)


if __name__ == "__main__":
    main()
