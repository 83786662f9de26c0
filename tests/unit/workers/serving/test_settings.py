"""Environment variables of the pod."""

from __future__ import annotations

import pytest
from ecompile_crds.errors import DataError
from ecompile_workers.serving.settings import from_environment

GOOD = {"ECO_NAMESPACE": "shop", "ECO_MODEL": "digits", "ECO_LIFE": "a", "ECO_PLAN_URI": "file:///artifacts/plan.json"}


def test_defaults_are_the_mount_paths() -> None:
    """Only four variables are needed."""
    settings = from_environment(GOOD)
    assert settings.port == 8080
    assert settings.control_address == ""
    assert str(settings.trust_dir) == "/etc/ecompile/trust"


def test_groups_to_compare_are_read() -> None:
    """None where the model names none."""
    assert from_environment(GOOD).fairness is None
    told = from_environment(GOOD | {"ECO_FAIRNESS": '{"groups":["a","b"],"maxGap":0.1}'}).fairness
    assert told is not None and (told.groups, told.max_gap) == (["a", "b"], 0.1)


def test_analysis_is_read_in_camel_case() -> None:
    """As the operator writes it."""
    settings = from_environment(GOOD | {"ECO_ANALYSIS": '{"driftLimit":0.01,"falseAlarmInterval":2000}'})
    assert settings.analysis.drift_limit == 0.01
    assert settings.analysis.false_alarm_interval == 2000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ECO_NAMESPACE", ""),
        ("ECO_PLAN_URI", " "),
        ("ECO_PORT", "http"),
        ("ECO_PORT", "70000"),
        ("ECO_CONTROL_ADDRESS", "operator"),
        ("ECO_CONTROL_ADDRESS", "operator:x"),
        ("ECO_ANALYSIS", "{"),
        ("ECO_ANALYSIS", '{"driftLimit":0}'),
        ("ECO_ANALYSIS", '{"unknown":1}'),
    ],
)
def test_bad_value_is_refused_by_name(name: str, value: str) -> None:
    """The sentence names the variable."""
    with pytest.raises(DataError, match=name):
        from_environment(GOOD | {name: value})
