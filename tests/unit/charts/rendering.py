"""Rendering the chart with the helm that the development cluster builds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

from devcluster.paths import BIN

CHART = Path(__file__).parents[3] / "charts" / "ecompile"
HELM = BIN / "helm"
KUBE_VERSION = "1.34.0"
needs_helm = pytest.mark.skipif(
    not HELM.exists(),
    reason="helm is not built yet: python3 -m devcluster build (make test-component does it)",
)
Manifest = dict[str, Any]


class RenderError(Exception):
    """What helm says."""


def template(values: Manifest | None = None, *, chart: Path = CHART) -> str:
    """Output of `helm template`.

    Raises RenderError where helm refuses.
    """
    command = [
        str(HELM),
        "template",
        "ecompile",
        str(chart),
        "--namespace",
        "ecompile-system",
        "--values",
        "-",
    ]
    command += ["--kube-version", KUBE_VERSION]
    done = subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RenderError(done.stderr)
    return done.stdout


def notes(directory: Path, values: Manifest | None = None) -> str:
    """NOTES.txt as an installation prints it; helm renders it only against a cluster, so it is made a value here."""
    chart = directory / "chart"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "notes.yaml").write_text(
        "kind: Notes\nmetadata: {name: notes}\ntext: |\n" + indent(text, "  ")
    )
    (chart / "templates" / "NOTES.txt").unlink()
    rendered = [found for found in yaml.safe_load_all(template(values, chart=chart)) if found]
    return str(find(rendered, "Notes", "notes")["text"])


def render(values: Manifest | None = None) -> list[Manifest]:
    """All objects."""
    return [found for found in yaml.safe_load_all(template(values)) if found]


def find(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of that kind and name; fails the test where there is none, or more than one."""
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def container(objects: list[Manifest]) -> Manifest:
    """The operator's container."""
    deployment = find(objects, "Deployment", "ecompile-operator")
    containers: list[Manifest] = deployment["spec"]["template"]["spec"]["containers"]
    return containers[0]


def environment(objects: list[Manifest]) -> dict[str, str]:
    """Plain variables of the operator's container."""
    return {each["name"]: each["value"] for each in container(objects)["env"] if "value" in each}
