"""What the operator makes is admitted where Pod Security `restricted` is enforced."""

from __future__ import annotations

import pytest
from ecompile_crds.jobs import JobKind

from ...restricted import restricted_faults
from ..operator.specs.test_job import make_job


@pytest.mark.parametrize("kind", JobKind)
def test_jobs_are_restricted(kind: JobKind) -> None:
    assert restricted_faults(make_job(kind)["spec"]["template"]["spec"]) == []


def test_a_fault_is_found() -> None:
    spec = make_job()["spec"]["template"]["spec"]
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert restricted_faults({**spec, "hostNetwork": True}) == ["hostNetwork is set", "profile may gain privileges"]
