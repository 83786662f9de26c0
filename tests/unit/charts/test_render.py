"""What the chart renders: a snapshot of the defaults, and one sentence per option."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from ecompile_operator.settings import Settings, from_environment

from .rendering import (
    Manifest,
    RenderError,
    container,
    environment,
    find,
    needs_helm,
    notes,
    render,
    template,
)

pytestmark = needs_helm
GOLDEN = Path(__file__).parent / "golden" / "default.yaml"


def test_defaults_render_as_reviewed() -> None:
    """ECO_UPDATE_GOLDEN=1 rewrites the file; its diff is what a reviewer reads."""
    rendered = template({"crds": {"install": False}})
    if os.environ.get("ECO_UPDATE_GOLDEN"):
        GOLDEN.write_text(rendered)
    assert rendered == GOLDEN.read_text()


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert template() == template()


def test_operator_reads_every_variable_that_the_chart_sets() -> None:
    variables = {each["name"]: each.get("value", "x") for each in container(render())["env"]}
    settings = from_environment(variables)
    assert settings.control_address == "ecompile-control.ecompile-system.svc:8443"
    known = {"POD_NAME", "HOME", *(f"ECO_{field.upper()}" for field in Settings.model_fields)}
    assert set(variables) <= known


def test_pod_meets_the_restricted_pod_security_standard() -> None:
    objects = render()
    pod = find(objects, "Deployment", "ecompile-operator")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = container(objects)["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True


def test_control_service_selects_the_leader_among_operator_pods() -> None:
    objects = render()
    selector = find(objects, "Service", "ecompile-control")["spec"]["selector"]
    labels = find(objects, "Deployment", "ecompile-operator")["spec"]["template"]["metadata"]["labels"]
    assert selector.pop("ecompile.dev/leader") == "true"
    assert selector.items() <= labels.items()
    assert "ecompile.dev/leader" not in labels


def test_crds_are_kept_on_uninstall_and_can_be_left_out() -> None:
    kept = [each for each in render() if each["kind"] == "CustomResourceDefinition"]
    assert len(kept) == 2
    assert all(each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for each in kept)
    without = render({"crds": {"install": False}})
    assert not [each for each in without if each["kind"] == "CustomResourceDefinition"]


def test_a_claim_is_made_in_each_listed_namespace_and_kept() -> None:
    claims = [
        each
        for each in render({"artifacts": {"pvc": {"namespaces": ["one", "two"], "storageClassName": "fast"}}})
        if each["kind"] == "PersistentVolumeClaim"
    ]
    assert [each["metadata"]["namespace"] for each in claims] == ["one", "two"]
    assert all(each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for each in claims)
    assert all(each["spec"]["storageClassName"] == "fast" for each in claims)


def test_no_claim_is_made_for_an_object_store() -> None:
    objects = render({"artifacts": {"uri": "s3://bucket/path", "pvc": {"namespaces": ["one"]}}})
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]


def test_watched_namespaces_narrow_the_operators_rights() -> None:
    objects = render({"watchNamespaces": ["one", "two"]})
    bound = [
        each for each in objects if each["kind"] == "RoleBinding" and each["metadata"]["name"] == "ecompile-operator"
    ]
    assert [each["metadata"]["namespace"] for each in bound] == ["one", "two"]
    everywhere = [each["metadata"]["name"] for each in objects if each["kind"] == "ClusterRoleBinding"]
    assert everywhere == ["ecompile-operator-cluster"]
    assert environment(objects)["ECO_WATCH_NAMESPACES"] == "one,two"


def test_additions_to_jobs_reach_the_operator_as_they_are() -> None:
    added: Manifest = {
        "extraVolumes": [{"name": "data", "hostPath": {"path": '/data "quoted"'}}],
        "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
        "extraEnv": [{"name": "A", "value": "b"}],
    }
    settings = from_environment(environment(render({"jobs": added})))
    assert list(settings.job_extra_volumes) == added["extraVolumes"]
    assert list(settings.job_extra_mounts) == added["extraVolumeMounts"]
    assert list(settings.job_extra_env) == added["extraEnv"]


def test_several_replicas_and_pull_secrets() -> None:
    objects = render({"replicas": 3, "image": {"pullSecrets": ["registry"]}})
    deployment = find(objects, "Deployment", "ecompile-operator")
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize("secret", ["ecompile-signing", "ecompile-control-tls"])
def test_secrets_are_read_by_name_only(secret: str) -> None:
    rules = [
        rule
        for each in render()
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
        if "secrets" in rule["resources"]
    ]
    reading = [rule for rule in rules if set(rule["verbs"]) & {"get", "list", "watch", "patch", "update"}]
    assert all("list" not in rule["verbs"] and rule.get("resourceNames") for rule in reading)
    assert any(secret in rule["resourceNames"] for rule in reading)


def test_no_rule_has_a_wildcard() -> None:
    rules = [rule for each in render() if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
    assert "*" not in yaml.safe_dump(rules)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 1}, "replica"),
        ({"image": {"operatr": "x"}}, "operatr"),
        ({"replicas": 0}, "replicas"),
        ({"artifacts": {"uri": "ftp://x"}}, "uri"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"artifacts": {"pvc": {"size": "much"}}}, "size"),
        ({"operator": {"logLevel": "LOUD"}}, "logLevel"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Manifest, named: str) -> None:
    with pytest.raises(RenderError, match=named):
        render(values)


def test_notes_tell_the_next_command(tmp_path: Path) -> None:
    text = notes(tmp_path)
    assert "kubectl apply -f examples/digits/hybridmodel.yaml" in text
    assert "set artifacts.pvc.namespaces" in text


def test_notes_do_not_ask_for_a_claim_that_is_there(tmp_path: Path) -> None:
    assert "artifacts.pvc" not in notes(tmp_path, {"artifacts": {"pvc": {"namespaces": ["one"]}}})
