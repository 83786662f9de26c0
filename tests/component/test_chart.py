"""The Helm chart: what it renders is reviewed as a file (`make golden` rewrites them), and bad values are refused."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from devcluster import build, paths

from ..restricted import restricted_faults

CHART = Path(__file__).parents[2] / "charts" / "ecompile"
KUSTOMIZE = Path(__file__).parents[2] / "kustomize" / "base"
KUSTOMIZE_HEADER = "# Generated from the chart by `make golden`. Do not edit.\n"
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
    "cert-manager": [
        *("--set", "tls.certManager.enabled=true", "--set", "crds.install=false"),
        *("--set", "uninstall.models=Keep"),
    ],
    "monitoring": [
        *("--set", "monitoring.serviceMonitor=true", "--set", "monitoring.podMonitor=true"),
        *("--set", "monitoring.prometheusRule=true", "--set", "monitoring.dashboards=true"),
        *("--set", "monitoring.labels.release=prometheus", "--set", "crds.install=false"),
        *("--set", "image.digests.operator=sha256:" + "1" * 64, "--set", "rollouts.max=10"),
        *("--set", "alertmanager.enabled=true"),
        *("--set", "alertmanager.from[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=monitoring"),
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


def kustomize_base(helm: str) -> str:
    """The chart with its defaults and its CRDs, for those who do not use Helm; the namespace is theirs to label."""
    objects = [o for o in yaml.safe_load_all(render(helm).stdout) if o]
    wanted = [o for o in objects if "helm.sh/hook" not in o["metadata"].get("annotations", {})]
    for found in wanted:
        for labels in (found["metadata"].get("labels", {}),):
            labels.pop("helm.sh/chart", None)
            labels.pop("app.kubernetes.io/managed-by", None)
    return KUSTOMIZE_HEADER + yaml.safe_dump_all(wanted, sort_keys=True, width=120)


def test_kustomize_base_is_the_chart_s_default_render(helm: str) -> None:
    text = kustomize_base(helm)
    target = KUSTOMIZE / "ecompile.yaml"
    if os.environ.get("ECO_GOLDEN"):
        target.write_text(text)
    assert text == target.read_text(), "the kustomize base is not current: `make golden`"


def test_kustomize_base_builds_with_a_restricted_namespace() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(KUSTOMIZE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    namespace = next(o for o in objects if o["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(objects) > 10


@pytest.mark.parametrize("case", CASES)
def test_every_pod_of_the_chart_is_restricted(helm: str, case: str) -> None:
    for found in yaml.safe_load_all(render(helm, *CASES[case]).stdout):
        match found["kind"] if found else "":
            case "Deployment" | "Job":
                assert restricted_faults(found["spec"]["template"]["spec"]) == []
            case "Pod":
                assert restricted_faults(found["spec"]) == []
            case _:
                continue


def test_every_value_is_used_and_every_used_value_is_documented() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    templates = "".join(path.read_text() for path in sorted((CHART / "templates").rglob("*")) if path.is_file())
    used = set(re.findall(r"\.Values\.([A-Za-z]+)", templates))
    assert used == set(values)
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        leaf = re.match(r"^\s*[A-Za-z]+: \S", line)
        assert not leaf or line.startswith("#") or before.strip().startswith("#") or "{" in line or "  limits" in line


def test_crds_are_rendered_unless_turned_off(helm: str) -> None:
    kinds = [o["kind"] for o in yaml.safe_load_all(render(helm).stdout) if o]
    assert kinds.count("CustomResourceDefinition") == 2
    kinds = [o["kind"] for o in yaml.safe_load_all(render(helm, "--set", "crds.install=false").stdout) if o]
    assert "CustomResourceDefinition" not in kinds


def test_an_issuer_of_yours_takes_the_place_of_ours(helm: str) -> None:
    options = ("tls.certManager.enabled=true", "tls.certManager.issuerRef.name=corporate")
    options = (*options, "tls.certManager.issuerRef.kind=ClusterIssuer")
    text = render(helm, *(word for option in options for word in ("--set", option))).stdout
    ours = [o for o in yaml.safe_load_all(text) if o and o["apiVersion"].startswith("cert-manager.io")]
    assert [(o["kind"], o["metadata"]["name"]) for o in ours] == [("Certificate", "ecompile-control")]
    wanted = {"name": "corporate", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    assert ours[0]["spec"]["issuerRef"] == wanted


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
        ("image.digests.worker=latest", "worker"),
        ("monitoring.interval=often", "interval"),
        ("rollouts.max=-1", "max"),
        ("tls.certManager.issuerRef.kind=Robot", "kind"),
        ("tls.certManager.duration=soon", "duration"),
        ("uninstall.models=Everything", "models"),
    ],
)
def test_bad_values_are_refused_by_name(helm: str, option: str, named: str) -> None:
    refused = render(helm, "--set", option)
    assert refused.returncode != 0
    assert named in refused.stderr


def test_mutual_tls_brings_its_setting_and_its_rights(helm: str) -> None:
    """And nothing of it is there without."""
    plain, mutual = (render(helm, "--set", f"control.mutualTLS={value}").stdout for value in ("false", "true"))
    for text in ("ECO_MUTUAL_TLS", "ecompile-client-tls"):
        assert text not in plain and text in mutual
