"""Least privilege: each verb that the chart grants, and the line of code that needs it."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
OPERATOR = ROOT / "operator" / "ecompile_operator"
RENDERED = ROOT / "tests" / "component" / "golden" / "chart" / "monitoring.yaml"
"""The render with everything that needs rights turned on."""

Grant = tuple[str, str, str]
"""(role, resource or resource:name, verb)."""
WATCHED = ("term.py", "CHILD_KINDS = (COMPILEDMODULE")
KOPF = ("main.py", "await kopf.operator(")
"""Kopf lists and watches our kinds, and looks for their definitions."""
OWN, MAIN, CLUSTER = "ecompile-operator-own", "ecompile-operator", "ecompile-operator-cluster"
UNINSTALL, TEST = "ecompile-uninstall", "ecompile-test"

USES: dict[Grant, tuple[str, str]] = {
    (MAIN, "hybridmodels", "list"): ("term.py", "client.pages(HYBRIDMODEL, namespace)"),
    (MAIN, "hybridmodels", "watch"): KOPF,
    (MAIN, "hybridmodels", "patch"): ("apply/apply.py", "self.client.merge(HYBRIDMODEL"),
    (MAIN, "hybridmodels/status", "patch"): ("apply/apply.py", 'subresource="status"'),
    (MAIN, "compiledmodules", "list"): ("term.py", "CHILD_KINDS = (COMPILEDMODULE"),
    (MAIN, "compiledmodules", "watch"): WATCHED,
    (MAIN, "compiledmodules", "create"): ("apply/apply.py", "await self._create(COMPILEDMODULE"),
    (MAIN, "compiledmodules/status", "patch"): ("apply/apply.py", "self._status(COMPILEDMODULE"),
    (MAIN, "hybridmodels/finalizers", "update"): ("specs/metadata.py", '"blockOwnerDeletion": True'),
    (MAIN, "jobs", "list"): WATCHED,
    (MAIN, "jobs", "watch"): WATCHED,
    (MAIN, "jobs", "create"): ("apply/apply.py", "await self._create(JOB"),
    (MAIN, "jobs", "delete"): ("apply/apply.py", "await self._delete(JOB"),
    (MAIN, "deployments", "list"): WATCHED,
    (MAIN, "deployments", "watch"): WATCHED,
    (MAIN, "deployments", "create"): ("apply/apply.py", "self._apply_changed(DEPLOYMENT"),
    (MAIN, "deployments", "patch"): ("apply/apply.py", "self._apply_changed(DEPLOYMENT"),
    **{
        (MAIN, plural, verb): use
        for plural, kind in (("horizontalpodautoscalers", "HPA"), ("poddisruptionbudgets", "PDB"))
        for verb, use in (
            ("list", WATCHED),
            ("watch", WATCHED),
            ("create", ("apply/apply.py", f"({kind}, build_")),
            ("patch", ("apply/apply.py", f"({kind}, build_")),
            ("delete", ("apply/apply.py", "await self._delete(kind")),
        )
    },
    (MAIN, "services", "list"): WATCHED,
    (MAIN, "services", "watch"): WATCHED,
    (MAIN, "services", "create"): ("apply/apply.py", "self._apply_changed(SERVICE"),
    (MAIN, "services", "patch"): ("apply/apply.py", "self._apply_changed(SERVICE"),
    (MAIN, "services", "delete"): ("apply/apply.py", "await self._delete(SERVICE"),
    (MAIN, "configmaps", "list"): WATCHED,
    (MAIN, "configmaps", "watch"): WATCHED,
    (MAIN, "configmaps", "create"): ("apply/apply.py", "self.client.create(CONFIGMAP"),
    (MAIN, "configmaps", "update"): ("apply/apply.py", "self.client.replace(CONFIGMAP"),
    (MAIN, "configmaps", "patch"): ("apply/apply.py", "self._apply_changed(CONFIGMAP"),
    (MAIN, "pods", "list"): ("reconciler.py", "self._client.list(POD"),
    (MAIN, "pods", "watch"): WATCHED,
    (MAIN, "events", "create"): ("apply/events.py", "EVENT"),
    (MAIN, "events", "patch"): ("apply/events.py", "merge"),
    (MAIN, "secrets", "create"): ("apply/trust.py", "SECRET"),
    (MAIN, "secrets:ecompile-signing", "get"): (
        "apply/trust.py",
        "self._client.get(SECRET, namespace, SIGNING_SECRET)",
    ),
    (CLUSTER, "tokenreviews", "create"): ("control/auth.py", "TOKENREVIEW"),
    (CLUSTER, "customresourcedefinitions", "list"): KOPF,
    (CLUSTER, "customresourcedefinitions", "watch"): KOPF,
    (UNINSTALL, "hybridmodels", "list"): ("uninstall.py", "client.list(HYBRIDMODEL"),
    (UNINSTALL, "hybridmodels", "delete"): ("uninstall.py", "client.delete(HYBRIDMODEL"),
    (TEST, "hybridmodels", "list"): ("selftest.py", "find(client, HYBRIDMODEL"),
    (TEST, "hybridmodels", "create"): ("selftest.py", "client.create(HYBRIDMODEL"),
    (TEST, "hybridmodels", "delete"): ("selftest.py", "client.delete(HYBRIDMODEL"),
    (OWN, "leases", "create"): ("leader.py", "create(LEASE"),
    (OWN, "leases:ecompile-operator", "get"): ("leader.py", "get(LEASE"),
    (OWN, "leases:ecompile-operator", "update"): ("leader.py", "replace(LEASE"),
    (OWN, "pods", "patch"): ("main.py", "client.merge(POD"),
    (OWN, "secrets", "create"): ("main.py", "await client.apply("),
    (OWN, "secrets:ecompile-control-tls", "get"): ("main.py", "TLS_SECRET)"),
    (OWN, "secrets:ecompile-alertmanager", "get"): ("control/webhook.py", "self._client.get(SECRET"),
    (OWN, "secrets:ecompile-control-tls", "patch"): ("main.py", "await client.apply("),
}


def granted() -> set[Grant]:
    found = set()
    for role in yaml.safe_load_all(RENDERED.read_text()):
        if role["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in role["rules"]:
            names = [f":{name}" for name in rule.get("resourceNames", [])] or [""]
            found |= {
                (role["metadata"]["name"], f"{resource}{name}", verb)
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in names
            }
    return found


def test_each_granted_verb_is_used_and_each_used_verb_is_granted() -> None:
    assert granted() == set(USES)


def test_the_code_that_is_said_to_need_a_verb_is_there() -> None:
    for grant, (path, fragment) in USES.items():
        assert fragment in (OPERATOR / path).read_text(), grant


def test_no_secret_can_be_read_but_named_ones_and_nothing_is_a_wildcard() -> None:
    for _, resource, verb in granted():
        assert "*" not in (resource, verb)
        if resource.startswith("secrets"):
            assert verb == "create" or ":" in resource
