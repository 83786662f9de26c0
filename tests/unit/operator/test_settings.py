"""Settings of the operator from its environment."""

from __future__ import annotations

import pytest
from ecompile_crds.errors import DataError
from ecompile_operator.settings import from_environment


def test_defaults_need_no_variable() -> None:
    settings = from_environment({})
    assert settings.control_port == 8443
    assert settings.watch_namespaces == ()
    assert settings.leader_elect


def test_lists_are_read() -> None:
    settings = from_environment(
        {"ECO_WATCH_NAMESPACES": "a, b,", "ECO_JOB_EXTRA_ENV": '[{"name": "A", "value": "1"}]', "POD_NAME": "me"}
    )
    assert settings.watch_namespaces == ("a", "b")
    assert settings.job_extra_env == ({"name": "A", "value": "1"},)
    assert settings.pod_name == "me"


@pytest.mark.parametrize("empty", ["", "null", "[]"])
def test_empty_lists_of_the_chart_are_accepted(empty: str) -> None:
    assert from_environment({"ECO_JOB_EXTRA_VOLUMES": empty}).job_extra_volumes == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ECO_CONTROL_PORT", "http"),
        ("ECO_HEALTH_PORT", "70000"),
        ("ECO_IMAGE_PULL_POLICY", "Sometimes"),
        ("ECO_ARTIFACTS_URI", "ftp://x"),
        ("ECO_JOB_EXTRA_VOLUMES", "{not json"),
        ("ECO_JOB_EXTRA_MOUNTS", '{"name": "x"}'),
        ("ECO_JOB_EXTRA_ENV", "5"),
        ("ECO_CONTROL_ADDRESS", "host-without-port"),
        ("ECO_LEADER_ELECT", "perhaps"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(DataError, match=variable):
        from_environment({variable: value})
