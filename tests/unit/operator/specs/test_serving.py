"""Manifests of serving, of routing and of trust."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from ecompile_crds.hybridmodel import Analysis, Equivalence, HybridModelSpec
from ecompile_crds.routing import RoutingTable, SegmentRoute
from ecompile_operator.decide.decision import DesiredServing
from ecompile_operator.kube.client import Manifest
from ecompile_operator.settings import Settings
from ecompile_operator.specs.config import build_audit, build_routing, build_signing_secret
from ecompile_operator.specs.metadata import Owner
from ecompile_operator.specs.serving import build_autoscaler, build_deployment, build_disruption_budget, build_service

from ....restricted import restricted_faults

OWNER = Owner("test", "net", "uid-1")
DESIRED = DesiredServing(life="life1", plan_uri="file:///artifacts/plan.json", service_name="front")
SPEC = HybridModelSpec.model_validate(
    {
        "source": {"uri": "file:///artifacts/net.onnx"},
        "calibration": {"uri": "file:///artifacts/data.npz"},
        "serving": {"replicas": 3},
        "rollout": {"analysis": {"driftLimit": 0.01}},
    }
)


def deployment() -> Manifest:
    return build_deployment(DESIRED, OWNER, SPEC, Settings(serving_image="serving:1", control_address="control:8443"))


def test_the_service_selects_the_pods_of_the_deployment() -> None:
    service = build_service(DESIRED, OWNER, SPEC)
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    assert service["metadata"]["name"] == "front"
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment()["metadata"]["name"] == "net"


def test_rest_and_grpc_have_a_port_each() -> None:
    container = deployment()["spec"]["template"]["spec"]["containers"][0]
    told = {e["name"]: e.get("value", "") for e in container["env"]}
    assert {p["name"]: str(p["containerPort"]) for p in container["ports"]} == {
        "http": told["ECO_PORT"],
        "grpc": told["ECO_GRPC_PORT"],
    }
    assert [(p["name"], p["targetPort"]) for p in build_service(DESIRED, OWNER, SPEC)["spec"]["ports"]] == [
        ("http", "http"),
        ("grpc", "grpc"),
    ]


def test_the_selector_holds_no_life_so_that_it_never_changes() -> None:
    assert "ecompile.dev/life" not in deployment()["spec"]["selector"]["matchLabels"]
    assert deployment()["spec"]["template"]["metadata"]["labels"]["ecompile.dev/life"] == "life1"


def test_an_update_never_goes_below_the_wanted_number() -> None:
    spec = deployment()["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_pods_are_told_what_to_serve() -> None:
    container = deployment()["spec"]["template"]["spec"]["containers"][0]
    told = {e["name"]: e.get("value", "") for e in container["env"]}
    assert told["ECO_LIFE"] == "life1"
    assert told["ECO_PLAN_URI"] == "file:///artifacts/plan.json"
    assert Analysis.model_validate(json.loads(told["ECO_ANALYSIS"])).drift_limit == 0.01
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_pods_are_told_of_groups_only_where_there_are_some() -> None:
    """A setting that is not used must not start a rolling update."""
    names = {each["name"] for each in deployment()["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert "ECO_FAIRNESS" not in names
    fair = SPEC.model_copy(
        update={"equivalence": Equivalence.model_validate({"fairness": {"groups": ["a", "b"], "maxGap": 0.1}})}
    )
    told = build_deployment(DESIRED, OWNER, fair, Settings(serving_image="s:1", control_address="c:1"))
    env = {e["name"]: e.get("value") for e in told["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["ECO_FAIRNESS"] == '{"groups":["a","b"],"maxGap":0.1}'


def test_pods_read_artifacts_only_and_never_see_the_signing_key() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert volumes["artifacts"]["persistentVolumeClaim"]["readOnly"] is True
    assert volumes["routing"]["configMap"] == {"name": "net-routing", "optional": True}
    assert "signing" not in volumes
    assert pod["automountServiceAccountToken"] is False


def test_the_routing_configmap_holds_the_table_whole() -> None:
    table = RoutingTable(model="net", namespace="test", life="life1", generation=3, segments=(SegmentRoute(segment=0),))
    data = build_routing(OWNER, table)["data"]["routing.json"]
    assert RoutingTable.model_validate_json(data) == table


def test_the_audit_log_has_no_owner_and_is_watched() -> None:
    meta = build_audit("test", "net", "audit.jsonl", "")["metadata"]
    assert "ownerReferences" not in meta
    assert meta["labels"]["app.kubernetes.io/managed-by"] == "ecompile-operator"


def test_the_signing_secret_holds_a_matching_key_pair() -> None:
    data = {name: base64.b64decode(text) for name, text in build_signing_secret("test")["data"].items()}
    private = load_pem_private_key(data["signing.key"], password=None)
    assert isinstance(private, Ed25519PrivateKey)
    assert private.public_key() == load_pem_public_key(data["signing.pub"])


def serving(**changes: object) -> HybridModelSpec:
    return HybridModelSpec.model_validate({**SPEC.model_dump(by_alias=True), "serving": changes})


def test_the_service_offers_the_protocols_that_the_spec_names() -> None:
    def ports(*protocols: str) -> list[str]:
        service = build_service(DESIRED, OWNER, serving(protocols=list(protocols)))
        return [port["name"] for port in service["spec"]["ports"]]

    assert ports("rest") == ["http"]
    assert ports("grpc") == ["grpc"]
    assert ports("grpc", "rest") == ports("rest", "grpc") == ["http", "grpc"]
    assert len(deployment()["spec"]["template"]["spec"]["containers"][0]["ports"]) == 2


def test_several_pods_are_drained_one_at_a_time_and_a_single_one_freely() -> None:
    budget = build_disruption_budget(OWNER, serving(replicas=2))
    assert budget is not None and budget["spec"]["maxUnavailable"] == 1
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert build_disruption_budget(OWNER, serving(replicas=1)) is None


def test_an_autoscaler_owns_the_number_of_pods() -> None:
    scaled = serving(autoscaling={"minReplicas": 2, "maxReplicas": 5}, resources={"requests": {"cpu": "1"}})
    autoscaler = build_autoscaler(DESIRED, OWNER, scaled)
    assert autoscaler is not None
    assert (autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]) == (2, 5)
    assert autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    assert "replicas" not in build_deployment(DESIRED, OWNER, scaled, Settings())["spec"]
    assert build_disruption_budget(OWNER, scaled) is not None
    assert build_autoscaler(DESIRED, OWNER, SPEC) is None


def test_what_the_neural_path_needs_is_a_floor() -> None:
    more = replace(DESIRED, least_replicas=4)
    assert build_deployment(more, OWNER, serving(replicas=2), Settings())["spec"]["replicas"] == 4
    assert build_deployment(more, OWNER, serving(replicas=6), Settings())["spec"]["replicas"] == 6
    scaled = serving(autoscaling={"minReplicas": 2, "maxReplicas": 5}, resources={"requests": {"cpu": "1"}})
    autoscaler = build_autoscaler(more, OWNER, scaled)
    assert autoscaler is not None and autoscaler["spec"]["minReplicas"] == 4


def test_pods_are_spread_and_restricted() -> None:
    spec = deployment()["spec"]["template"]["spec"]
    assert {c["topologyKey"] for c in spec["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    assert restricted_faults(spec) == []
