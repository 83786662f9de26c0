"""Which tables a pod takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RouteMode, SegmentRoute
from ecompile_workers.serving.routing import Answer, Identity, judge, parse_table, read_mounted

from .world import LIFE, MODEL, NAMESPACE, make_world, table

IDENTITY = Identity(namespace=NAMESPACE, model=MODEL, life=LIFE)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan.model_validate_json((make_world(tmp_path).directory / "plan.json").read_text())


@pytest.mark.parametrize("name", ["namespace", "model", "life"])
def test_table_of_another_pod_is_refused(plan: Plan, name: str) -> None:
    """The sentence names what differs."""
    judgement = judge(table(9, **{name: "other"}), identity=IDENTITY, plan=plan, current=1)
    assert judgement.answer is Answer.REFUSE
    assert name in judgement.reason and "'other'" in judgement.reason


def test_older_generation_is_refused(plan: Plan) -> None:
    """Generations only grow."""
    judgement = judge(table(3), identity=IDENTITY, plan=plan, current=4)
    assert judgement.answer is Answer.REFUSE
    assert "older than 4" in judgement.reason


def test_same_generation_is_kept(plan: Plan) -> None:
    """Sending a table twice changes nothing."""
    assert judge(table(4), identity=IDENTITY, plan=plan, current=4).answer is Answer.KEEP


def test_newer_generation_is_adopted(plan: Plan) -> None:
    """The ordinary case."""
    assert judge(table(5, SegmentRoute(segment=0)), identity=IDENTITY, plan=plan, current=4).answer is Answer.ADOPT


@pytest.mark.parametrize(
    ("routes", "sentence"),
    [
        ((SegmentRoute(segment=1),), "has 1 segments"),
        ((SegmentRoute(segment=0), SegmentRoute(segment=0)), "two routes"),
        ((SegmentRoute(segment=0, mode=RouteMode.COMPILED),), "needs bundleUri"),
    ],
)
def test_impossible_routes_are_refused(plan: Plan, routes: tuple[SegmentRoute, ...], sentence: str) -> None:
    """Nothing is loaded for a table that cannot be served."""
    judgement = judge(table(5, *routes), identity=IDENTITY, plan=plan, current=0)
    assert judgement.answer is Answer.REFUSE
    assert sentence in judgement.reason


def test_malformed_table_is_refused_by_field() -> None:
    """What is wrong is named."""
    with pytest.raises(DataError, match="generation"):
        parse_table('{"model":"digits","namespace":"shop","life":"a","generation":0}')


def test_mounted_table_may_be_absent(tmp_path: Path) -> None:
    """The ConfigMap is mounted as optional."""
    assert read_mounted(tmp_path) is None


def test_mounted_table_is_read(tmp_path: Path) -> None:
    """As the operator writes it: camelCase, defaults left out."""
    (tmp_path / "routing.json").write_text(table(6).model_dump_json(by_alias=True, exclude_defaults=True))
    assert read_mounted(tmp_path) == table(6)
