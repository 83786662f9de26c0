"""Objects of the last release are still accepted, read and decided on. `released/` holds its definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from devcluster import build
from devcluster.api import ApiServer
from tests.manifests import ROOT, generate, spec_schema

from .operator_world import SYSTEM, World, eventually, operator
from .schema_changes import breaking_changes
from .test_fuzz import create_all

RELEASES = sorted((Path(__file__).parent / "released").iterdir())
KINDS = ("hybridmodels", "compiledmodules")
MEANT = {
    ".spec.revalidation.schedule: maxLength fell from None to 128": "it was not acted on, whatever it said",
    ".spec.revalidation.schedule: the pattern changed from None to ^[0-9*/,-]+( [0-9*/,-]+){4}$": "the same",
    ".spec.serving.protocol: does not exist any more": "its one value said nothing; the API server drops it when it "
    "reads an old object. `protocols` took its place",
    **dict.fromkeys(
        (
            ".spec.equivalence.fairness.groups[]: minLength rose from None to 1",
            ".spec.equivalence.fairness.groups[]: maxLength fell from None to 64",
            ".spec.equivalence.fairness.groups: minItems rose from 1 to 2",
        ),
        "0.1.0 refused the field, whatever it said",
    ),
}
"""Breaks that are meant, and why. Empty is best."""


def schema(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", RELEASES, ids=lambda p: p.name)
def test_no_change_refuses_what_a_release_accepted(release: Path, kind: str) -> None:
    file = f"{kind}.ecompile.dev.yaml"
    found = set(breaking_changes(schema(release / file), schema(ROOT / "crds" / file)))
    assert found <= set(MEANT), "give the field back, or say in MEANT why old objects may break"


def test_breaks_are_found() -> None:
    old = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x", "y"]}, "b": {"type": "integer"}}}
    new = {
        "type": "object",
        "required": ["c"],
        "properties": {"a": {"type": "string", "enum": ["x"]}, "c": {"type": "integer"}},
    }
    assert list(breaking_changes(old, new)) == [
        ".c: is required now",
        ".a: values ['y'] are not accepted any more",
        ".b: does not exist any more",
    ]
    assert list(breaking_changes(old, old)) == []


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        yield World(server)


@pytest.mark.parametrize("release", RELEASES, ids=lambda p: p.name)
def test_objects_of_a_release_live_on_under_the_new_definitions(world: World, release: Path, tmp_path: Path) -> None:
    world.kubectl("apply", "--server-side", "-f", str(release))
    world.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    namespace = world.namespace()
    random, old = Random(1), spec_schema(release / "hybridmodels.ecompile.dev.yaml")
    made = [generate(random, f"old-{number}", namespace, old) for number in range(60)]
    accepted, _ = asyncio.run(create_all(world, made))
    assert len(accepted) > 5
    world.kubectl("create", "namespace", SYSTEM)
    world.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "charts/ecompile/files"))
    world.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for name in accepted:
        world.kubectl("annotate", "hybridmodel", name, "-n", namespace, "upgraded=yes")
    with operator(world, tmp_path) as started:

        def all_answered() -> bool:
            return all(m.get("status", {}).get("conditions") for m in world.list("hybridmodels", namespace))

        eventually("an answer for every model", all_answered, seconds=120)
        assert not [line for line in started.lines() if "internal fault" in line["message"]]
