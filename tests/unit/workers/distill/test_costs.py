"""The cost model: what is counted, how coefficients are found, and that the cache gives back what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ecompile_workers.distill import calibrate
from ecompile_workers.distill.costs import CostModel, Work, counted, fit, total
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor, problems
from hypothesis import given, settings
from hypothesis import strategies as st

from ..networks import make_graph

MODEL = CostModel(compiled={Work.CALL: 1e-7, Work.NEAR: 1e-11}, neural={Work.CALL: 3e-6, Work.NEAR: 3e-11})


def test_work_of_a_dense_network_is_the_bytes_of_its_weights() -> None:
    graph = make_graph([8, 16, 4])
    counts = counted(graph)
    assert counts[Work.NEAR] == 4 * graph.macs
    assert counts[Work.STEP] == 2, "the ReLU is done before storing"
    assert counts[Work.PLAIN] == 8 + 4 + 16
    assert MODEL.compiled_seconds(graph) == pytest.approx(1e-7 + 4e-11 * graph.macs)


@pytest.mark.parametrize(("width", "kind"), [(32, Work.NEAR), (512, Work.MIDDLE), (1200, Work.FAR)])
def test_where_weights_lie_depends_on_how_many_there_are(width: int, kind: Work) -> None:
    assert counted(make_graph([width, width]))[kind] == 4 * width * width


def test_an_operator_that_is_not_known_is_a_step() -> None:
    node = Node(op=Op.OPAQUE, inputs=("x",), output=Tensor(name="y", shape=(7,)), source="Magic")
    counts = counted(Graph(input=Tensor(name="x", shape=(3,)), output=node.output, nodes=(node,)))
    assert counts[Work.STEP] == 1 and counts[Work.PLAIN] == 3 + 7 + 7


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-12, 1e-6), min_size=len(Work), max_size=len(Work)), st.integers(0, 1000))
def test_coefficients_are_found_again(values: list[float], seed: int) -> None:
    """Each kind of work dominates one observation, as each probe is of one kind."""
    wanted = dict(zip(Work, values, strict=True))
    rng = np.random.default_rng(seed)
    observations = []
    for kind in Work:
        counts = {each: 1.0 + 1e-3 * float(rng.random()) for each in Work} | {kind: 1e9}
        observations.append((counts, total(counts, wanted)))
    for counts, seconds in observations:
        assert total(counts, fit(observations)) == pytest.approx(seconds, rel=1e-6)


def test_probes_cover_every_kind_of_work() -> None:
    probes = list(calibrate.probes())
    assert all(problems(each) == [] for each in probes)
    assert {kind for each in probes for kind, amount in counted(each).items() if amount} == set(Work)


def test_the_cache_gives_back_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_CACHE", str(tmp_path / "cache"))
    assert calibrate.cached() is None
    monkeypatch.setattr(calibrate, "calibrate", lambda: MODEL)
    assert calibrate.cost_model() == MODEL == calibrate.cached()
    (file,) = (tmp_path / "cache").iterdir()
    for wrong in ("{", "[]", '{"compiled": {"magic": 1}, "neural": {}}'):
        file.write_text(wrong)
        assert calibrate.cached() is None
    monkeypatch.setattr(calibrate, "processor", lambda: "another one")
    assert calibrate.cached() is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ECO_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(calibrate, "calibrate", lambda: MODEL)
    assert calibrate.cost_model() == MODEL
