"""From cache and hub to Observed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ecompile_crds.audit import GENESIS, AuditRecord, seal, to_line
from ecompile_operator.control.hub import Hub
from ecompile_operator.decide.observed import AuditHead, Observed
from ecompile_operator.kube.client import Manifest
from ecompile_operator.observe.cache import Cache
from ecompile_operator.observe.observe import observe

from ..children import NAMESPACE, child, job, model

KEY = (NAMESPACE, "net")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make(manifest: Manifest | None = None, **children: Manifest) -> tuple[Cache, Hub]:
    cache = Cache(lambda key: None)
    cache.put_model("applied", manifest or model())
    for kind, found in children.items():
        cache.put_child(kind, "applied", found)
    return cache, Hub(lambda key: None, lambda: NOW)


def look(manifest: Manifest | None = None, **children: Manifest) -> Observed:
    cache, hub = make(manifest, **children)
    found = observe(cache, hub, KEY, artifacts_uri="file:///artifacts")
    assert found is not None
    return found


def test_a_valid_model_is_read() -> None:
    found = look()
    assert found.spec is not None and found.spec_error == ""
    assert (found.uid, found.generation) == ("model-uid", 3)


def test_a_model_that_is_not_there_is_none() -> None:
    cache, hub = make()
    assert observe(cache, hub, (NAMESPACE, "other"), artifacts_uri="") is None


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"surprise": 1}, "spec.surprise"),
        ({"serving": {"replicas": 0}}, "spec.serving.replicas"),
        ({"equivalence": {"maxRelativeError": -1}}, "spec.equivalence.maxRelativeError"),
        ({"source": {}}, "spec.source.uri"),
        ({"revalidation": {"schedule": "0 25 * * *"}}, "spec.revalidation.schedule"),
        ({"revalidation": {"schedule": "0 0 30 2 *"}}, "spec.revalidation.schedule"),
        ({"rollout": {"analysis": {"onNoData": "pray"}}}, "spec.rollout.analysis.onNoData"),
    ],
)
def test_a_bad_spec_is_a_sentence_that_names_the_field(spec: dict[str, Any], field: str) -> None:
    found = look(model(**spec))
    assert found.spec is None
    assert found.spec_error.startswith(f"{field}: ") and found.spec_error.endswith(".")


def test_an_unreadable_field_of_the_status_does_not_take_the_others_with_it() -> None:
    status = {"phase": "FromTheFuture", "routing": {"generation": 7}, "auditSequence": 4}
    found = look(model(status=status))
    assert found.status.routing.generation == 7
    assert found.status.audit_sequence == 4


def test_children_of_an_earlier_model_of_the_name_do_not_count() -> None:
    old = job()
    old["metadata"]["ownerReferences"][0]["uid"] = "earlier-model"
    assert look(Job=old).jobs == ()
    assert len(look(Job=job()).jobs) == 1


def serving_pod(**status: Any) -> Manifest:
    made = child("net-1", labels={"app.kubernetes.io/component": "serving", "ecompile.dev/life": "life1"})
    return {**made, "status": status}


def test_serving_pods_are_live_ones_with_their_readiness() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    pods = look(Pod=serving_pod(phase="Running", conditions=ready)).pods
    assert [(p.name, p.life, p.ready) for p in pods] == [("net-1", "life1", True)]
    assert look(Pod=serving_pod(phase="Failed")).pods == ()
    going = serving_pod(phase="Running")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert look(Pod=going).pods == ()


def test_a_serving_pod_that_cannot_start_says_why() -> None:
    waiting = [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]
    pods = look(Pod=serving_pod(phase="Pending", containerStatuses=waiting)).pods
    assert pods[0].waiting_reason.startswith("the image cannot be pulled") and "no such image" in pods[0].waiting_reason


def test_updated_pods_count_only_when_the_deployment_controller_has_seen_the_template() -> None:
    deployment = child("net")
    deployment["metadata"]["generation"] = 2
    template = {"metadata": {"labels": {"ecompile.dev/life": "life2"}}}
    deployment |= {
        "spec": {"replicas": 3, "template": template},
        "status": {"observedGeneration": 1, "updatedReplicas": 3, "readyReplicas": 3},
    }
    found = look(Deployment=deployment).deployment
    assert found is not None
    assert (found.life, found.replicas, found.updated) == ("life2", 3, 0)


def test_the_audit_head_is_the_last_record() -> None:
    record = seal(
        AuditRecord(
            sequence=1,
            time="2026-01-01T00:00:00Z",
            namespace=NAMESPACE,
            model="net",
            generation=2,
            segment=0,
            before="neural",
            after="shadow m",
            actor="operator",
            reason="step 1",
            previous=GENESIS,
        )
    )
    log = {**child("net-audit"), "data": {"audit.jsonl": to_line(record) + "\n"}}
    assert look(ConfigMap=log).audit == AuditHead.of([record])
    broken = {**child("net-audit"), "data": {"audit.jsonl": "scribble\n"}}
    assert look(ConfigMap=broken).audit is None


def test_progress_names_the_job_kind_and_the_index_where_there_are_several() -> None:
    cache, hub = make(Job=job(completions=2))
    hub.step(KEY, "net-distill-1", 1, "compile 60%")
    found = observe(cache, hub, KEY, artifacts_uri="")
    assert found is not None and found.progress == "distill 2/2 compile 60%"


def test_progress_of_an_unknown_job_is_not_shown() -> None:
    cache, hub = make()
    hub.step(KEY, "made-up", 0, "owned 99%")
    found = observe(cache, hub, KEY, artifacts_uri="")
    assert found is not None and found.progress == ""


def test_fields_of_a_later_version_do_not_take_the_others_with_them() -> None:
    command = {"token": "t", "command": "abort t", "answer": "done", "laterField": 1}
    status = look(model(status={"lastCommand": command, "routing": {"generation": 4, "laterField": 1}})).status
    assert status.last_command is not None and status.last_command.token == "t"
    assert status.routing.generation == 4
