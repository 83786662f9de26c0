"""The Helm chart: what it renders is reviewed as a file (`make golden` rewrites them), and bad values are refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from devcluster import build, paths

CHART = Path(__file__).parents[2] / "charts" / "ecompile"
GOLDEN = Path(__file__).parent / "golden" / "chart"
CASES: dict[str, list[str]] = {
    "default": [],
    "one-namespace": [
        *("--set", "watchNamespaces={team-a}", "--set", "artifacts.pvc.namespaces={team-a}"),
        *("--set", "artifacts.pvc.storageClassName=fast"),
    ],
    "object-store": ["--set", "artifacts.uri=s3://models/ecompile", "--set", "crds.install=false"],
    "private-registry": [
        *("--set", "replicas=2", "--set", "image.pullSecrets={registry}"),
        *("--set", "image.operator=example.org/ecompile/operator@sha256:" + "0" * 64),
        *("--set", "operator.nodeSelector.pool=system"),
    ],
}


@pytest.fixture(scope="module")
def helm() -> str:
    build.build_helm()
    return str(paths.BIN / "helm")


def render(helm: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [helm, "template", "ecompile", str(CHART), "--namespace", "ecompile-system", "--kube-version", "1.34.0"]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", CASES)
def test_render_is_the_golden_one(helm: str, case: str) -> None:
    rendered = render(helm, *CASES[case])
    assert rendered.returncode == 0, rendered.stderr
    objects = [o for o in yaml.safe_load_all(rendered.stdout) if o and o["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("ECO_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "the chart renders differently; look at it, then `make golden`"


def test_crds_are_rendered_unless_turned_off(helm: str) -> None:
    kinds = [o["kind"] for o in yaml.safe_load_all(render(helm).stdout) if o]
    assert kinds.count("CustomResourceDefinition") == 2
    kinds = [o["kind"] for o in yaml.safe_load_all(render(helm, "--set", "crds.install=false").stdout) if o]
    assert "CustomResourceDefinition" not in kinds


def test_lint_finds_nothing(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("replicas=0", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("artifacts.uri=ftp://somewhere", "uri"),
        ("artefacts.uri=s3://typo", "artefacts"),
        ("artifacts.pvc.size=big", "size"),
        ("operator.logLevel=LOUD", "logLevel"),
    ],
)
def test_bad_values_are_refused_by_name(helm: str, option: str, named: str) -> None:
    refused = render(helm, "--set", option)
    assert refused.returncode != 0
    assert named in refused.stderr
