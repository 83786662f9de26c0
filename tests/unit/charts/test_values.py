"""values.yaml documents itself: each value is explained, in the schema, and used. Needs no helm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from .rendering import CHART, Manifest

VALUES: Manifest = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Manifest = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = "\n".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
CRDS = CHART.parents[1] / "crds"


def leaves(values: Manifest, prefix: str = "") -> Iterator[str]:
    """Dotted paths of the values that are not groups of values."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path != "operator.resources":
            yield from leaves(value, f"{path}.")
        else:
            yield path


def in_schema(path: str) -> bool:
    node = SCHEMA
    for part in path.split("."):
        node = node.get("properties", {}).get(part)
        if node is None:
            return False
    return True


def schema_leaves(node: Manifest, prefix: str = "") -> Iterator[str]:
    for key, below in node.get("properties", {}).items():
        if below.get("properties"):
            assert below.get("additionalProperties") is False, f"{prefix}{key} accepts unknown keys"
            yield from schema_leaves(below, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_value_is_used_by_a_template() -> None:
    unused = [path for path in leaves(VALUES) if not re.search(rf"\.Values\.{re.escape(path)}\b", TEMPLATES)]
    assert unused == []


def test_every_value_that_a_template_uses_is_documented() -> None:
    used = set(re.findall(r"\.Values\.([A-Za-z.]+[A-Za-z])", TEMPLATES))
    assert used - set(leaves(VALUES)) == set()


def test_values_and_schema_have_the_same_keys() -> None:
    assert [path for path in leaves(VALUES) if not in_schema(path)] == []
    assert set(schema_leaves(SCHEMA)) - {"global"} == set(leaves(VALUES))


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    parents: list[str] = []
    bare = []
    for before, line in zip(["", *lines], lines, strict=False):
        if found := re.match(r"( *)([A-Za-z]+):", line):
            parents = [*parents[: len(found.group(1)) // 2], found.group(2)]
            if ".".join(parents) in set(leaves(VALUES)) and not before.strip().startswith("# -- "):
                bare.append(".".join(parents))
    assert bare == []


def test_crds_are_the_generated_ones() -> None:
    """Helm packages what is below the chart, so the chart has copies: `cp crds/*.yaml charts/ecompile/files/`."""
    ours = {path.name: path.read_text() for path in (CHART / "files").glob("*.yaml")}
    assert ours == {path.name: path.read_text() for path in CRDS.glob("*.yaml")}


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[1] / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in project
    assert all(VALUES["image"][name].endswith(f":{chart['appVersion']}") for name in ("operator", "serving", "worker"))
